"""Layers of nnopt in a Keras model that is saved."""

import numpy as np
import pytest

import nnopt_lib as nnopt


@pytest.mark.keras
def test_a_keras_model_with_attention_is_saved_and_loaded(tmp_path):
    from nnopt_lib.backends.keras import keras

    model = nnopt.build(nnopt.vit(1, (4, 6), input_shape=(1, 8, 8), outputs=3), "keras")
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(nnopt.predict(loaded, x), nnopt.predict(model, x), atol=1e-6)
