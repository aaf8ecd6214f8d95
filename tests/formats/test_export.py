import numpy as np
import onnx
import onnxruntime
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.formats.export import _make_sparse, export_onnx, session_of

pytestmark = pytest.mark.torch


def refused(function, *arguments, **options) -> str:
    with pytest.raises(NnoptError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def outputs(path, x):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_close(expected, given):
    assert expected.shape == given.shape
    assert np.abs(expected - given).max() <= 1e-5 * np.abs(expected).max()


def examples(shape, count=7):
    return np.random.default_rng(3).standard_normal((count, *shape), np.float32)


def pruned_cnn(sparsity):
    model = nnopt.build(nnopt.cnn((8, 16), input_shape=(3, 8, 8), outputs=300, batch_norm=True), seed=4)
    nnopt.prune(model, sparsity=sparsity, scope="layer")
    return model


def keras_model():
    from nnopt_lib.backends.keras import keras

    keras.utils.set_random_seed(5)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),  # channels last: the dense kernel has to be put in another order
            layers.Dense(5, activation="relu"),
            layers.Dense(3),
        ]
    )


@pytest.mark.keras
@pytest.mark.parametrize("kind", ["mlp", "cnn", "keras"])
def test_onnx_runtime_gives_the_model_s_outputs_for_any_number_of_examples(kind, tmp_path):
    model, shape = {
        "mlp": lambda: (nnopt.build(nnopt.mlp((20, 9), inputs=12, outputs=4), seed=1), (12,)),
        "cnn": lambda: (pruned_cnn(0.5), (3, 8, 8)),
        "keras": lambda: (keras_model(), (3, 8, 6)),
    }[kind]()
    exported = export_onnx(model, tmp_path / "model.onnx")
    assert exported.nbytes == exported.path.stat().st_size and exported.batch is None
    for count in (1, 2, 7):
        x = examples(shape, count)
        assert_close(nnopt.predict(model, x), outputs(exported.path, x))
    onnx.checker.check_model(str(exported.path), full_check=True)


def test_a_fixed_batch_reads_that_many_examples_and_no_other(tmp_path):
    import torch

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.reshape(3, -1) * 2

    path, x = tmp_path / "model.onnx", examples((4, 2), 2)
    sentence = refused(export_onnx, Fixed(), path, example_input=x)
    assert sentence.startswith("Fixed must run on the examples x; received RuntimeError: shape '[3, -1]'")
    assert refused(export_onnx, Fixed(), path, example_input=examples((4, 2), 3)) == (
        "Fixed must run on any number of examples to be exported for any; received one that fails on 4."
        " Pass batch=, the number that it reads."
    )
    assert not path.exists()
    assert export_onnx(Fixed(), path, example_input=x, batch=3).batch == 3
    assert outputs(path, examples((4, 2), 3)).shape == (3, 8)
    with pytest.raises(Exception, match="Got: 2 Expected: 3"):
        outputs(path, x)


def test_several_arguments_and_outputs(tmp_path):
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 4)

        def forward(self, ids, mask):
            embedded = self.embedding(ids) * mask[..., None]
            return {"mean": embedded.mean(1), "all": embedded}

    model = Model().train()
    x = {"ids": np.arange(12).reshape(4, 3) % 11, "mask": np.ones((4, 3), np.float32)}
    exported = export_onnx(model, tmp_path / "model.onnx", example_input=x)
    assert exported.inputs == ("ids", "mask") and len(exported.outputs) == 2
    assert model.training and model.embedding.training
    x = {"ids": np.array([[7, 2, 7]]), "mask": np.array([[1, 0.5, 0]], np.float32)}
    mean, every = onnxruntime.InferenceSession(str(exported.path)).run(None, x)
    expected = model(**{name: torch.from_numpy(array) for name, array in x.items()})
    assert_close(expected["mean"].detach().numpy(), mean)
    assert_close(expected["all"].detach().numpy(), every)
    again = export_onnx(model, exported.path, example_input=tuple(x.values()), batch=1)
    assert again.inputs == ("ids", "mask")


def test_sparse_initializers_make_the_file_smaller_and_nothing_else(tmp_path):
    model, x = pruned_cnn(0.9), examples((3, 8, 8))
    weights = nnopt.get_weights(model)
    weights["conv2d_1/kernel"][:4] = 1  # half of them: 12 bytes each would be more than 4 for all
    nnopt.set_weights(model, weights)
    dense = export_onnx(model, tmp_path / "dense.onnx")
    sparse = export_onnx(model, tmp_path / "sparse.onnx", sparse_initializers=True)
    assert dense.sparse == () and sparse.sparse == ("conv2d_2.weight", "dense_1.weight")
    kept = {name: int((weights[name] != 0).sum()) for name in ("conv2d_2/kernel", "dense_1/kernel")}
    saved = sum(4 * weights[name].size - 12 * count for name, count in kept.items())
    assert abs((dense.nbytes - sparse.nbytes) - saved) < 0.05 * saved
    np.testing.assert_array_equal(outputs(dense.path, x), outputs(sparse.path, x))
    onnx.checker.check_model(str(sparse.path))
    # The weights that are left out of `loaded_nbytes`: biases of 0, which the exporter drops.
    kernels = sum(value.nbytes for name, value in weights.items() if name.endswith("/kernel"))
    assert sparse.loaded_nbytes == dense.loaded_nbytes and 0 <= sparse.loaded_nbytes - kernels < 500


def test_onnx_runtime_makes_sparse_initializers_dense_in_memory():
    kernel = np.zeros((4000, 4000), np.float32)
    kernel[::10, ::10] = 1
    helper = onnx.helper
    shapes = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4000]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "kernel"], ["y"])
    tensor = onnx.numpy_helper.from_array(kernel, "kernel")
    graph = helper.make_graph([node], "one", shapes[:1], shapes[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert _make_sparse(model) == ("kernel",)
    content = model.SerializeToString()
    assert 12 * 160_000 < len(content) < 12 * 160_000 + 1000
    sessions = []
    risen = nnopt.measure.peak_memory(lambda: sessions.append(session_of(content, 1)))
    assert risen > 0.9 * kernel.nbytes > 25 * len(content)
    (sums,) = sessions[0].run(None, {"x": np.ones((1, 4000), np.float32)})
    assert sums.sum() == 160_000


def test_a_kernel_of_zeros_alone_can_be_sparse(tmp_path):
    model = nnopt.build(nnopt.mlp((6,), inputs=4, outputs=3))
    weights = nnopt.get_weights(model)
    weights["dense_1/kernel"][...] = 0
    weights["dense_2/bias"][...] = [1, 2, 3]
    nnopt.set_weights(model, weights)
    exported = export_onnx(model, tmp_path / "zeros.onnx", sparse_initializers=True)
    assert exported.sparse == ("dense_1.weight",)
    np.testing.assert_array_equal(outputs(exported.path, examples((4,), 1)), [[1, 2, 3]])


def test_what_cannot_be_exported_is_refused_and_the_old_file_stays(tmp_path):
    import torch

    path = tmp_path / "model.onnx"
    path.write_text("the old one")
    model = torch.nn.Linear(3, 2)
    assert refused(export_onnx, model, path) == (
        "Linear needs an example_input to be exported; received none."
        " Pass a batch that it reads, (examples, *input_shape)."
    )
    assert refused(export_onnx, model, path, example_input=examples((3,)), batch=0) == (
        "batch must be a whole number, at least 1; received 0."
    )
    model.weight.data[0, 0] = float("nan")
    assert refused(export_onnx, model, path, example_input=examples((3,))) == (
        "ONNX Runtime must give the model's outputs to 1e-5 of the largest; received nan where the largest is nan."
        " Look for NaN, or export another."
    )
    assert path.read_text() == "the old one"
