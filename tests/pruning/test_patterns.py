"""Layers named by patterns: what is skipped, and how much each loses, by weights and by nodes."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.patterns import fractions_of, matching

LAYERS = ["features.0", "features.3", "features10.0", "block/conv_1", "head"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], set()),
        (["head"], {"head"}),
        (["features"], {"features.0", "features.3"}),
        (["features*"], {"features.0", "features.3", "features10.0"}),
        (["*.0", "block"], {"features.0", "features10.0", "block/conv_1"}),
        (["features.[0-2]", "hea?"], {"features.0", "head"}),
    ],
)
def test_patterns_fit_as_in_the_shell_and_names_stand_for_what_is_inside(patterns, found):
    assert matching(patterns, LAYERS, "skip") == found


def test_of_several_patterns_the_first_holds():
    sparsity = {"features.0": 0.9, "features": 0.5, "*": 0}
    assert fractions_of(sparsity, LAYERS[:2]) == {"features.0": 0.9, "features.3": 0.5}
    assert fractions_of({"head": 0.25}, LAYERS) == {"head": 0.25}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: matching("head", LAYERS, "skip"),
            "skip must be a list of layers or patterns; received the string 'head'. Pass ['head'].",
        ),
        (
            lambda: matching(["heads"], LAYERS, "skip"),
            "skip names no layer with prunable weights by 'heads'. Did you mean 'head'?",
        ),
        (
            lambda: fractions_of({"head": 80}, LAYERS),
            "sparsity['head'] must be at least 0 and below 1; received 80. For 80 %, pass 0.8.",
        ),
        (
            lambda: fractions_of({"x": 0.5}, ["a", "b"]),
            "sparsity names no layer with prunable weights by 'x'. Choose from a, b.",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


def residual():
    import torch

    from tests.torch_reading import Net

    torch.manual_seed(0)
    sizes = {"a": (4, 8), "b": (8, 8), "c": (8, 6), "out": (6, 2)}
    layers = {name: torch.nn.Linear(*size) for name, size in sizes.items()}
    return Net(lambda m, x: m.out(m.c(m.a(x) + m.b(m.a(x)).relu()).relu()), **layers), torch.randn(3, 4)


@pytest.mark.torch
@pytest.mark.parametrize("skip", [["b"], ["[ab]"]])
def test_a_skipped_layer_keeps_what_it_is_coupled_with(skip):
    model, x = residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", skip=skip, example_input=x)
    assert masks["a"].all() and masks["b"].all() and masks["c"].sum() == 3
    for name, value in model.state_dict().items():
        assert name.startswith("c") or (value == before[name]).all()


@pytest.mark.torch
def test_nodes_by_layer():
    model, x = residual()
    masks = nnopt.prune(model, sparsity={"b": 0.25, "a": 0.75, "c": 0.5}, granularity="node", example_input=x)
    assert np.array_equal(masks["a"], masks["b"]) and (masks["a"].sum(), masks["c"].sum()) == (2, 3)
    model, x = residual()
    masks = nnopt.prune(model, sparsity={"c": 0.5}, granularity="node", skip=["out"], example_input=x)
    assert masks["a"].all() and masks["c"].sum() == 3


@pytest.mark.torch
def test_weights_by_layer():
    model, _ = residual()
    masks = nnopt.prune(model, sparsity={"a": 0.5, "[bc]": 0.75}, skip=["c"])
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {"a/kernel": 16, "b/kernel": 48}
    masks = nnopt.prune(residual()[0], sparsity=0.5, skip=["a", "ou*"])
    assert list(masks) == ["b/kernel", "c/kernel"] and masks.removed == 56
    with pytest.raises(NnoptError) as error:
        nnopt.prune(model, sparsity=0.5, skip=["*"])
    assert str(error.value) == "skip must leave a layer to prune; received 4 of 4 layers."


@pytest.mark.torch
def test_heads_may_be_skipped():
    import torch
    from torch import nn

    model, x = (
        nn.Sequential(*(nn.TransformerEncoderLayer(8, 4, 12, 0.0, batch_first=True) for _ in "ab")),
        (torch.randn(2, 5, 8)),
    )
    masks = nnopt.prune(model, sparsity=0.5, granularity="head", skip=["0"], example_input=x)
    assert masks["0.self_attn"].all() and masks["1.self_attn"].sum() == 2
