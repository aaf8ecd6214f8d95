"""A walk over a Keras graph: which graph is read, and that nothing in the model changes."""

import pytest

pytestmark = pytest.mark.keras

import numpy as np  # noqa: E402

from nnopt_lib.backends.keras import keras  # noqa: E402
from nnopt_lib.backends.keras.reading import read  # noqa: E402
from nnopt_lib.backends.keras.walk import graph_of  # noqa: E402


def two_uses():
    """A nested model, and one layer that is used twice."""
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="inside")], name="inner")
    shared = keras.layers.Dense(6, name="shared")
    x = keras.Input((6,))
    return keras.Model(x, keras.layers.Dense(3, name="out")(inner(shared(shared(x)))))


def test_the_graph_of_models_is_theirs_and_layers_have_none():
    model = two_uses()
    assert graph_of(model) is not None and graph_of(model.get_layer("inner")) is not None
    assert graph_of(model.get_layer("shared")) is None


def test_nested_models_are_walked_into_and_a_second_use_is_of_the_same_channels():
    model = two_uses()
    before = [np.array(one) for one in model.get_weights()]
    channels = read(model, None).channels()
    assert (channels.nodes["inner/inside"] >= 0).all() or (channels.nodes["inside"] >= 0).all()
    assert (channels.nodes["shared"] == -1).all()  # it reads what the model is given, and its own channels
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
