"""The smallest file of a network: description (JSON) and packed weights (safetensors), read without trust."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, check_int, nearest, refuse
from nnopt_lib.compression.packing import PARTS, Packed, check_quantized, coder_of, pack, unpack
from nnopt_lib.compression.quantization import Quantized
from nnopt_lib.files import load_tensors, save_tensors
from nnopt_lib.frameworks import FRAMEWORKS, backend, backend_of
from nnopt_lib.models.build import set_weights
from nnopt_lib.models.describe import Described, read
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.operations import OPERATIONS
from nnopt_lib.structure.spec import NetSpec
from nnopt_lib.structure.weights import check_match

_FORMAT = "nnopt-compressed"
_VERSION = 1
_MAX_BYTES = 2**32
_REMEDY = "Save it again, or use another file."


def save_compressed(
    model: Any,
    path: str | Path,
    *,
    quantized: Mapping[str, Quantized] | None = None,
    coder: str | None = "ans",
    example_input: Any = None,
) -> int:
    """Write a model's weights, each in the smallest of several ways, to one file; its size in bytes.

    Parameters:
        quantized: what `quantize_weights` gave, by canonical name: these weights are stored as codes and
            scales.
        coder: of codes and positions: ``"ans"``, ``"huffman"`` or None, whole numbers of equal bits.
        example_input: as in `describe`, for a torch module that `build` did not make.

    What is in the file is what the model has, to the last bit (-0.0 becomes 0): the file loses nothing, so
    prune, share, quantize or round first. Each array is written in the shortest of these ways: all numbers;
    positions and numbers of what is not 0; positions, codes and a list of the different numbers (what
    `share_weights` makes short). Numbers take 16 bits where that changes none of them, 32 otherwise. A
    description goes with them, so that `load_compressed` can build the network; one that `NetSpec` has no
    words for goes without.

    One safetensors file, whole or not at all: the packed bytes, and JSON that tells what they are. Errors: an
    unknown coder; weights that are not those that `quantized` gives. Chapter 18 uses it.

    Example:
        >>> import tempfile
        >>> from nnopt_lib import build, get_weights, mlp, prune
        >>> from nnopt_lib.compression import share_weights
        >>> model = build(mlp((300, 100), inputs=784, outputs=10))
        >>> shared = share_weights(model, masks=prune(model, sparsity=0.9), bits=5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nbytes = save_compressed(model, f"{folder}/small.safetensors")
        ...     loaded = load_compressed(f"{folder}/small.safetensors", framework="keras")
        >>> nbytes < 266_610 * 4 / 30  # 32 bits a weight, before
        True
        >>> bool((get_weights(loaded)["dense_1/kernel"] == shared["dense_1/kernel"].dense()).all())
        True
    """
    name_of_coder = coder_of(coder)
    weights = backend_of(model).get_weights(model)
    quantized = {} if quantized is None else quantized
    for name, one in quantized.items():
        if name not in weights:
            refuse(f"the model has no weight {name!r}", None, nearest(name, weights))
        check_quantized(name, weights[name], one)
    packed = {name: pack(value, name_of_coder, quantized.get(name)) for name, value in weights.items()}
    content: dict[str, Any] = {"version": _VERSION, "bytes": sum(value.nbytes for value in weights.values())}
    content |= _description(model, weights, example_input)
    content["packed"] = [[one.kind, one.options, list(map(len, one.parts))] for one in packed.values()]
    whole = b"".join(part for one in packed.values() for part in one.parts)
    text = json.dumps(content, separators=(",", ":"))
    save_tensors(path, {"packed": np.frombuffer(whole, np.uint8)}, _FORMAT, text)
    return Path(path).stat().st_size


def _description(model: Any, weights: Mapping[str, np.ndarray], example_input: Any) -> dict[str, Any]:
    """How to build the network, and what its weights are called where the description does not say so."""
    names = {"weights": [[name, value.shape] for name, value in weights.items()]}
    try:
        spec, paths, orders = read(model, example_input)
    except NnoptError:
        return {"network": None, **names}
    network = json.loads(spec.to_json())
    for node in network["nodes"]:  # an option that is left out has its default
        node[3] = {key: value for key, value in node[3].items() if value != _plain(OPERATIONS[node[1]][key])}
    shapes = spec.parameter_shapes(trainable=False)
    if list(shapes) == list(weights) and not orders:
        return {"network": network}
    by_layer = {layer: order.tolist() for layer, order in orders.items()}
    return {"network": network, "paths": dict(paths), "orders": by_layer, **names}


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def load_compressed(
    path: str | Path, *, framework: str | None = None, model: Any = None, max_bytes: int = _MAX_BYTES
) -> Any:
    """The model that `save_compressed` wrote, with exactly its weights, built in either framework.

    Parameters:
        framework: ``"torch"`` (the default) or ``"keras"``.
        model: instead, a model of the same network with any weights, which are replaced; it is returned.
        max_bytes: the most memory that its weights may take, in float32: a small file can hold a large
            network of zeros.

    Nothing in a file is executed, and no array is made before its size was compared with what the file says
    and with `max_bytes`. Errors, in one sentence: a file that is damaged, cut off, of a later version, larger
    than it says, or something else; one for another network.

    Example:
        >>> import tempfile
        >>> from nnopt_lib import build, mlp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nbytes = save_compressed(build(mlp((), inputs=4, outputs=3)), f"{folder}/a.safetensors")
        ...     load_compressed(f"{folder}/a.safetensors").dense_1
        Linear(in_features=4, out_features=3, bias=True)
    """
    if model is not None and framework is not None:
        refuse("framework says what to build, and a model was given", repr(framework), "Leave it out.")
    check_choice("framework", framework or "torch", FRAMEWORKS)
    check_int("max_bytes", max_bytes, at_least=0)
    saved = _read(Path(path), max_bytes)
    if model is not None:
        return _filled(model, saved.weights)
    if saved.spec is None:
        rule = f"{path} must hold a network that NetSpec can describe, to be built"
        refuse(rule, "one with other operations", "Pass model=, a model of this network.")
    return backend(framework or "torch").build(saved.spec, saved.described)


def _filled(model: Any, weights: dict[str, np.ndarray]) -> Any:
    names = {name: value.shape for name, value in backend_of(model).get_weights(model).items()}
    if set(names) != set(weights) and list(names.values()) == [value.shape for value in weights.values()]:
        weights = dict(zip(names, weights.values(), strict=True))  # as in `copy_weights`, by order
    set_weights(model, weights)
    return model


def size_report(model_or_path: Any) -> list[dict[str, Any]]:
    """How many bytes each weight array takes in the file, and of which parts they are.

    Parameters: a file of `save_compressed`, or a model, as it would write it.

    Returns a row for each array: `name`, `kind` (``"whole"``, ``"sparse"``, ``"shared"``, ``"quantized"``),
    `values` (numbers or codes), `indices` (positions), `codebooks` (lists, scales), `bytes`; and one for all
    else, ``"header"``. The bytes of all rows are the file's. Errors: those of `load_compressed`.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> [(row["name"], row["bytes"]) for row in size_report(build(mlp((), inputs=40, outputs=30)))][:2]
        [('dense_1/kernel', 4800), ('dense_1/bias', 4)]
    """
    if not isinstance(model_or_path, (str, Path)):
        with tempfile.TemporaryDirectory() as folder:
            save_compressed(model_or_path, Path(folder) / "model.safetensors")
            return size_report(Path(folder) / "model.safetensors")
    path = Path(model_or_path)
    content, data = _content(path)
    with _fitting(path):
        packed = _packed(content, data, _shapes(content))
    rows = []
    for name, one in packed.items():
        row: dict[str, Any] = {"name": name, "kind": one.kind, "values": 0, "indices": 0, "codebooks": 0}
        for part, content_of_part in zip(PARTS[one.kind], one.parts, strict=True):
            row[part] += len(content_of_part)
        rows.append(row | {"bytes": one.nbytes})
    header = path.stat().st_size - len(data)
    nothing = {"kind": "header", "values": 0, "indices": 0, "codebooks": 0}
    return [*rows, {"name": "header", **nothing, "bytes": header}]


# ---------------------------------------------------------------- reading what may come from anyone


@dataclass(frozen=True)
class _Saved:
    """Weights under the model's own names; the network, where it has a description, and weights for it."""

    weights: dict[str, np.ndarray]
    spec: NetSpec | None
    described: dict[str, np.ndarray]


def _read(path: Path, max_bytes: int) -> _Saved:
    content, data = _content(path)
    with _fitting(path):
        shapes, said = _shapes(content), content["bytes"]
        packed = _packed(content, data, shapes)
    # Compared before anything of that size is made.
    nbytes = 4 * sum(map(math.prod, shapes.values()))
    if nbytes != said:
        refuse(_rule(path), f"weights of {nbytes} bytes where it says {said}", _REMEDY)
    if nbytes > max_bytes:
        rule = f"the weights in {path} must take at most {max_bytes} bytes"
        refuse(rule, nbytes, "Pass a larger max_bytes if you trust the file.")
    with _fitting(path):
        weights = {
            name: unpack(one.kind, one.options, one.parts, shapes[name]) for name, one in packed.items()
        }
        spec, described = _spec(content), weights
        if spec is not None and "paths" in content:
            orders = {layer: np.asarray(order) for layer, order in content["orders"].items()}
            described = Described(spec, content["paths"], orders, couple(spec)).translated(weights)
        if spec is not None:
            check_match(described, spec.parameter_shapes(trainable=False), "weights")
    return _Saved(weights, spec, described)


def _content(path: Path) -> tuple[dict[str, Any], bytes]:
    """What the file says of itself, and its packed bytes; a later version is refused."""
    arrays, text = load_tensors(path, _FORMAT, _rule(path), _REMEDY)
    with _fitting(path):
        content = json.loads(text)
        version, packed = check_int("version", content["version"], at_least=1), arrays["packed"]
    if version > _VERSION:
        rule = f"{path} must be of version {_VERSION} or before"
        refuse(rule, f"version {version}", "Install the nnopt that wrote it.")
    return content, packed.tobytes()


def _shapes(content: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, by list or by description."""
    spec = _spec(content)
    if "weights" not in content and spec is not None:
        return spec.parameter_shapes(trainable=False)
    return {
        str(name): tuple(check_int("a size", size, at_least=0) for size in shape)
        for name, shape in content["weights"]
    }


def _packed(
    content: Mapping[str, Any], data: bytes, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Packed]:
    """The parts of each array: all bytes there are, one part behind the other."""
    packed, start = {}, 0
    for name, (kind, options, lengths) in zip(shapes, content["packed"], strict=True):
        ends = [start + sum(lengths[: n + 1]) for n in range(len(lengths))]
        starts = [start, *ends][:-1]
        for length in lengths:
            check_int("a length", length, at_least=0, at_most=len(data))
        packed[name] = Packed(kind, options, [data[a:b] for a, b in zip(starts, ends, strict=True)])
        if len(lengths) != len(PARTS[kind]):
            raise ValueError("parts")
        start += sum(lengths)
    if start != len(data):
        raise ValueError("packed")
    return packed


def _spec(content: Mapping[str, Any]) -> NetSpec | None:
    network = content["network"]
    return None if network is None else NetSpec.from_json(json.dumps(network))


def _rule(path: Path) -> str:
    return f"{path} must be a whole file that save_compressed wrote"


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Refuse a file in which anything inside the block fails."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        refuse(_rule(path), f"a description that does not fit ({type(error).__name__})", _REMEDY)
