from hypothesis import given

from nnopt_lib import measure
from nnopt_lib.structure import classics as builders
from nnopt_lib.structure.spec import NetSpec, Node
from tests.networks import every_operation, networks, parameter_count


def test_lenet_300_100_by_hand():
    cost = measure.count(builders.lenet_300_100())
    assert (cost.weights, cost.parameters - cost.weights) == (266_200, 410)
    assert cost.macs == 784 * 300 + 300 * 100 + 100 * 10
    # outputs of dense and activation: 300 twice, 100 twice, 10, four bytes each
    assert cost.activation_bytes == 4 * (300 + 300 + 100 + 100 + 10)
    assert cost.parameter_bytes == 4 * 266_610


def test_an_unpadded_strided_convolution_by_hand():
    options = {"filters": 4, "kernel": (3, 2), "stride": (2, 3)}
    cost = measure.count(NetSpec((3, 10, 11), (Node("c", "conv2d", "input", options),)))
    # rows: starts 0, 2, 4, 6 (7 is the last that fits); columns: starts 0, 3, 6, 9
    rows, columns = len(range(0, 10 - 3 + 1, 2)), len(range(0, 11 - 2 + 1, 3))
    assert (rows, columns) == (4, 4)
    assert cost.weights == 4 * 3 * 3 * 2
    assert cost.parameters == cost.weights + 4
    assert cost.macs == rows * columns * 4 * (3 * 3 * 2)
    assert cost.activation_bytes == 4 * 4 * rows * columns


def test_groups_divide_weights_and_macs():
    def cost(groups):
        options = {"filters": 8, "kernel": 3, "padding": 1, "groups": groups, "bias": False}
        return measure.count(NetSpec((8, 5), (Node("c", "conv1d", "input", options),)))

    assert cost(1).macs == 8 * 8 * 3 * 5
    assert cost(8).macs == cost(1).macs // 8 == 8 * cost(8).weights // 8 * 5


def test_flatten_and_gates_cost_what_they_should():
    costs = measure.count_by_node(every_operation())
    assert costs["flatten_1"].activation_bytes == 0
    assert costs["excite"].macs == 6 * 6
    assert costs["batch_norm_1"].parameters == 12
    assert costs["scaled"] == measure.Cost(0, 0, 0, 4 * 6 * 6 * 9)


@given(networks())
def test_totals_are_sums_over_nodes(spec):
    costs = measure.count_by_node(spec).values()
    assert measure.count(spec).parameters == parameter_count(spec) == sum(c.parameters for c in costs)
    assert measure.count(spec).macs == sum(c.macs for c in costs)
