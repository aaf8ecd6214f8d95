"""Networks as people write them, in Keras: none knows of `NetSpec`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers


def norm_relu(x: Any) -> Any:
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def resnet(bottleneck: bool = False, width: int = 4, blocks: int = 2) -> keras.Model:
    """For CIFAR (He et al. 2016), with explicit padding where strides make "same" uneven."""

    def conv(x: Any, filters: int, size: int, stride: int = 1) -> Any:
        if size == 3 and stride == 2:
            x, padding = layers.ZeroPadding2D(1)(x), "valid"
        else:
            padding = "same" if size == 3 else "valid"
        return layers.Conv2D(filters, size, stride, padding=padding, use_bias=False)(x)

    inputs = keras.Input((16, 16, 3))
    x = norm_relu(conv(inputs, width, 3))
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            filters = width * 2**stage
            if bottleneck:
                out = norm_relu(conv(x, filters, 1))
                out = norm_relu(conv(out, filters, 3, stride))
                out = layers.BatchNormalization()(conv(out, 4 * filters, 1))
            else:
                out = norm_relu(conv(x, filters, 3, stride))
                out = layers.BatchNormalization()(conv(out, filters, 3))
            if out.shape != x.shape:
                x = layers.BatchNormalization()(conv(x, out.shape[-1], 1, stride))
            x = layers.ReLU()(layers.Add()([out, x]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def vgg() -> keras.Model:
    """Sequential; its first dense layer reads features that stand channels last."""
    stack = [keras.Input((16, 16, 3))]
    for filters in (4, 6, 8):
        stack += [layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization()]
        stack += [layers.Activation("relu"), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dropout(0.5), layers.Dense(12, activation="relu"), layers.Dense(10)]
    return keras.Sequential(stack)


def densenet(growth: int = 3) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(5, 3, padding="same", use_bias=False)(inputs)
    for _ in range(3):
        new = layers.Conv2D(growth, 3, padding="same", use_bias=False)(norm_relu(x))
        x = layers.Concatenate()([x, new])
    x = layers.AveragePooling2D(2)(layers.Conv2D(6, 1)(norm_relu(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalMaxPooling2D()(norm_relu(x))))


def mobilenet(width: int = 4, expansion: int = 3) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = norm_relu(layers.Conv2D(width, 3, padding="same", use_bias=False)(inputs))
    out = norm_relu(layers.Conv2D(width * expansion, 1, use_bias=False)(x))
    out = norm_relu(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(out))
    x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(width, 1, use_bias=False)(out))])
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(inputs, layers.Flatten()(layers.Conv2D(10, 1)(x)))


def squeeze_excitation(width: int = 6) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 3, activation="gelu")(inputs)
    gate = layers.Dense(3, activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Reshape((1, 1, width))(layers.Dense(width, activation="sigmoid")(gate))
    x = layers.Multiply()([x, gate])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def lenet() -> keras.Model:
    layer = [keras.Input((16, 16, 3)), layers.Conv2D(6, 5, activation="tanh"), layers.AveragePooling2D(2)]
    layer += [layers.Conv2D(8, 5, activation="tanh"), layers.AveragePooling2D(2), layers.Flatten()]
    return keras.Sequential([*layer, layers.Dense(12, activation="tanh"), layers.Dense(10)])


def multilayer_perceptron() -> keras.Model:
    stack = [keras.Input((16, 16, 3)), layers.Flatten(), layers.Dense(12), layers.BatchNormalization()]
    return keras.Sequential([*stack, layers.Activation("silu"), layers.Dense(8, "relu"), layers.Dense(10)])


KERAS = {  # all read (batch, 16, 16, 3) and give 10 logits
    "resnet, basic": resnet,
    "resnet, bottleneck": lambda: resnet(bottleneck=True),
    "vgg": vgg,
    "densenet": densenet,
    "mobilenet": mobilenet,
    "squeeze and excitation": squeeze_excitation,
    "lenet": lenet,
    "multilayer perceptron": multilayer_perceptron,
}


def drawn(model: keras.Model, seed: int = 0) -> keras.Model:
    """With kernels large enough for signals to come through, and statistics that are not those of the start."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) > 1:
            variable.assign(keras.initializers.HeNormal(seed)(variable.shape))
        else:
            low, high = (-0.3, 0.3) if variable.name in ("bias", "beta", "moving_mean") else (0.5, 1.5)
            variable.assign(random.uniform(low, high, variable.shape))
    return model
