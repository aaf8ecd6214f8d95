"""Matrix products and attention."""

from __future__ import annotations

import numpy as np

from nnopt_lib.backends.torch.rules.layers import held_along, kernel
from nnopt_lib.backends.torch.rules.reader import (
    Reader,
    Result,
    bound,
    rule_for,
)
from nnopt_lib.backends.torch.tracing import Call, calls_in
from nnopt_lib.structure.contraction import contract
from nnopt_lib.structure.labels import Value, spread, unlabeled


@rule_for("matmul", "bmm", "mm", "rmatmul", "baddbmm")
def _matmul(r: Reader, call: Call) -> Result:
    a, b = (call.args[0], call.args[1]) if r.name_of(call) != "rmatmul" else (call.args[1], call.args[0])
    if len(call.args) != 2:
        return None
    weight = r.kernel(b) if len(b.shape) == 2 and r.of(a).labels.ndim > 1 else None
    if weight is not None:
        name, transposed = weight
        axes, sizes = ((0, 1), b.shape[::-1]) if transposed else ((1, 0), b.shape)
        read = r.along(r.of(a), -1)
        made = kernel(r, name, None, read, held_along(r.of(a), -1), axes, sizes, False)
        return Value(spread(made, -1, call.shape))
    x, y = r.of(a), r.of(b)
    if len(x.shape) < 2 or len(y.shape) < 2:
        return None
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    letters = "abcdefgh"[: len(batch)]
    operands = [
        Value(
            np.broadcast_to(one.labels, batch + one.shape[-2:]),
            one.held if np.ndim(one.held) == 0 else np.nan,
        )
        for one in (x, y)
    ]
    sizes = dict(zip(letters, batch, strict=True)) | {"i": x.shape[-2], "k": x.shape[-1], "j": y.shape[-1]}
    return contract(r.reading, operands, (letters + "ik", letters + "kj"), letters + "ij", sizes)


@rule_for("einsum")
def _einsum(r: Reader, call: Call) -> Result:
    equation, *rest = call.args
    tensors = calls_in(rest)
    if len(tensors) != 2 or not isinstance(equation, str):
        return None
    equation = equation.replace(" ", "")
    inputs, _, out = equation.partition("->")
    letters = inputs.split(",")
    if "..." in equation:
        spare = [one for one in "ZYXWVUTS" if one not in equation]
        ranks = [
            len(t.shape) - len(names.replace("...", "")) for t, names in zip(tensors, letters, strict=True)
        ]
        if ranks[0] != ranks[1] and "..." in letters[0] and "..." in letters[1]:
            return None
        letters = [
            names.replace("...", "".join(spare[:rank])) for names, rank in zip(letters, ranks, strict=True)
        ]
        out = out.replace("...", "".join(spare[: max(ranks)]))
    if "->" not in equation or any(len(set(names)) != len(names) for names in letters):
        return None
    values = [r.of(one) for one in tensors]
    sizes = {
        one: size
        for t, names in zip(tensors, letters, strict=True)
        for one, size in zip(names, t.shape, strict=True)
    }
    weight = r.parameter(tensors[1])
    if weight is not None and not values[1].labeled and values[0].labeled:
        return None
    return contract(r.reading, values, letters, out, sizes)


@rule_for("scaled_dot_product_attention")
def _attention(r: Reader, call: Call) -> Result:
    given = bound(call, "query key value attn_mask dropout_p is_causal scale enable_gqa")
    query, key, value = (r.of(given[name]) for name in ("query", "key", "value"))
    if given.get("enable_gqa") and len(query.shape) > 2:
        times = query.shape[-3] // key.shape[-3]
        key, value = (Value(np.repeat(one.labels, times, axis=-3), one.held) for one in (key, value))
    letters = "abcdefgh"[: len(query.shape) - 2]
    if isinstance(given.get("attn_mask"), Call) and r.of(given["attn_mask"]).labeled:
        return None
    sizes = dict(zip(letters, query.shape, strict=False))
    sizes |= {"i": query.shape[-2], "k": query.shape[-1], "j": key.shape[-2], "v": value.shape[-1]}
    scores = contract(r.reading, (query, key), (letters + "ik", letters + "jk"), letters + "ij", sizes)
    if scores is None:
        for one in (query, key):
            r.reading.labels.fix(one.labels, "summed over by attention")
        scores = unlabeled([sizes[letter] for letter in letters + "ij"])
    weights = Value(scores.labels, np.nan)
    return contract(r.reading, (weights, value), (letters + "ij", letters + "jv"), letters + "iv", sizes)
