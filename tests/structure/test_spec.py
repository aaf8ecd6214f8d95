"""Descriptions: what they refuse, how they are written and read, how their nodes are looked up."""

import json

import pytest
from hypothesis import given

from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import classics
from nnopt_lib.structure.spec import NetSpec, Node, split_name
from tests.networks import every_operation, networks


@given(networks())
def test_json_round_trip_is_exact(spec):
    assert NetSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["format"] == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{",
            "a network's JSON must be what NetSpec.to_json wrote; received JSONDecodeError: Expecting property "
            "name enclosed in double quotes: line 1 column 2 (char 1).",
        ),
        ("[1]", "a network's JSON must be what NetSpec.to_json wrote; received TypeError: list indices"),
        ('{"format": 2}', "a network's JSON must be what NetSpec.to_json wrote; received format 2."),
        (
            '{"format": 1, "input_shape": [3], "nodes": [["a", "dense"]]}',
            "a network's JSON must be what NetSpec.to_json wrote; received not enough values to unpack",
        ),
        (
            '{"format": 1, "input_shape": [3], "nodes": [["a", "dens", ["input"], {}]]}',
            "node 'a': op must be one of dense, conv1d",
        ),
    ],
)
def test_foreign_json_is_refused(text, sentence):
    with pytest.raises(NnoptError) as error:
        NetSpec.from_json(text)
    assert str(error.value).startswith(sentence)


DENSE = Node("a", "dense", "input", {"units": 3})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Node("1a", "dense", "input", {"units": 3}),
            "a node's name must be letters, digits and _, begin with a letter and not be 'input'; received '1a'.",
        ),
        (
            lambda: Node(None, "dense", "input", {"units": 3}),  # as a file may have it
            "a node's name must be letters, digits and _, begin with a letter and not be 'input'; received None.",
        ),
        (
            lambda: Node("a", "dense", "input", {"unit": 3}),
            "node 'a': dense has no option 'unit'. Did you mean 'units'?",
        ),
        (lambda: Node("a", "dense", "input"), "node 'a': dense needs the option 'units'."),
        (
            lambda: Node("a", "attention", ("input", "input"), {"heads": 2}),
            "node 'a': attention reads exactly three inputs: query, key and value; received ('input', 'input').",
        ),
        (
            lambda: NetSpec((3, 4), (Node("a", "attention", ("input",) * 3, {"heads": 2}),)),
            "node 'a' (attention): heads (2) must divide the channels of query, key and value; received input "
            "shape (3, 4), (3, 4), (3, 4).",
        ),
        (
            lambda: NetSpec((4,), (Node("a", "attention", ("input",) * 3, {"heads": 2}),)),
            "node 'a' (attention): needs spatial dimensions: the positions that attend to each other; received "
            "input shape (4,), (4,), (4,).",
        ),
        (lambda: Node("a", "add", "input"), "node 'a': add reads two inputs or more; received ('input',)."),
        (
            lambda: NetSpec((4,), (DENSE, Node("b", "dense", "aa", {"units": 2}))),
            "node 'b' reads 'aa', which does not stand before it. Did you mean 'a'? A node reads only nodes that "
            "stand before it.",
        ),
        (lambda: NetSpec((4,), (DENSE, DENSE)), "node names must be unique; received 'a' twice."),
        (
            lambda: NetSpec((4,), (DENSE, Node("b", "dense", "input", {"units": 2}))),
            "every node but the last must be read by another; received unread: a.",
        ),
        (lambda: NetSpec((4,), ()), "a network needs at least one node; received none."),
        (lambda: NetSpec((0,), (DENSE,)), "input_shape must be a whole number, at least 1; received 0."),
        (
            lambda: NetSpec((2, 4, 4), (DENSE,)),
            "node 'a' (dense): needs (features,); put a flatten or global_pool node before it; received input shape "
            "(2, 4, 4).",
        ),
        (
            lambda: NetSpec((2, 4), (Node("c", "conv1d", "input", {"filters": 2, "kernel": 5}),)),
            "node 'c' (conv1d): the kernel (5) is larger than its padded input (4); received input shape (2, 4).",
        ),
        (
            lambda: NetSpec(
                (3, 4), (Node("c", "conv1d", "input", {"filters": 2, "kernel": 1, "groups": 2}),)
            ),
            "node 'c' (conv1d): groups (2) must divide input channels and filters (2); received input shape (3, 4).",
        ),
        (
            lambda: NetSpec((4,), (DENSE, Node("b", "add", ("a", "input")))),
            "node 'b' (add): needs inputs of equal shape; received input shape (3,), (4,).",
        ),
        (
            lambda: NetSpec((4,), (Node("r", "activation", "input", {"kind": "relux"}),)),
            "node 'r' (activation): kind must be one of relu, gelu, silu, tanh, sigmoid, not 'relux'; received input "
            "shape (4,).",
        ),
        (
            lambda: classics.cnn((3,), input_shape=(1, 8), outputs=2, kernel=4),
            "kernel must be odd, so that padding keeps the size; received 4.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_node(make, sentence):
    with pytest.raises(NnoptError) as error:
        make()
    assert str(error.value) == sentence


@given(networks())
def test_every_node_is_looked_up_by_its_name(spec):
    assert [spec.node(node.name) for node in spec.nodes] == list(spec.nodes)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dense_3", "the network has no node 'dense_3'. Did you mean 'dense_2'?"),
        ("input", "the network has no node 'input'."),
    ],
)
def test_names_that_no_node_has_are_refused(name, sentence):
    with pytest.raises(NnoptError) as error:
        classics.mlp((32,), inputs=64, outputs=10).node(name)
    assert str(error.value).startswith(sentence)


def test_kernels_and_groups_of_every_operation():
    spec = every_operation()
    kernels = {split_name(name)[0] for name in spec.parameter_shapes() if name.endswith("/kernel")}
    assert {node.name for node in spec.nodes if node.has_kernel} == kernels
    assert {node.name: node.groups for node in spec.nodes if node.groups != 1} == {"conv2d_2": 2}
