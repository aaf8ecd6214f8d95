"""What layers of PyTorch modules read, as columns that their kernels multiply."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_lib.backends.torch.build import _unwrapped, canonical_tensors, tree
from nnopt_lib.backends.torch.fit import inference
from nnopt_lib.backends.torch.inputs import run
from nnopt_lib.pruning.columns import columns as cut
from nnopt_lib.pruning.columns import portions
from nnopt_lib.pruning.examples import batches_of, part_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PROJECTIONS = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}
_INSIDE = "attention multiplies by it without calling it"
_NEVER = "its layer is never called; the weight is used by other code, or not at all"


class _LastCallSeen(BaseException):
    """Ends a forward pass. Not an `Exception`: models may catch those."""


def readable(model: nn.Module, names: Sequence[str], x: Any) -> dict[str, str | None]:
    """None, or why the layer cannot be pruned by itself, for each kernel, in the order of first calls."""
    owners = _owners(model, names)
    reasons: dict[str, str | None] = {}

    def look(name: str, owner: nn.Module, part: str) -> list[Any]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if reasons.get(name) is None:  # of several calls, or owners, one is enough
                reasons[name] = _unread(module, part, args, kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if reasons[name] is None and not isinstance(module, nn.MultiheadAttention):
                reasons[name] = _other_than_kernel(module, _input(module, part, args, kwargs), output)

        return [
            owner.register_forward_pre_hook(before, with_kwargs=True),
            owner.register_forward_hook(after, with_kwargs=True, prepend=True),  # before the user's own
        ]

    with contextlib.ExitStack() as stack:
        for name, modules in owners.items():
            for owner, part in modules:
                for hook in look(name, owner, part):
                    stack.callback(hook.remove)
        # Two examples: with one, a squeeze() in the model may take the batch away.
        _run(model, part_of(x, slice(0, 2)))
    kinds = nn.modules.linear.NonDynamicallyQuantizableLinear
    never = {
        name: _INSIDE if any(isinstance(owner, kinds) for owner, _ in owners[name]) else _NEVER
        for name in names
        if name not in reasons
    }
    return reasons | never


def columns(model: nn.Module, name: str, x: Any, batch_size: int) -> Iterator[np.ndarray]:
    """What the layer reads, (rows, groups, inputs / groups * entries), for a batch and call at a time.

    The forward pass ends with the layer's last call; how many there are, the first batch tells.
    """
    owners, calls = _owners(model, [name])[name], 0
    for inputs, _, _ in batches_of(x, None, batch_size):
        read: list[tuple[nn.Module, np.ndarray]] = []

        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            part = next(part for owner, part in owners if owner is module)
            # A copy: the input may be changed in place, before it is asked for, by what follows.
            array = _input(module, part, args, kwargs).float().cpu().numpy().copy()
            read.append((module, array))  # noqa: B023
            if len(read) == calls:  # noqa: B023
                raise _LastCallSeen

        with contextlib.ExitStack() as stack:  # left before anything is given: nobody sees the hooks
            for owner, _ in owners:
                stack.callback(owner.register_forward_pre_hook(note, with_kwargs=True).remove)
            stack.enter_context(contextlib.suppress(_LastCallSeen))
            _run(model, inputs)
        calls = calls or len(read)
        while read:
            yield from _portions(*read.pop(0))


def _owners(model: nn.Module, names: Sequence[str]) -> dict[str, list[tuple[nn.Module, str]]]:
    """The modules that own each weight, several where it is shared, and what they call it."""
    tensors = dict(canonical_tensors(model))
    name_of = {id(tensors[name]): name for name in names if name in tensors}
    owners: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names}
    for _, module in tree(model):
        for part, tensor in module._parameters.items():
            if id(tensor) in name_of:
                owners[name_of[id(tensor)]].append((module, part))
    return owners


# ---------------------------------------------------------------- running


def _run(model: nn.Module, x: Any) -> None:
    """One forward pass in evaluation mode, of Python code only, since compiled code passes hooks by."""
    model = _unwrapped(model)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    fast = torch.backends.mha.get_fastpath_enabled()  # of transformer layers; it calls none of their parts
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with inference(model), torch.compiler.set_stance("force_eager"):
            run(model, x, like)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


# ---------------------------------------------------------------- layers


def _unread(module: nn.Module, part: str, args: Any, kwargs: Any) -> str | None:
    """Why the columns of a layer cannot be read, before it is run."""
    kind = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = _attended(args, kwargs)
        if part == "in_proj_weight" and not (query is key and key is value):
            return "one kernel reads query, key and value, which are not the same here"
        return None if part == "in_proj_weight" or part in _PROJECTIONS else f"{part!r} of {kind}"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "an embedding reads indices"
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution adds what overlaps"
    if part != "weight" or not isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return f"{part!r} of {kind} is no kernel of a dense layer or convolution"
    if isinstance(module, _CONVOLUTIONS) and module.padding_mode != "zeros":
        return f"it pads by padding_mode={module.padding_mode!r}, not by zeros"
    return None


def _attended(args: Any, kwargs: Any) -> list[Any]:
    """Query, key and value of a call of attention."""
    return [args[i] if i < len(args) else kwargs[name] for i, name in enumerate(("query", "key", "value"))]


def _input(module: nn.Module, part: str, args: Any, kwargs: Any) -> torch.Tensor:
    if isinstance(module, nn.MultiheadAttention):
        return _attended(args, kwargs)[_PROJECTIONS.get(part, 0)]
    return args[0] if args else kwargs["input"]


def _portions(module: Any, x: np.ndarray) -> Iterator[np.ndarray]:
    """The columns of one call, of some examples at a time."""
    repeats = 1.0
    if isinstance(module, _CONVOLUTIONS):
        repeats = math.prod(module.kernel_size) / math.prod(module.stride)
        x = _batched(module, x)
    for portion in portions(x, repeats):
        yield _cut(module, portion)


def _batched(module: Any, x: np.ndarray) -> np.ndarray:
    """torch takes one example without a batch, too."""
    return x if x.ndim == len(module.kernel_size) + 2 else x[None]


def _cut(module: Any, x: np.ndarray) -> np.ndarray:
    if not isinstance(module, _CONVOLUTIONS):
        return x.reshape(-1, 1, x.shape[-1])
    size, dilation = module.kernel_size, module.dilation
    if module.padding == "same":  # of an uneven sum torch puts the more behind
        sums = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
        padding = [(total // 2, total - total // 2) for total in sums]
    else:
        widths = (0,) * len(size) if module.padding == "valid" else module.padding
        padding = [(int(width), int(width)) for width in widths]
    return cut(
        _batched(module, x),
        size,
        stride=module.stride,
        padding=padding,
        dilation=dilation,
        groups=module.groups,
    )


def _other_than_kernel(module: Any, x: torch.Tensor, output: Any) -> str | None:
    """Why a layer is no product of kernel and columns, if it is none: a class may compute anything."""
    reason = f"{type(module).__name__} computes something else than its kernel times its input"
    if not isinstance(output, torch.Tensor):
        return reason
    kernel = module._parameters["weight"].float().cpu().numpy()
    rows = _cut(module, x.float().cpu().numpy())
    parts = kernel.reshape(rows.shape[1], -1, rows.shape[2])
    products = np.einsum("rgi,goi->rgo", rows, parts, optimize=True).reshape(len(rows), len(kernel))
    bias = module._parameters.get("bias")
    products = products if bias is None else products + bias.float().cpu().numpy()
    given = output.float().cpu().numpy()
    if isinstance(module, _CONVOLUTIONS):
        given = np.moveaxis(given, -len(module.kernel_size) - 1, -1)
    given = given.reshape(-1, given.shape[-1])
    if given.shape != products.shape:
        return reason
    # 1e-2 of the largest: rounding of bfloat16 and TF32 stays below, another operation does not.
    close = np.abs(given - products).max(initial=0) <= 1e-2 * np.abs(products).max(initial=0)
    return None if close else reason
