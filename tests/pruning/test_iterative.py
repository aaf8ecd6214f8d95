import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.weights import INITIALIZERS
from tests.networks import arrays
from tests.pruning.torch_models import (
    SPEC,
    assert_zero_weights,
    assert_zeros,
    bits,
    kernels,
    make,
    mlp,
    train,
)

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["convolutional", "tied"])
def test_rewinding_is_exact_to_the_bit(kind, precision):
    model, x, _ = make(kind)
    model = model.to(precision)
    x = x.to(precision) if x.is_floating_point() else x
    with torch.no_grad():
        kernels(model)[0].view(-1)[0] = -0.0
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    train(model, x, optimizer, 2)
    floating = [t for t in model.state_dict().values() if t.is_floating_point()]
    parameters = list(model.parameters())
    before = [bits(tensor) for tensor in floating]
    first = nnopt.get_weights(model)
    train(model, x, optimizer, 3)
    assert [bits(tensor) for tensor in floating] != before  # the snapshot is a copy, not a view
    nnopt.rewind(model, first)
    assert [bits(tensor) for tensor in floating] == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    masks = nnopt.prune(model, sparsity=0.5)
    train(model, x, optimizer, 2)
    nnopt.rewind(model, first, masks)
    assert_zeros(model, masks)
    nnopt.rewind(model, first)
    assert [bits(tensor) for tensor in floating] == before  # masking did not reach into the snapshot


@pytest.mark.parametrize("kind", ["mlp", "convolutional"])
def test_reinitialize_draws_anew_from_the_layers_own_distribution(kind):
    model, _, _ = make(kind)
    before, state = nnopt.get_weights(model), torch.get_rng_state()
    nnopt.reinitialize(model, seed=1)
    after = nnopt.get_weights(model)
    assert torch.equal(torch.get_rng_state(), state)
    for name in nnopt.prunable(model):
        assert (before[name] != after[name]).mean() > 0.99
        fan_in = before[name][0].size if "4/" not in name else 6 * 2 * 2  # torch counts axis 1
        assert abs(after[name]).max() <= 1 / np.sqrt(fan_in) + 1e-6
    nnopt.reinitialize(model, seed=1)
    again = nnopt.get_weights(model)
    assert all(np.array_equal(again[name], after[name]) for name in after)
    nnopt.reinitialize(model, seed=2)
    assert not np.array_equal(nnopt.get_weights(model)["0/kernel"], after["0/kernel"])


def test_reinitialized_weights_have_the_spread_of_new_ones():
    layer = nn.Linear(200, 300)
    nnopt.reinitialize(layer, seed=3)
    weights = nnopt.get_weights(layer)["kernel"]
    assert weights.std() == pytest.approx(1 / np.sqrt(3 * 200), rel=0.02)  # uniform within 1 / sqrt(fan in)
    assert abs(weights.mean()) < 0.001


@pytest.mark.parametrize("init", INITIALIZERS)
def test_reinitializing_a_described_network_equals_building_it(init):
    spec = nnopt.mlp((9,), inputs=12, outputs=4)
    model = nnopt.build(spec, seed=1)
    nnopt.reinitialize(model, seed=7, init=init)
    after = nnopt.get_weights(model)
    for other in INITIALIZERS:  # equal to its own initializer's network, and to no other's
        expected = nnopt.get_weights(nnopt.build(spec, seed=7, init=other))
        equal = np.array_equal(after["dense_1/kernel"], expected["dense_1/kernel"])
        assert equal == all(np.array_equal(after[name], expected[name]) for name in after) == (other == init)


def test_reinitializing_a_described_network_draws_as_building_by_default_does():
    model = nnopt.build(SPEC, seed=1)
    nnopt.reinitialize(model, seed=7)
    expected = nnopt.get_weights(nnopt.build(SPEC, seed=7))
    assert all(np.array_equal(value, expected[name]) for name, value in nnopt.get_weights(model).items())


def test_an_initializer_plays_no_part_for_a_model_that_nobody_described():
    one, other = mlp(), mlp()
    nnopt.reinitialize(one, seed=7, init="he_normal")
    nnopt.reinitialize(other, seed=7)
    assert [bits(p) for p in one.parameters()] == [bits(p) for p in other.parameters()]


def test_an_unknown_initializer_is_refused_and_the_weights_stay():
    model = nnopt.build(SPEC, seed=1)
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError, match="^init must be one of glorot_uniform, "):
        nnopt.reinitialize(model, seed=7, init="he_norm")
    assert [bits(p) for p in model.parameters()] == before


def test_levels_nest_and_rewind():
    model, data, seen = nnopt.build(SPEC, seed=4), arrays(), []
    first = nnopt.get_weights(model)

    def train_level(model, masks):
        current = nnopt.get_weights(model)
        assert all(np.array_equal(current[name], np.where(masks[name], first[name], 0)) for name in masks)
        assert all(np.array_equal(current[name], first[name]) for name in current if name not in masks)
        seen.append(masks)
        return nnopt.fit(model, data, nnopt.Training(epochs=2, momentum=0.9), masks=masks, device="cpu")

    targets = [0.0, *nnopt.schedules.exponential(0.8, 3)]
    levels = list(nnopt.iterative_prune(model, train_level, targets, rewind_to=first))
    assert [level.index for level in levels] == [0, 1, 2, 3]
    size = levels[0].masks.size
    assert [level.masks.removed for level in levels] == [round(target * size) for target in targets]
    assert [level.sparsity for level in levels] == [level.masks.sparsity for level in levels]
    for level, masks, before in zip(levels, seen, [None, *seen], strict=False):
        assert level.masks == masks and level.result.rows
        assert before is None or all(not (masks[name] & ~before[name]).any() for name in masks)
    assert_zero_weights(nnopt.get_weights(model), levels[-1].masks)


def test_levels_nest_even_where_training_lets_removed_weights_grow():
    model, masks = mlp(), []

    def careless(model, level_masks):
        masks.append(level_masks)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape))

    list(nnopt.iterative_prune(model, careless, [0.3, 0.3, 0.6]))
    assert masks[0] == masks[1] and [level.removed for level in masks] == [34, 34, 67]
    assert all(not (mask & ~masks[1][name]).any() for name, mask in masks[2].items())


def test_levels_without_rewinding_train_on():
    model, starts = nnopt.build(SPEC), []

    def train_level(model, masks):
        starts.append(nnopt.get_weights(model))
        nnopt.fit(model, arrays(), nnopt.Training(epochs=1), masks=masks, device="cpu")
        return nnopt.get_weights(model)

    levels = list(nnopt.iterative_prune(model, train_level, [0.2, 0.5], scope="layer"))
    for name, mask in levels[1].masks.items():
        assert np.array_equal(starts[1][name], np.where(mask, levels[0].result[name], 0))
        assert (~mask).sum() == round(0.5 * mask.size)


def test_weights_of_another_model_is_refused():
    model = mlp()
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.rewind(model, nnopt.get_weights(nn.Linear(12, 7)))
    assert str(error.value).startswith(
        "weights must have the names and shapes of the model's weights; received "
    )
    assert "0/kernel missing for (7, 12)" in str(error.value)
    assert [bits(p) for p in model.parameters()] == before


def test_parameters_that_no_layer_can_draw_are_refused():
    model = nn.Sequential(nn.Linear(3, 2), nn.PReLU())
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.reinitialize(model, seed=0)
    assert str(error.value) == (
        "drawing weights again needs modules with reset_parameters; received none for scale. "
        "Build the model anew with another seed."
    )
    assert [bits(p) for p in model.parameters()] == before


@pytest.mark.parametrize("targets", [[0.2, 80], [0.5, 0.2]])
def test_impossible_targets_are_refused_before_any_training(targets):
    trained = []
    with pytest.raises(NnoptError):
        list(nnopt.iterative_prune(mlp(), lambda model, masks: trained.append(1), targets))
    assert not trained
