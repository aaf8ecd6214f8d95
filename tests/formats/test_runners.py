import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.formats import runners

pytestmark = pytest.mark.torch
module = importlib.import_module("nnopt_lib.formats.runners")  # the room shows the function by this name


def refused(*arguments, **options) -> str:
    with pytest.raises(NnoptError) as caught:
        runners(*arguments, **options)
    return str(caught.value)


def network_and_inputs(count=3):
    model = nnopt.build(nnopt.cnn((4, 8), input_shape=(2, 8, 8), outputs=5, batch_norm=True), seed=2)
    return model, np.random.default_rng(1).standard_normal((count, 2, 8, 8), np.float32)


def test_every_runtime_gives_the_model_s_outputs():
    model, x = network_and_inputs()
    expected = nnopt.predict(model, x)
    runs = runners(model, x, ["onnxruntime", "eager", "onnxruntime_int8"], threads=1)
    assert list(runs) == ["onnxruntime", "eager", "onnxruntime_int8"]
    largest = np.abs(expected).max()
    for kind, run in runs.items():
        error = np.abs(np.asarray(run()) - expected).max()
        if kind == "onnxruntime_int8":  # its inputs and weights are rounded, so that equal would be wrong
            assert 1e-4 * largest < error < 0.05 * largest
        else:
            assert error <= 1e-5 * largest, kind


def test_openvino_gives_the_model_s_outputs():
    pytest.importorskip("openvino", reason="openvino is an extra, which is not installed")
    model, x = network_and_inputs()
    expected = nnopt.predict(model, x)
    run = runners(model, x, ["openvino"], threads=1)["openvino"]
    assert np.abs(np.asarray(run()) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++, which is not installed")
def test_compiled_gives_the_model_s_outputs_and_leaves_the_model_alone():
    model, x = network_and_inputs()
    before = {name: value.copy() for name, value in nnopt.get_weights(model).items()}
    expected = nnopt.predict(model, x)
    run = runners(model, x, ["compiled"], threads=1)["compiled"]
    assert np.abs(np.asarray(run()) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert all((value == before[name]).all() for name, value in nnopt.get_weights(model).items())


@pytest.mark.keras
def test_a_keras_model_reads_canonical_inputs_in_every_runtime():
    model, x = nnopt.build(nnopt.cnn((3,), input_shape=(2, 8, 6), outputs=4), "keras", seed=3), None
    x = np.random.default_rng(1).standard_normal((2, 2, 8, 6), np.float32)
    expected = nnopt.predict(model, x)
    runs = runners(model, x, ["eager", "onnxruntime"])
    for run in runs.values():
        assert np.abs(np.asarray(run()) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert refused(model, x, ["compiled"]) == (
        "runtimes of a Keras model must be eager, onnxruntime, onnxruntime_int8 or openvino; received compiled."
        " Build its description by build(describe(model)), and copy_weights into that."
    )
    assert refused(model, x, ["eager"], threads=1) == (
        "threads of a Keras model's own functions are fixed when it first computes; received threads=1."
        " Leave threads or 'eager' out."
    )


def test_threads_are_those_asked_for_while_a_function_runs_and_those_of_before_afterwards(monkeypatch):
    import torch

    seen, sessions, session_of = [], [], module.session_of

    class Seeing(torch.nn.Linear):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return super().forward(x)

    monkeypatch.setattr(module, "session_of", lambda c, n: sessions.append(session_of(c, n)) or sessions[-1])
    before, model, x = torch.get_num_threads(), Seeing(3, 2), np.zeros((2, 3), np.float32)
    for count in (before + 1, None):
        run = runners(model, x, ["eager"], threads=count)["eager"]
        seen.clear()
        run()
        assert seen == [count or before] and torch.get_num_threads() == before
    runners(torch.nn.Linear(3, 2), x, ["onnxruntime"], threads=2)
    assert sessions[0].get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize("saturates", [False, True])
def test_int8_weights_are_unsigned_where_signed_products_saturate_and_in_convolutions(saturates, monkeypatch):
    import onnx
    import torch

    monkeypatch.setattr(module, "signed_products_saturate", lambda: saturates)
    for layer, x in [
        (torch.nn.Linear(70, 2), np.ones((1, 70), np.float32)),
        (torch.nn.Conv2d(3, 2, 3), np.ones((1, 3, 4, 4), np.float32)),
    ]:
        proto = module.onnx_of(layer, x, 1)[0]
        quantized = onnx.load_from_string(module._in_int8(proto))
        kinds = {
            onnx.TensorProto.DataType.Name(tensor.data_type)
            for tensor in quantized.graph.initializer
            if tensor.name.endswith("_quantized")
        }
        assert kinds == ({"UINT8"} if saturates or x.ndim == 4 else {"INT8"})


def test_signed_products_are_tried_on_the_processor():
    assert module.signed_products_saturate() in (False, True)
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    if "avx512_vnni" in flags or "avx_vnni" in flags:
        assert not module.signed_products_saturate()


def test_what_is_not_there_is_refused_in_one_sentence(monkeypatch):
    import torch

    model, x = torch.nn.Linear(3, 2), np.zeros((2, 3), np.float32)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert refused(model, x, ["openvino"]) == (
        "kind 'openvino' needs a package that is not installed. pip install nnopt[openvino]"
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert refused(model, x, ["compiled"]) == (
        "torch.compile needs a C++ compiler; received no-such-compiler, which is not installed."
        " Install it, or leave 'compiled' out."
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(model, x, ["cuda_2:4"]) == (
        "2:4 kernels need a CUDA card of compute capability 8.0 or later; received none. Leave 'cuda_2:4' out."
    )


def test_bad_arguments_are_refused():
    import torch

    model, x = torch.nn.Linear(3, 2), np.zeros((2, 3), np.float32)
    assert refused(model, x, "eager") == "kinds must be a list of runtimes; received 'eager'. Pass ['eager']."
    assert refused(model, x, ["eager", "onnx"]) == (
        "kind of runtime must be one of eager, compiled, onnxruntime, onnxruntime_int8, openvino, cuda_2:4;"
        " received 'onnx'."
    )
    assert refused(model, x, ["eager"], threads=0) == (
        "threads must be a whole number, at least 1; received 0."
    )
