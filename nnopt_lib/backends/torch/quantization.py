"""Quantization of PyTorch modules: straight-through training, int8 kernels, rounded inputs of layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nnopt_lib.backends.torch.activations import _owners
from nnopt_lib.backends.torch.build import as_array, canonical_tensors
from nnopt_lib.checks import refuse
from nnopt_lib.compression.quantization import (
    SMALLEST_STEP,
    SPARE_BITS,
    Quantization,
    Quantized,
    matrix_shape,
    quantize,
)

# fbgemm adds products of 8 by 8 bits in pairs of 16 where a processor has no int8 instructions, which may
# overflow; inputs of 7 bits cannot, and give the same numbers on every machine.
SEVEN_BITS = True


# ---------------------------------------------------------------- training


def rounded(kernel: torch.Tensor, recipe: Quantization) -> torch.Tensor:
    """The nearest values of the grids of `recipe`, as `quantize(...).dequantize()` gives them."""
    rows, inputs = (1, kernel.numel()) if recipe.per == "tensor" else matrix_shape(tuple(kernel.shape))
    size = min(recipe.group, inputs) if recipe.per == "group" else inputs
    padding = -inputs % size  # by zeros, which every grid holds anyway
    groups = nn.functional.pad(kernel.float().reshape(rows, inputs), (0, padding)).view(rows, -1, size)
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    lowest, highest = recipe.codes
    if recipe.scheme == "symmetric":
        steps = torch.maximum(-low, high) / highest
    else:
        steps = high / (highest - lowest) - low / (highest - lowest)
    bits = steps.clamp(min=SMALLEST_STEP).view(torch.int32)
    scale = torch.where(steps == 0, 1.0, ((bits + SPARE_BITS) & ~SPARE_BITS).view(torch.float32))
    zero_point = torch.zeros_like(scale)
    if recipe.scheme == "affine":
        zero_point = (lowest - (low / scale).round()).clamp(lowest, highest)
    codes = ((groups / scale).round() + zero_point).clamp(lowest, highest)
    return ((codes - zero_point) * scale).view(rows, -1)[:, :inputs].reshape(kernel.shape)


class StraightThrough:
    """Quantization in a training loop: gradients at the quantized weights step the float ones.

    Between steps the model holds the quantized weights.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], recipe: Quantization) -> None:
        tensors = dict(canonical_tensors(model))
        self._kernels = [tensors[name] for name in names]
        self._recipe = recipe
        self.floats = [kernel.detach().clone() for kernel in self._kernels]
        self._round()

    def before(self) -> None:
        """Nothing: the forward pass finds the quantized weights."""

    def loss(self) -> float:
        """Nothing."""
        return 0.0

    @torch.no_grad()
    def after_backward(self) -> None:
        """The float weights come back, for the optimizer's step."""
        for kernel, value in zip(self._kernels, self.floats, strict=True):
            kernel.copy_(value)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """The float weights are set aside again, and quantized."""
        for kernel, value in zip(self._kernels, self.floats, strict=True):
            value.copy_(kernel)
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for kernel, value in zip(self._kernels, self.floats, strict=True):
            kernel.copy_(rounded(value, self._recipe))


def straight_through(model: nn.Module, names: Sequence[str], recipe: Quantization) -> StraightThrough:
    """Quantization-aware training of the named kernels."""
    return StraightThrough(model, names, recipe)


# ---------------------------------------------------------------- inference


class Int8Linear(nn.Module):
    """A dense layer that multiplies whole numbers: 8-bit weights, inputs rounded by their range."""

    def __init__(self, layer: nn.Linear, quantized: Quantized) -> None:
        super().__init__()
        self.codes: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("codes", torch.from_numpy(quantized.codes))
        self.register_buffer("scale", torch.from_numpy(quantized.scale[:, 0]))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), False)
        self._packed: tuple[Any, Any] | None = None  # and the state of what it was made of

    def _weights(self) -> Any:
        """Codes in the kernel's own order, made anew where a file was loaded into the layer."""
        state = tuple((id(t), t._version) for t in (self.codes, self.scale, self.bias) if t is not None)
        if self._packed is None or self._packed[0] != state:
            zeros = torch.zeros(len(self.codes), dtype=torch.int64)
            with warnings.catch_warnings():  # of the type qint8, which PyTorch will give up one day
                warnings.simplefilter("ignore", UserWarning)
                codes = torch._make_per_channel_quantized_tensor(self.codes, self.scale.double(), zeros, 0)
                self._packed = state, torch.ops.quantized.linear_prepack(codes, self.bias)
        return self._packed[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs for `x` of shape (..., inputs), float32."""
        return torch.ops.quantized.linear_dynamic(x, self._weights(), SEVEN_BITS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Sizes, as `torch.nn.Linear` prints them."""
        outputs, inputs = self.codes.shape
        return f"in_features={inputs}, out_features={outputs}, bias={self.bias is not None}"


def dynamic(model: nn.Module, names: Sequence[str] | None) -> nn.Module:
    """A copy whose dense layers run int8 kernels: all, or those whose kernels are named."""
    small = copy.deepcopy(model)
    tensors = dict(canonical_tensors(small))
    # Of exactly this type: attention multiplies by the weight of its own kind without calling the layer.
    places = [
        (parent, child, layer)
        for parent in small.modules()
        for child, layer in parent._modules.items()
        if type(layer) is nn.Linear
    ]
    if type(small) is nn.Linear:
        refuse("a model to quantize must hold its layers", "a Linear itself", "Put it into a Sequential.")
    dense = {id(layer.weight) for _, _, layer in places}
    known = [name for name, tensor in tensors.items() if id(tensor) in dense]
    foreign = [name for name in names or known if name not in known]
    if foreign or not known:
        rule = "int8 kernels are for weights of torch.nn.Linear"
        refuse(rule, ", ".join(foreign) or "a model without any", f"It has {', '.join(known) or 'none'}.")
    quantized = {
        id(tensors[name]): quantize(as_array(tensors[name]), per="row", layer=name) for name in names or known
    }
    made: dict[int, Int8Linear] = {}
    for parent, child, layer in places:
        if id(layer.weight) in quantized:
            made.setdefault(id(layer), Int8Linear(layer, quantized[id(layer.weight)]))
            parent._modules[child] = made[id(layer)]
    return small.eval()


class _RoundInput:
    """A hook before a layer, copied and saved with it: what it reads goes to the nearest values of a grid."""

    def __init__(self, grid: Quantized) -> None:
        self.scale, self.zero_point = float(grid.scale[0, 0]), float(grid.zero_point[0, 0])
        self.lowest, self.highest = grid.recipe.codes

    def __call__(self, module: nn.Module, args: Any) -> Any:
        codes = (args[0] / self.scale).round().add(self.zero_point).clamp(self.lowest, self.highest)
        return ((codes - self.zero_point) * self.scale, *args[1:])


def round_inputs(model: nn.Module, grids: Mapping[str, Quantized]) -> None:
    """From now on the layers of these kernels read rounded numbers."""
    for name, owners in _owners(model, list(grids)).items():
        for layer, _ in owners:
            layer.register_forward_pre_hook(_RoundInput(grids[name]))
