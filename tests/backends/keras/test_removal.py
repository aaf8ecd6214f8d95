"""Reading Keras models that nobody built with a `NetSpec`, and removing their nodes for real."""

import numpy as np
import pytest

pytestmark = [pytest.mark.keras, pytest.mark.torch]  # recipes are loaded across frameworks

import keras  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from tests.keras_architectures import KERAS, drawn, lenet  # noqa: E402
from tests.networks import architectures, every_operation, examples_in_keras  # noqa: E402
from tests.pruned import (  # noqa: E402
    LEAVING_CONSTANTS,
    NORM_BEHIND_SIGMOID,
    check_constants_are_folded,
    check_random_graph,
    close,
)

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)  # channels first, as everywhere here


@settings(max_examples=examples_in_keras(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(architectures(), st.integers(0, 99), st.floats(0, 0.95))
def test_removed_equals_masked_on_random_graphs(spec, seed, sparsity):
    check_random_graph(spec, "keras", seed, sparsity)


@pytest.mark.parametrize("name", LEAVING_CONSTANTS)
def test_constants_that_removed_nodes_leave_are_folded_into_all_that_reads_them(name):
    check_constants_are_folded(LEAVING_CONSTANTS[name], "keras")


def test_a_batch_norm_behind_a_sigmoid_gives_what_the_masked_one_gives():
    check_random_graph(NORM_BEHIND_SIGMOID, "keras", 3, 0.5)


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
