"""Layers that compute from stored weights: copies of a model with them in the place of dense layers.

Two kernels multiply. `matmul` is torch's product of a sparse matrix (on the CPU, MKL's); `gather` reads for
each output the rows of the inputs that it needs, which `embedding_bag` does without a copy of them.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own custom)
from torch import nn

from nnopt_lib.checks import nearest, refuse
from nnopt_lib.formats.storage import Stored, matrix_shape

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# Measured on one thread, 768 x 3072 at sparsities of 0.5 to 0.99: below this many columns MKL is faster.
_GATHERED = 32
_CHUNK = 64  # columns gathered at a time: more, and the inputs of an output leave the cache

with warnings.catch_warnings():  # of a state of beta: once in a process, and so not in a reader's output
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


class SparseMatrix(nn.Module):
    """Weights (rows, inputs) as they are stored; called on x (inputs, columns), it gives (rows, columns).

    Its state is what is stored. What kernels need besides (row starts, columns of n:m) is made from it.
    """

    values: torch.Tensor
    columns: torch.Tensor
    row_starts: torch.Tensor
    positions: torch.Tensor
    block_rows: torch.Tensor

    def __init__(self, stored: Stored, kernel: str) -> None:
        super().__init__()
        self.stored_as, self.kernel, self.runs = stored.format, kernel, stored.runs
        self.kernel_shape, self.shape = stored.shape, matrix_shape(stored.shape)
        for name, array in stored.arrays.items():  # values, columns and so on
            self.register_buffer(name, torch.tensor(array))
        self._decode()

    def _decode(self) -> None:
        """Make what kernels need besides from what is stored; refuse columns that do not exist."""
        device, inputs = self.values.device, self.shape[1]
        if self.stored_as == "dense":
            return
        if self.stored_as in ("n:m", "constant_fan_in"):
            starts = torch.arange(self.shape[0] + 1, dtype=torch.int32, device=device) * self.values.shape[1]
            self.register_buffer("row_starts", starts, persistent=False)
        if self.stored_as == "n:m":
            arrays = {"values": self.values.numpy(force=True), "positions": self.positions.numpy(force=True)}
            columns = Stored("n:m", self.kernel_shape, arrays, self.runs).columns()
            self.register_buffer("columns", torch.from_numpy(columns).to(device), persistent=False)
        if self.stored_as == "bsr":
            inputs //= self.values.shape[2]
        # The kernels read where columns point, whatever is there.
        counts = self.row_starts.diff()
        ordered = bool((counts >= 0).all()) and int(self.row_starts[-1]) == self.columns.numel()
        if not ordered or bool(((self.columns < 0) | (self.columns >= inputs)).any()):
            refuse("stored columns must be inputs of the layer, row after row", "others")
        if self.stored_as == "bsr":
            rows = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
            self.register_buffer("block_rows", rows, persistent=False)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._decode()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product with x (inputs, columns)."""
        if self.stored_as == "dense":
            return self.values @ x
        if self.stored_as == "bsr":
            return self._blocks(x)
        if self.kernel == "gather" or (self.kernel == "auto" and x.shape[1] >= _GATHERED):
            return self._gathered(x)
        parts = self.row_starts, self.columns.view(-1), self.values.view(-1)
        matrix = torch.sparse_csr_tensor(*parts, self.shape, check_invariants=False)
        return (matrix @ x[:, 0])[:, None] if x.shape[1] == 1 else matrix @ x

    def _gathered(self, x: torch.Tensor) -> torch.Tensor:
        columns = self.columns.view(-1)
        if x.shape[1] == 1 and self.stored_as != "csr":  # equal counts: one inner product for each row
            picked = x[:, 0].index_select(0, columns).view_as(self.values)
            return torch.linalg.vecdot(picked, self.values)[:, None]
        chunks = [
            F.embedding_bag(
                columns,
                chunk.contiguous(),
                self.row_starts,
                mode="sum",
                per_sample_weights=self.values.view(-1),
                include_last_offset=True,
            )
            for chunk in x.split(_CHUNK, 1)
        ]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 1)

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        height, width = self.values.shape[1:]
        if x.shape[1] > 1 and height == width:  # MKL has square blocks only
            parts = self.row_starts, self.columns, self.values
            return torch.sparse_bsr_tensor(*parts, self.shape, check_invariants=False) @ x
        picked = x.reshape(-1, width, x.shape[1]).index_select(0, self.columns)
        rows = x.new_zeros(self.shape[0] // height, height, x.shape[1])
        rows.index_add_(0, self.block_rows, torch.bmm(self.values, picked))
        return rows.flatten(0, 1)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{self.shape[0]} x {self.shape[1]}, {self.stored_as}"


class StoredLinear(nn.Module):
    """A dense layer from stored weights."""

    bias: torch.Tensor | None

    def __init__(self, layer: nn.Linear, matrix: SparseMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (..., out) of inputs (..., in)."""
        outputs = self.matrix(x.reshape(-1, x.shape[-1]).t()).t().contiguous()
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.view(*x.shape[:-1], self.matrix.shape[0])


class StoredConvolution(nn.Module):
    """A convolution from stored weights, by unfolding: each position becomes a column of inputs."""

    bias: torch.Tensor | None

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, matrix: SparseMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.flat = isinstance(layer, nn.Conv1d)  # computed as an image of one line
        ones: tuple[int, ...] = (1,) * self.flat
        self.size = (*ones, *layer.kernel_size)
        self.stride, self.dilation = (*ones, *layer.stride), (*ones, *layer.dilation)
        self.padding = tuple(layer._reversed_padding_repeated_twice)
        self.mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out, *positions) of inputs (batch, in, *positions); the batch may be missing."""
        one = x.ndim == (2 if self.flat else 3)
        x = x[None] if one else x
        padded = F.pad(x, self.padding, self.mode) if any(self.padding) else x
        padded = padded.unsqueeze(2) if self.flat else padded
        spans = [d * (k - 1) for k, d in zip(self.size, self.dilation, strict=True)]
        places = [
            (length - span - 1) // step + 1
            for length, span, step in zip(padded.shape[2:], spans, self.stride, strict=True)
        ]
        columns = F.unfold(padded, self.size, dilation=self.dilation, stride=self.stride)
        outputs = self.matrix(columns.transpose(0, 1).reshape(columns.shape[1], -1))
        outputs = outputs if self.bias is None else outputs + self.bias[:, None]
        outputs = outputs.view(len(outputs), len(x), math.prod(places)).transpose(0, 1)
        outputs = outputs.reshape(len(x), self.matrix.shape[0], *places[self.flat :])
        return (outputs[0] if one else outputs).contiguous()


def converted(
    model: nn.Module,
    names: Sequence[str] | None,
    kernel: str,
    store: Callable[[Any, str], Stored],
) -> nn.Module:
    """A copy of `model`; `store` is given each kernel as an array and the name of its layer."""
    model = copy.deepcopy(getattr(model, "_orig_mod", model))
    layers = {path or type(layer).__name__: layer for path, layer in model.named_modules() if _fits(layer)}
    if not layers:
        refuse("a model to convert needs a Linear, Conv1d or Conv2d layer", "none")
    chosen = list(layers) if names is None else [name.removesuffix("/kernel") for name in names]
    for name in chosen:
        if name not in layers:
            refuse(f"layers names no Linear, Conv1d or Conv2d layer by {name!r}", None, nearest(name, layers))
    new = {layers[name]: _stored(layers[name], name, kernel, store) for name in dict.fromkeys(chosen)}
    if model in new:
        return new[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
        # Their fused kernels read the dense weights of layers inside.
        if isinstance(parent, nn.TransformerEncoderLayer):
            parent.activation_relu_or_gelu = 0
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
    return model


def _fits(layer: nn.Module) -> bool:
    # By exact type: attention reads the weights of its own kind of Linear, parametrized layers make theirs.
    return type(layer) in _LAYERS


def _stored(layer: Any, name: str, kernel: str, store: Callable[[Any, str], Stored]) -> nn.Module:
    """One layer from stored weights, on its device and in its mode."""
    if getattr(layer, "groups", 1) != 1:
        rule = f"layer {name!r} must have one group of channels to be stored as a matrix"
        refuse(rule, f"{layer.groups} groups", "Leave it out by layers=[...].")
    if layer.weight.dtype != torch.float32:
        rule = f"layer {name!r} must have weights of float32 to be stored"
        refuse(rule, str(layer.weight.dtype).removeprefix("torch."), "Call model.float() first.")
    matrix = SparseMatrix(store(layer.weight.numpy(force=True), name), kernel)
    kind = StoredLinear if isinstance(layer, nn.Linear) else StoredConvolution
    return kind(layer, matrix).to(layer.weight.device).train(layer.training)
