"""What a reader notes of a model, and the nodes that come of it."""

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.coupling import FIXED
from nnopt_lib.structure.labels import NONE
from nnopt_lib.structure.reading import Reading, layer_of


def network():
    """Three layers, one behind the other: 4 and 3 channels, and 2 that are outputs."""
    reading = Reading()
    for name, count in (("first", 4), ("second", 3), ("last", 2)):
        made = reading.new_layer(name, count, (f"{name}/kernel", 0))
        reading.axis(f"{name}/kernel", 0, made, "kernel")
        reading.axis(f"{name}/bias", 0, made, "bias")
    reading.axis("second/kernel", 1, reading.made["first"])
    reading.axis("last/kernel", 1, reading.made["second"])
    reading.labels.fix(reading.made["last"], "outputs")
    return reading


def axes(channels):
    return {(one.tensor, one.axis, one.part): one.nodes.tolist() for one in channels.axes}


def test_nodes_where_they_stand_and_what_stays_whole():
    channels = network().channels()
    assert {name: nodes.tolist() for name, nodes in channels.nodes.items()} == {
        "first": [0, 1, 2, 3],
        "second": [4, 5, 6],
        "last": [FIXED, FIXED],
    }
    assert channels.layers == {"first": "first", "second": "second"} and channels.size == 7
    assert channels.whole == {"last": "outputs"}
    assert channels.why_fixed("last") == "What stays whole there: outputs."
    assert channels.number.tolist() == [*range(7), FIXED, FIXED, FIXED]  # the last one for NONE
    assert axes(channels) == {
        ("first/kernel", 0, "kernel"): [0, 1, 2, 3],
        ("first/bias", 0, "bias"): [0, 1, 2, 3],
        ("second/kernel", 0, "kernel"): [4, 5, 6],
        ("second/kernel", 1, ""): [0, 1, 2, 3],
        ("second/bias", 0, "bias"): [4, 5, 6],
        ("last/kernel", 0, "kernel"): [FIXED, FIXED],
        ("last/kernel", 1, ""): [4, 5, 6],
        ("last/bias", 0, "bias"): [FIXED, FIXED],
    }
    assert [one.tensor for one in channels.made("kernel")] == ["first/kernel", "second/kernel"]


def test_a_mask_for_what_stays_is_refused_with_the_reason():
    with pytest.raises(NnoptError) as error:
        network().channels().kept({"last": np.array([True, False])})
    assert str(error.value) == (
        "nodes of layer 'last' cannot be removed; received a mask that does. What stays whole there: outputs."
    )


def test_a_layer_that_is_used_twice_makes_the_same_channels():
    reading = network()
    again = reading.new_layer("first", 4, ("first/kernel", 0))
    assert again is reading.made["first"] and reading.labels.size == 9


def test_a_tensor_of_two_layers_makes_channels_along_both_axes():
    reading = Reading()
    rows, columns = (
        reading.new_layer("tied", size, ("tied/kernel", axis)) for axis, size in ((0, 5), (1, 3))
    )
    assert list(reading.made) == ["tied", "tied (axis 1)"] and len(np.union1d(rows, columns)) == 8


def test_a_tensor_that_is_used_twice_loses_the_same_for_both():
    reading = network()
    reading.axis("first/kernel", 1, reading.made["second"])
    reading.axis("first/kernel", 1, other := reading.new_layer("other", 3))
    number, _ = reading.labels.components()
    assert number[other].tolist() == number[reading.made["second"]].tolist()
    reading.axis("first/kernel", 1, np.full(3, NONE))
    channels = reading.channels()
    reason = "'first/kernel' is used a second time, whole"
    assert channels.whole == {"second": reason, "last": "outputs", "other": reason}
    assert list(channels.layers) == ["first"]


@pytest.mark.parametrize("second", ["", "kernel"])
def test_a_tensor_keeps_its_part_at_a_second_use(second):
    reading = network()
    reading.axis("first/kernel", 0, reading.made["first"], second)
    assert ("first/kernel", 0, "kernel") in axes(reading.channels())


def test_inputs_that_are_not_0():
    reading = network()
    first, second = reading.made["first"], reading.made["second"]
    reading.read("second/kernel", first, 0.0, padded=False)
    assert reading.channels().reads == ()
    reading.read("second/kernel", first, [0.5, 0.0, 0.0, np.nan], padded=True)
    reading.read("last/kernel", second, 1.0, padded=False, foldable=False)
    channels = reading.channels()
    (read,) = channels.reads
    assert (read.layer, read.kernel, read.padded) == ("second", "second/kernel", True)
    assert read.held.tolist() == [0.5, 0, 0, 0] and read.inputs.tolist() == [0, 1, 2, FIXED]
    assert channels.nodes["first"].tolist() == [0, 1, 2, FIXED]
    assert channels.whole["second"] == "read by 'last' while they hold a constant, not 0"
    number, reasons = reading.labels.components()
    assert reasons[number[first[3]]] == "read by 'second' while they hold what other channels say"


def test_a_kernel_that_is_no_layers_has_no_bias_to_fold_into():
    reading = network()
    reading.read("scale", reading.made["first"], 0.5, padded=False)
    assert reading.channels().whole["first"] == "read by 'scale' while they hold a constant, not 0"
    assert (layer_of("scale"), layer_of("a.b/kernel")) == ("scale", "a.b")


def test_nodes_and_heads_are_told_apart():
    reading = network()
    reading.heads.append(reading.made["second"])
    nodes, heads, both = (reading.channels(kind) for kind in ("node", "head", None))
    assert list(nodes.layers) == ["first"] and list(heads.layers) == ["second"]
    assert list(both.layers) == ["first", "second"]
    # By nodes the layer of heads is named; by heads what has none is not spoken of.
    said = "attention heads, which granularity='head' removes"
    assert nodes.whole == {"second": said, "last": "outputs"} and heads.whole == {}
    assert heads.why_fixed("first") == "What stays whole there: channels joined with such as cannot leave."


def test_what_was_not_read_is_named():
    reading = network()
    reading.unread["odd"] = "it did not run on the example"
    reading.unread["first"] = "it computes its kernel from other tensors"
    for kind in ("node", "head"):
        assert reading.channels(kind).whole.items() >= reading.unread.items()


def test_sizes_are_noted_of_channels_only():
    reading = network()
    reading.note_size("'view' in Net", np.array([NONE]))
    reading.note_size("'view' in Net", np.array([NONE, 2, 2, 1]))
    ((where, labels),) = reading.sized
    assert where == "'view' in Net" and labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            "node",
            "a model to prune by nodes needs a layer whose outputs another layer reads; "
            "received none ('first': fixed; 'second': fixed; 'last': outputs).",
        ),
        (
            "head",
            "a model to prune by heads needs attention with several heads; "
            "received none (no layer with a kernel).",
        ),
    ],
)
def test_a_model_without_anything_to_remove_is_refused(kind, sentence):
    reading = network()
    reading.refuse_empty(reading.channels(), kind)  # there is something
    reading.labels.fix(np.arange(7), "fixed")
    with pytest.raises(NnoptError) as error:
        reading.refuse_empty(reading.channels(kind), kind)
    assert str(error.value) == sentence


def test_groups_of_a_convolution_by_their_nodes():
    reading = network()
    reading.groups_of["first/kernel"] = reading.made["first"]
    assert reading.channels().groups_of["first/kernel"].tolist() == [0, 1, 2, 3]
