"""Each row changes one layer, by what the methods themselves give; the model stays bit for bit as it was."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.compression import quantize, sensitivity
from tests.edited import CNN, drawn_weights, outputs

FRAMEWORKS = [
    pytest.param("torch", marks=pytest.mark.torch),
    pytest.param("keras", marks=pytest.mark.keras),
]
LAYERS = ["conv1d_1", "conv1d_2", "dense_1"]


def model_of(framework):
    """A convolutional network of which nothing is 0 or 1, and its weights."""
    model, weights = nnopt.build(CNN, framework), drawn_weights(CNN)
    nnopt.set_weights(model, weights)
    return model, weights


def seen_by(model, **options):
    """Rows of a scan, and the weights that the score saw at each of them."""
    seen = []

    def score(model):
        seen.append(nnopt.get_weights(model))
        return len(seen)

    return sensitivity(model, score, **options), seen


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_row_changes_one_layer_and_the_model_stays_bit_for_bit(framework):
    model, weights = model_of(framework)
    before = nnopt.get_weights(model)
    rows, seen = seen_by(model)
    after = nnopt.get_weights(model)
    assert all(before[name].tobytes() == after[name].tobytes() == weights[name].tobytes() for name in weights)
    assert [row["layer"] for row in rows] == [layer for layer in LAYERS for _ in range(11)]
    assert [row["score"] for row in rows] == list(range(1, 34))
    for row, then in zip(rows, seen, strict=True):
        changed = [name for name in weights if not np.array_equal(then[name], weights[name])]
        assert changed == [f"{row['layer']}/kernel"], row


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_changes_are_those_of_the_methods_alone(framework):
    model, weights = model_of(framework)
    methods = {"pruned": [0.5], "quantized": [3], "factorized": [0.5]}
    rows, seen = seen_by(model, methods=methods, names=["conv1d_2/kernel"])
    assert [(row["method"], row["amount"]) for row in rows] == [
        ("pruned", 0.5),
        ("quantized", 3),
        ("factorized", 0.5),
    ]
    kernel = weights["conv1d_2/kernel"]
    pruned, quantized, factorized = (then["conv1d_2/kernel"] for then in seen)
    smallest = np.sort(np.abs(kernel).ravel())[kernel.size // 2]
    np.testing.assert_array_equal(pruned, np.where(np.abs(kernel) < smallest, 0, kernel))
    np.testing.assert_array_equal(quantized, quantize(kernel, bits=3, per="row").dequantize())
    ranks = [
        np.linalg.matrix_rank(np.moveaxis(factorized, axis, 0).reshape(4, -1), tol=1e-5) for axis in (0, 1)
    ]
    assert ranks == [2, 2]


@pytest.mark.torch
def test_a_factorized_layer_scores_what_the_factorized_network_scores():
    model, weights = model_of("torch")
    x = np.random.default_rng(0).normal(size=(4, *CNN.input_shape)).astype(np.float32)
    (row,) = sensitivity(
        model,
        lambda model: nnopt.predict(model, x)[0, 0],
        methods={"factorized": [0.5]},
        names=["conv1d_2/kernel"],
    )
    smaller = nnopt.factorize(CNN, "conv1d_2", rank=(2, 2), weights=weights)
    assert row["score"] == pytest.approx(float(outputs(*smaller)[0, 0]), abs=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_after_an_error_the_model_is_as_it_was(framework):
    model, weights = model_of(framework)

    def failing(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, failing)
    after = nnopt.get_weights(model)
    assert all(after[name].tobytes() == weights[name].tobytes() for name in weights)


@pytest.mark.torch
def test_a_module_of_ones_own_in_half_precision_with_running_statistics_stays_too():
    import torch

    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, groups=2),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 9, 3),
    ).to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def score(model):  # in training mode, so that running statistics move
        return model(torch.ones(2, 2, 5, 5, dtype=torch.bfloat16)).sum().item()

    rows = sensitivity(model, score, methods={"quantized": [4], "factorized": [0.01]})
    assert [row["layer"] for row in rows] == ["0", "0", "3", "3"]
    after = model.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["1.num_batches_tracked"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"methods": {"prune": [0.5]}},
            "each of methods must be one of pruned, quantized, factorized; received 'prune'. Did you mean 'pruned'?",
        ),
        (
            {"methods": {"pruned": [1.0]}},
            "a sparsity must be at least 0 and below 1; received 1.",
        ),
        (
            {"methods": {"quantized": [9]}},
            "bits must be a whole number, from 2 to 8; received 9.",
        ),
        (
            {"methods": {"factorized": [0]}},
            "a fraction of the full rank must be a finite number, above 0; received 0.",
        ),
        (
            {"methods": {"factorized": [2]}},
            "a fraction of the full rank must be at most 1; received 2.",
        ),
        ({"methods": {"pruned": []}}, "methods must have at least one amount; received none."),
        (
            {"names": ["dense_1/kernal"]},
            "the model has no weight 'dense_1/kernal'. Did you mean 'dense_1/kernel'?",
        ),
        (
            {"names": ["dense_1/bias"]},
            "a kernel to factorize needs outputs and inputs; 'dense_1/bias'; received shape (2,).",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(options, sentence):
    called = []
    with pytest.raises(NnoptError) as error:
        sensitivity(model_of("torch")[0], called.append, **options)
    assert str(error.value) == sentence
    assert called == []


@pytest.mark.torch
def test_a_score_that_is_no_number_and_weights_that_are_not_finite_are_refused():
    model, weights = model_of("torch")
    with pytest.raises(NnoptError) as error:
        sensitivity(model, lambda model: {"accuracy": 1})
    assert str(error.value) == "score must give one number; received dict."
    weights["dense_1/kernel"][0, 0] = np.inf
    nnopt.set_weights(model, weights)
    with pytest.raises(NnoptError) as error:
        sensitivity(model, lambda model: 1)
    assert str(error.value) == "weights to scan must be finite; 'dense_1/kernel'; received NaN or infinity."


@pytest.mark.torch
def test_a_vector_that_is_named_can_be_pruned_and_goes_by_its_whole_name():
    rows, seen = seen_by(model_of("torch")[0], methods={"pruned": [0.5]}, names=["dense_1/bias"])
    assert [row["layer"] for row in rows] == ["dense_1/bias"]
    assert (seen[0]["dense_1/bias"] == 0).tolist().count(True) == 1
