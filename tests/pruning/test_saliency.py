"""Saliency by gradients against independent ways to the same numbers; and pruning by it."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.saliency import SALIENCIES, grasp
from nnopt_lib.structure.classics import mlp
from tests.networks import networks

pytestmark = pytest.mark.torch


def examples(spec, count=9):
    random = np.random.default_rng(0)  # of its own: a test must not depend on which ones ran before
    x = random.normal(size=(count, *spec.input_shape)).astype(np.float32)
    outputs = spec.shapes[spec.output][0]
    return x, random.integers(0, outputs, count)


class Connections(nn.Module):
    """A perceptron of relu with a gate on every weight, as SNIP's authors define sensitivity."""

    def __init__(self, weights):
        super().__init__()
        self.weights = {name: torch.as_tensor(value).double() for name, value in weights.items()}
        self.gates = {
            n: torch.ones_like(w, requires_grad=True) for n, w in self.weights.items() if w.ndim > 1
        }

    def forward(self, x):
        for number in range(1, len(self.gates) + 1):
            kernel = self.weights[f"dense_{number}/kernel"] * self.gates[f"dense_{number}/kernel"]
            x = F.linear(x, kernel, self.weights[f"dense_{number}/bias"])
            x = F.relu(x) if number < len(self.gates) else x
        return x


def sensitivities(model, x, y, reduction="mean"):
    """d loss / d gate of every weight; of each example with reduction "none"."""
    gated = Connections(nnopt.get_weights(model))
    losses = F.cross_entropy(gated(torch.as_tensor(x).double()), torch.as_tensor(y), reduction=reduction)
    gates = list(gated.gates.values())
    rows = [torch.autograd.grad(loss, gates, retain_graph=True) for loss in losses.reshape(-1)]
    return {name: np.stack([row[i].numpy() for row in rows]) for i, name in enumerate(gated.gates)}


def test_snip_is_the_size_of_the_slope_by_a_gate_on_each_weight():
    model = nnopt.build(mlp((6, 5), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    expected = sensitivities(model, x, y)
    scores = nnopt.saliency(model, "snip", x, y, batch_size=4)
    assert list(scores) == list(expected)
    for name, score in scores.items():
        assert score == pytest.approx(np.abs(expected[name][0]), abs=1e-7)


def test_taylor_and_fisher_take_the_size_or_the_square_before_the_mean_over_examples():
    model = nnopt.build(mlp((6, 5), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    slopes = sensitivities(model, x, y, "none")
    taylor, fisher = (nnopt.saliency(model, score, x, y) for score in ("taylor", "fisher"))
    for name, single in slopes.items():  # by a gate: w dl/dw
        assert taylor[name] == pytest.approx(np.abs(single).mean(0), abs=1e-7)
        assert fisher[name] == pytest.approx(np.square(single).mean(0) / 2, abs=1e-7)


def test_taylor_is_what_a_small_change_of_a_weight_does_to_single_losses():
    model = nnopt.build(mlp((6,), inputs=4, outputs=3, activation="tanh"), seed=2).double()
    random = np.random.default_rng(1)
    x, y = random.normal(size=(9, 4)), random.integers(0, 3, 9)

    def losses(weights):
        moved = copy.deepcopy(model)
        nnopt.set_weights(moved, weights)
        return (
            F.cross_entropy(moved(torch.as_tensor(x)), torch.as_tensor(y), reduction="none").detach().numpy()
        )

    scores, weights = nnopt.saliency(model, "taylor", x, y), nnopt.get_weights(model)
    for name in scores:
        for place in np.ndindex(*scores[name].shape):
            sides = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                changed = {key: value.copy() for key, value in weights.items()}
                changed[name][place] *= factor
                sides.append(losses(changed))
            expected = np.abs(sides[0] - sides[1]).mean() / 2e-5
            assert scores[name][place] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_grasp_is_how_the_squared_gradient_changes_with_a_weight(temperature):
    model = nnopt.build(mlp((6,), inputs=4, outputs=3, activation="tanh"), seed=2).double()
    random = np.random.default_rng(1)
    x, y = torch.as_tensor(random.normal(size=(9, 4))), torch.as_tensor(random.integers(0, 3, 9))
    kernels = [model.dense_1.weight, model.dense_2.weight]

    def squared_gradient():
        slopes = torch.autograd.grad(F.cross_entropy(model(x) / temperature, y), kernels)
        return float(sum((slope**2).sum() for slope in slopes))

    scores = grasp(model, x.numpy(), y.numpy(), temperature=temperature)
    for kernel, score in zip(kernels, scores.values(), strict=True):
        for place in np.ndindex(*score.shape):
            before, sides = float(kernel[place].detach()), []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    kernel[place] = before + step
                sides.append(squared_gradient())
            with torch.no_grad():
                kernel[place] = before
            # d |g|^2 / dw = 2 (H g)
            expected = before * (sides[0] - sides[1]) / 4e-5
            assert score[place] == pytest.approx(expected, abs=1e-7 / temperature**2)


def test_grasp_has_its_authors_temperature_where_the_loss_is_cross_entropy():
    model = nnopt.build(mlp((6,), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    by_name = nnopt.saliency(model, "grasp", x, y)
    by_loss = grasp(model, x, y, loss=lambda outputs, labels: F.cross_entropy(outputs / 200, labels))
    assert all(score == pytest.approx(by_loss[name], rel=1e-3, abs=1e-9) for name, score in by_name.items())
    with pytest.raises(NnoptError) as error:
        grasp(model, x, y, temperature=0)
    assert str(error.value) == "temperature must be a finite number, above 0; received 0."


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_synflow_conserves_its_score_by_layer_and_by_unit(seed, widths):
    model = nnopt.build(mlp(widths, inputs=3, outputs=2), seed=seed)
    nnopt.prune(model, sparsity=0.3, score="random", seed=seed)  # whatever is left of the network
    scores = list(nnopt.saliency(model, "synflow").values())
    assert [one.sum() for one in scores] == pytest.approx([scores[0].sum()] * len(scores))
    for before, after in zip(scores, scores[1:], strict=False):
        assert before.sum(1) == pytest.approx(after.sum(0))  # into and out of each hidden unit


def test_synflow_conserves_its_score_around_convolutions_and_additions():
    spec = nnopt.resnet(1, (3, 4), input_shape=(1, 8, 8), outputs=3)
    scores = nnopt.saliency(nnopt.build(spec, seed=0), "synflow")
    first = next(iter(scores.values())).sum()  # all paths pass the first and the last layer
    assert list(scores.values())[-1].sum() == pytest.approx(first)
    assert all(one.sum() <= first * (1 + 1e-9) for one in scores.values())


def test_synflow_in_rounds_leaves_no_layer_empty_where_others_do():
    spec, least = mlp((30,) * 6, inputs=30, outputs=4), {}
    for score, rounds in (("magnitude", None), ("snip", None), ("synflow", 1), ("synflow", None)):
        model = nnopt.build(spec, seed=0)
        x, y = examples(spec, 40)
        masks = nnopt.prune(model, sparsity=0.997, score=score, x=x, y=y, rounds=rounds)
        least[score, rounds] = min(int(mask.sum()) for mask in masks.values())
        assert masks.removed == round(0.997 * masks.size)
    assert least["synflow", None] > 0
    assert least["snip", None] == least["magnitude", None] == least["synflow", 1] == 0


@settings(max_examples=15, deadline=None)
@given(spec=networks(), score=st.sampled_from(sorted(SALIENCIES)))
def test_any_described_network_is_scored_in_the_shapes_of_its_weights(spec, score):
    model = nnopt.build(spec, seed=0)
    names = nnopt.prunable(model)
    if not names:
        return
    x, y = examples(spec, 4)
    if len(spec.shapes[spec.output]) > 1:
        y = np.zeros((4, *spec.shapes[spec.output][1:]), int)
    before = nnopt.get_weights(model)
    scores = nnopt.saliency(model, score, x, y)
    assert {name: one.shape for name, one in scores.items()} == {name: before[name].shape for name in names}
    assert all(np.isfinite(one).all() for one in scores.values())
    assert all((one == before[name]).all() for name, one in nnopt.get_weights(model).items())


def test_pruning_by_name_equals_pruning_by_scores():
    model = nnopt.build(mlp((6, 5), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    for score in SALIENCIES:
        scores = nnopt.saliency(model, score, x, y)
        by_scores = nnopt.prune(copy.deepcopy(model), sparsity=0.5, score=scores)
        assert nnopt.prune(copy.deepcopy(model), sparsity=0.5, score=score, x=x, y=y, rounds=1) == by_scores


def test_rounds_score_what_is_left_and_meet_the_sparsity_exactly():
    model = nnopt.build(mlp((6, 5), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    by_hand, masks = copy.deepcopy(model), None
    for target in nnopt.schedules.exponential(0.8, 4):
        masks = nnopt.prune(by_hand, sparsity=target, score="snip", x=x, y=y, previous=masks)
    assert nnopt.prune(model, sparsity=0.8, score="snip", x=x, y=y, rounds=4) == masks
    assert masks.removed == round(0.8 * masks.size)
    more = nnopt.prune(model, sparsity=0.9, score="snip", x=x, y=y, rounds=3, previous=masks)
    assert all((~masks[name] <= ~more[name]).all() for name in masks)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"score": "snip"}, "score 'snip' needs examples x; received none."),
        (
            {"score": "taylor", "x": "x"},
            "score 'taylor' needs a label y for each of 9 examples; received none.",
        ),
        (
            {"score": "snip", "x": "x", "y": "y", "rounds": 0},
            "rounds must be a whole number, at least 1; received 0.",
        ),
        (
            {"score": {"dense_1/kernel": np.ones((6, 4))}, "rounds": 2},
            "rounds score anew, by a score that is named; received scores. Leave rounds out.",
        ),
        (
            {"score": "synflow", "rounds": 2, "granularity": "2:4", "sparsity": None},
            "rounds go to one sparsity of single weights; received rounds=2. Pass rounds=1.",
        ),
        (
            {"score": "snip", "x": "x", "y": "y", "names": ["dense_1/kernal"]},
            "the model has no weight 'dense_1/kernal'. Did you mean 'dense_1/kernel'?",
        ),
        (
            {"score": "fisher", "x": np.full((9, 4), np.nan, np.float32), "y": "y"},
            "the loss must be finite; received nan. Look for weights or inputs that are NaN or too large.",
        ),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(options, sentence):
    model = nnopt.build(mlp((6,), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    options = {
        name: {"x": x, "y": y}.get(value, value) if isinstance(value, str) else value
        for name, value in options.items()
    }
    before = nnopt.get_weights(model)
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, **{"sparsity": 0.5, **options})
    assert str(error.value) == sentence
    assert all((one == before[name]).all() for name, one in nnopt.get_weights(model).items())


def test_a_failure_in_a_later_round_gives_the_weights_back():
    model = nnopt.build(mlp((6,), inputs=4, outputs=3), seed=1)
    x, _ = examples(model.spec)
    before, calls = nnopt.get_weights(model), []

    def breaks_in_the_third(outputs, labels):
        calls.append(1)
        return outputs.square().mean() if len(calls) < 3 else outputs.sum() * float("nan")

    with pytest.raises(NnoptError, match="the loss must be finite"):
        nnopt.prune(model, sparsity=0.8, score="snip", x=x, loss=breaks_in_the_third, rounds=5)
    assert len(calls) == 3 and all(
        (one == before[name]).all() for name, one in nnopt.get_weights(model).items()
    )


def test_scores_of_another_model_are_refused():
    model, other = (nnopt.build(mlp((width,), inputs=4, outputs=3)) for width in (6, 7))
    x, y = examples(model.spec)
    with pytest.raises(
        NnoptError, match=r"dense_1/kernel.*\(6, 4\).*\(7, 4\)|dense_1/kernel.*\(7, 4\).*\(6, 4\)"
    ):
        nnopt.prune(model, sparsity=0.5, score=nnopt.saliency(other, "snip", x, y))


def test_nodes_are_pruned_by_data_in_one_call():
    model = nnopt.build(mlp((6, 5), inputs=4, outputs=3), seed=1)
    x, y = examples(model.spec)
    by_scores = nnopt.importance(model, "taylor", x, y)
    expected = nnopt.prune(copy.deepcopy(model), sparsity=0.5, granularity="node", score=by_scores)
    got = nnopt.prune(model, sparsity=0.5, granularity="node", score="taylor", x=x, y=y)
    assert got == expected and got.sparsity == expected.sparsity


def test_a_weight_of_zero_has_no_saliency():
    model = nnopt.build(mlp((6,), inputs=4, outputs=3), seed=1)
    weights = nnopt.get_weights(model)
    weights["dense_1/kernel"][2] = 0
    nnopt.set_weights(model, weights)
    x, y = examples(model.spec)
    for score in SALIENCIES:
        layer = nnopt.saliency(model, score, x, y)["dense_1/kernel"]
        assert not layer[2].any() and layer[0].any()
