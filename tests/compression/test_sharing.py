"""Shared weights: k-means against scikit-learn, masks, and models of both frameworks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.cluster import KMeans

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.compression.sharing import INITS, Shared, k_means, share, share_weights, shared_now
from nnopt_lib.pruning.masks import Masks

pytestmark = [pytest.mark.torch, pytest.mark.keras]
SPEC = nnopt.mlp((7,), inputs=12, outputs=4)
VALUES = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-8, 8, width=16))


def error_of(values, centers):
    return (np.abs(values[:, None] - centers).min(1) ** 2).sum()


@pytest.mark.parametrize("clusters", [2, 5, 16])
def test_k_means_equals_scikit_learns_from_the_same_beginning(clusters):
    values = np.random.default_rng(clusters).normal(0, 0.1, 4000)
    beginning = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    found = k_means(values, beginning)
    oracle = KMeans(clusters, init=beginning[:, None], n_init=1, max_iter=5000, tol=0).fit(values[:, None])
    np.testing.assert_allclose(found, np.sort(oracle.cluster_centers_[:, 0]), atol=1e-9)


def test_centers_without_weights_move_and_the_error_is_no_larger_than_scikit_learns():
    values = np.random.default_rng(1).laplace(0, 0.05, 3000)
    beginning = np.linspace(values.min(), values.max(), 64)
    found = k_means(values, beginning)
    assert len(np.unique(np.abs(values[:, None] - found).argmin(1))) == 64
    oracle = KMeans(64, init=beginning[:, None], n_init=1, max_iter=5000, tol=0).fit(values[:, None])
    assert error_of(values, found) <= 1.1 * oracle.inertia_


@given(values=VALUES, bits=st.integers(1, 4), init=st.sampled_from(INITS))
@settings(deadline=None)
def test_each_weight_has_the_nearest_value_and_each_value_is_the_mean_of_its_weights(values, bits, init):
    shared = share(values, bits=bits, masks=np.ones(len(values), bool), init=init)
    nearest = np.abs(values[:, None] - shared.codebook.astype(float)).min(1)
    np.testing.assert_allclose(np.abs(values - shared.dense()), nearest, atol=1e-5)
    for code in np.unique(shared.codes):
        assert shared.codebook[code] == pytest.approx(values[shared.codes == code].mean(), abs=1e-5)
    if len(np.unique(values)) <= 2**bits and init != "random":
        np.testing.assert_allclose(shared.dense(), values, atol=1e-5)


def test_what_is_removed_takes_no_part():
    weights = np.array([[0.0, 1.0, 1.2], [5.0, -1.0, 0.0]], np.float32)
    by_zeros = share(weights, bits=1)
    assert by_zeros.mask.tolist() == [[False, True, True], [True, True, False]]
    assert by_zeros.dense()[0, 0] == 0 and 0 not in by_zeros.codebook
    mask = np.array([[True, True, True], [False, False, True]])
    by_mask = share({"a/kernel": weights, "b/kernel": weights}, bits=1, masks={"a/kernel": mask})
    assert by_mask["a/kernel"].mask.tolist() == mask.tolist()
    np.testing.assert_allclose(by_mask["a/kernel"].dense(), [[0, 1.1, 1.1], [0, 0, 0]])
    assert by_mask["b/kernel"].mask.tolist() == by_zeros.mask.tolist()


def test_nothing_kept_and_more_values_than_weights():
    nothing = share(np.zeros((2, 3)), bits=2)
    assert nothing.dense().tolist() == np.zeros((2, 3)).tolist() and nothing.codebook.tolist() == [0] * 4
    few = np.array([1.0, 2.0, 4.0])
    for init in INITS:
        assert share(few, bits=9, init=init).codes.dtype == np.uint16
    assert share(few, bits=2).dense().tolist() == few.tolist()


def test_bytes_are_codes_and_list():
    weights = np.random.default_rng(0).normal(size=(10, 33))
    weights[:5] = 0
    assert share(weights, bits=5).nbytes == -(-165 * 5 // 8) + 32 * 4


def test_beginnings_are_those_of_their_names():
    values = np.random.default_rng(2).normal(size=5000)
    errors = {init: ((share(values, bits=4, init=init).dense() - values) ** 2).sum() for init in INITS}
    assert len(set(errors.values())) == 3 and max(errors.values()) < 2 * min(errors.values())
    again = [share(values, bits=4, init="random", seed=seed).codebook.tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_model_gets_the_shared_values_and_its_masks_count(framework):
    model = nnopt.build(SPEC, framework, seed=3)
    before = nnopt.get_weights(model)
    masks = nnopt.prune(model, sparsity=0.5)
    shared = share_weights(model, bits={"dense_1/kernel": 2}, masks=masks)
    after = nnopt.get_weights(model)
    assert list(shared) == ["dense_1/kernel"]
    expected = share(before["dense_1/kernel"], bits=2, masks=masks["dense_1/kernel"])
    assert np.array_equal(after["dense_1/kernel"], expected.dense())
    assert np.array_equal(after["dense_1/bias"], before["dense_1/bias"])
    assert np.array_equal(after["dense_2/kernel"], before["dense_2/kernel"] * masks["dense_2/kernel"])
    nnopt.set_weights(model, {**after, "dense_1/kernel": 3 * after["dense_1/kernel"]})
    now = shared_now(model, shared)["dense_1/kernel"]
    assert np.array_equal(now.codebook, 3 * expected.codebook) and now.codes is shared["dense_1/kernel"].codes


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_all_kernels_or_those_that_are_named(framework):
    model = nnopt.build(SPEC, framework)
    assert list(share_weights(model, bits=1, names=["dense_2/bias"])) == ["dense_2/bias"]
    assert list(share_weights(model, bits=1)) == ["dense_1/kernel", "dense_2/kernel"]
    assert all(len(np.unique(nnopt.get_weights(model)[f"dense_{n}/kernel"])) == 2 for n in (1, 2))


def test_values_without_weights_keep_theirs():
    shared = Shared(np.float32([1, 2, 3]), np.array([0, 2, 2]), np.array([True, True, False]), 2)
    now = shared.updated(np.float32([7, 8, 0]))
    assert now is not None and now.codebook.tolist() == [7, 2, 8]
    assert shared.updated(np.float32([7, 8, 1])) is None  # a removed weight that is not 0


def differing():
    model = nnopt.build(SPEC)
    shared = share_weights(model, bits=2)
    model.dense_2.weight.data[0, 0] += 1
    shared_now(model, shared)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: share({"a/kernel": np.array([1.0, np.nan])}, bits=2),
            "weights to share of 'a/kernel' must be finite; received 1 that are not.",
        ),
        (
            lambda: share(np.array([1.0, np.inf]), bits=2),
            "weights to share must be finite; received 1 that are not.",
        ),
        (
            lambda: share(np.array(["a"]), bits=2),
            "weights to share must be real numbers; received type <U1.",
        ),
        (lambda: share(np.ones(2), bits=17), "bits must be a whole number, from 1 to 16; received 17."),
        (
            lambda: share(np.ones(2), bits=2, init="dense"),
            "init must be one of linear, density, random; received 'dense'. Did you mean 'density'?",
        ),
        (
            lambda: share(np.ones(2), bits=2, masks=np.ones(3, bool)),
            "masks must have the names and shapes of the model's weights; received mask (3,) for (2,).",
        ),
        (
            lambda: share({"a": np.ones(2)}, bits=2, masks=np.ones(2, bool)),
            "masks of several arrays must be given by name; received ndarray.",
        ),
        (
            lambda: share(np.ones(2), bits=2, masks={"a": np.ones(2, bool)}),
            "the mask of one array must be an array; received dict.",
        ),
        (
            lambda: share({"a": np.ones(2)}, bits=2, masks={"b": np.ones(2, bool)}),
            "masks must have the names and shapes of the model's weights; received b (2,) for none.",
        ),
        (
            lambda: share_weights(nnopt.build(SPEC), bits={"dense_1/kernel": 2}, names=["dense_2/kernel"]),
            "names and bits must name the same weights; received ['dense_2/kernel'] and ['dense_1/kernel'].",
        ),
        (
            lambda: share_weights(nnopt.build(SPEC), bits=2, names=["dense_3/kernel"]),
            "the model has no weight 'dense_3/kernel'. Did you mean 'dense_2/kernel'?",
        ),
        (
            lambda: share_weights(nnopt.build(SPEC), bits=2, masks=Masks({"a": np.ones((2, 2), bool)})),
            "masks must have the names and shapes of the model's weights; received a (2, 2) for none.",
        ),
        (
            differing,
            "weights of 'dense_2/kernel' with equal codes must be equal; received some that differ. "
            "Call share_weights on this model first, or anew.",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


def test_a_refusal_changes_nothing():
    model = nnopt.build(SPEC)
    model.dense_2.weight.data[0, 0] = np.nan
    before = nnopt.get_weights(model)
    with pytest.raises(NnoptError, match="weights to share of 'dense_2/kernel' must be finite"):
        share_weights(model, bits=2)
    assert np.array_equal(nnopt.get_weights(model)["dense_1/kernel"], before["dense_1/kernel"])
