"""Nodes are added under names that no other node has, and into the middle of a network."""

from nnopt_lib.structure.classics import mlp
from nnopt_lib.structure.graph import Graph, insert
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


def test_names_count_each_operation_and_step_over_taken_ones():
    graph = Graph(("dense_2", "dense_4"))
    names = [graph.add("dense", INPUT, units=3) for _ in range(3)]
    assert names == ["dense_1", "dense_3", "dense_5"]
    assert graph.add("activation", names[-1]) == "activation_1"
    assert [node.name for node in graph.nodes] == [*names, "activation_1"]  # taken ones are not among them


def test_names_of_other_models_are_made_fit_and_unique():
    graph = Graph(("training",))
    given = ("layer1.0.conv", "layer1/0/conv", "0", "training", "input")
    names = [graph.add("dense", INPUT, name=name, units=3) for name in given]
    assert names == ["layer1_0_conv", "layer1_0_conv_op", "dense_0", "training_op", "input_op"]


def test_a_layer_has_the_rank_and_width_of_the_shape_and_keeps_positions():
    for shape, op in (((5,), "dense"), ((5, 7), "conv1d"), ((5, 7, 6), "conv2d")):
        graph = Graph()
        name = graph.add_layer(INPUT, shape, 3)
        spec = NetSpec((2, *shape[1:]), tuple(graph.nodes))
        assert name == f"{op}_1" and spec.shapes[name] == shape


def test_inserted_nodes_stand_before_a_position_and_readers_change_by_name():
    spec = mlp((3,), inputs=4, outputs=2)
    new = (Node("norm", "batch_norm", "dense_1"),)
    longer = insert(spec, 1, new, {"activation_1": ("norm",)})
    assert [node.name for node in longer.nodes] == ["dense_1", "norm", "activation_1", "dense_2"]
    assert longer.node("activation_1").inputs == ("norm",)
    assert longer.node("dense_2") == spec.node("dense_2")
