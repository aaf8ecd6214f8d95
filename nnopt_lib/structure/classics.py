"""Ready-made networks as descriptions: the small classics that every chapter starts from.

Each returns a plain `NetSpec`; parameter counts named here are asserted by the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.structure.graph import Graph
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, NetSpec, Node


def _chain(input_shape: Shape, layers: Iterable[tuple[str, dict[str, Any]]]) -> NetSpec:
    """A network in which each node reads the one before."""
    graph, last = Graph(), INPUT
    for op, options in layers:
        last = graph.add(op, last, **options)
    return NetSpec(input_shape, tuple(graph.nodes))


def mlp(
    units: Sequence[int], *, inputs: int, outputs: int, activation: str = "relu", batch_norm: bool = False
) -> NetSpec:
    """A multilayer perceptron: one dense layer per entry of `units`, then a dense layer of `outputs` logits.

    With ``units=()`` it is multinomial logistic regression. `batch_norm` stands before each activation.

    Example:
        >>> [node.name for node in mlp((32,), inputs=64, outputs=10).nodes]
        ['dense_1', 'activation_1', 'dense_2']
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    for width in units:
        # No bias before a normalization: it subtracts the mean, and a bias with it, and has a shift instead.
        layers.append(("dense", {"units": width, "bias": not batch_norm}))
        layers += [("batch_norm", {})] if batch_norm else []
        layers.append(("activation", {"kind": activation}))
    return _chain((inputs,), [*layers, ("dense", {"units": outputs})])


def cnn(
    filters: Sequence[int],
    *,
    input_shape: Shape,
    outputs: int,
    kernel: int = 3,
    pool: int = 2,
    activation: str = "relu",
    batch_norm: bool = False,
) -> NetSpec:
    """A plain convolutional network over (channels, length) or (channels, height, width).

    Each entry of `filters` adds convolution (odd `kernel`, padded to keep the size), activation and max
    pooling by `pool` (1: none); global average pooling and a dense layer of `outputs` logits follow.
    """
    if check_int("kernel", kernel, at_least=1) % 2 == 0:
        refuse("kernel must be odd, so that padding keeps the size", kernel)
    conv = f"conv{len(input_shape) - 1}d"
    layers: list[tuple[str, dict[str, Any]]] = []
    for width in filters:
        options = {"filters": width, "kernel": kernel, "padding": kernel // 2, "bias": not batch_norm}
        layers.append((conv, options))
        layers += [("batch_norm", {})] if batch_norm else []
        layers.append(("activation", {"kind": activation}))
        layers += [("max_pool", {"size": pool})] if pool > 1 else []
    layers += [("global_pool", {}), ("dense", {"units": outputs})]
    return _chain(input_shape, layers)


def lenet_300_100() -> NetSpec:
    """LeNet-300-100 for 28x28 images, flattened: 266,200 weights and 410 biases (LeCun et al. 1998)."""
    return mlp((300, 100), inputs=784, outputs=10)


def lenet_5() -> NetSpec:
    """LeNet-5 as the pruning papers use it (431,080 parameters; Han et al. 2015), input (1, 28, 28).

    It is the variant that Caffe made common: 20 and 50 filters of 5x5, max pooling, 500 units; LeCun's of
    1998 has 61,706 parameters.
    """
    conv = {"kernel": 5}
    return _chain(
        (1, 28, 28),
        [
            ("conv2d", {"filters": 20, **conv}),
            ("max_pool", {"size": 2}),
            ("conv2d", {"filters": 50, **conv}),
            ("max_pool", {"size": 2}),
            ("flatten", {}),
            ("dense", {"units": 500}),
            ("activation", {"kind": "relu"}),
            ("dense", {"units": 10}),
        ],
    )


def mnist1d_mlp() -> NetSpec:
    """The MLP of the MNIST-1D paper, 15,210 parameters: a shortcut goes around its second hidden layer.

    Source: Greydanus & Kobak 2024, and the models beside it.
    """
    # By hand, not as a chain: the addition reads two nodes.
    return NetSpec(
        (40,),
        (
            Node("dense_1", "dense", (INPUT,), {"units": 100}),
            Node("activation_1", "activation", ("dense_1",)),
            Node("dense_2", "dense", ("activation_1",), {"units": 100}),
            Node("activation_2", "activation", ("dense_2",)),
            Node("add_1", "add", ("activation_1", "activation_2")),
            Node("dense_3", "dense", ("add_1",), {"units": 10}),
        ),
    )


def mnist1d_cnn() -> NetSpec:
    """The CNN of the MNIST-1D paper, 5,210 parameters, input (1, 40) (Greydanus & Kobak 2024)."""
    layers: list[tuple[str, dict[str, Any]]] = []
    for kernel in (5, 3, 3):
        layers.append(("conv1d", {"filters": 25, "kernel": kernel, "stride": 2, "padding": 1}))
        layers.append(("activation", {"kind": "relu"}))
    return _chain((1, 40), [*layers, ("flatten", {}), ("dense", {"units": 10})])
