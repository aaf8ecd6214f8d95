import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.examples import (
    batches_of,
    check_examples,
    check_finite,
    check_labels,
    check_loss,
    class_axis,
    count_of,
)

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x, 10 * x), lambda x: {"a": x, "b": 10 * x}])
def test_batches_hold_every_example_once_in_the_form_of_the_inputs(form):
    parts = list(batches_of(form(X), Y, 2))
    assert [count for _, _, count in parts] == [2, 2, 1] and count_of(form(X)) == 5
    assert all(type(x) is type(form(X)) for x, _, _ in parts)
    first = [x if isinstance(x, np.ndarray) else x["a"] if isinstance(x, dict) else x[0] for x, _, _ in parts]
    assert (np.concatenate(first) == X).all() and (np.concatenate([y for _, y, _ in parts]) == Y).all()
    assert [y for _, y, _ in batches_of(form(X), None, 5)] == [None]


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: check_examples("it", None), "it needs examples x; received none."),
        (lambda: check_examples("it", X[:0]), "it needs examples x; received none."),
        (
            lambda: check_examples("it", X, labels=True),
            "it needs a label y for each of 5 examples; received none.",
        ),
        (
            lambda: check_examples("it", X, Y[:3], labels=True),
            "it needs a label y for each of 5 examples; received 3.",
        ),
        (
            lambda: count_of((X, X[:2])),
            "inputs of several arguments must have equal numbers of examples; received [2, 5].",
        ),
        (
            lambda: check_loss("it", X, Y, "mae"),
            "loss must be one of cross_entropy, mse; received 'mae'. Did you mean 'mse'?",
        ),
        (
            lambda: check_loss("it", X, None, "mse"),
            "it needs a label y for each of 5 examples; received none.",
        ),
        (
            lambda: check_loss("it", X, Y[:2], lambda o, y: 0),
            "it needs a label y for each of 5 examples; received 2.",
        ),
        (
            lambda: check_finite(float("inf"), {}),
            "the loss must be finite; received inf. Look for weights or inputs that are NaN or too large.",
        ),
        (
            lambda: check_finite(1.0, {"a/kernel": np.ones(2), "b/c/kernel": np.array([1, np.nan, np.inf])}),
            "gradients must be finite, and in layer 'b/c' they are not; received 2 of 3 that are not.",
        ),
    ],
)
def test_what_is_missing_or_broken_is_refused(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "loss, outputs, y, sentence",
    [
        ("cross_entropy", (1, 3), Y % 3 + 1, "labels must be from 0 to 2, for 3 outputs; received 1 to 3."),
        ("cross_entropy", (1, 3), Y % 3 - 1.0, "labels must be integers; received type float64."),
        (
            "cross_entropy",
            (1, 1),
            Y % 2,
            "labels must be from 0 to 0, for 1 outputs; received 0 to 1. For one output and labels 0 and 1 pass a"
            " loss of your own.",
        ),
        (
            "mse",
            (1, 3),
            X,
            "labels for 'mse' must be as many numbers as there are outputs; received outputs (1, 3) and labels (1, 2).",
        ),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(loss, outputs, y, sentence):
    with pytest.raises(NnoptError) as error:
        check_labels(loss, outputs, y)
    assert str(error.value) == sentence
    check_labels("cross_entropy", (1, 6), Y)
    check_labels("mse", (1, 1), Y)


def test_a_loss_of_ones_own_may_go_without_labels():
    check_loss("it", X, None, lambda outputs, labels: outputs.sum())
    assert (
        class_axis((5, 3), (5,)) == 1
        and class_axis((5, 7, 3), (5, 7)) == 2
        and class_axis((5, 3, 7), (5, 7)) == 1
    )
