"""One model in several runtimes, as functions to be timed. Chapter 16 teaches it."""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.formats.export import feeds, onnx_of, session_of
from nnopt_lib.frameworks import framework_of, runner_backend, training_backend_of

KINDS = ("eager", "compiled", "onnxruntime", "onnxruntime_int8", "openvino", "cuda_2:4")
Run = Callable[[], Any]


def runners(
    model: Any,
    x: np.ndarray,
    kinds: Sequence[str] = ("eager", "compiled", "onnxruntime"),
    *,
    threads: int | None = None,
) -> dict[str, Run]:
    """Functions without arguments that run a model once on all of `x`, by kind of runtime.

    Parameters:
        model: of either framework, of one input; on the CPU.
        x: (batch, *input_shape), channels first.
        kinds: ``"eager"``, the framework's own (Keras: tf.function); ``"compiled"``, `torch.compile` for
            this batch; ``"onnxruntime"``; ``"onnxruntime_int8"``, weights in 8 bits before and inputs in 8
            bits by the range of each call; ``"openvino"``, in float32; ``"cuda_2:4"``, dense layers that are
            pruned 2:4 on a card's sparse tensor cores, the others as they are, all in half precision.
        threads: of each function while it runs; None for as many as torch has now.

    Each gives its outputs, an array or a tensor; nothing is compared here except what `export_onnx` does.
    8-bit weights are signed in dense layers; where the processor has no exact product of them, and in
    convolutions, where they are slow, unsigned. Refused: what is not installed, a kind that a framework or
    machine does not have, threads for Keras's own functions, which are fixed. Chapter 16 uses it.

    Example:
        >>> from nnopt_lib import build, mlp
        >>> x = np.zeros((5, 2), np.float32)
        >>> runs = runners(build(mlp((), inputs=2, outputs=3)), x, kinds=["eager"], threads=1)
        >>> {kind: tuple(run().shape) for kind, run in runs.items()}
        {'eager': (5, 3)}
    """
    if isinstance(kinds, str):
        refuse("kinds must be a list of runtimes", repr(kinds), f"Pass [{kinds!r}].")
    for kind in kinds:
        check_choice("kind of runtime", kind, KINDS)
    keras = framework_of(model) == "keras"
    if keras and (foreign := [kind for kind in kinds if kind in ("compiled", "cuda_2:4")]):
        rule = "runtimes of a Keras model must be eager, onnxruntime, onnxruntime_int8 or openvino"
        refuse(
            rule, foreign[0], "Build its description by build(describe(model)), and copy_weights into that."
        )
    if keras and threads is not None and "eager" in kinds:
        rule = "threads of a Keras model's own functions are fixed when it first computes"
        refuse(rule, f"threads={threads}", "Leave threads or 'eager' out.")
    count = runner_backend().threads() if threads is None else check_int("threads", threads, at_least=1)
    proto = functools.cache(lambda: onnx_of(model, x, len(x))[0])
    ways: dict[str, Callable[[], Run]] = {
        "eager": lambda: _eager(model, x, count),
        "compiled": lambda: runner_backend().compiled(model, x, count),
        "onnxruntime": lambda: _in_session(proto().SerializeToString(), x, count),
        "onnxruntime_int8": lambda: _in_session(_in_int8(proto()), x, count),
        "openvino": lambda: _in_openvino(proto, x, count),
        "cuda_2:4": lambda: _on_card(model, x),
    }
    return {kind: ways[kind]() for kind in kinds}


def _eager(model: Any, x: np.ndarray, threads: int) -> Run:
    run = training_backend_of(model).runner(model, x, None)
    return run if framework_of(model) == "keras" else runner_backend().on_threads(run, threads)


def _in_session(content: bytes, x: np.ndarray, threads: int) -> Run:
    session = session_of(content, threads)
    given = feeds(session, x)
    return lambda: session.run(None, given)[0]


def _in_int8(proto: Any) -> bytes:
    """The model with dynamic int8 kernels of ONNX Runtime."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    unsigned = any(node.op_type == "Conv" for node in proto.graph.node) or signed_products_saturate()
    # It advises on standard error to prepare the model first, which the exporter has done.
    prepared = proto.metadata_props.add()
    prepared.key, prepared.value = "onnx.quant.pre_process", "onnxruntime.quant"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        kind = QuantType.QUInt8 if unsigned else QuantType.QInt8
        quantize_dynamic(proto, path, weight_type=kind)
        return path.read_bytes()


@functools.cache
def signed_products_saturate() -> bool:
    """Whether sums of unsigned times signed 8-bit numbers are cut at 16 bits, as before AVX-VNNI.

    Found by multiplying the largest ones in ONNX Runtime.
    """
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((64, 16), 127, np.int8), "weights")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])
    node = helper.make_node("MatMulInteger", ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "largest", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = session_of(model.SerializeToString(), 1)
    (sums,) = session.run(None, {"x": np.full((1, 64), 255, np.uint8)})
    return bool((sums != 64 * 255 * 127).any())


def _in_openvino(proto: Callable[[], Any], x: np.ndarray, threads: int) -> Run:
    try:
        openvino = importlib.import_module("openvino")
    except ImportError:
        refuse("kind 'openvino' needs a package that is not installed", None, "pip install nnopt[openvino]")
    core = openvino.Core()
    model = core.read_model(proto().SerializeToString())
    # float32: where a processor has bfloat16 it would be taken, and outputs would agree to 1e-2 only.
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer([x])[0]


def _on_card(model: Any, x: np.ndarray) -> Run:
    on_card = runner_backend().on_card(model)
    return training_backend_of(on_card).runner(on_card, np.asarray(x, np.float16), None)
