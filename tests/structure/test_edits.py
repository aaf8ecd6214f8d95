"""Edits keep the function when weights are carried over, in both frameworks, on random graphs."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.edited import (
    GRAPHS,
    assert_same_function,
    drawn_weights,
    random_edit,
)
from tests.networks import examples_in_keras, parameter_count


@pytest.mark.torch
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_edits_in_a_row_keep_the_function_on_200_random_graphs(data):
    spec = data.draw(GRAPHS)
    weights = drawn_weights(spec)
    kept = {name: value.copy() for name, value in weights.items()}
    now, edits = (spec, weights), 0
    for _ in range(3):
        edited = random_edit(data.draw, *now)
        if edited is not None:
            now, edits = edited, edits + 1
    assume(edits)
    assert parameter_count(now[0]) > parameter_count(spec)
    assert_same_function((spec, weights), now)
    assert all(np.array_equal(weights[name], kept[name]) for name in kept)


@pytest.mark.keras
@given(st.data())
@settings(max_examples=examples_in_keras(200), deadline=None)
def test_edits_in_a_row_keep_the_function_in_keras_on_random_graphs(data):
    spec = data.draw(GRAPHS)
    now, edits = (spec, drawn_weights(spec)), 0
    for _ in range(3):
        edited = random_edit(data.draw, *now)
        if edited is not None:
            now, edits = edited, edits + 1
    assume(edits)
    assert_same_function((spec, drawn_weights(spec)), now, ["keras"])
