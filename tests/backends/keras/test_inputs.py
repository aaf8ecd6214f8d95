import numpy as np
import pytest

from nnopt_lib.backends.keras import keras
from nnopt_lib.backends.keras.inputs import as_inputs

pytestmark = pytest.mark.keras


def model(*shapes):
    inputs = [keras.Input(shape, name=f"in_{number}") for number, shape in enumerate(shapes)]
    return keras.Model(inputs, [keras.layers.Flatten()(one) for one in inputs])


def test_canonical_arrays_come_channels_last():
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    tensor = as_inputs(model((4, 5, 3)), x)
    assert tensor.dtype == "float32" and (tensor.numpy() == np.moveaxis(x, 1, -1)).all()
    assert as_inputs(model((None, None, 3)), x).shape == (2, 4, 5, 3)


def test_arrays_that_fit_only_as_they_are_stay_so():
    assert as_inputs(model((4, 5, 3)), np.zeros((2, 4, 5, 3))).shape == (2, 4, 5, 3)
    assert as_inputs(model((None, 8)), np.zeros((2, 7, 8))).shape == (2, 7, 8)
    square = np.arange(2 * 3 * 3.0).reshape(2, 3, 3)  # both fit: canonical is the rule
    assert (as_inputs(model((3, 3)), square).numpy() == np.moveaxis(square, 1, -1)).all()


def test_several_inputs_as_a_tuple_or_by_name():
    image, words = np.zeros((2, 3, 4, 5)), np.ones((2, 6), np.int64)
    both = model((4, 5, 3), (6,))
    assert [one.shape.as_list() for one in as_inputs(both, (image, words))] == [[2, 4, 5, 3], [2, 6]]
    named = as_inputs(both, {"in_0": np.zeros((2, 4, 5, 3)), "in_1": words})
    assert named["in_0"].shape == (2, 4, 5, 3) and named["in_1"].dtype == "int64"
