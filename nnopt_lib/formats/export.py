"""Models of both frameworks as ONNX files, and what becomes of zeros there. Chapter 16 teaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import NnoptError, check_int, refuse
from nnopt_lib.files import write_atomically
from nnopt_lib.frameworks import backend, export_backend, framework_of
from nnopt_lib.models.describe import Described, read
from nnopt_lib.structure.coupling import couple
from nnopt_lib.structure.spec import NetSpec

Result = tuple[Any, list[np.ndarray]]  # inputs in any of their forms, outputs in order
TOLERANCE = 1e-5  # of the largest output: sums of float32 in another order


@dataclass(frozen=True)
class Exported:
    """An ONNX file that `export_onnx` wrote.

    nbytes: of the file. loaded_nbytes: of all weights in ONNX Runtime's memory, zeros included, since it
    makes sparse ones dense. inputs, outputs: names in the file. batch: how many examples it reads, None for
    any number. sparse: names of the weights that are stored without their zeros.
    """

    path: Path
    nbytes: int
    loaded_nbytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None
    sparse: tuple[str, ...]


def export_onnx(
    model: Any,
    path: str | Path,
    *,
    example_input: Any = None,
    sparse_initializers: bool = False,
    batch: int | None = None,
) -> Exported:
    """Write a model as one ONNX file, and check that ONNX Runtime gives its outputs from it.

    Parameters:
        model: of PyTorch, any that `torch.onnx.export` reads; of Keras one that `describe` reads. The file
            reads channels first for both.
        path: of the file, replaced if there is one.
        example_input: (examples, *input_shape), channels first, or a tuple or dictionary of such arrays for
            several arguments; not needed for Keras and for models that `build` made.
        sparse_initializers: store kernels (with more zeros than two thirds, where that takes less) by their
            other values and 64-bit positions. ONNX Runtime makes them dense when it loads the file: the
            file is smaller, memory and time are those of the dense one.
        batch: how many examples the file reads; None for any number.

    Returns an `Exported`. The outputs are compared with the model's on the example, within 1e-5 of the
    largest; a file that gives others is refused and not written. Source: ONNX's specification (IR). Chapter
    16 uses it.

    Example: ``export_onnx(model, "small.onnx", sparse_initializers=True).nbytes``.
    """
    if batch is not None:
        check_int("batch", batch, at_least=1)
    proto, results = onnx_of(model, example_input, batch)
    sparse = _make_sparse(proto) if sparse_initializers else ()
    loaded = sum(_dense_nbytes(tensor) for tensor in proto.graph.initializer)
    loaded += sum(_dense_nbytes(tensor) for tensor in proto.graph.sparse_initializer)
    content = proto.SerializeToString()
    _check_outputs(content, results)
    write_atomically(Path(path), content)
    inputs = tuple(value.name for value in proto.graph.input)
    outputs = tuple(value.name for value in proto.graph.output)
    return Exported(Path(path), len(content), loaded, inputs, outputs, batch, sparse)


def onnx_of(model: Any, example_input: Any, batch: int | None) -> tuple[Any, list[Result]]:
    """The `onnx.ModelProto` of a model, and what it must give: examples and the model's outputs for them.

    As many examples as `batch`, or two numbers of them where it reads any number.
    """
    x = _example(model, example_input, batch)
    twin = _twin(model, x) if framework_of(model) == "keras" else model
    adapter = export_backend()
    # First: a model that does not run on its inputs is told so, not that it cannot be exported.
    results = [(x, adapter.outputs_of(twin, x))]
    if batch is None:
        try:
            more = _resized(x, 1 + _count(x))
            results.append((more, adapter.outputs_of(twin, more)))
        except NnoptError:
            rule = f"{type(model).__name__} must run on any number of examples to be exported for any"
            refuse(rule, f"one that fails on {1 + _count(x)}", "Pass batch=, the number that it reads.")
    return adapter.onnx_of(twin, x, any_batch=batch is None), results


def session_of(content: bytes, threads: int = 0) -> Any:
    """A CPU session of ONNX Runtime on so many threads, 0 for as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # Else the waiting threads of one session would keep a core busy while another is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds(session: Any, x: Any) -> dict[str, np.ndarray]:
    """Examples in any of their forms, by the names of a session's inputs."""
    if isinstance(x, Mapping):
        return {name: np.asarray(array) for name, array in x.items()}
    names = [value.name for value in session.get_inputs()]
    arrays = x if isinstance(x, tuple) else (x,)
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}


def _example(model: Any, given: Any, batch: int | None) -> Any:
    if given is None:
        spec = getattr(model, "spec", None)
        if spec is None and framework_of(model) == "keras":
            spec = read(model)[0]
        if not isinstance(spec, NetSpec):
            rule = f"{type(model).__name__} needs an example_input to be exported"
            refuse(rule, "none", "Pass a batch that it reads, (examples, *input_shape).")
        given = np.random.default_rng(0).standard_normal((2, *spec.input_shape), np.float32)
    # Of one example torch.export would take the number of examples for a constant.
    return _resized(given, batch or max(2, _count(given)))


def _count(x: Any) -> int:
    arrays = list(x.values()) if isinstance(x, Mapping) else x if isinstance(x, tuple) else [x]
    return len(arrays[0])


def _resized(x: Any, size: int) -> Any:
    """The examples from the first on, again where they do not suffice."""
    if isinstance(x, Mapping):
        return {name: _resized(array, size) for name, array in x.items()}
    if isinstance(x, tuple):
        return tuple(_resized(array, size) for array in x)
    values = np.asarray(x)
    return values[np.arange(size) % len(values)]


def _twin(model: Any, x: Any) -> Any:
    """The PyTorch model of a Keras model's description, with its weights."""
    spec, paths, orders = read(model, x)
    weights = Described(spec, paths, orders, couple(spec)).weights(model)
    return backend("torch").build(spec, dict(weights))


def _check_outputs(content: bytes, results: list[Result]) -> None:
    session = session_of(content)
    for x, expected in results:
        for value, given in zip(expected, session.run(None, feeds(session, x)), strict=True):
            difference, size = float(np.abs(value - given).max()), float(np.abs(value).max())
            if not difference <= TOLERANCE * size:
                rule = "ONNX Runtime must give the model's outputs to 1e-5 of the largest"
                received = f"{difference:.2g} where the largest is {size:.2g}"
                refuse(rule, received, "Look for NaN, or export another.")


def _make_sparse(proto: Any) -> tuple[str, ...]:
    """Kernels that take fewer bytes so, in sparse form in `proto`; their names."""
    import onnx

    graph, names = proto.graph, []
    for tensor in list(graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        positions = np.flatnonzero(values)  # int64, as ONNX's specification has them, in the flat kernel
        kept = values.ravel()[positions]
        if values.ndim < 2 or positions.nbytes + kept.nbytes >= values.nbytes:
            continue
        graph.sparse_initializer.append(
            onnx.helper.make_sparse_tensor(
                onnx.numpy_helper.from_array(kept, tensor.name),
                onnx.numpy_helper.from_array(positions, f"{tensor.name}/positions"),
                values.shape,
            )
        )
        graph.initializer.remove(tensor)
        names.append(tensor.name)
    return tuple(names)


def _dense_nbytes(tensor: Any) -> int:
    """Bytes of a dense or sparse initializer with all of its zeros."""
    import onnx

    kind = getattr(tensor, "values", tensor).data_type
    size = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * size
