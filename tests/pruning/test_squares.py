import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.squares import layer_error, least_squares, spread
from tests.pruning.layers import damped, fitted, random_layer


def test_errors_are_those_of_the_outputs():
    random = np.random.default_rng(0)
    X, W, new = random.normal(size=(50, 7)), random.normal(size=(4, 7)), random.normal(size=(4, 7))
    H = X.T @ X / len(X)
    assert layer_error(W, new, H) == pytest.approx(np.mean((X @ W.T - X @ new.T) ** 2), rel=1e-12)
    assert spread(W, H) == pytest.approx(np.mean((X @ W.T) ** 2), rel=1e-12)
    assert layer_error(W, W, H) == 0


def test_the_new_weights_are_numpys_least_squares_in_500_cases():
    random = np.random.default_rng(1)
    for case in range(500):
        W, H = random_layer(random, dead=case % 2 == 1)
        mask, dampening = random.random(W.shape) < random.random(), random.choice([0.01, 0.1])
        new = least_squares(W, H, mask, dampening=dampening)
        live = np.diag(H) > 0
        at = np.diag(np.where(live, 1.0, 0.0))
        whole = H + dampening * np.diag(H).mean() * at
        for w, row, kept in zip(W, new, mask, strict=True):
            np.testing.assert_allclose(row[live], fitted(w, whole, kept & live)[live], rtol=1e-6, atol=1e-9)
            np.testing.assert_array_equal(row[~live], np.where(kept, w, 0)[~live])  # nothing is known of them
        assert not new[~mask].any()


def test_an_update_never_raises_the_layers_error_in_2000_cases():
    """A theorem, with dampening too: new weights are farther from the old ones than the masked ones are."""
    random = np.random.default_rng(2)
    for case in range(2000):
        W, H = random_layer(random, dead=case % 4 == 3)
        mask, dampening = random.random(W.shape) < random.random(), random.choice([1e-6, 0.01, 1, 100])
        before = W.copy(), H.copy(), mask.copy()
        error = layer_error(W, least_squares(W, H, mask, dampening=dampening), H)
        assert error <= layer_error(W, np.where(mask, W, 0), H) * (1 + 1e-9) + 1e-12
        for array, copy in zip((W, H, mask), before, strict=True):
            np.testing.assert_array_equal(array, copy)  # arguments are never changed


def test_it_is_what_steps_of_obs_come_to_in_any_order():
    random = np.random.default_rng(3)
    for _ in range(100):
        W, H = random_layer(random, rows=1)
        H = damped(H, 0.05)
        order = random.permutation(len(H))[: random.integers(len(H) + 1)]
        w, left = W[0].copy(), np.ones(len(H), bool)
        for q in order:
            inverse = np.zeros_like(H)
            inverse[np.ix_(left, left)] = np.linalg.inv(H[np.ix_(left, left)])
            w -= w[q] / inverse[q, q] * inverse[:, q]
            left[q] = False
        new = least_squares(W, H, left[None], dampening=0)
        np.testing.assert_allclose(new[0], np.where(left, w, 0), rtol=1e-7, atol=1e-9)


def test_both_forms_of_the_solution_are_one():
    """Few removed weights are solved for by the inverse, many by H; one weight more changes the form."""
    random = np.random.default_rng(4)
    X, w = random.normal(size=(60, 10)), random.normal(size=(1, 10))
    H = X.T @ X / 60
    for removed in range(11):
        mask = np.arange(10)[None] >= removed
        new = least_squares(w, H, mask, dampening=0)
        np.testing.assert_allclose(new[0], fitted(w[0], H, mask[0]), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_data_that_do_not_span_are_refused_with_their_rank(scale):
    X = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    X[:, 4] = X[:, 0] + X[:, 2]
    X *= np.float32(scale) * np.array([1, 1, 1, 1e-3, 1, 1], np.float32)  # each input in a unit of its own
    H, W = X.T.astype(float) @ X / 40, np.ones((2, 6))
    with pytest.raises(NnoptError) as error:
        least_squares(W, H, W > 0, dampening=0, name="conv_1/kernel")
    assert str(error.value) == (
        "calibration data must span the inputs of conv_1/kernel where dampening adds nothing to them; received"
        " rank 5 of 6 inputs. Pass dampening=0.01, or more calibration data."
    )
    assert np.isfinite(least_squares(W, H, W > 0, dampening=0.01)).all()


def test_inputs_that_are_always_0_are_not_counted_and_not_missed():
    X = np.random.default_rng(6).normal(size=(3, 6))
    X[:, 1] = 0
    W, mask = np.ones((1, 6)), np.array([[True, True, False, True, True, True]])
    with pytest.raises(NnoptError) as error:
        least_squares(W, X.T @ X / 3, mask, dampening=0)
    assert "received rank 3 of 5 inputs that are not always 0." in str(error.value)
    X = np.random.default_rng(6).normal(size=(9, 6))
    X[:, 1] = 0
    assert least_squares(W, X.T @ X / 9, mask, dampening=0)[0, 1] == 1


def test_units_of_inputs_do_not_make_data_singular():
    X = np.random.default_rng(7).normal(size=(40, 5)) * [1, 1e-5, 1e5, 1, 1]
    W, mask = np.ones((1, 5)), np.array([[True, False, True, True, True]])
    new = least_squares(W, X.T @ X / 40, mask, dampening=0)
    expected = np.linalg.lstsq(X[:, mask[0]], X @ W[0], rcond=None)[0]
    np.testing.assert_allclose(new[0, mask[0]], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dampening": -1}, "dampening must be a finite number, at least 0; received -1."),
        ({"W": np.array([[np.nan, 1]])}, "weights of the layer must be finite; received NaN or infinity."),
        (
            {"H": np.diag([1, np.inf])},
            "calibration data of the layer must be finite; received NaN or infinity.",
        ),
    ],
)
def test_what_is_refused(options, sentence):
    given = {"W": np.ones((1, 2)), "H": np.eye(2), "mask": np.ones((1, 2), bool)} | options
    with pytest.raises(NnoptError) as error:
        least_squares(given.pop("W"), given.pop("H"), given.pop("mask"), **given)
    assert str(error.value) == sentence
