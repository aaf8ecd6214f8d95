import numpy as np
import pytest

import nnopt_lib as nnopt
from tests.networks import arrays

pytestmark = [pytest.mark.torch, pytest.mark.keras]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_moves_weights_of_tiny_gradients_as_pytorch_does(optimizer):
    data = arrays()
    data.x_train[:, 3] *= 1e-7  # an input that is nearly always 0, as pixels at a rim are
    training = nnopt.Training(epochs=2, batch_size=16, optimizer=optimizer, learning_rate=1e-2)
    models = [nnopt.build(nnopt.mlp((9,), inputs=12, outputs=4), f, seed=2) for f in ("torch", "keras")]
    first = nnopt.get_weights(models[0])["dense_1/kernel"]
    for model in models:
        nnopt.fit(model, data, training, seed=5)
    in_torch, in_keras = (nnopt.get_weights(model)["dense_1/kernel"] for model in models)
    assert abs(in_torch - first)[:, 3].max() > 0.01, "they do move"
    np.testing.assert_allclose(in_keras, in_torch, atol=1e-4)
