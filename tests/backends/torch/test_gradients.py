"""Gradients of any PyTorch module, against differences, torch.func and enumerated paths; it stays as it was."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.backends.torch import gradients
from nnopt_lib.checks import NnoptError
from tests.pruning.torch_models import Tied

pytestmark = pytest.mark.torch

RANDOM = np.random.default_rng(0)
OPTIONS = {"loss": "cross_entropy", "batch_size": 4}


class Gated(nn.Module):
    """Convolutions, a normalization, dropout, an addition and two arguments: nothing that `build` makes."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 5, 3, padding=1), nn.BatchNorm1d(5)
        self.second, self.drop = nn.Conv1d(5, 5, 3, padding=1, bias=False), nn.Dropout(0.5)
        self.gate, self.out = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, signal, extra):
        hidden = torch.tanh(self.norm(self.first(signal)))
        hidden = hidden + self.second(self.drop(hidden))
        return self.out(hidden.mean(2) * torch.sigmoid(self.gate(extra)))


def gated():
    torch.manual_seed(0)
    model = Gated().double()
    with torch.no_grad():  # statistics that differ from those of any batch
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    x = (RANDOM.normal(size=(10, 2, 6)), RANDOM.normal(size=(10, 3)))
    return model, x, RANDOM.integers(0, 4, 10)


def loss_of(model, x, y):
    """By torch itself, in evaluation mode."""
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(*map(torch.as_tensor, x)), torch.as_tensor(y)))


def by_differences(model, name, value):
    """The slope of value() by every number of one weight."""
    tensor = dict(model.named_parameters())[name]
    slopes = np.zeros(tensor.shape)
    for place in np.ndindex(*tensor.shape):
        with torch.no_grad():
            before, sides = float(tensor[place]), []
            for step in (1e-5, -1e-5):
                tensor[place] = before + step
                sides.append(value())
            tensor[place] = before
        slopes[place] = (sides[0] - sides[1]) / 2e-5
    return slopes


def state_of(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    return tensors, modes, [(p.requires_grad, p.grad) for p in model.parameters()]


def assert_same_state(before, after):
    assert before[1:] == after[1:]
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])


def test_the_mean_gradient_is_what_differences_say_whatever_the_batches():
    model, x, y = gated()
    names = nnopt.prunable(model)
    assert names == ["first/kernel", "second/kernel", "gate/kernel", "out/kernel"]
    loss, slopes = gradients.mean(model, names, x, y, **OPTIONS)
    assert loss == pytest.approx(loss_of(model, x, y))
    for name in names:
        expected = by_differences(model, name.replace("/kernel", ".weight"), lambda: loss_of(model, x, y))
        assert slopes[name] == pytest.approx(expected, abs=1e-8)
    named = {"signal": x[0], "extra": x[1]}
    for other, size in ((named, 10), (x, 3)):
        again = gradients.mean(model, names, other, y, loss="cross_entropy", batch_size=size)[1]
        assert all(again[name] == pytest.approx(slopes[name], abs=1e-12) for name in names)


def test_single_examples_and_jacobians_add_up_to_the_mean_gradient():
    model, x, y = gated()
    names = nnopt.prunable(model)
    _, slopes = gradients.mean(model, names, x, y, **OPTIONS)
    singles = list(gradients.each(model, names, x, y, loss="cross_entropy"))
    jacobians = list(gradients.jacobians(model, names, x))
    assert len(singles) == len(jacobians) == 10
    for name in names:
        assert np.mean([one[name] for one in singles], 0) == pytest.approx(slopes[name], abs=1e-12)
    for (outputs, rows), single, label in zip(jacobians, singles, y, strict=True):
        residual = np.exp(outputs) / np.exp(outputs).sum() - np.eye(4)[label]  # d loss / d outputs
        for name in names:
            chained = np.tensordot(residual, rows[name], 1)
            assert chained == pytest.approx(single[name], abs=1e-12)


def encoder():
    """Attention, whose fused kernels have no second derivative."""
    torch.manual_seed(1)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    return model, RANDOM.normal(size=(3, 5, 8)), RANDOM.integers(0, 8, (3, 5))


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("make", [gated, encoder])
def test_a_hessian_product_is_the_slope_of_gradients(make, statistics):
    model, x, y = make()
    names, options = nnopt.prunable(model), {**OPTIONS, "batch_statistics": statistics}
    vector = {name: RANDOM.normal(size=one.shape) for name, one in nnopt.get_weights(model).items()}
    product = gradients.hessian_product(model, names, x, y, vector, **options)
    moved, sides = copy.deepcopy(model), []
    for step in (1e-5, -1e-5):
        weights = nnopt.get_weights(model)
        nnopt.set_weights(moved, weights | {name: weights[name] + step * vector[name] for name in names})
        sides.append(gradients.mean(moved, names, x, y, **options)[1])
    for name in names:
        expected = (sides[0][name] - sides[1][name]) / 2e-5
        assert abs(expected).max() > 1e-3 and product[name] == pytest.approx(expected, abs=1e-6)


def test_statistics_of_batches_are_those_of_training_and_none_stays():
    model, x, y = gated()
    model.drop.p = 0.0
    trained = copy.deepcopy(model).train()
    F.cross_entropy(trained(*map(torch.as_tensor, x)), torch.as_tensor(y)).backward()
    model.drop.p = 0.5  # must play no part
    before = state_of(model)
    _, slopes = gradients.mean(
        model, ["first/kernel"], x, y, loss="cross_entropy", batch_size=10, batch_statistics=True
    )
    assert slopes["first/kernel"] == pytest.approx(trained.first.weight.grad.numpy(), abs=1e-12)
    assert_same_state(before, state_of(model))


def test_the_model_stays_as_it_was_also_after_a_refusal():
    model, x, y = gated()
    model.gate.weight.requires_grad_(False)
    model.norm.eval()
    model.out.bias.grad = torch.ones_like(model.out.bias)
    before = state_of(model)
    names = ["first/kernel", "gate/kernel"]
    _, slopes = gradients.mean(model, names, x, y, **OPTIONS)
    assert abs(slopes["gate/kernel"]).max() > 0  # frozen, and asked by name
    list(gradients.each(model, names, x, y, loss="cross_entropy"))
    list(gradients.jacobians(model, names, x))
    gradients.hessian_product(model, names, x, y, slopes, **OPTIONS)
    gradients.path_scores(model, names, x)
    broken = (np.full_like(x[0], np.nan), x[1])
    with pytest.raises(NnoptError, match="the loss must be finite; received nan"):
        gradients.mean(model, names, broken, y, **OPTIONS)
    assert_same_state(before, state_of(model))


def test_gradients_that_are_not_finite_are_refused_with_their_layer():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))

    def rooted(outputs, labels):
        return torch.sqrt((outputs[:, 0] - outputs[:, 0].detach()).abs()).sum()  # 0, with an infinite slope

    sentence = "gradients must be finite, and in layer '0' they are not; received 6 of 6 that are not."
    with pytest.raises(NnoptError) as error:
        gradients.mean(
            model, ["0/kernel", "1/kernel"], np.ones((1, 2), np.float32), None, loss=rooted, batch_size=1
        )
    assert str(error.value) == sentence


def test_losses_fit_positions_and_classes_on_either_axis():
    torch.manual_seed(0)
    tokens = nn.Linear(4, 3)  # (examples, positions, classes)
    image = nn.Conv1d(4, 3, 1)  # (examples, classes, positions)
    image.weight.data, image.bias.data = tokens.weight.data[:, :, None].clone(), tokens.bias.data.clone()
    x, y = RANDOM.normal(size=(5, 7, 4)).astype(np.float32), RANDOM.integers(0, 3, (5, 7))
    loss, slopes = gradients.mean(tokens, ["kernel"], x, y, **OPTIONS)
    other, moved = gradients.mean(image, ["kernel"], np.moveaxis(x, 2, 1), y, **OPTIONS)
    assert loss == pytest.approx(other) and slopes["kernel"] == pytest.approx(
        moved["kernel"][:, :, 0], abs=1e-7
    )
    with pytest.raises(NnoptError) as error:
        gradients.mean(tokens, ["kernel"], x, y[:, 0], **OPTIONS)
    assert str(error.value) == (
        "labels must be integers of the shape of the outputs without the axis of classes; received outputs"
        " (1, 7, 3) and labels (1,). Pass a function of outputs and labels as loss for anything else."
    )


def test_a_model_that_gives_more_than_a_tensor_needs_a_loss_of_its_own():
    class Several(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    torch.manual_seed(0)
    model, x, y = Several(3, 2), np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    with pytest.raises(NnoptError, match="a model must give one tensor of outputs here; received dict"):
        gradients.mean(model, ["kernel"], x, y, **OPTIONS)
    own = gradients.mean(
        model,
        ["kernel"],
        x,
        y,
        batch_size=2,
        loss=lambda outputs, labels: F.cross_entropy(outputs["logits"], labels),
    )
    plain = nn.Linear(3, 2)
    plain.load_state_dict(model.state_dict())
    same = gradients.mean(plain, ["kernel"], x, y, **OPTIONS)
    assert own[0] == pytest.approx(same[0]) and own[1]["kernel"] == pytest.approx(same[1]["kernel"])


def test_names_are_those_of_the_module_inside_a_wrapper():
    model = nn.Sequential(nn.Linear(3, 2))
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    inside = gradients.mean(model, ["0/kernel"], x, y, **OPTIONS)[1]["0/kernel"]
    wrapped = gradients.mean(torch.optim.swa_utils.AveragedModel(model), ["0/kernel"], x, y, **OPTIONS)
    assert wrapped[1]["0/kernel"] == pytest.approx(inside)


def test_words_that_occur_not_at_all_have_no_gradient():
    torch.manual_seed(0)
    model, words = Tied(), np.array([[1, 2, 3], [4, 5, 6]])
    model.out.weight = nn.Parameter(model.embedding.weight.detach().clone())
    _, slopes = gradients.mean(model, ["embedding/kernel"], words, np.array([0, 1]), **OPTIONS)
    assert (slopes["embedding/kernel"][7:] == 0).all() and abs(slopes["embedding/kernel"][1:7]).min() > 0


# ---------------------------------------------------------------- SynFlow


def paths_through(weights, layer, row, column):
    """The sum over all paths of a perceptron through one weight of the products of absolute weights."""
    kernels = [np.abs(weights[f"dense_{number}/kernel"]) for number in (1, 2, 3)]
    ranges = [range(kernels[0].shape[1]), *(range(kernel.shape[0]) for kernel in kernels)]
    total = 0.0
    for nodes in itertools.product(*ranges):
        if (nodes[layer + 1], nodes[layer]) == (row, column):
            total += np.prod([k[nodes[i + 1], nodes[i]] for i, k in enumerate(kernels)])
    return total


def test_synflow_is_the_sum_over_all_paths_whatever_the_biases():
    model = nnopt.build(nnopt.mlp((3, 4), inputs=2, outputs=2), seed=3)
    weights = nnopt.get_weights(model)
    weights |= {name: value + 1 for name, value in weights.items() if name.endswith("bias")}
    nnopt.set_weights(model, weights)
    scores = gradients.path_scores(model, nnopt.prunable(model), None)
    for layer in range(3):
        score = scores[f"dense_{layer + 1}/kernel"]
        for row, column in np.ndindex(*score.shape):
            assert score[row, column] == pytest.approx(paths_through(weights, layer, row, column))


def test_synflow_runs_where_double_precision_alone_would_overflow_or_vanish():
    for factor in (1e3, 1e-4):
        model = nnopt.build(nnopt.mlp((16,) * 150, inputs=4, outputs=2), seed=0)
        weights = nnopt.get_weights(model)
        nnopt.set_weights(model, {name: factor * value for name, value in weights.items()})
        sums = [one.sum() for one in gradients.path_scores(model, nnopt.prunable(model), None).values()]
        assert sums[0] > 0 and sums == pytest.approx([sums[0]] * 151, rel=1e-9)


def test_synflow_of_a_network_that_is_cut_through_is_zero():
    model = nnopt.build(nnopt.mlp((3,), inputs=2, outputs=2), seed=3)
    nnopt.set_weights(model, nnopt.get_weights(model) | {"dense_1/kernel": np.zeros((3, 2), np.float32)})
    assert not any(one.any() for one in gradients.path_scores(model, nnopt.prunable(model), None).values())


def test_synflow_asks_for_the_shape_of_inputs_that_it_cannot_know():
    with pytest.raises(NnoptError) as error:
        gradients.path_scores(nn.Linear(3, 2), ["kernel"], None)
    assert str(error.value) == (
        "SynFlow needs the shape of the inputs of a model that build did not make; received no examples."
        " Pass a batch as x; its numbers play no part."
    )
    scores = [gradients.path_scores(nn.Linear(3, 2), ["kernel"], x * np.ones((5, 3))) for x in (0.0, 7.0)]
    assert all(one["kernel"].min() > 0 for one in scores)


@pytest.mark.parametrize("call", ["mean", "each", "jacobians", "path_scores"])
def test_inputs_that_the_model_cannot_read_are_refused(call):
    model, x, y = nn.Linear(3, 2), np.ones((4, 5), np.float32), np.zeros(4, int)
    with pytest.raises(NnoptError) as error:
        if call == "mean":
            gradients.mean(model, ["kernel"], x, y, **OPTIONS)
        elif call == "each":
            next(gradients.each(model, ["kernel"], x, y, loss="cross_entropy"))
        else:
            list(getattr(gradients, call)(model, ["kernel"], x))
    assert str(error.value) == (
        "Linear must run on the examples x; received RuntimeError: mat1 and mat2 shapes cannot be multiplied"
        " (1x5 and 3x2). Pass what it reads: an array, or a tuple or dict of arrays for several arguments."
    )


def test_numbers_in_double_precision_are_read_as_the_model_computes():
    model, x, y = nn.Linear(3, 2), RANDOM.normal(size=(4, 3)), np.array([0, 1, 0, 1])
    double, single = (
        gradients.mean(model, ["kernel"], x.astype(kind), y, **OPTIONS) for kind in (np.float64, np.float32)
    )
    assert double[0] == single[0] and (double[1]["kernel"] == single[1]["kernel"]).all()
