import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.pruning.torch_models import (
    assert_zeros,
    bits,
    convolutional,
    each_model,
    kernels,
    make,
    mlp,
)

pytestmark = pytest.mark.torch


@each_model
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_global_masks_equal_torchs_own_on_weights_without_ties(kind, sparsity):
    model, _, names = make(kind)
    by_torch = copy.deepcopy(model)
    pairs = []
    for layer in by_torch.modules():
        kernel = isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding))
        if kernel and not any(layer.weight is other.weight for other, _ in pairs):
            pairs.append((layer, "weight"))
    amount = round(sparsity * sum(layer.weight.numel() for layer, _ in pairs))
    torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=amount)
    masks = nnopt.prune(model, sparsity=sparsity)
    assert list(masks) == names and masks.removed == amount
    for mask, (layer, _) in zip(masks.values(), pairs, strict=True):
        assert np.array_equal(mask, layer.weight_mask.numpy().astype(bool))
    assert_zeros(model, masks)


@each_model
@pytest.mark.parametrize("sparsity", [0.25, 0.9])
def test_layer_masks_equal_torchs_own_on_weights_without_ties(kind, sparsity):
    model, _, _ = make(kind, seed=1)
    originals = [parameter.detach().clone() for parameter in kernels(model)]
    masks = nnopt.prune(model, sparsity=sparsity, scope="layer")
    for mask, weight in zip(masks.values(), originals, strict=True):
        own = nn.Module()
        own.weight = nn.Parameter(weight.clone())
        torch_prune.l1_unstructured(own, "weight", amount=sparsity)
        assert np.array_equal(mask, own.weight_mask.numpy().astype(bool))
    kept = [torch.tensor(mask) for mask in masks.values()]
    for parameter, weight, mask in zip(kernels(model), originals, kept, strict=True):
        assert torch.equal(parameter.detach(), torch.where(mask, weight, 0))  # kept weights are untouched


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_ranked_by_their_own_numbers(kind):
    """In bfloat16 many weights are equal: the exact count holds, the earlier is kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 5)).to(kind)
    flat = np.concatenate([p.detach().double().abs().numpy().ravel() for p in kernels(model)])
    order = np.lexsort((-np.arange(flat.size), flat))
    expected = np.ones(flat.size, bool)
    expected[order[: round(0.6 * flat.size)]] = False
    masks = nnopt.prune(model, sparsity=0.6)
    assert np.array_equal(np.concatenate([mask.ravel() for mask in masks.values()]), expected)
    assert all(p.dtype == kind for p in model.parameters())
    assert_zeros(model, masks)


def test_order_is_that_of_the_canonical_layout_whatever_the_memory_is():
    """In channels-last memory the flat order of a kernel is another one."""
    model = nn.Conv2d(4, 3, 2, bias=False)
    nn.init.constant_(model.weight, 0.5)
    model = model.to(memory_format=torch.channels_last)
    masks = nnopt.prune(model, sparsity=0.5)
    assert masks["kernel"].ravel().tolist() == [True] * 24 + [False] * 24
    assert (model.weight.detach().numpy() != 0).ravel().tolist() == [True] * 24 + [False] * 24


def test_frozen_parameters_are_left_alone():
    model = mlp()
    model[0].weight.requires_grad_(False)
    before = bits(model[0].weight)
    assert nnopt.prunable(model) == ["2/kernel"]
    masks = nnopt.prune(model, sparsity=0.5)
    assert list(masks) == ["2/kernel"] and masks.size == 28 and masks.removed == 14
    assert bits(model[0].weight) == before


def test_biases_and_normalization_only_by_name():
    model = convolutional()
    assert not [name for name in nnopt.prunable(model) if "kernel" not in name]
    masks = nnopt.prune(model, sparsity=0.5, names=["1/scale", "6/bias"])
    assert masks.size == 12 and masks.removed == 6
    assert int((model[1].weight == 0).sum() + (model[6].bias == 0).sum()) == 6


def test_scores_of_ones_own():
    model = mlp()
    scores = {"0/kernel": np.arange(84.0).reshape(7, 12), "2/kernel": -np.arange(28.0).reshape(4, 7)}
    masks = nnopt.prune(model, sparsity=28 / 112, score=scores)
    assert masks["0/kernel"].all() and not masks["2/kernel"].any()  # of the two zeros the earlier is kept
    assert_zeros(model, masks)


def test_random_scores_follow_the_seed():
    masks = [nnopt.prune(mlp(), sparsity=0.5, score="random", seed=seed) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] and masks[0] != masks[2] and masks[2].removed == 56


def test_n_of_m_runs_along_the_inputs():
    model = nn.Sequential(nn.Conv2d(8, 6, (3, 2)), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, 8, 5, 5))
    masks = nnopt.prune(model, granularity="2:4", names=["0/kernel"])
    kept = (model[0].weight.detach() != 0).reshape(6, 2, 4, 3, 2).sum(2)
    assert (kept == 2).all() and masks.sparsity == 0.5


def test_the_lines_of_the_documentation_run_as_they_stand():
    lines = """
import torch, nnopt_lib as nnopt
model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
masks = nnopt.prune(model, sparsity=0.9)                      # global magnitude, applied to the model's own weights
first = masks.sparsity                                        # exactly round(0.9 n) / n
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
nnopt.hold(model, masks, optimizer)                           # zeros stay zero in any training loop, state included
masks = nnopt.prune(model, sparsity=0.95, previous=masks)     # removed stays removed
"""
    names = {}
    exec(lines, names)
    size = 784 * 300 + 300 * 10
    assert names["first"] == round(0.9 * size) / size
    assert names["masks"].removed == round(0.95 * size)
    assert_zeros(names["model"], names["masks"])


def test_the_kernel_of_attention_is_prunable():
    """Its query, key and value projections are one dense layer in torch, though no `Linear`."""
    assert nnopt.prunable(nn.MultiheadAttention(8, 2)) == ["in_proj_weight", "out_proj/kernel"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        (
            {"sparsity": 0.5, "score": "magnitud"},
            "score must be one of magnitude, random, snip, grasp, synflow, taylor, fisher; received 'magnitud'. Did you mean 'magnitude'?",
        ),
        (
            {"sparsity": 0.5, "names": ["0/kernl"]},
            "the model has no weight '0/kernl'. Did you mean '0/kernel'?",
        ),
        (
            {"sparsity": 0.5, "score": {"0/kernel": np.zeros((12, 7))}},
            "scores must have the names and shapes of the model's weights; received "
            "0/kernel (12, 7) for (7, 12), 2/kernel missing for (4, 7).",
        ),
        (
            {"sparsity": 0.5, "score": {"0/kernel": np.full((7, 12), np.nan), "2/kernel": np.ones((4, 7))}},
            "scores must not hold NaN; received NaN in '0/kernel'.",
        ),
        (
            {"granularity": "2:4"},
            "granularity '2:4' needs inputs in multiples of 4; received 2/kernel of shape (4, 7). "
            "Leave this layer out by names=.",
        ),
        ({"sparsity": 0.5, "seed": -1}, "seed must be a whole number, at least 0; received -1."),
    ],
)
def test_bad_calls_are_refused_in_one_sentence_and_change_nothing(options, sentence):
    model, _, _ = make("mlp")
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, **options)
    assert str(error.value) == sentence
    assert [bits(p) for p in model.parameters()] == before


def test_weights_with_nan_are_refused_by_name():
    model, _, _ = make("mlp")
    with torch.no_grad():
        model[2].weight[1, 1] = np.nan
    before = [bits(p) for p in model.parameters()]
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, sparsity=0.5)
    assert str(error.value) == "scores must not hold NaN; received NaN in '2/kernel'."
    assert [bits(p) for p in model.parameters()] == before


def test_a_model_with_nothing_to_prune_is_refused():
    frozen = mlp().requires_grad_(False)
    for model in (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), frozen):
        with pytest.raises(NnoptError) as error:
            nnopt.prune(model, sparsity=0.5)
        assert str(error.value) == (
            "a model to prune needs a trainable kernel of a dense, convolution or embedding layer; received none."
        )


def test_an_empty_list_of_names_is_refused_as_such():
    with pytest.raises(NnoptError) as error:
        nnopt.prune(mlp(), sparsity=0.5, names=[])
    assert "names must" in str(error.value)


def test_something_else_is_no_model():
    with pytest.raises(NnoptError) as error:
        nnopt.prune({"a": np.ones(3)}, sparsity=0.5)
    assert str(error.value) == "a model must be a torch.nn.Module or a keras.Model; received builtins.dict."
