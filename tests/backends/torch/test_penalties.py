"""Penalties in PyTorch: values and gradients against formulas, thresholds against brute force, gates by chance."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib import penalties
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.penalties import BETA, GAMMA, KINDS, ZETA, Penalty
from tests.networks import arrays

pytestmark = pytest.mark.torch
SPEC = nnopt.mlp((7, 5), inputs=12, outputs=4, activation="tanh")
RECIPE = nnopt.Training(epochs=4, batch_size=16, learning_rate=0.1, momentum=0.5)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(15, 4))


def kernels(model):
    return [layer.weight for layer in model if isinstance(layer, (nn.Conv1d, nn.Linear))]


# ---------------------------------------------------------------- values and gradients


def by_hand(kind, arrays):
    if kind == "l1":
        return sum(abs(a).sum() for a in arrays)
    if kind == "l2":
        return sum((a**2).sum() for a in arrays)
    return sum(math.sqrt(row.size) * math.sqrt((row**2).sum()) for a in arrays for row in a)


@pytest.mark.parametrize("kind", ["l1", "l2", "group_lasso"])
def test_totals_equal_the_formula_and_leave_out_biases_and_normalization(kind):
    model = convolutional()
    arrays_of_kernels = [kernel.detach().double().numpy() for kernel in kernels(model)]
    assert getattr(penalties, kind)(model).item() == pytest.approx(by_hand(kind, arrays_of_kernels), rel=1e-5)


def test_slimming_is_the_l1_of_scales_and_nothing_else_gets_a_gradient():
    model = convolutional()
    model[1].weight.data = torch.tensor([-2.0, 0.5, 1.0])
    total = penalties.slimming(model)
    total.backward()
    assert total.item() == 3.5 and model[1].weight.grad.tolist() == [-1, 1, 1]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["1.weight"]
    with pytest.raises(NnoptError) as error:
        penalties.slimming(nn.Linear(2, 2))
    assert str(error.value) == (
        "penalty 'slimming' needs a trainable scale of a batch normalization; received none."
    )


@pytest.mark.parametrize("kind", ["l1", "l2", "group_lasso"])
def test_gradients_equal_finite_differences(kind):
    model = convolutional().double()
    getattr(penalties, kind)(model).backward()
    for kernel in kernels(model):
        for index in ((0, 0), (2, 1)):
            with torch.no_grad():
                values = []
                for step in (1e-6, -2e-6):
                    kernel[index].view(-1)[0] += step
                    values.append(getattr(penalties, kind)(model).item())
                kernel[index].view(-1)[0] += 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert kernel.grad[index].view(-1)[0].item() == pytest.approx(slope, rel=1e-5)
    assert model[3].bias.grad is None


def test_group_lasso_has_a_gradient_where_a_node_has_no_weight_left():
    model = convolutional()
    model[3].weight.data[1] = 0
    penalties.group_lasso(model).backward()
    assert torch.isfinite(model[3].weight.grad).all() and not model[3].weight.grad[1].any()


# ---------------------------------------------------------------- thresholds


def test_soft_threshold_minimizes_its_objective():
    """(v - w)^2 / 2 + amount |v| over a fine grid of v."""
    model, amount = convolutional(), 0.07
    before = [kernel.detach().clone() for kernel in kernels(model)]
    penalties.soft_threshold(model, amount)
    grid = np.linspace(-1, 1, 200_001)
    zeros = 0
    for old, new in zip(before, kernels(model), strict=True):
        for w, v in zip(old.flatten()[:20].tolist(), new.flatten()[:20].tolist(), strict=True):
            best = grid[np.argmin((grid - w) ** 2 / 2 + amount * abs(grid))]
            assert v == pytest.approx(best, abs=2e-5)
            zeros += v == 0
    assert zeros > 0


def test_group_soft_threshold_minimizes_its_objective():
    """|v - w|^2 / 2 + amount sqrt(n) |v|: the best v is a multiple of w, so a grid of factors will do."""
    model, amount = convolutional(), 0.13
    model[3].weight.data[0] *= 0.1
    before = [kernel.detach().clone().flatten(1) for kernel in kernels(model)]
    penalties.group_soft_threshold(model, amount)
    factors = np.linspace(0, 1, 100_001)
    removed = 0
    for old, new in zip(before, kernels(model), strict=True):
        for w, v in zip(old.double().numpy(), new.detach().flatten(1).double().numpy(), strict=True):
            square = (w**2).sum()
            cost = (factors - 1) ** 2 * square / 2 + amount * math.sqrt(w.size * square) * factors
            np.testing.assert_allclose(v, factors[np.argmin(cost)] * w, atol=1e-5)
            removed += not v.any()
    assert removed > 0


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["proximal_l1", "proximal_group_lasso"])
def test_the_threshold_finds_the_minimum_under_momentum_too(kind, momentum):
    """Of ce(w) + 0.05 p(w) for one feature of one direction: where the (sub)gradient of both is 0."""
    data = arrays(examples=40, shape=(1,))
    epochs = max(300, round(1500 * (1 - momentum)))  # with momentum, steps are longer by 1 / (1 - momentum)
    training = nnopt.Training(
        epochs=epochs, batch_size=40, learning_rate=0.2, momentum=momentum, learning_rate_schedule="constant"
    )
    model = nnopt.build(nnopt.mlp((), inputs=1, outputs=4))
    nnopt.fit(model, data, training, penalty=Penalty(kind, 0.05), device="cpu")
    loss = nn.functional.cross_entropy(model(torch.from_numpy(data.x_train)), torch.from_numpy(data.y_train))
    model.zero_grad()
    loss.backward()
    weight = model.dense_1.weight  # groups of one weight: both penalties are the same
    slopes = (weight.grad + 0.05 * weight.sign())[weight != 0]
    assert len(slopes) and abs(slopes).max() < 1e-3
    assert (weight == 0).any() and abs(weight.grad[weight == 0]).max() < 0.05


def test_only_thresholds_make_zeros():
    data, zeros_by_kind = arrays(), {}
    for kind in set(KINDS) - {"slimming", "l0"}:
        model = nnopt.build(SPEC, seed=1)
        strength = 0.2 if kind == "proximal_group_lasso" else 0.05
        nnopt.fit(model, data, RECIPE, penalty=Penalty(kind, strength), device="cpu")
        weights = nnopt.get_weights(model)
        zeros_by_kind[kind] = [int((weights[name] == 0).sum()) for name in nnopt.prunable(model)]
        zeros_by_kind[f"{kind} rows"] = sum(int((~weights[n].any(1)).sum()) for n in nnopt.prunable(model))
    for kind in ("l1", "l2", "elastic_net", "group_lasso"):
        assert sum(zeros_by_kind[kind]) == 0, kind
    assert sum(zeros_by_kind["proximal_l1"]) > 10
    assert zeros_by_kind["proximal_group_lasso rows"] >= 1


def test_a_loop_of_ones_own_equals_fit():
    data, strength = arrays(), 0.02
    by_fit, by_loop = (nnopt.build(SPEC, seed=3) for _ in range(2))
    nnopt.fit(by_fit, data, RECIPE, seed=2, penalty=Penalty("elastic_net", strength, mix=0.3), device="cpu")
    optimizer = torch.optim.SGD(by_loop.parameters(), lr=0.1, momentum=0.5)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RECIPE.total_steps(len(data.x_train)))
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng([2, epoch]).permutation(len(x)))
        for batch in order.split(16):
            loss = nn.functional.cross_entropy(by_loop(x[batch]), y[batch])
            loss = loss + strength * (0.3 * penalties.l1(by_loop) + 0.7 * penalties.l2(by_loop))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    expected = nnopt.get_weights(by_loop)
    for name, value in nnopt.get_weights(by_fit).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6)


# ---------------------------------------------------------------- gates


def test_gates_are_shut_as_often_as_the_distribution_says():
    model = nn.Linear(100, 300, bias=False)
    held = penalties.gates(model, 1.0, seed=4)
    for log_alpha in (-2.0, 0.0, 2.0):
        held.log_alphas[0].fill_(log_alpha)
        held.draw()
        shut = (model.weight == 0).float().mean().item()
        expected = 1 - 1 / (1 + math.exp(-(log_alpha - BETA * math.log(-GAMMA / ZETA))))
        assert shut == pytest.approx(expected, abs=0.01)


def test_gates_get_the_gradient_of_the_drawn_loss():
    """With the noise held, the loss as a function of log alpha is smooth: finite differences of it."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss_at(shift, index):
        held = penalties.gates(model, 0.3, seed=9)
        held.log_alphas[0].view(-1)[index] += shift
        held.draw()
        open_gates = torch.sigmoid(held.log_alphas[0] - BETA * math.log(-GAMMA / ZETA)).sum()
        loss = (model(x) ** 2).sum()
        return held, loss, loss.item() + 0.3 * open_gates.item()

    start = model.weight.detach().clone()
    checked = 0
    for index in range(6):
        values = []
        for shift in (1e-5, -1e-5):
            values.append(loss_at(shift, index)[2])
            model.weight.data.copy_(start)
        held, loss, _ = loss_at(0.0, index)
        loss.backward()
        held.pass_gradients()
        assert torch.equal(model.weight, start), "theta is back, bit by bit"
        slope = (values[0] - values[1]) / 2e-5
        assert held.log_alphas[0].grad.view(-1)[index].item() == pytest.approx(slope, abs=1e-4)
        checked += abs(slope) > 1e-3
        model.weight.grad = None
    assert checked >= 3


def test_gates_remove_more_the_stronger_they_are_and_leave_an_ordinary_model():
    data, removed = arrays(), []
    for strength in (0.0, 3e-3, 3e-2):
        model = nnopt.build(SPEC, seed=1)
        recipe = nnopt.Training(epochs=30, batch_size=16, optimizer="adam", learning_rate=0.02)
        nnopt.fit(model, data, recipe, penalty=Penalty("l0", strength), device="cpu")
        removed.append(sum(int((nnopt.get_weights(model)[n] == 0).sum()) for n in nnopt.prunable(model)))
    assert removed[0] < removed[1] < removed[2]
    assert list(model.state_dict()) == list(nnopt.build(SPEC).state_dict())


# ---------------------------------------------------------------- stacks


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_equals_the_networks_one_by_one(kind):
    data, seeds, strengths = arrays(), [3, 3, 5], [0.0, 0.02, 0.01]
    penalties_of_seeds = [Penalty(kind, strength) for strength in strengths]
    spec = SPEC
    if kind == "slimming":
        spec = nnopt.mlp((7, 5), inputs=12, outputs=4, activation="tanh", batch_norm=True)
    stack = nnopt.fit_many(spec, data, RECIPE, seeds=seeds, penalties=penalties_of_seeds, device="cpu")
    for index, (seed, penalty) in enumerate(zip(seeds, penalties_of_seeds, strict=True)):
        model = nnopt.build(spec, seed=seed)
        nnopt.fit(model, data, RECIPE, seed=seed, penalty=penalty, device="cpu")
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(stack.weights(index)[name], value, atol=2e-5, err_msg=name)


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_penalized_is_refused():
    with pytest.raises(NnoptError) as error:
        penalties.l1(nn.BatchNorm1d(3))
    assert str(error.value) == (
        "a model to penalize needs a trainable kernel of a dense, convolution or embedding layer; received none."
    )
    with pytest.raises(NnoptError) as error:
        penalties.gates(convolutional(), 1.0).pass_gradients()
    assert str(error.value) == (
        "draw must be called before the forward pass; received pass_gradients without it."
    )


def test_a_stack_of_different_kinds_is_refused():
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, arrays(), RECIPE, seeds=[1, 2], penalties=[Penalty("l1", 1), Penalty("l2", 1)])
    assert str(error.value) == "penalties must be one per seed, 2, of one kind; received 2 of l1, l2."
    with pytest.raises(NnoptError) as error:
        penalties.soft_threshold(convolutional(), -1.0)
    assert str(error.value) == "amount must be a finite number, at least 0; received -1."
