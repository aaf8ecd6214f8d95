"""Reading Keras models: what is not understood is refused by name."""

import keras
import pytest
from keras import layers

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError

pytestmark = pytest.mark.keras


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
