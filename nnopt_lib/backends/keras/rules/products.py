"""What products of two tensors do with channels in Keras: matrix products, attention and its heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnopt_lib.backends.keras.rules.elementwise import activated
from nnopt_lib.backends.keras.rules.layers import kernel_of
from nnopt_lib.backends.keras.walk import Call, Known, Reader, Result, graph_of, rule_for, zero
from nnopt_lib.structure.contraction import contract
from nnopt_lib.structure.labels import Value, along, spread, unlabeled, varying


def _product(r: Reader, call: Call, values: list[Value], letters: list[str], out: str) -> Value | None:
    sizes = {
        one: size
        for value, names in zip(values, letters, strict=True)
        for one, size in zip(names, value.shape, strict=True)
    }
    return contract(r.reading, values, letters, out, sizes)


@rule_for("ops.Matmul")
def _matmul(r: Reader, call: Call) -> Result:
    x, y = (one.value for one in call.inputs)
    if min(len(x.shape), len(y.shape)) < 2:
        return None
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    letters = "abcdefgh"[: len(batch)]
    values = [
        Value(
            np.broadcast_to(one.labels, batch + one.shape[-2:]),
            one.held if np.ndim(one.held) == 0 else np.nan,
        )
        for one in (x, y)
    ]
    return _product(r, call, values, [letters + "ik", letters + "kj"], letters + "ij")


@rule_for("ops.Einsum")
def _einsum(r: Reader, call: Call) -> Result:
    inputs, arrow, out = call.op.subscripts.replace(" ", "").partition("->")
    letters = inputs.split(",")
    values = [one.value for one in call.inputs]
    if len(letters) != 2 or len(values) != 2 or not arrow or "." in inputs:
        return None
    if any(len(set(names)) != len(names) for names in letters):
        return None
    return _product(r, call, values, letters, out)


@rule_for("Dot")
def _dot(r: Reader, call: Call) -> Result:
    x, y = (one.value for one in call.inputs)
    axes = [call.op.axes] * 2 if isinstance(call.op.axes, int) else list(call.op.axes)
    axes = [axis % len(one.shape) for axis, one in zip(axes, (x, y), strict=True)]
    if call.op.normalize:
        return None
    names = [list("a" + kind[: len(one.shape) - 1]) for one, kind in ((x, "bcde"), (y, "fghi"))]
    for one, axis in zip(names, axes, strict=True):
        one[axis] = "k"
    letters = ["".join(one) for one in names]
    out = "".join(one for one in letters[0] + letters[1][1:] if one != "k")
    value = _product(r, call, [x, y], letters, out)
    if value is not None and value.shape != call.shape:  # of two vectors: one number for each example
        value = Value(value.labels.reshape(call.shape), value.held)
    return value


@rule_for("ops.DotProductAttention")
def _dot_product_attention(r: Reader, call: Call) -> Result:
    query, key, value = (one.value for one in call.inputs[:3])
    if any(one.value.labeled for one in call.inputs[3:]):
        return None
    scores = _product(r, call, [query, key], ["bthk", "bshk"], "bhts")
    if scores is None:
        return None
    return _product(r, call, [Value(scores.labels, np.nan), value], ["bhts", "bshv"], "bthv")


@rule_for("Attention")
def _attention(r: Reader, call: Call) -> Result:
    query, value = (one.value for one in call.inputs[:2])
    key = call.inputs[2].value if len(call.inputs) > 2 else value
    if call.op.score_mode != "dot" or len(call.shapes) > 1:
        return None
    scores = _product(r, call, [query, key], ["btk", "bsk"], "bts")
    if scores is None or scores.labeled:
        return None
    return _product(r, call, [Value(scores.labels, np.nan), value], ["bts", "bsv"], "btv")


@rule_for("AdditiveAttention")
def _additive_attention(r: Reader, call: Call) -> Result:
    query, value = (one.value for one in call.inputs[:2])
    key = call.inputs[2].value if len(call.inputs) > 2 else value
    asked, offered = along(query.labels, -1), along(key.labels, -1)
    name = r.name(call.op, "scale")
    if asked is None or offered is None or not (zero(query) and zero(key)):
        return None
    if len(call.shapes) > 1 or (call.op.use_scale and name is None):
        return None
    labels = r.reading.labels.join(asked, offered)
    if name is not None:
        r.reading.axis(name, 0, labels)
    scores = Value(unlabeled((*query.shape[:2], value.shape[1])).labels, np.nan)
    return _product(r, call, [scores, value], ["bts", "bsv"], "btv")


@rule_for("nnopt.Attention")
def _own_attention(r: Reader, call: Call) -> Result:
    heads, values = call.op.heads, [one.value for one in call.inputs]
    r.refuse(f"read by the attention {call.op.name!r}")
    rows = [along(one.labels, -1) for one in values]
    if heads == 1 or any(one is None for one in rows) or not all(map(zero, values)):
        return None
    each = [r.reading.labels.join_along(np.reshape(one, (heads, -1)), 1)[:, 0] for one in rows]  # type: ignore[arg-type]
    for one in each[1:]:
        r.reading.labels.join(each[0], one)
    r.reading.heads.append(np.unique(np.concatenate(each)))
    r.details.labels[id(call.op)] = each[0]
    r.reason = ""
    labels = np.repeat(each[2], values[2].shape[-1] // heads)
    return Value(spread(labels, -1, call.shape))


@rule_for("nnopt.Position")
def _position(r: Reader, call: Call) -> Result:
    r.refuse(f"read by the position encoding {call.op.name!r}, which adds to a node that would be 0")
    return None


# ------------------------------------------------------------------ dense layers by equation


def _letters(layer: Any, rank: int) -> tuple[str, str, str]:
    """The letters of input, kernel and output; those that ... stands for are capitals."""
    terms, output = layer.equation.replace(" ", "").split("->")
    source, weights = terms.split(",")
    more = "ZYXWVU"[: rank - len(source.replace("...", ""))]
    return source.replace("...", more), weights, output.replace("...", more)


@rule_for("EinsumDense")
def _einsum_dense(r: Reader, call: Call) -> Result:
    layer, x, name = call.op, call.x, kernel_of(r, call)
    source, weights, output = _letters(layer, len(call.x.shape))
    inputs = [one for one in weights if one in source and one not in output]
    outputs = [one for one in weights if one in output and one not in source]
    if name is None or len(inputs) + len(outputs) != len(weights):  # a kernel for each place
        return None
    if any(source[axis] not in inputs for axis in varying(x.labels)):
        return None
    held = 0.0 if zero(x) else np.nan
    rows = x.labels[tuple(slice(None) if one in inputs else 0 for one in source)]
    order = [one for one in source if one in inputs]
    rows = rows.transpose([order.index(one) for one in inputs])
    r.reading.labels.keep_box(rows)
    read = rows.ravel()
    sizes = [int(size) for size, one in zip(layer._kernel.shape, weights, strict=True) if one in outputs]
    first, rest = sizes[0], math.prod(sizes[1:])
    each = r.reading.new_layer(
        name.rpartition("/")[0], first
    )  # several output axes: the first one's can leave
    r.reading.axis(name, 0, np.repeat(each, rest), "kernel")
    r.reading.axis(name, 1, read)
    r.reading.read(name, read, held, padded=False)
    bias = r.name(layer, "bias")
    if bias is not None:
        places = list(str(layer.bias_axes))
        if outputs[0] not in places:
            r.reading.labels.fix(each, f"they share a bias in {layer.name!r}")
        else:
            shape, place = layer.bias.shape, [one for one in output if one in places].index(outputs[0])
            r.reading.axis(bias, place, each, "bias")
            if len(places) > len(outputs):
                r.reading.labels.fix(
                    each, f"their bias differs from place to place in {layer.name!r} {shape}"
                )
    value = Value(spread(each, output.index(outputs[0]), call.shape))
    r.details.labels[id(layer)] = value.labels
    return activated(r, call, value)


# ------------------------------------------------------------------ attention with weights


def _bound(call: Call) -> dict[str, Known]:
    """Arguments by name."""
    names = ("query", "value", "key")
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    given.setdefault("key", given["value"])
    if given["key"] is None:
        given["key"] = given["value"]
    return given


def _projection(
    r: Reader, layer: Any, part: str, each: np.ndarray, size: int, given: Known, name: str
) -> np.ndarray | None:
    """Query, key, value or gate: what its kernel reads, and the heads that it makes."""
    read = along(given.value.labels, -1)
    kernel, bias = r.name(part_of(layer, part), "_kernel"), r.name(part_of(layer, part), "bias")
    if read is None or kernel is None:
        r.reading.labels.fix(given.value.labels, f"read by the attention {name!r}")
        return None
    r.reading.axis(kernel, 0, np.repeat(each, size), "kernel")
    r.reading.axis(kernel, 1, read)
    r.reading.read(kernel, read, 0.0 if zero(given.value) else np.nan, padded=False)
    if bias is not None:
        r.reading.axis(bias, 0, each, "bias")
    return read


def part_of(layer: Any, part: str) -> Any:
    """A dense layer inside an attention."""
    return getattr(layer, f"_{part}_dense")


@rule_for("MultiHeadAttention", "GroupedQueryAttention")
def _multi_head(r: Reader, call: Call) -> Result:
    layer, given = call.op, _bound(call)
    grouped = hasattr(layer, "num_query_heads")
    heads = layer.num_key_value_heads if grouped else layer._num_heads
    repeats = layer.num_query_heads // heads if grouped else 1
    key_size = layer.head_dim if grouped else layer._key_dim
    value_size = layer.head_dim if grouped else layer._value_dim
    out_kernel = r.name(layer._output_dense, "_kernel")
    if out_kernel is None or len(call.shape) != 3:
        return None
    path = out_kernel.removesuffix("/attention_output/kernel")
    each = r.reading.new_layer(path, heads)
    queries = np.repeat(each, repeats)
    if heads == 1:
        r.reading.labels.fix(each, "an attention with one head")
    parts = [("query", queries, key_size, "query"), ("key", each, key_size, "key")]
    parts += [("value", each, value_size, "value")]
    if getattr(layer, "use_gate", False) or getattr(layer, "_use_gate", False):
        parts.append(("gate", queries, value_size, "query"))
    reads = [_projection(r, layer, part, rows, size, given[of], path) for part, rows, size, of in parts]
    if any(read is None for read in reads):
        r.reading.labels.fix(each, "an attention whose kernels are computed")
    r.reading.heads.append(each)
    made = r.reading.new_layer(f"{path}/attention_output", call.shape[-1])
    r.reading.axis(out_kernel, 0, made, "kernel")
    r.reading.axis(out_kernel, 1, np.repeat(queries, value_size))
    bias = r.name(layer._output_dense, "bias")
    if bias is not None:
        r.reading.axis(bias, 0, made, "bias")
    if grouped and reads[0] is not None:  # it gives as many features as its queries have
        r.reading.labels.join(made, reads[0])
    r.details.labels[id(layer)] = each
    result = [Value(spread(made, -1, call.shape))]
    return result + [Value(spread(queries, 1, shape), np.nan) for shape in call.shapes[1:]]


# ------------------------------------------------------------------ one layer for every step


@rule_for("TimeDistributed")
def _time_distributed(r: Reader, call: Call) -> Result:
    x, inner = call.x, call.op.layer
    if 1 in varying(x.labels):
        return None
    held = x.held if np.ndim(x.held) == 0 else np.nan
    given = Known(call.inputs[0].array[:, 0], Value(x.labels[:, 0], held))
    if graph_of(inner) is not None:
        value = r.run(graph_of(inner), [given]).value
    else:
        shape = (call.shape[0], *call.shape[2:])
        value = r.labels_of(Call(inner, (given,), {}, [given], [shape]))[0]
    held = value.held if np.ndim(value.held) == 0 else np.nan
    if not value.labeled:
        return unlabeled(call.shape)
    return Value(np.broadcast_to(np.expand_dims(value.labels, 1), call.shape), held)
