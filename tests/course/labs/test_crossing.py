"""Values cross as data: what arrives is equal, of the base type, and nothing in a message is executed."""

from __future__ import annotations

import base64
import json
import os
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import nnopt_lib as nnopt
from nnopt_lib.course.labs import crossing
from nnopt_lib.course.labs.crossing import CannotCrossError, pack, read_message, unpack, write_message
from nnopt_lib.course.labs.drawing import Drawing, Series
from nnopt_lib.data import Data
from nnopt_lib.pruning.masks import Masks
from nnopt_lib.structure.spec import NetSpec, Node


def carried(value):
    """`value` on the other side."""
    return unpack(json.loads(json.dumps(pack(value))))


DTYPES = [
    "?",
    "i1",
    "<i2",
    ">i4",
    "<i8",
    "u1",
    ">u2",
    "u8",
    "f2",
    "<f4",
    ">f8",
    "c8",
    ">c16",
    "<U1",
    "<U7",
    ">U3",
]
SHAPES = st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda name: st_numpy.arrays(np.dtype(name), SHAPES))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.sampled_from([..., 2**4096 - 1, -(2**4000), "\ud800", "\0"])
)
HASHABLE = st.booleans() | st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3))
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=8,
)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, float):
        assert repr(a) == repr(b)
    else:
        assert a == b


@given(VALUES)
def test_what_is_packed_arrives(value):
    assert_same(carried(value), value)


@given(ARRAYS.filter(lambda array: array.ndim), st.integers(-2, 2).filter(bool))
def test_arrays_that_are_views_arrive_as_what_they_show(array, step):
    view = array[::step].T
    received = carried(view)
    assert_same(received, np.ascontiguousarray(view).reshape(view.shape))
    assert received.flags.writeable and received.flags.owndata


@given(st.sampled_from(DTYPES).flatmap(lambda name: st_numpy.from_dtype(np.dtype(name).newbyteorder("="))))
def test_numbers_of_numpy_stay_numbers_of_numpy(number):
    received = carried(number)
    assert type(received) is (str if isinstance(number, str) else type(number))
    assert np.array(received).tobytes() == np.array(number).tobytes()


class Lying:
    """What a subclass may say of itself."""

    def __eq__(self, other):
        return True

    __hash__ = None
    __len__ = __iter__ = __getitem__ = tolist = __repr__ = __str__ = lambda *_: 1 / 0
    keys = items = values = encode = tobytes = __array__ = __int__ = __float__ = __index__ = property(
        lambda _: 1 / 0
    )


EVIL = [(int, 3), (float, 2.5), (str, "words"), (dict, {1: 2})]


@pytest.mark.parametrize("base, value", EVIL)
def test_what_arrives_is_of_the_base_type_whatever_a_subclass_says_of_itself(base, value):
    evil = type("Evil", (Lying, base), {})(value)
    received = carried(evil)
    assert type(received) is base and received == value


@pytest.mark.parametrize("base, value", [(list, [1, 2]), (tuple, (1, 2)), (set, {1, 2}), (frozenset, {1, 2})])
def test_containers_that_were_subclassed_arrive_as_plain_ones(base, value):
    evil = type("Evil", (base,), {"__eq__": lambda *_: True, "__hash__": None, "__len__": lambda _: 10**9})(
        value
    )
    received = carried(evil)
    assert type(received) is (set if base is frozenset else base) and len(received) == 2


def test_arrays_and_tensors_that_were_subclassed_arrive_as_plain_ones():
    import torch

    class Array(np.ndarray):
        def __eq__(self, other):
            return True

        __hash__ = None

        def tolist(self):
            return [1]

    class Tensor(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return super().__torch_function__(function, types, args, kwargs or {})

    received = carried(np.zeros(3).view(Array))
    assert type(received) is np.ndarray and received.tolist() == [0, 0, 0]
    received = carried(torch.ones(2).as_subclass(Tensor))
    assert type(received) is torch.Tensor and received.tolist() == [1, 1]


def test_an_array_that_lies_about_its_shape_does_not_arrive():
    evil = type("Evil", (np.ndarray,), {"shape": property(lambda _: (10**6, 10**6))})
    with pytest.raises(ValueError, match="shape|axes"):
        carried(np.zeros(4).view(evil))


SPEC = NetSpec(
    (3,),
    (
        Node("dense_1", "dense", "input", {"units": 2}),
        Node("relu_1", "activation", "dense_1", {"kind": "relu"}),
    ),
)
DATA = Data("own", *[np.ones((2, 3)), np.array([0, 1])] * 3, classes=2)
DRAWN = Drawing(
    (Series("line", np.arange(3.0), np.ones(3), "loss"),), "epoch", "err", "title", "log", "linear"
)


@pytest.mark.torch
def test_the_library_s_own_containers_arrive():
    import torch

    assert carried(SPEC) == SPEC
    masks = Masks({"a/kernel": np.eye(2, dtype=bool)})
    assert carried(masks) == masks
    received = carried(DATA)
    assert (received.name, received.classes, received.fingerprint) == ("own", 2, DATA.fingerprint)
    received = carried(DRAWN)
    assert vars(received) | {"series": ()} == vars(DRAWN) | {"series": ()}
    assert [(one.kind, one.label, one.x.tolist()) for one in received.series] == [("line", "loss", [0, 1, 2])]
    tensor = torch.arange(4.0, requires_grad=True)
    assert torch.equal(carried(tensor), tensor) and carried(tensor).requires_grad
    assert not carried(tensor.detach()).requires_grad
    for training in (True, False):
        model = nnopt.build(SPEC).train(training)
        received = carried(model)
        assert received.spec == SPEC and received.training is training
        for name, weights in nnopt.get_weights(model).items():
            assert np.array_equal(nnopt.get_weights(received)[name], weights)
    with pytest.raises(CannotCrossError, match="a network that cannot be described"):
        pack(torch.nn.Sequential(torch.nn.Linear(3, 2)))


def test_a_figure_arrives_as_what_it_shows():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="own")
    axes.set_xlabel("width")
    for plot in (figure, axes, axes.get_lines()[0:1]):
        if isinstance(plot, list):
            continue  # a list is data of its own
        received = carried(plot)
        assert type(received) is Drawing and received.xlabel == "width"
        assert [(one.label, one.y.tolist()) for one in received.series] == [("own", [3, 4])]


NO_DATA = [
    print,
    lambda: 1,
    object(),
    type,
    iter([]),
    b"bytes",
    1j,
    np,
    2**5000,
    np.array([None]),
    np.array([b"a"]),
]
NO_DATA += [np.datetime64("2026-01-01"), np.zeros(2, "i4,f4"), {"deep": [print]}, {print: 1}, Exception("x")]


@pytest.mark.parametrize("number", range(len(NO_DATA)))
def test_what_is_no_data_is_refused_in_words(number):
    with pytest.raises(CannotCrossError) as refusal:
        pack(NO_DATA[number])
    assert str(refusal.value).startswith(
        ("an object of type ", "an array of type ", "a whole number of more")
    )
    assert crossing.pack_or_none(NO_DATA[number]) is None


def array(shape, dtype="<f8", content=b"", **more):
    return {"array": {"shape": shape, "dtype": dtype, "bytes": base64.b64encode(content).decode(), **more}}


def model(units, nodes=1, weights=()):
    chain = [[f"n{k}", "dense", [f"n{k - 1}" if k else "input"], {"units": units}] for k in range(nodes)]
    spec = json.dumps({"format": 1, "input_shape": [units], "nodes": chain})
    return {"model": spec, "weights": dict(weights), "training": False}


HOSTILE = {
    "a bare number": 3,
    "a bare list": [1],
    "nothing": {},
    "an unknown kind": {"eval": "1"},
    "a dunder": {"__class__": "x"},
    "a shape that lies": array([3], content=bytes(16)),
    "a shape that is huge": array([2**40, 2**40]),
    "an empty array of huge axes": array([0, 2**39]),
    "a negative axis": array([-1], content=bytes(8)),
    "an axis that is no number": array([True], content=bytes(8)),
    "a shape that is a text": array("8", content=bytes(8)),
    "seventeen axes": array([1] * 17, content=bytes(8)),
    "objects": array([1], "|O", bytes(8)),
    "text of no size": array([2**39], "<U0"),
    "a type of no size": array([1], "<f0", b""),
    "a type that is none": array([1], "<f3", bytes(3)),
    "fields": array([1], "i4,f4", bytes(8)),
    "a void": array([1], "|V8", bytes(8)),
    "no base64": {"array": {"shape": [1], "dtype": "<f8", "bytes": "!" * 12}},
    "bytes that are a list": {"array": {"shape": [1], "dtype": "<f8", "bytes": [0] * 8}},
    "an array without parts": {"array": {}},
    "an array that is none": {"array": None},
    "a huge int": {"int": "9" * 5000},
    "an int of code": {"int": "__import__('os')"},
    "an infinite int": {"int": float("inf")},
    "a float of code": {"float": "1+1"},
    "a set of lists": {"set": [{"list": []}]},
    "a dictionary of lists": {"dict": [[{"list": []}, None]]},
    "a dictionary of triples": {"dict": [[None, None, None]]},
    "a list that is a number": {"list": 5},
    "masks of numbers": {"masks": {"a": array([1], content=bytes(8))["array"]}},
    "no masks": {"masks": {}},
    "data without parts": {"data": {}, "name": "x", "classes": 2},
    "data of anything": {"data": {"__class__": array([0])["array"]}, "name": "x", "classes": 2},
    "a drawing of nothing": {"drawing": [None], "words": []},
    "a tensor of text": {"tensor": array([1], "<U1", bytes(4))["array"]},
    "a spec that is code": {"spec": "__import__('os').getcwd()"},
    "a spec that is deep": {"spec": "[" * 100_000},
    "a spec that is a list": {"spec": [1]},
    "a model of too many parameters": model(3000),
    "a model of far too many parameters": model(10**30),
    "a model of too many nodes": model(1, nodes=1001),
    "a model without weights": model(2),
    "a model with other weights": model(2, weights={"n0/kernel": array([1], content=bytes(8))["array"]}),
    "equal hashes": {"set": [{"int": str(n * (2**61 - 1))} for n in range(300)]},
    "equal hashes of keys": {"dict": [[{"int": str(n * (2**61 - 1))}, None] for n in range(300)]},
}


@pytest.mark.torch
@pytest.mark.parametrize("what", HOSTILE)
def test_messages_that_nobody_packed_are_refused(what, monkeypatch):
    monkeypatch.setattr("torch.nn.Linear.__init__", lambda *_: pytest.fail("memory was taken for it")) if (
        "too many" in what
    ) else None
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)):
        unpack(HOSTILE[what])


def test_depth_without_end_is_refused_by_both_sides():
    packed: object = None
    for _ in range(100_000):
        packed = {"list": [packed]}
    with pytest.raises(RecursionError):
        unpack(packed)
    endless: list = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        pack(endless)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*crossing.READERS, "shape", "dtype", "bytes", "weights"]), inner, max_size=4
        )
        | st.fixed_dictionaries(
            {
                "array": st.fixed_dictionaries(
                    {
                        "shape": st.lists(st.integers(-1, 2**41), max_size=3) | inner,
                        "dtype": st.sampled_from(["<f8", "|b1", "<U0", "<f16", ">c8", "|O", "<i3"]) | inner,
                        "bytes": st.binary(max_size=16).map(lambda b: base64.b64encode(b).decode()) | inner,
                    }
                )
            }
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(JSON)
def test_any_json_gives_data_or_a_plain_error(packed):
    try:
        value = unpack(packed)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return
    assert type(value).__module__.split(".")[0] in ("builtins", "numpy", "torch", "nnopt_lib")
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufcU" and value.nbytes <= crossing.LARGEST


def test_truth_values_have_no_other_bits():
    received = unpack(array([2], "|b1", b"\x00\x02"))
    assert received.tobytes() == b"\x00\x01"


def test_a_message_arrives_and_one_that_is_too_large_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "message.json"
    write_message(path, {"a": ["ü", 1]})
    assert read_message(path) == {"a": ["ü", 1]}
    monkeypatch.setattr(crossing, "LARGEST", 100)
    with pytest.raises(CannotCrossError, match="more than 0 MiB"):
        write_message(tmp_path / "other", "x" * 99)
    assert not (tmp_path / "other").exists()


def test_only_ordinary_files_of_limited_size_are_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('"secret"')
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(tmp_path / "socket"))
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)  # of which the disk holds nothing
    contents = {
        "empty": b"",
        "deep": b"[" * 100_000,
        "bytes": b"\xff\xfe\x00",
        "int": b"9" * 5000,
        "half": b'{"a',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in ("link", "pipe", "folder", "socket", "huge", "nothing", *contents):
        opened = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
        with pytest.raises(ValueError):
            read_message(tmp_path / name)
        if opened:
            assert set(os.listdir("/proc/self/fd")) == opened, f"{name} was left open"
    listening.close()


def served(tmp_path, namespace, name, *arguments, **options):
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    write_message(asked, {"name": name, "arguments": pack(list(arguments)), "options": pack(options)})
    crossing.serve(namespace, str(asked), str(answered))
    return read_message(answered)


def test_a_function_is_served(tmp_path):
    names = {"add": lambda a, b=1: a + b}
    assert served(tmp_path, names, "add", 1, b=2) == {"value": {"int": "3"}}
    assert served(tmp_path, names, "other") == {"undefined": True}
    assert served(tmp_path, names, "add")["error"].startswith("TypeError: ")
    assert served(tmp_path, {"add": 5}, "add", 1)["error"].startswith("TypeError: ")


def test_what_a_function_raises_or_returns_is_put_into_words(tmp_path):
    def ends():
        raise SystemExit("x" * 1000)

    def holds_itself():
        value = []
        value.append(value)
        return value

    class Evil:
        def __getattr__(self, name):
            raise MemoryError

    error = served(tmp_path, {"f": ends}, "f")["error"]
    assert error.startswith("SystemExit: xxx") and len(error) == 500
    assert served(tmp_path, {"f": lambda: print}, "f") == {
        "crossed": "an object of type builtin_function_or_method"
    }
    assert "RecursionError" in served(tmp_path, {"f": holds_itself}, "f")["crossed"]
    assert "crossed" in served(tmp_path, {"f": Evil}, "f")
    assert served(tmp_path, {"f": lambda: np.zeros(2**22)}, "f") == {"crossed": "more than 32 MiB"}


def test_changes_in_place_are_told_and_nothing_else_is(tmp_path):
    def change(array, items, *, table):
        array[0] = 9
        items.append(1)
        table["k"] = 2

    answer = served(tmp_path, {"f": change}, "f", np.zeros(2), [], table={})
    changed = {part: unpack(packed) for part, packed in answer["changed"].items()}
    assert changed["arguments"][0].tolist() == [9, 0] and changed["arguments"][1] == [1]
    assert changed["options"] == {"table": {"k": 2}}
    for same in (np.array([np.nan]), [float("nan")], {"a": (1, 2.5)}, {3, 1}):
        assert served(tmp_path, {"f": lambda x: None}, "f", same) == {"value": None}
