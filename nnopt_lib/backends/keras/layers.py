"""Operations that Keras has no layer for: attention without parameters, and fixed positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers

from nnopt_lib.backends.keras import keras
from nnopt_lib.structure.operations import sinusoids


@keras.saving.register_keras_serializable("nnopt")
class Position(layers.Layer):
    """Adds fixed sinusoids to (batch, *spatial, channels)."""

    def call(self, x: Any) -> Any:
        """The sum."""
        # Computed from the shape: nothing to train or to save, so a loaded layer needs no weights for it.
        table = sinusoids((x.shape[-1], *x.shape[1:-1]))
        return x + keras.ops.convert_to_tensor(np.moveaxis(table, 0, -1), x.dtype)


@keras.saving.register_keras_serializable("nnopt")
class Attention(layers.Layer):
    """softmax(query key / sqrt(size of a head)) value, over (batch, *spatial, channels)."""

    def __init__(self, heads: int, **options: Any) -> None:
        super().__init__(**options)
        self.heads = heads

    def call(self, query: Any, key: Any, value: Any) -> Any:
        """The mixed values: (batch, *spatial of query, channels of value)."""
        # (batch, positions, heads, size of a head)
        split = [
            keras.ops.reshape(x, (-1, math.prod(x.shape[1:-1]), self.heads, x.shape[-1] // self.heads))
            for x in (query, key, value)
        ]
        out = keras.ops.dot_product_attention(*split)
        return keras.ops.reshape(out, (-1, *query.shape[1:-1], value.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        """What the layer is made from."""
        return {**super().get_config(), "heads": self.heads}
