"""Smaller Keras models keep the shape of the larger one: what is nested stays nested, what is shared shared."""

import pytest

pytestmark = pytest.mark.keras

import numpy as np  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.backends.keras import keras  # noqa: E402


def test_nested_models_and_shared_layers_stay_so():
    layers = keras.layers
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(6)], name="inner")
    wide, shared = layers.Dense(10, "relu", name="wide"), layers.Dense(6, name="shared")
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    sides = [shared(wide(inner(one))) for one in (first, second)]
    model = keras.Model({"first": first, "second": second}, layers.Dense(2, name="out")(layers.add(sides)))
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer")
    small = nnopt.remove_nodes(model, masks)
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert isinstance(small.get_layer("inner"), keras.Sequential) and small.get_layer("wide").units == 5
    assert len(small.weights) == len(model.weights)  # a layer that is used twice was not made twice
    rows = {
        name: np.random.default_rng(i).standard_normal((4, 6)) for i, name in enumerate(("first", "second"))
    }
    np.testing.assert_allclose(small(rows), model(rows), rtol=1e-5, atol=1e-6)
