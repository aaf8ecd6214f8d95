"""How values go between a student's kernel and the grader: as JSON, arrays as bytes; nothing is executed.

Both sides use this module. What the kernel's side sends is believed in nothing but that it is data: it is
read within limits, and only plain Python values, arrays and the library's own containers come out.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.course.labs.drawing import Drawing, Series, drawing

MIB = 2**20
LARGEST = 32 * MIB  # of one message
MOST_PARAMETERS, MOST_NODES = 5_000_000, 1000  # of a model that is sent
MOST_ALIKE = 100  # keys of equal hash: more of them keep a dictionary busy for hours
DTYPE = re.compile(r"[<>|=][biufc]\d{1,2}|[<>|=]U\d{1,4}")
MOST_BITS = 4096  # of a whole number: Python writes no more than 4300 digits
PLAIN = (type(None), bool, str)


class CannotCrossError(Exception):
    """A value that is no data, in words."""


def pack(value: Any) -> Any:
    """`value` as what JSON can hold; refuses, by `CannotCrossError`, what is no data."""
    if isinstance(value, PLAIN):
        return value if value is None or isinstance(value, bool) else str.__str__(value)
    if isinstance(value, np.generic):
        return {"scalar": _pack_array(np.asarray(value))}
    if isinstance(value, int):
        if int.bit_length(value) > MOST_BITS:
            raise CannotCrossError(f"a whole number of more than {MOST_BITS} bits")
        return {"int": int.__repr__(value)}
    if isinstance(value, float):
        return {"float": float.__repr__(value)}
    if isinstance(value, np.ndarray):
        return {"array": _pack_array(value)}
    if value is Ellipsis:
        return {"ellipsis": True}
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "set")):
        if isinstance(value, kind):
            return {name: [pack(one) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(one)] for key, one in dict.items(value)]}
    return _pack_object(value)


def pack_or_none(value: Any) -> Any:
    """`value` packed, None where it is no data."""
    try:
        return pack(value)
    except CannotCrossError:
        return None


def _pack_array(array: np.ndarray) -> dict[str, Any]:
    plain = np.ascontiguousarray(np.asarray(array))
    if not DTYPE.fullmatch(plain.dtype.str):
        raise CannotCrossError(f"an array of type {plain.dtype}")
    # The shape first: ascontiguousarray makes an array of one dimension of a single number.
    return {
        "shape": list(np.shape(array)),
        "dtype": plain.dtype.str,
        "bytes": base64.b64encode(plain.tobytes()).decode(),
    }


def _pack_object(value: Any) -> Any:
    """Tensors, models, and the library's own containers."""
    from nnopt_lib.data import Data
    from nnopt_lib.pruning.masks import Masks
    from nnopt_lib.structure.spec import NetSpec

    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {"tensor": _pack_array(value.detach().cpu().numpy()), "learns": bool(value.requires_grad)}
    if torch is not None and isinstance(value, torch.nn.Module):
        return _pack_model(value)
    if isinstance(value, NetSpec):
        return {"spec": value.to_json()}
    if isinstance(value, Masks):
        return {"masks": {name: _pack_array(mask) for name, mask in value.items()}}
    if isinstance(value, Data):
        parts = {f"{axis}_{part}" for axis in "xy" for part in ("train", "validation", "test")}
        arrays = {name: _pack_array(getattr(value, name)) for name in sorted(parts)}
        return {"data": arrays, "name": value.name, "classes": value.classes}
    if isinstance(value, Mapping):
        return {"dict": [[pack(key), pack(one)] for key, one in value.items()]}
    if isinstance(value, range):
        return pack(list(value))
    if "matplotlib" in sys.modules and not callable(value):
        try:
            seen = drawing(value)
        except Exception:
            raise CannotCrossError(f"an object of type {type(value).__name__}") from None
        words = [seen.xlabel, seen.ylabel, seen.title, seen.xscale, seen.yscale]
        series = [[one.kind, _pack_array(one.x), _pack_array(one.y), one.label] for one in seen.series]
        return {"drawing": series, "words": [str(word) for word in words]}
    raise CannotCrossError(f"an object of type {type(value).__name__}")


def _pack_model(model: Any) -> Any:
    from nnopt_lib import get_weights
    from nnopt_lib.checks import NnoptError
    from nnopt_lib.models.describe import Described

    try:
        if hasattr(model, "spec"):  # one that `build` made
            spec, weights = model.spec, get_weights(model)
        else:
            described = Described.of(model)
            spec, weights = described.spec, described.weights(model)
    except NnoptError as error:
        raise CannotCrossError(f"a network that cannot be described: {error}") from None
    arrays = {name: _pack_array(one) for name, one in weights.items()}
    return {"model": spec.to_json(), "weights": arrays, "training": bool(model.training)}


def unpack(packed: Any) -> Any:
    """The value that `pack` packed; refuses, by `ValueError`, anything that it did not write."""
    if isinstance(packed, PLAIN):
        return packed
    if not isinstance(packed, dict):
        raise ValueError("neither a value nor a packed one")
    (kind, inner), *more = packed.items()
    if kind not in READERS:
        raise ValueError(f"no kind of value is called {kind!r}")
    return READERS[kind](inner, dict(more))


def _keys(packed: Any) -> list[Any]:
    keys = [unpack(one) for one in packed]
    if max(Counter(map(hash, keys)).values(), default=0) > MOST_ALIKE:
        raise ValueError("keys that were made to be slow")
    return keys


def _array(packed: Any) -> np.ndarray:
    shape, name = packed["shape"], packed["dtype"]
    if not DTYPE.fullmatch(name) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("no array of numbers")
    # An empty array has no bytes that would tell of its other axes, which a test may take sums over.
    if len(shape) > 16 or math.prod(n or 1 for n in shape) > LARGEST:
        raise ValueError("an array of too many axes or too long ones")
    content = base64.b64decode(packed["bytes"], validate=True)
    dtype = np.dtype(name)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("an array whose shape does not fit its bytes")
    array = np.frombuffer(content, dtype).reshape(shape).copy()
    # A byte of 2 would be neither equal to True nor to False.
    return np.asarray(array.view("u1") != 0) if dtype.kind == "b" else array


def _arrays(packed: Any) -> dict[str, np.ndarray]:
    return {str(name): _array(one) for name, one in packed.items()}


def _scalar(packed: Any, _: Any) -> Any:
    return _array(packed)[()]


def _tensor(packed: Any, more: Any) -> Any:
    torch = importlib.import_module("torch")  # by name, since only adapters import a framework
    return torch.from_numpy(_array(packed)).requires_grad_(bool(more.get("learns")))


def _model(packed: Any, more: Any) -> Any:
    from nnopt_lib import build, measure, set_weights

    spec = _spec(packed, None)
    if measure.count(spec).parameters > MOST_PARAMETERS:  # before memory is taken for them
        raise ValueError("a model of too many parameters")
    model = build(spec)
    set_weights(model, _arrays(more["weights"]))
    return model.train(bool(more.get("training")))


def _spec(packed: Any, _: Any) -> Any:
    from nnopt_lib.structure.spec import NetSpec

    spec = NetSpec.from_json(packed)
    if len(spec.nodes) > MOST_NODES:
        raise ValueError("a network of too many nodes")
    return spec


def _masks(packed: Any, _: Any) -> Any:
    from nnopt_lib.pruning.masks import Masks

    return Masks(_arrays(packed))


def _data(packed: Any, more: Any) -> Any:
    from nnopt_lib.data import Data

    return Data(name=str(more["name"]), classes=int(more["classes"]), **_arrays(packed))


def _drawing(packed: Any, more: Any) -> Drawing:
    series = tuple(Series(str(kind), _array(x), _array(y), str(label)) for kind, x, y, label in packed)
    return Drawing(series, *(str(word) for word in more["words"][:5]))


READERS: dict[str, Callable[[Any, Any], Any]] = {
    "int": lambda packed, _: int(packed),
    "float": lambda packed, _: float(packed),
    "ellipsis": lambda *_: ...,
    "list": lambda packed, _: [unpack(one) for one in packed],
    "tuple": lambda packed, _: tuple(unpack(one) for one in packed),
    "set": lambda packed, _: set(_keys(packed)),
    "dict": lambda packed, _: dict(
        zip(_keys([key for key, _ in packed]), [unpack(one) for _, one in packed], strict=True)
    ),
    "array": lambda packed, _: _array(packed),
    **{"scalar": _scalar, "tensor": _tensor, "model": _model, "spec": _spec},
    **{"masks": _masks, "data": _data, "drawing": _drawing},
}


def write_message(path: Path, message: Any) -> None:
    """Write a message for the other side; refuses, by `CannotCrossError`, one that is too large."""
    text = json.dumps(message)
    if len(text) > LARGEST:
        raise CannotCrossError(f"more than {LARGEST // MIB} MiB")
    path.write_text(text, encoding="utf-8")


def read_message(path: Path) -> Any:
    """Read a message that may come from anybody: an ordinary file, of limited size; else `ValueError`."""
    # No link is followed and no pipe waited for, since the student's programs may write in this folder.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"nothing to read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("no ordinary file")
    with open(descriptor, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST // MIB} MiB")
    try:
        return json.loads(content)
    except (RecursionError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"no message: {type(error).__name__}") from None


def serve(namespace: Mapping[str, Any], asked: str, answered: str) -> None:
    """In the student's kernel: call a function, or send a value, as the message in the file `asked` says."""
    message = json.loads(Path(asked).read_text(encoding="utf-8"))
    try:
        write_message(Path(answered), _answer(namespace, message))
    except CannotCrossError as error:
        write_message(Path(answered), {"crossed": str(error)})


def _answer(namespace: Mapping[str, Any], message: Any) -> dict[str, Any]:
    name = message["name"]
    if name not in namespace:
        return {"undefined": True}
    value = namespace[name]
    try:
        if "arguments" not in message:
            return {"value": pack(value)}
        arguments, options = unpack(message["arguments"]), unpack(message["options"])
        try:
            result = value(*arguments, **options)
        except BaseException as error:  # a student's function may raise anything
            return {"error": f"{type(error).__name__}: {error}"[:500]}
        # Arguments that were changed in place are sent back, so that the test sees the change.
        changed = {"arguments": pack(arguments), "options": pack(options)}
        same = all(changed[part] == message[part] for part in changed)
        return {"value": pack(result), **({} if same else {"changed": changed})}
    except CannotCrossError as error:
        return {"crossed": str(error)}
    except Exception as error:  # what a student's own classes may raise, and lists that hold themselves
        return {"crossed": f"an object that cannot be read ({type(error).__name__})"}
