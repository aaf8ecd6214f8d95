"""Curvature on plain arrays: against dense matrices inverted anew, brute force, and what is best by definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import curvature as curved


def spanning(size, seed, examples=None):
    """A curvature that has an inverse, and weights."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(examples or 2 * size, size))
    return rows.T @ rows / len(rows), random.normal(size=size)


def fisher(gradients, blocks, dampening):
    """The dense matrix that Woodbury inverts without making it."""
    whole = gradients.T @ gradients / len(gradients)
    cut = np.zeros_like(whole)
    for block in blocks:
        cut[block, block] = whole[block, block]
    return cut + dampening * np.eye(len(cut))


def softmax_loss(logits, label):
    return np.log(np.exp(logits).sum()) - logits[label]


cases = given(
    examples=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    dampening=st.sampled_from([1e-5, 1e-2, 1.0]),
    block_size=st.sampled_from([None, 1, 2, 5]),
    seed=st.integers(0, 99),
)


def drawn(examples, sizes, block_size, seed):
    random = np.random.default_rng(seed)
    gradients, w = random.normal(size=(examples, sum(sizes))), random.normal(size=sum(sizes))
    return gradients, w, curved.blocks_of(sizes, block_size), random.random(len(w)) < 0.5


# ------------------------------------------------------------------ the Gauss-Newton matrix


@pytest.mark.parametrize("label", range(4))
def test_rows_of_cross_entropy_square_to_its_hessian_by_finite_differences(label):
    """With the identity for Jacobian they are the Hessian by the logits, which no label changes."""
    logits = np.array([0.5, -1.0, 2.0, 0.0])
    rows = curved.weighted_rows(logits, np.eye(4), "cross_entropy")
    step, steps = 1e-4, np.eye(4) * 1e-4
    by_differences = [
        [
            sum(a * b * softmax_loss(logits + a * one + b * other, label) for a in (1, -1) for b in (1, -1))
            / (4 * step**2)
            for other in steps
        ]
        for one in steps
    ]
    np.testing.assert_allclose(rows.T @ rows, by_differences, atol=1e-6)


def test_rows_square_to_the_jacobian_around_the_hessian_by_outputs():
    random = np.random.default_rng(0)
    logits, slopes = random.normal(size=3), random.normal(size=(3, 7))
    p = np.exp(logits) / np.exp(logits).sum()
    for loss, middle in (("cross_entropy", np.diag(p) - np.outer(p, p)), ("mse", 2 / 3 * np.eye(3))):
        rows = curved.weighted_rows(logits, slopes, loss)
        np.testing.assert_allclose(rows.T @ rows, slopes.T @ middle @ slopes, atol=1e-14)


def test_large_logits_do_not_overflow():
    rows = curved.weighted_rows(np.array([1e4, 0.0]), np.eye(2), "cross_entropy")
    assert np.array_equal(rows, np.zeros((2, 2)))


@pytest.mark.parametrize("examples", [1, 3, 700])
def test_matrix_and_diagonal_are_means_over_examples(examples):
    rows = np.random.default_rng(1).normal(size=(examples, 2, 5))
    mean = np.mean([one.T @ one for one in rows], axis=0)
    np.testing.assert_allclose(curved.gauss_newton(iter(rows), 5), mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(curved.diagonal(iter(rows), 5), np.diag(mean), rtol=1e-12)


# ------------------------------------------------------------------ the whole inverse


def test_the_inverse_is_one_and_the_matrix_stays():
    matrix, _ = spanning(30, 0)
    before = matrix.copy()
    inverse = curved.inverse(matrix, 0.1)
    np.testing.assert_allclose(inverse @ (matrix + 0.1 * np.eye(30)), np.eye(30), atol=1e-12)
    assert np.array_equal(inverse, inverse.T) and np.array_equal(matrix, before)


@pytest.mark.parametrize("flat", ["a dead input", "fewer examples than weights"])
def test_what_does_not_span_is_refused_unless_dampened(flat):
    matrix, _ = spanning(6, 0, examples=3 if flat.startswith("fewer") else None)
    if flat == "a dead input":
        matrix[2] = matrix[:, 2] = 0
    with pytest.raises(NnoptError) as error:
        curved.inverse(matrix, 0.0)
    assert str(error.value) == (
        "examples must span all weights for their curvature to have an inverse; received examples that leave "
        "directions flat, and dampening=0. Pass more examples, or a larger dampening."
    )
    assert np.isfinite(curved.inverse(matrix, 1e-5)).all()


@pytest.mark.parametrize("seed", range(30))
def test_two_inputs_that_are_one_are_refused_though_rounding_may_hide_it(seed):
    rows = np.random.default_rng(seed).normal(size=(20, 6))
    rows[:, 4] = 3 * rows[:, 1]
    with pytest.raises(NnoptError) as error:
        curved.inverse(rows.T @ rows / 20, 0.0)
    assert "must span all weights" in str(error.value)


# ------------------------------------------------------------------ surgery


def by_brute_force(w, matrix, group, quota):
    """Optimal brain surgery as its paper has it, with the inverse of what is left computed anew each time."""
    w, alive, quota, costs, order = w.copy(), list(range(len(w))), list(quota), [], []
    while sum(quota):
        inverse = np.linalg.inv(matrix[np.ix_(alive, alive)])
        cost = {q: w[q] ** 2 / (2 * inverse[i, i]) for i, q in enumerate(alive) if quota[group[q]]}
        q = min(cost, key=cost.get)
        i = alive.index(q)
        w[alive] -= w[q] / inverse[i, i] * inverse[:, i]
        w[q] = 0
        quota[group[q]] -= 1
        alive.remove(q)
        costs.append(cost[q])
        order.append(q)
    return w, order, costs


@given(size=st.integers(1, 20), seed=st.integers(0, 99), share=st.floats(0, 1), groups=st.integers(1, 3))
@settings(deadline=None)
def test_surgery_removes_as_one_would_with_a_new_inverse_each_time(size, seed, share, groups):
    matrix, w = spanning(size, seed)
    group = np.arange(size) % groups
    quota = (share * np.bincount(group, minlength=groups)).astype(int)
    mask, new, order, costs = curved.surgeon(w, matrix, 0.1, group, quota)
    w_expected, order_expected, costs_expected = by_brute_force(w, matrix + 0.1 * np.eye(size), group, quota)
    assert order.tolist() == order_expected
    np.testing.assert_allclose(costs, costs_expected, rtol=1e-8)
    np.testing.assert_allclose(new, w_expected, atol=1e-9)
    assert np.array_equal(np.flatnonzero(~mask), np.sort(order)) and not new[~mask].any()
    assert np.array_equal(np.bincount(group[~mask], minlength=groups), quota)


@pytest.mark.parametrize("removed", [1, 3, 40, 149, 150])
def test_costs_of_surgery_add_up_to_the_quadratic_form(removed):
    """Also over several of the products in which eliminations are gathered."""
    matrix, w = spanning(150, 5)
    before = matrix.copy()
    _, new, _, costs = curved.surgeon(w, matrix, 0.0, np.zeros(150, int), np.array([removed]))
    assert costs.sum() == pytest.approx(0.5 * (new - w) @ matrix @ (new - w), rel=1e-9)
    assert np.array_equal(matrix, before)


def test_of_equal_weights_the_last_goes_first():
    _, _, order, _ = curved.surgeon(np.ones(4), np.eye(4), 0.0, np.zeros(4, int), np.array([2]))
    assert order.tolist() == [3, 2]


# ------------------------------------------------------------------ Woodbury


@cases
@settings(deadline=None)
def test_woodburys_inverse_equals_the_dense_one(examples, sizes, dampening, block_size, seed):
    gradients, w, blocks, _ = drawn(examples, sizes, block_size, seed)
    dense = np.linalg.inv(fisher(gradients, blocks, dampening))
    scale = np.abs(dense).max()
    for block in blocks:
        inverse = curved.Woodbury(gradients[:, block], dampening)
        np.testing.assert_allclose(inverse.diagonal(), np.diag(dense)[block], atol=1e-9 * scale)
        np.testing.assert_allclose(inverse @ w[block], (dense @ w)[block], atol=1e-9 * scale * len(w))
        many = np.eye(len(w))[block][:, block]
        np.testing.assert_allclose(inverse @ many, dense[block, block], atol=1e-9 * scale)


def test_woodburys_diagonal_is_the_same_in_parts(monkeypatch):
    gradients = np.random.default_rng(0).normal(size=(3, 11))
    whole = curved.Woodbury(gradients, 0.1).diagonal()
    monkeypatch.setattr(curved, "_PART", 4)
    np.testing.assert_allclose(curved.Woodbury(gradients, 0.1).diagonal(), whole, rtol=1e-14)


@cases
@settings(deadline=None)
def test_what_is_kept_makes_up_for_what_goes_as_well_as_can_be(examples, sizes, dampening, block_size, seed):
    gradients, w, blocks, removed = drawn(examples, sizes, block_size, seed)
    before = gradients.copy()
    dense = fisher(gradients, blocks, dampening)
    new, cost = curved.fisher_update(w, gradients, blocks, dampening, removed)
    change = new - w
    assert not new[removed].any() and cost == pytest.approx(
        0.5 * change @ dense @ change, rel=1e-6, abs=1e-12
    )
    # The best there is: along what is kept the slope of the quadratic form is 0.
    np.testing.assert_allclose((dense @ change)[~removed], 0, atol=1e-8)
    together = curved.single_updates(w, gradients, blocks, dampening, removed) - w
    assert cost <= 0.5 * together @ dense @ together * (1 + 1e-6)
    assert np.array_equal(gradients, before)


@cases
@settings(deadline=None)
def test_one_weight_costs_what_its_score_says(examples, sizes, dampening, block_size, seed):
    gradients, w, blocks, _ = drawn(examples, sizes, block_size, seed)
    costs = curved.fisher_costs(w, gradients, blocks, dampening)
    dense = np.linalg.inv(fisher(gradients, blocks, dampening))
    np.testing.assert_allclose(costs, w**2 / (2 * np.diag(dense)), rtol=1e-5)
    one = np.arange(len(w)) == int(np.argmin(costs))
    new, cost = curved.fisher_update(w, gradients, blocks, dampening, one)
    assert cost == pytest.approx(costs[one][0], rel=1e-5)
    np.testing.assert_allclose(
        new, curved.single_updates(w, gradients, blocks, dampening, one), atol=1e-5 * np.abs(w).max()
    )


@given(sizes=st.lists(st.integers(0, 9), max_size=4), block_size=st.one_of(st.none(), st.integers(1, 12)))
def test_blocks_part_the_weights_and_cross_no_layer(sizes, block_size):
    blocks = curved.blocks_of(sizes, block_size)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(sum(sizes)))
    layer = np.repeat(np.arange(len(sizes)), sizes)
    for block in blocks:
        assert len(set(layer[block])) == 1
        assert block_size is None or block.stop - block.start <= block_size
