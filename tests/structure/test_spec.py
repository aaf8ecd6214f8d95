import json
import math

import numpy as np
import pytest
from hypothesis import given, settings

from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import classics as builders
from nnopt_lib.structure.operations import sinusoids
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import INITIALIZERS, initial_weights
from tests.networks import every_operation, networks, parameter_count


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (builders.mlp((32,), inputs=64, outputs=10), 2_410),
        (builders.mlp((), inputs=64, outputs=10), 650),
        (builders.lenet_300_100(), 266_200 + 410),
        (builders.lenet_5(), 431_080),
        (builders.mnist1d_mlp(), 15_210),
        (builders.mnist1d_cnn(), 5_210),
        # conv 1*8*9, norm 16, conv 8*16*9, norm 32, dense 16*10+10
        (
            builders.cnn((8, 16), input_shape=(1, 28, 28), outputs=10, batch_norm=True),
            72 + 16 + 1152 + 32 + 170,
        ),
        (builders.cnn((8,), input_shape=(2, 40), outputs=4, kernel=5), 2 * 8 * 5 + 8 + 36),
    ],
)
def test_builders_have_the_published_parameter_counts(spec, parameters):
    assert parameter_count(spec) == parameters


def test_shapes_by_hand():
    spec = every_operation()
    # rows: (11 + 2 - 3) // 2 + 1 = 6, columns: (9 + 4 - 5) // 1 + 1 = 9
    assert spec.shapes["conv2d_1"] == (6, 6, 9)
    assert spec.shapes["scaled"] == (6, 6, 9)
    assert spec.shapes["max_pool_1"] == (6, 3, 5)
    assert spec.shapes["concat_1"] == (12, 3, 5)
    assert spec.shapes["flatten_1"] == (180,)
    assert spec.shapes["logits"] == (5,)
    assert spec.parameter_shapes()["conv2d_2/kernel"] == (6, 3, 3, 3)
    assert spec.parameter_shapes()["logits/kernel"] == (5, 192)
    assert "logits/bias" not in spec.parameter_shapes()


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
            lambda: builders.cnn((3,), input_shape=(1, 8), outputs=2, kernel=4),
            "kernel must be odd, so that padding keeps the size; received 4.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_node(make, sentence):
    with pytest.raises(NnoptError) as error:
        make()
    assert str(error.value) == sentence


@given(networks())
@settings(max_examples=50)
def test_initial_weights_have_the_described_shapes_and_repeat(spec):
    for init in INITIALIZERS:
        weights = initial_weights(spec, 3, init)
        assert {n: w.shape for n, w in weights.items()} == spec.parameter_shapes(trainable=False)
        assert all(w.dtype == np.float32 for w in weights.values())
        again = initial_weights(spec, 3, init)
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
    different = initial_weights(spec, 4)
    last = f"{spec.output}/kernel"
    assert not np.array_equal(different[last], initial_weights(spec, 3)[last])


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("glorot_uniform", 2 / (784 + 300)),
        ("glorot_normal", 2 / (784 + 300)),
        ("he_normal", 2 / 784),
        ("torch_default", 1 / (3 * 784)),
    ],
)
def test_initial_variance_is_the_published_one(init, variance):
    weights = initial_weights(builders.lenet_300_100(), 0, init)
    # 235,200 draws: the sample variance of a bounded or normal draw is within 2 % with wide margin.
    assert math.isclose(weights["dense_1/kernel"].var(), variance, rel_tol=0.02)
    assert abs(weights["dense_1/kernel"].mean()) < 4 * math.sqrt(variance / 235_200)
    assert np.any(weights["dense_1/bias"]) == (init == "torch_default")


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids((6, 11))
    for position in (0, 3, 10):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[2 * i, position] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[2 * i + 1, position] == pytest.approx(math.cos(angle), abs=1e-6)
    both = sinusoids((8, 5, 7))  # the first half tells rows, the second columns
    assert np.array_equal(both[:4, :, 3], sinusoids((4, 5))) and np.array_equal(
        both[4:, 2], sinusoids((4, 7))
    )
    assert np.ptp(both[:4], axis=2).max() == 0 and np.ptp(both[4:], axis=1).max() == 0
