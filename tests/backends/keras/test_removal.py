"""Reading Keras models that nobody built with a `NetSpec`, and removing their nodes for real."""

import numpy as np
import pytest

pytestmark = [pytest.mark.keras, pytest.mark.torch]  # recipes are loaded across frameworks

import keras  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from keras import layers  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from tests.backends.torch.test_removal import check_random_graph, close  # noqa: E402
from tests.keras_architectures import KERAS, drawn, lenet  # noqa: E402
from tests.networks import CLASSICS, architectures, every_operation, examples_in_keras  # noqa: E402

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)  # channels first, as everywhere here


@settings(max_examples=examples_in_keras(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(architectures(), st.integers(0, 99), st.floats(0, 0.95))
def test_removed_equals_masked_on_random_graphs(spec, seed, sparsity):
    check_random_graph(spec, "keras", seed, sparsity)


def test_every_operation_at_once():
    check_random_graph(every_operation(), "keras", 3, 0.5)


@pytest.mark.parametrize("name", KERAS)
def test_architectures_are_described_pruned_saved_and_loaded(name, tmp_path):
    model = drawn(KERAS[name]())
    spec = nnopt.describe(model)
    before = nnopt.predict(model, X)
    assert np.abs(before - before[:1]).max() > 1e-3
    # A description is checked against the model's outputs where it is made; counts are Keras's own.
    assert nnopt.measure.count(spec).parameters == sum(
        int(np.prod(v.shape)) for v in model.trainable_variables
    )
    masks = nnopt.prune(model, sparsity=0.4, scope="layer", granularity="node")
    masked, small = nnopt.predict(model, X), nnopt.remove_nodes(model, masks)
    assert close(masked, nnopt.predict(small, X)) and np.abs(masked - masked[:1]).max() > 1e-4
    assert [v.path for v in small.weights] == [v.path for v in model.weights]
    assert nnopt.measure.count(nnopt.describe(small)).macs < nnopt.measure.count(spec).macs
    nnopt.save_small(small, tmp_path / "small.safetensors")
    for framework in ("torch", "keras"):
        loaded = nnopt.load_small(tmp_path / "small.safetensors", framework=framework)
        assert close(masked, nnopt.predict(loaded, X))
    own = nnopt.load_small(tmp_path / "small.safetensors", model=KERAS[name]())
    assert close(masked, nnopt.predict(own, X))


def test_a_recipe_made_in_torch_loads_in_keras_with_equal_outputs(tmp_path):
    spec = CLASSICS["lenet_5"]
    model = nnopt.build(spec, seed=1)
    small = nnopt.remove_nodes(model, nnopt.prune(model, sparsity=0.6, granularity="node"))
    nnopt.save_small(small, tmp_path / "small.safetensors")
    x = np.random.default_rng(0).standard_normal((3, *spec.input_shape), np.float32)
    for own in ({"framework": "keras"}, {"model": nnopt.build(spec, "keras", seed=2)}):
        loaded = nnopt.load_small(tmp_path / "small.safetensors", **own)
        assert close(nnopt.predict(small, x), nnopt.predict(loaded, x))


def test_twice_removed_and_trained_by_fit_in_between(tmp_path):
    model = drawn(lenet())
    small = nnopt.remove_nodes(model, nnopt.prune(model, sparsity=0.3, granularity="node"))
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small.fit(np.moveaxis(X, 1, -1), np.arange(4), epochs=2, verbose=0)
    smaller = nnopt.remove_nodes(small, nnopt.prune(small, sparsity=0.3, granularity="node"))
    assert close(nnopt.predict(small, X), nnopt.predict(smaller, X))
    nnopt.save_small(smaller, tmp_path / "small.safetensors")
    own = nnopt.load_small(tmp_path / "small.safetensors", model=lenet())
    assert close(nnopt.predict(smaller, X), nnopt.predict(own, X))


# Refusals

RULE = "a description must have an operation for everything that a model does; received layer 'it' "
END = (
    ". Understood are Dense, Conv, DepthwiseConv, BatchNormalization, Activation and ReLU, pooling, Flatten, "
    "ZeroPadding, Add, Multiply, Concatenate, Dropout, and Reshape to (1, 1, channels)."
)


@pytest.mark.parametrize(
    ("layer", "received"),
    [
        (lambda: layers.LayerNormalization(name="it"), "(LayerNormalization)"),
        (lambda: layers.Dense(3, name="it"), "(Dense) on values of shape (16, 16, 3)"),
        (
            lambda: layers.Conv2D(3, 3, 2, padding="same", name="it"),
            "(Conv2D) with padding 'same' that is uneven here (1 in sum)",
        ),
        (
            lambda: layers.Conv2D(3, 3, dilation_rate=2, name="it"),
            "(Conv2D) with dilation, or channels first",
        ),
        (
            lambda: layers.BatchNormalization(scale=False, name="it"),
            "(BatchNormalization) over another axis than the last, or without center and scale",
        ),
        (lambda: layers.ReLU(6.0, name="it"), "(ReLU) with a maximum, slope or threshold"),
        (
            lambda: layers.Activation("softmax", name="it"),
            "(Activation) with activation 'softmax'; a description ends in logits",
        ),
        (
            lambda: layers.AveragePooling2D(3, 1, padding="same", name="it"),
            "(AveragePooling2D) with padding 'same', which does not count",
        ),
        (lambda: layers.ZeroPadding2D(((0, 1), (0, 1)), name="it"), "(ZeroPadding2D) with uneven padding"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(layer, received):
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), layer(), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    with pytest.raises(NnoptError) as error:
        nnopt.describe(model)
    assert str(error.value) == RULE + received + END


def test_flattened_features_in_keras_order_go_to_dense_layers_only():
    stack = [keras.Input((4, 4, 3)), layers.Conv2D(2, 3), layers.Flatten()]
    with pytest.raises(NnoptError) as error:
        nnopt.describe(keras.Sequential([*stack, layers.BatchNormalization(name="it"), layers.Dense(2)]))
    assert (
        str(error.value) == RULE + "(BatchNormalization) on flattened features that stand channels last" + END
    )


def test_shared_layers_and_other_models_are_refused():
    inputs, dense = keras.Input((4,)), layers.Dense(4, name="twice")
    with pytest.raises(NnoptError) as error:
        nnopt.describe(keras.Model(inputs, dense(dense(inputs))))
    assert str(error.value) == (
        "layer 'twice' (Dense) must be used once; received a second use. Give each use a layer of its own."
    )

    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(NnoptError) as error:
        nnopt.describe(Own())
    assert str(error.value) == (
        "a Keras model to describe must be functional or sequential; received Own. "
        "Write it with the functional interface, or as a built Sequential."
    )
