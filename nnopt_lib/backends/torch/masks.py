"""Masks on PyTorch models: reading and masking a module's own parameters, holding zeros under any optimizer.

Nothing is put on modules, so copying, saving, compiling and exporting go on working. While weights are held
hooks stand on the optimizer and on the parameters, which neither copies nor files take along.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from nnopt_lib.backends.torch.build import as_array, canonical_tensors
from nnopt_lib.backends.torch.optimizers import (
    family,
    follow,
    forget,
    lift,
    owned,
    squares,
    worth_lifting,
)
from nnopt_lib.checks import refuse

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # no Linear, but dense


def prunable(model: nn.Module) -> list[str]:
    """Names of trainable kernels of dense, convolution and embedding layers; a shared one comes once."""
    kernels = {id(kernel) for kernel in _kernels(model)}
    return [name for name, p in canonical_tensors(model) if id(p) in kernels and p.requires_grad]


def _kernels(model: nn.Module) -> Iterator[torch.Tensor | None]:
    """The kernels that layers own; one that is computed from trainable parameters is refused.

    Layers are looked into, not asked: asking for a computed kernel computes it, and spectral_norm then takes
    a step of its own.
    """
    for path, layer in model.named_modules():
        of_attention = isinstance(layer, nn.MultiheadAttention)
        for name in _ATTENTION if of_attention else ["weight"] * isinstance(layer, _LAYERS):
            if name in layer._parameters:
                yield layer._parameters[name]
            elif _computed_by_training(layer, name):
                rule = f"layer {path or type(layer).__name__!r} must own its weights to be pruned"
                makers = "remove_parametrizations, remove_weight_norm or prune.remove of torch.nn.utils"
                remedy = f"Make it a parameter again ({makers}), or name the weights to prune."
                refuse(rule, f"a {name} that is computed from other parameters", remedy)


def _computed_by_training(layer: nn.Module, kernel: str) -> bool:
    """Whether a kernel that is no parameter is made of parameters that can be trained."""
    trained = {
        name.removeprefix("parametrizations.") for name, p in layer.named_parameters() if p.requires_grad
    }
    if isinstance(layer, nn.MultiheadAttention):  # it has much else
        return any(name.startswith(kernel) for name in trained)
    return any(not name.startswith("bias") for name in trained)


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


def weights(model: nn.Module, names: Sequence[str] | None) -> Mapping[str, np.ndarray]:
    """The named weights, or all of them, read one at a time."""
    tensors = dict(canonical_tensors(model))
    return _Weights(
        {name: tensors[name] for name in (tensors if names is None else names) if name in tensors}
    )


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def keep_bits(mask: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """All bits where `mask` keeps, none where it removes, as integers of the size of `like`'s numbers."""
    bits = torch.tensor(mask.view(np.int8))  # a copy: masks are read-only, and torch warns of such arrays
    return bits.to(like.device, _BITS[like.itemsize]).neg_()


def clear(tensor: torch.Tensor, keep: torch.Tensor) -> None:
    """Set to +0 what is not kept, whatever stands there, NaN too; much faster than `masked_fill_`."""
    tensor.view(keep.dtype).bitwise_and_(keep)


def apply(model: nn.Module, masks: Mapping[str, np.ndarray]) -> None:
    """Set what the masks remove to 0."""
    with torch.no_grad():
        tensors = dict(canonical_tensors(model))
        for name, mask in masks.items():
            # As in `clear`, but for once: whole numbers times 0 or 1, without an array of bits.
            factors = torch.tensor(mask.view(np.int8)).to(tensors[name].device)
            tensors[name].view(_BITS[tensors[name].itemsize]).mul_(factors)


class _Kept:
    """What is kept of one parameter, of its gradient, and of what an optimizer remembers of it."""

    def __init__(self, bits: torch.Tensor) -> None:
        self.bits, self.device, self.itemsize = bits, bits.device, bits.itemsize
        self.gradient_masked = False  # since the last step

    def move(self, parameter: torch.Tensor) -> None:
        """Follow a parameter to another device or precision."""
        if parameter.itemsize != self.itemsize or parameter.device != self.device:
            self.bits = self.bits.to(parameter.device, _BITS[parameter.itemsize])
            self.device, self.itemsize = self.bits.device, self.bits.itemsize

    def clear(self, tensor: torch.Tensor) -> None:
        """Set to 0 what is not kept of the parameter, or of a tensor of its shape in any precision."""
        bits = self.bits
        if tensor.itemsize != self.itemsize:
            bits = bits.to(_BITS[tensor.itemsize])
        tensor.view(bits.dtype).bitwise_and_(bits)

    def clear_gradient(self, parameter: torch.Tensor) -> None:
        """Set the gradient to 0 where the weight is removed, NaN too, as if the weight were not there."""
        if torch.is_grad_enabled():  # hardly ever in a backward pass: asking costs less than forbidding
            with torch.no_grad():
                return self.clear_gradient(parameter)
        gradient = parameter.grad
        if gradient is None:
            return None
        self.move(parameter)
        if gradient.is_sparse:  # of an embedding: rows, in any order, some of them twice
            rows = _Kept(self.bits[gradient._indices().unbind()])
            rows.clear(gradient._values())
        else:
            self.clear(gradient)
        self.gradient_masked = True
        return None


# The hook on each held parameter: a later hold puts its own in the place of an earlier one's.
_gradient_hooks: Any = WeakTensorKeyDictionary()


class Hold:
    """What `hold` returns: `remove` ends it. The weights stay as they are then, and may move again."""

    def __init__(self, pairs: list[tuple[torch.Tensor, _Kept]], members: list[torch.optim.Optimizer]) -> None:
        self._pairs = pairs
        self._members = [weakref.ref(member) for member in members]
        self._large = [(parameter, kept) for parameter, kept in pairs if worth_lifting(parameter)]
        named = [(weakref.ref(member), squares(member)) for member in members]
        self._squares = [(member, name) for member, name in named if name and self._large]
        # Gradients as they arrive: clipping, Muon, Adafactor and LBFGS read all of a layer's together.
        # By the parameter: a hook on a module would be copied and saved with the model.
        self._hooks = [
            _hook_gradient(parameter, kept) for parameter, kept in pairs if parameter.requires_grad
        ]
        # They end with the optimizer that the user steps: it is gone, and the parameters may live on.
        self._release = weakref.finalize(members[0], _remove_all, self._hooks)
        # After the step, whatever loop calls it. Masking in the forward pass would need a wrapper on the
        # module, and momentum or weight decay would go on moving the weights behind it.
        self._ends = [end for member in members for end in follow(member, self._before, self._after)]
        self._after()
        for member in members:
            forget(member, {id(parameter): kept.bits for parameter, kept in pairs})

    def remove(self) -> None:
        """Let go."""
        self._release()
        for end in self._ends:
            end()

    def _before(self) -> None:
        """Mask gradients that no backward pass has brought: written by hand, or moved from elsewhere."""
        for parameter, kept in self._pairs:
            if not kept.gradient_masked:
                kept.clear_gradient(parameter)
        for member, name in self._squares:
            state = getattr(member(), "state", {})
            for parameter, kept in self._large:
                lift(state.get(parameter, {}).get(name), kept.bits)

    @torch.no_grad()
    def _after(self) -> None:
        states = [getattr(member(), "state", {}) for member in self._members]
        for parameter, kept in self._pairs:
            kept.gradient_masked = False
            kept.move(parameter)
            kept.clear(parameter)
            for state in states:
                for value in state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        kept.clear(value)


def _hook_gradient(parameter: torch.Tensor, kept: _Kept) -> RemovableHandle:
    earlier = _gradient_hooks.get(parameter)
    if earlier is not None:
        earlier.remove()
    handle = parameter.register_post_accumulate_grad_hook(kept.clear_gradient)
    _gradient_hooks[parameter] = handle
    return handle


def _remove_all(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


_held: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[Hold]] = weakref.WeakKeyDictionary()


def hold(model: nn.Module, masks: Mapping[str, np.ndarray], optimizer: torch.optim.Optimizer | None) -> Hold:
    """Mask now and after every step of `optimizer`; an earlier hold on the same optimizer ends."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        rule = "hold needs the torch optimizer that trains the model"
        refuse(rule, type(optimizer).__name__, "Pass it as the third argument.")
    members = family(optimizer)
    trained, tensors = owned(members), dict(canonical_tensors(model))
    # What is not trained (frozen layers, running means) stays as it is masked.
    foreign = [name for name in masks if tensors[name].requires_grad and id(tensors[name]) not in trained]
    if foreign:
        refuse(
            "the optimizer must own the masked parameters",
            f"one without {', '.join(foreign)}",
            "Make it from this model's parameters().",
        )
    for earlier in {_held[member] for member in members if member in _held}:
        if (ended := earlier()) is not None:
            ended.remove()
    pairs = [(tensors[name], _Kept(keep_bits(mask, tensors[name]))) for name, mask in masks.items()]
    new = Hold(pairs, members)
    _held.update(dict.fromkeys(members, weakref.ref(new)))
    return new


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
