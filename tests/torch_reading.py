"""PyTorch modules as people write them, and what pruning them must and must not do; for tests of reading."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.torch_architectures import drawn


class Net(nn.Module):
    """Layers by name, and a function that runs them: ``Net(lambda m, x: m.b(m.a(x)), a=..., b=...)``."""

    def __init__(self, run: Any, **layers: Any) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def bits(value: torch.Tensor | None) -> Any:
    if value is None:
        return None
    value = value.detach().cpu().contiguous()
    return value.dtype, tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module) -> dict[str, Any]:
    """All that could change in a model, the generator of random numbers included, to be compared."""
    found: dict[str, Any] = {"random": bits(torch.random.get_rng_state())}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            key = f"{path}: {name}"
            if isinstance(value, torch.Tensor):
                found[key] = id(value), bits(value)
            elif name in ("_parameters", "_buffers"):
                for one, tensor in value.items():
                    found[f"{key} {one}"] = id(tensor), bits(tensor)
                    if tensor is not None:
                        grad = tensor.grad if tensor.is_leaf else None
                        found[f"{key} {one}: grad"] = tensor.requires_grad, id(grad), bits(grad)
            elif "hooks" in name:
                found[key] = [(number, id(hook)) for number, hook in value.items()]
            elif isinstance(value, (bool, int, float, str)):
                found[key] = value
            elif name != "_modules":
                found[key] = id(value), repr(value) if isinstance(value, (list, dict, set)) else None
        found[f"{path}: modules"] = [(name, id(one)) for name, one in module._modules.items()]
    return found


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of an output, whatever it is."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return [one for part in value for one in tensors(part)] if isinstance(value, (list, tuple)) else []


def run(model: nn.Module, x: Any) -> list[torch.Tensor]:
    args, kwargs = (x, {}) if isinstance(x, (tuple, list)) else ((x,), {})
    if isinstance(x, dict):
        args, kwargs = (), x
    return tensors(model(*args, **kwargs))


def assert_close(expected: list[torch.Tensor], given: list[torch.Tensor]) -> None:
    assert [one.shape for one in expected] == [one.shape for one in given] and expected
    for one, other in zip(expected, given, strict=True):
        assert type(one) is type(other) and one.dtype == other.dtype
        size = float(one.detach().double().nan_to_num(posinf=0, neginf=0).abs().max())
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * max(size, 1e-3), equal_nan=True)


def check(
    model: nn.Module,
    x: Any,
    *,
    gone: str | None = None,
    whole: str | list[str] | None = None,
    granularity: str = "node",
    fold: bool = False,
    trains: bool = True,
    sparsity: float = 0.5,
    draw: bool = True,
) -> tuple[Any, Any]:
    """Removed equals masked, in both modes; the smaller model learns; nothing else of the model changes.

    gone, whole: the layers that have masks, each with something removed, and those that must be named;
    separated by spaces. trains: whether outputs are compared and gradients taken in training mode.
    """
    if draw:
        drawn(model)
    options = {"sparsity": sparsity, "scope": "layer", "granularity": granularity, "example_input": x}
    zeros = everything(model)
    masks = nnopt.prune(model, score="random", seed=1, **options)
    before = everything(model)
    for key, value in before.items():  # masks set numbers to 0, and do no more
        if value != zeros[key]:
            assert ("_parameters" in key or "_buffers running_mean" in key) and value[0] == zeros[key][0]
    if gone is not None:
        assert sorted(masks) == sorted(gone.split())
        assert not any(mask.all() for mask in masks.values())
    if whole is not None:
        assert sorted(masks.whole) == sorted(whole.split() if isinstance(whole, str) else whole)
    small = nnopt.remove_nodes(model, masks, example_input=x, fold=fold)
    assert everything(model) == before
    assert type(small) is type(model)
    assert list(small.state_dict()) == list(model.state_dict()) or fold or granularity == "head"
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    modes = [(one, one.training) for one in model.modules()]
    with torch.no_grad():
        assert_close(run(model.eval(), x), run(small.eval(), x))
    if trains:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            expected = run(model.train(), x)
        given = run(small.train(), x)
        assert_close(expected, given)
        model.load_state_dict(state)
        sum(one.sum() for one in given if one.requires_grad).backward()
        owned = {id(one) for one in model.parameters()}
        assert not owned & {id(one) for one in small.parameters()}
        assert all(one.grad is None for one in model.parameters())
        assert any(one.grad is not None for one in small.parameters())
        small.zero_grad()
    for one, mode in modes:
        one.training = mode
    return small, masks


def refused(model: nn.Module, x: Any, **options: Any) -> str:
    """The sentence that refuses to prune a model, of which every bit stays."""
    before = everything(model)
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, **{"sparsity": 0.5, "granularity": "node", "example_input": x, **options})
    assert everything(model) == before and "\n" not in str(error.value)
    return str(error.value)
