"""Statistics and layers repaired after pruning, alike in both frameworks."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.models.describe import Described
from tests.pruned import examples, normalized

pytestmark = pytest.mark.torch


@pytest.mark.keras
def test_recalibration_is_the_same_in_keras():
    (spec, in_torch), (_, in_keras) = normalized("torch"), normalized("keras")
    x, _ = examples(spec, 13)  # a rest of one example would have no variance
    for model in (in_torch, in_keras):
        nnopt.recalibrate_batchnorm(model, x, batch_size=4, device="cpu")
    for name, value in nnopt.get_weights(in_torch).items():
        np.testing.assert_allclose(nnopt.get_weights(in_keras)[name], value, rtol=1e-6, atol=1e-7)


def test_recalibration_without_batch_norm_or_examples_is_refused():
    x = np.zeros((2, 4), np.float32)
    plain = nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2))
    normed = nnopt.build(nnopt.mlp((3,), inputs=4, outputs=2, batch_norm=True))
    for model, some, sentence in (
        (plain, x, "a model to recalibrate needs a batch normalization; received none."),
        (normed, x[:1], "recalibrate_batchnorm needs at least two examples, for a variance; received 1."),
        (normed, x[:0], "recalibrate_batchnorm needs examples x; received none."),
    ):
        with pytest.raises(NnoptError) as error:
            nnopt.recalibrate_batchnorm(model, some)
        assert str(error.value) == sentence


@pytest.mark.keras
def test_the_refit_is_the_same_in_keras():
    from tests.keras_architectures import KERAS
    from tests.keras_architectures import drawn as keras_drawn

    model = keras_drawn(KERAS["lenet"]())
    x = np.random.default_rng(0).standard_normal((20, 3, 16, 16), np.float32)
    spec, whole, outputs = nnopt.describe(model), nnopt.get_weights(model), nnopt.predict(model, x)
    described = Described.of(model)
    twin = nnopt.build(spec)
    nnopt.set_weights(twin, described.weights(model))
    twin_whole = nnopt.get_weights(twin)
    masks, twin_masks = (nnopt.prune(m, sparsity=0.5, granularity="node") for m in (model, twin))
    before = np.square(nnopt.predict(model, x) - outputs).mean()
    errors = nnopt.reconstruct(model, masks, whole, x, device="cpu")
    twin_errors = nnopt.reconstruct(twin, twin_masks, twin_whole, x, device="cpu")
    assert np.square(nnopt.predict(model, x) - outputs).mean() < before
    np.testing.assert_allclose(list(errors.values()), list(twin_errors.values()), rtol=1e-4)
    np.testing.assert_allclose(nnopt.predict(model, x), nnopt.predict(twin, x), atol=1e-4)


def test_other_weights_are_refused_and_the_model_stays():
    model, x = nnopt.build(nnopt.mlp((4,), inputs=3, outputs=2)), np.zeros((5, 3), np.float32)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node")
    now, other = nnopt.get_weights(model), nnopt.build(nnopt.mlp((5,), inputs=3, outputs=2))
    with pytest.raises(NnoptError) as error:
        nnopt.reconstruct(model, masks, nnopt.get_weights(other), x)
    assert str(error.value) == (
        "weights must have the names and shapes of the model's weights; received dense_1/kernel (5, 3) for "
        "(4, 3), dense_1/bias (5,) for (4,), dense_2/kernel (2, 5) for (2, 4)."
    )
    assert all((now[name] == value).all() for name, value in nnopt.get_weights(model).items())
