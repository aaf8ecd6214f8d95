from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.training.loop import EarlyStopping, batch_order, check_data, plan
from nnopt_lib.training.recipe import Training
from tests.networks import arrays


@given(st.integers(1, 200), st.integers(0, 9), st.integers(1, 9))
def test_an_order_visits_every_example_once_and_repeats(examples, seed, epoch):
    order = batch_order(examples, Training(), seed, epoch)
    assert sorted(order) == list(range(examples))
    assert np.array_equal(order, batch_order(examples, Training(), seed, epoch))
    assert np.array_equal(batch_order(examples, Training(shuffle=False), seed, epoch), np.arange(examples))


def test_orders_differ_between_seeds_and_epochs():
    orders = {tuple(batch_order(50, Training(), seed, epoch)) for seed in range(5) for epoch in range(1, 6)}
    assert len(orders) == 25


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 5))
def test_early_stopping_equals_a_slow_oracle(losses, patience):
    stopping, kept = EarlyStopping(patience), None
    for epoch, loss in enumerate(losses, 1):
        if stopping.better(loss):
            kept = epoch
        if stopping.done:
            break
    seen = losses[:epoch]
    assert kept == stopping.best_row == seen.index(min(seen)) + 1
    first_stop = next(
        (e for e in range(1, len(losses) + 1) if e - (losses[:e].index(min(losses[:e])) + 1) >= patience),
        len(losses),
    )
    assert epoch == first_stop


def test_without_patience_the_last_row_is_kept():
    stopping = EarlyStopping(None)
    assert all(stopping.better(loss) for loss in [1.0, 2.0, 3.0])
    assert (stopping.done, stopping.best_row) == (False, 3)


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.integers(1, 4),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 9),
)
def test_a_plan_equals_the_loop_over_epochs_and_batches(examples, batch_size, epochs, steps, every):
    training = Training(epochs=epochs, batch_size=batch_size, steps=steps, report_every=every)
    expected, number = [], 0
    for epoch in range(1, 10_000):
        if steps is None and epoch > epochs:
            break
        for first in range(0, examples, batch_size):
            number += 1
            ends = first + batch_size >= examples
            expected.append((epoch, number, first, ends if every is None else number % every == 0))
        if steps is not None and number >= steps:
            break
    expected = expected[:steps]
    expected[-1] = (*expected[-1][:3], True)  # the last step always gives a row
    made = [(step.epoch, step.number, step.part.start, step.report) for step in plan(examples, training)]
    assert made == expected
    order = np.arange(examples)
    first_epoch = [order[step.part] for step in plan(examples, training) if step.epoch == 1]
    assert np.array_equal(np.concatenate(first_epoch), order[: len(np.concatenate(first_epoch))])


def test_data_that_cannot_train_is_refused():
    good = arrays()

    def refusal(patience=None, **changes):
        with pytest.raises(NnoptError) as error:
            check_data(SimpleNamespace(**(vars(good) | changes)), Training(patience=patience))
        return str(error.value)

    assert (
        refusal(y_train=good.y_train[:-1])
        == "x_train and y_train must have equal lengths; received 90 and 89."
    )
    none = {"x_validation": good.x_validation[:0], "y_validation": good.y_validation[:0]}
    assert refusal(3, **none) == (
        "early stopping needs validation data; received none. Pass patience=None, or keep a validation set."
    )
    assert refusal(x_train=good.x_train[:0], y_train=good.y_train[:0]) == (
        "training needs at least one example; received none."
    )
