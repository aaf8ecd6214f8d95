"""Which nodes leave together, which of them go, and what that does to the description."""

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.measure.costs import count
from nnopt_lib.structure.coupling import FIXED, couple
from nnopt_lib.structure.edits.resize import resize
from nnopt_lib.structure.families import vit
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import conv, residual


def test_additions_and_depthwise_convolutions_couple_concatenations_do_not():
    coupling = couple(residual())
    assert {name: list(group) for name, group in coupling.groups.items()} == {
        "stem": [0, 1, 2, 3],
        "side": [4, 5],
    }
    assert coupling.layers == {"stem": "stem", "depthwise": "stem", "project": "stem", "side": "side"}
    assert list(coupling.nodes["joined"]) == [0, 1, 2, 3, 4, 5]
    assert list(coupling.nodes["flat"]) == list(np.repeat(range(6), 25))
    assert set(coupling.nodes["head"]) == set(coupling.nodes["input"]) == {FIXED}


def test_what_is_added_to_inputs_or_outputs_is_fixed():
    layer = Node("dense_1", "dense", "input", {"units": 4})
    spec = NetSpec(
        (4,), (layer, Node("sum", "add", ("input", "dense_1")), Node("out", "dense", "sum", {"units": 2}))
    )
    assert couple(spec).size == 0
    spec = NetSpec(
        (4,),
        (
            layer,
            Node("dense_2", "dense", "dense_1", {"units": 4}),
            Node("sum", "add", ("dense_1", "dense_2")),
        ),
    )
    assert couple(spec).size == 0


def test_groups_of_a_convolution_leave_whole():
    spec = NetSpec(
        (3, 5, 5),
        (
            conv("a", "input", 4, 1),
            conv("b", "a", 6, groups=2),
            conv("c", "b", 2, 5),
        ),
    )
    coupling = couple(spec)
    assert list(coupling.nodes["a"]) == [0, 0, 1, 1] and list(coupling.nodes["b"]) == [0, 0, 0, 1, 1, 1]
    after = resize(coupling, np.array([1, 0]), whole_groups=True).spec()
    assert [dict(node.options)["groups"] for node in after.nodes] == [1, 1, 1]
    assert [after.shapes[name][0] for name in "abc"] == [2, 3, 2]


def test_counts_of_the_smaller_network_by_hand():
    coupling = couple(residual())
    kept = coupling.kept({"project": np.array([True, False, True, True]), "side": np.array([False, True])})
    after = resize(coupling, kept.astype(int), whole_groups=True).spec()
    # stem 3*3*9+3, norm 6, depthwise 3*9+3, project 3*3+3, side 3+1, head 4*25*10+10
    assert count(after).parameters == 84 + 6 + 30 + 12 + 4 + 1010
    assert count(after).macs == 25 * (81 + 27 + 9 + 3) + 1000
    weights = initial_weights(coupling.spec, 0)
    small = resize(coupling, kept.astype(int), whole_groups=True).weights(weights)
    assert {name: value.shape for name, value in small.items()} == after.parameter_shapes(trainable=False)
    columns = weights["head/kernel"].reshape(10, 6, 25)[:, [0, 2, 3, 5]].reshape(10, 100)
    np.testing.assert_array_equal(small["head/kernel"], columns)


FOUR = np.array([True, False, True, True])


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        ({"stam": FOUR}, "the network has no layer 'stam'. Did you mean 'stem'?"),
        (
            {"stem": FOUR[:3]},
            "the mask of layer 'stem' must be a boolean array of shape (4,); received bool (3,).",
        ),
        (
            {"stem": FOUR, "project": ~FOUR},
            "layers 'stem' and 'project' are coupled and must keep the same nodes; received masks that differ in "
            "4 of 4.",
        ),
        (
            {"side": np.array([False, False])},
            "a layer must keep at least one node; layer 'side'; received a mask that removes all.",
        ),
        (
            {"head": np.arange(10) > 0},
            "nodes of layer 'head' cannot be removed; received a mask that does. They are outputs of the network, "
            "joined to its inputs or outputs, or read by attention or a position encoding.",
        ),
    ],
)
def test_masks_that_cannot_be_are_refused(masks, sentence):
    with pytest.raises(NnoptError) as error:
        couple(residual()).kept(masks)
    assert str(error.value) == sentence


# Importance


def test_what_reads_channels_whole_keeps_all_of_them():
    spec = vit(1, (8, 16), input_shape=(1, 28, 28), outputs=10)
    coupling = couple(spec)
    whole = [node for node in spec.nodes if node.op in ("attention", "position")]
    assert {node.op for node in whole} == {"attention", "position"}
    for name in (name for node in whole for name in node.inputs):
        assert set(coupling.nodes[name]) == {FIXED}, name
    assert coupling.size == 16  # the hidden units of its perceptron, and nothing else
