"""Layers by name and pattern: what is skipped, and what each loses."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.patterns import fractions_of, matching

LAYERS = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer10.conv", "block/dense", "head"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], set()),
        (["stem"], {"stem"}),
        (["layer1"], {"layer1.0.conv1", "layer1.0.conv2"}),  # and not layer10
        (["layer1*"], {"layer1.0.conv1", "layer1.0.conv2", "layer10.conv"}),
        (["*.conv?", "head"], {"layer1.0.conv1", "layer1.0.conv2", "head"}),
        (["block"], {"block/dense"}),
    ],
)
def test_names_and_patterns(patterns, expected):
    assert matching(patterns, LAYERS, "skip") == expected


def test_of_several_patterns_the_first_holds():
    found = fractions_of({"layer1.0.conv1": 0.25, "layer1": 0.5, "st*": 0.75}, LAYERS)
    assert found == {"stem": 0.75, "layer1.0.conv1": 0.25, "layer1.0.conv2": 0.5}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: matching("stem", LAYERS, "skip"),
            "skip must be a list of layers or patterns; received the string 'stem'. Pass ['stem'].",
        ),
        (
            lambda: matching(["steam"], LAYERS, "skip"),
            "skip names no layer with prunable weights by 'steam'. Did you mean 'stem'?",
        ),
        (
            lambda: fractions_of({"head": 1.0}, LAYERS),
            "sparsity['head'] must be at least 0 and below 1; received 1.",
        ),
    ],
)
def test_slips_are_refused(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value).startswith(sentence)


def network():
    return nnopt.build(nnopt.mlp((8, 6), inputs=4, outputs=3), seed=1)


@pytest.mark.torch
def test_single_weights_by_layer():
    masks = nnopt.prune(network(), sparsity={"dense_1": 0.5, "dense_3": 0.25})
    assert {name: (~mask).sum() for name, mask in masks.items()} == {
        "dense_1/kernel": 16,
        "dense_3/kernel": 4,
    }
    masks = nnopt.prune(network(), sparsity=0.5, skip=["dense_3"])
    assert set(masks) == {"dense_1/kernel", "dense_2/kernel"} and masks.removed == 40


@pytest.mark.torch
def test_masks_of_before_stay_when_layers_are_named():
    model = network()
    first = nnopt.prune(model, sparsity={"dense_1": 0.5, "dense_2": 0.25})
    second = nnopt.prune(model, sparsity={"dense_1": 0.75, "dense_2": 0.5}, previous=first)
    assert second.sparsities() == {"dense_1/kernel": 0.75, "dense_2/kernel": 0.5}
    assert all(not (second[name] & ~first[name]).any() for name in first)


@pytest.mark.torch
def test_nodes_by_layer_and_without_some():
    masks = nnopt.prune(network(), sparsity={"dense_1": 0.5}, granularity="node")
    assert [int((~masks[name]).sum()) for name in ("dense_1", "dense_2")] == [4, 0]
    masks = nnopt.prune(network(), sparsity=0.5, granularity="node", skip=["dense_1", "dense_3"])
    assert [int((~masks[name]).sum()) for name in ("dense_1", "dense_2")] == [0, 3]
    masks = nnopt.prune(network(), sparsity=0.4, granularity="node", skip=["dense_1"], round_to=2)
    assert [int((~masks[name]).sum()) for name in ("dense_1", "dense_2")] == [0, 2]
    assert np.array_equal(masks["dense_1"], np.ones(8, bool))


@pytest.mark.torch
@pytest.mark.parametrize("granularity", ["weight", "node"])
def test_nothing_left_to_prune_is_refused_and_nothing_changes(granularity):
    model = network()
    before = nnopt.get_weights(model)
    with pytest.raises(NnoptError, match="^skip must leave a (layer|node) to"):
        nnopt.prune(model, sparsity=0.5, granularity=granularity, skip=["*"])
    assert all(np.array_equal(value, before[name]) for name, value in nnopt.get_weights(model).items())
