"""Saliency scores: what they are, that they are lazy, deterministic, and change nothing."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib import scores
from nnopt_lib.checks import NnoptError

KINDS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


class Watched(Mapping):
    """Weights that count how often they are read."""

    def __init__(self, arrays):
        self.arrays, self.reads = arrays, []

    def __getitem__(self, name):
        self.reads.append(name)
        return self.arrays[name]

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_magnitude_is_the_absolute_value(kind):
    weights = {"b": np.array([[-2.0, 1.5], [-0.0, np.inf]], kind), "a": np.array([-np.inf, 0.25], kind)}
    before = {name: array.copy() for name, array in weights.items()}
    made = scores.magnitude(weights)
    assert list(made) == ["b", "a"] and len(made) == 2  # the order decides ties
    assert made["b"].tolist() == [[2.0, 1.5], [0.0, np.inf]] and made["a"].tolist() == [np.inf, 0.25]
    assert all(array.tobytes() == before[name].tobytes() for name, array in weights.items())


def test_magnitude_reads_a_layer_when_it_is_asked_for():
    watched = Watched({"a": np.ones(3), "b": np.ones(4)})
    made = scores.magnitude(watched)
    assert list(made) == ["a", "b"] and watched.reads == []
    assert made["b"].shape == (4,) and watched.reads == ["b"]


def test_magnitude_of_weights_follows_them():
    """Nothing is stored: scores read after an update are those of the update."""
    weights = {"a": np.array([1.0, -2.0])}
    made = scores.magnitude(weights)
    weights["a"][0] = -5
    assert made["a"].tolist() == [5.0, 2.0]


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_random_scores_depend_on_the_seed_and_on_nothing_else(seed, other):
    weights = {"a": np.zeros((3, 4)), "b": np.ones((3, 4), np.float32)}
    first, second = scores.random(weights, seed=seed), scores.random(weights, seed=seed)
    assert all(np.array_equal(first[name], second[name]) for name in weights)
    changed = scores.random({name: array + 7 for name, array in weights.items()}, seed=seed)
    assert all(np.array_equal(first[name], changed[name]) for name in weights)
    assert not np.array_equal(first["a"], first["b"])
    if seed != other:
        assert not np.array_equal(first["a"], scores.random(weights, seed=other)["a"])


def test_random_scores_are_uniform():
    drawn = scores.random({"a": np.zeros((100, 1000))}, seed=3)["a"]
    assert drawn.shape == (100, 1000) and drawn.min() >= 0 and drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert abs(counts - 10_000).max() < 500  # five standard deviations


def test_random_leaves_numpys_own_generator_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    scores.random({"a": np.zeros(5)}, seed=1)
    assert np.random.random() == expected


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(NnoptError) as error:
        scores.random({"a": np.zeros(5)}, seed=seed)
    assert str(error.value) == f"seed must be a whole number, at least 0; received {seed!r}."


def test_scores_are_listed_by_name():
    assert {"magnitude": scores.magnitude, "random": scores.random}.items() <= scores.SCORES.items()
