"""Masks on PyTorch models: reading and masking a module's own parameters, holding zeros under any optimizer.

Nothing is put on the module, so copying, saving, compiling and exporting go on working.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.build import as_array, canonical_tensors
from nnopt_lib.checks import refuse

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # no Linear, but dense


def prunable(model: nn.Module) -> list[str]:
    """Names of trainable kernels of dense, convolution and embedding layers; a shared one comes once."""
    kernels = {id(layer.weight) for layer in model.modules() if isinstance(layer, _LAYERS)}
    for layer in model.modules():
        if isinstance(layer, nn.MultiheadAttention):
            kernels |= {id(getattr(layer, name)) for name in _ATTENTION}
    return [name for name, p in canonical_tensors(model) if id(p) in kernels and p.requires_grad]


class _Weights(Mapping[str, np.ndarray]):
    """Weights as arrays, made when they are read, so that no copy of the whole model exists."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return as_array(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def weights(model: nn.Module, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The named weights, read one at a time."""
    tensors = dict(canonical_tensors(model))
    return _Weights({name: tensors[name] for name in names if name in tensors})


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_bits(mask: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """All bits where `mask` keeps, none where it removes, as integers of the size of `like`'s numbers."""
    bits = torch.tensor(mask.view(np.int8))  # a copy: masks are read-only, and torch warns of such arrays
    return bits.to(like.device, _BITS[like.itemsize]).neg_()


def clear(tensor: torch.Tensor, keep: torch.Tensor) -> None:
    """Set to +0 what is not kept, whatever stands there, NaN too; much faster than `masked_fill_`."""
    tensor.view(keep.dtype).bitwise_and_(keep)


def _kept(model: nn.Module, masks: Mapping[str, np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(parameter, its bits to keep) for each mask, on the parameter's device."""
    tensors = dict(canonical_tensors(model))
    return [(tensors[name], keep_bits(mask, tensors[name])) for name, mask in masks.items()]


def apply(model: nn.Module, masks: Mapping[str, np.ndarray]) -> None:
    """Set what the masks remove to 0."""
    with torch.no_grad():
        tensors = dict(canonical_tensors(model))
        for name, mask in masks.items():
            # As in `clear`, but for once: whole numbers times 0 or 1, without an array of bits.
            factors = torch.tensor(mask.view(np.int8)).to(tensors[name].device)
            tensors[name].view(_BITS[tensors[name].itemsize]).mul_(factors)


class Hold:
    """What `hold` returns: `remove` ends it. The weights stay as they are then, and may move again."""

    def __init__(
        self, pairs: list[tuple[torch.Tensor, torch.Tensor]], optimizer: torch.optim.Optimizer
    ) -> None:
        self._pairs = pairs
        # After the step, whatever loop calls it. Masking in the forward pass would need a wrapper on the
        # module, and momentum or weight decay would go on moving the weights behind it.
        self._handle = optimizer.register_step_post_hook(lambda *_: self._mask(optimizer))
        self._mask(optimizer)

    def remove(self) -> None:
        """Let go."""
        self._handle.remove()

    @torch.no_grad()
    def _mask(self, optimizer: torch.optim.Optimizer) -> None:
        for index, (parameter, keep) in enumerate(self._pairs):
            if keep.device != parameter.device or keep.itemsize != parameter.itemsize:  # it has moved since
                keep = keep.to(parameter.device, _BITS[parameter.itemsize])
                self._pairs[index] = (parameter, keep)
            clear(parameter, keep)
            for state in optimizer.state.get(parameter, {}).values():
                if isinstance(state, torch.Tensor) and state.shape == parameter.shape:
                    clear(state, keep if state.itemsize == keep.itemsize else keep.to(_BITS[state.itemsize]))


_held: weakref.WeakKeyDictionary[torch.optim.Optimizer, Hold] = weakref.WeakKeyDictionary()


def hold(model: nn.Module, masks: Mapping[str, np.ndarray], optimizer: torch.optim.Optimizer | None) -> Hold:
    """Mask now and after every step of `optimizer`; an earlier hold on the same optimizer ends."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        rule = "hold needs the torch optimizer that trains the model"
        refuse(rule, type(optimizer).__name__, "Pass it as the third argument.")
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    tensors = dict(canonical_tensors(model))
    foreign = [name for name in masks if id(tensors[name]) not in owned]
    if foreign:
        refuse(
            "the optimizer must own the masked parameters",
            f"one without {', '.join(foreign)}",
            "Make it from this model's parameters().",
        )
    if optimizer in _held:
        _held[optimizer].remove()
    _held[optimizer] = Hold(_kept(model, masks), optimizer)
    return _held[optimizer]


def reinitialize(model: nn.Module, seed: int) -> None:
    """Every module's own `reset_parameters`, under a seed of its own; torch's generators stay untouched."""
    layers: list[tuple[str, Callable[[], None]]] = [
        (path, module.reset_parameters)
        for path, module in model.named_modules()
        if hasattr(module, "reset_parameters")
    ]
    drawn = {
        id(p)
        for module in model.modules()
        if hasattr(module, "reset_parameters")
        for p in module.parameters()
    }
    left = [name for name, p in model.named_parameters() if id(p) not in drawn]
    if left:
        rule = "drawing weights again needs modules with reset_parameters"
        refuse(rule, f"none for {', '.join(left)}", "Build the model anew with another seed.")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for _, reset in layers:
            reset()
