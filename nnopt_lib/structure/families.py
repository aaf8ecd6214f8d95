"""Families of architectures, each at any depth and width: ways of connecting layers, as descriptions.

Each takes `blocks` per stage and the `widths` of its stages, reads (channels, length) or (channels, height,
width), halves positions between stages, and ends in global average pooling and a dense layer of logits.
`nnopt_lib.at_budget` sets their widths to a budget. Chapter 05 compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nnopt_lib.checks import check_int, refuse
from nnopt_lib.structure.graph import Graph
from nnopt_lib.structure.operations import Shape
from nnopt_lib.structure.spec import INPUT, NetSpec


class _Layers(Graph):
    """A graph with the layers that the families share; `kind` is the convolution for the input's rank."""

    def __init__(self, blocks: int, widths: Sequence[int], input_shape: Shape) -> None:
        super().__init__()
        check_int("blocks", blocks, at_least=1)
        if len(input_shape) < 2:
            refuse("input_shape must be (channels, length) or (channels, height, width)", tuple(input_shape))
        if not len(widths):
            refuse("widths must name at least one stage", "none")
        self.input_shape, self.kind = tuple(input_shape), f"conv{len(input_shape) - 1}d"

    def conv(self, x: str, width: int, kernel: int, stride: int = 1, bias: bool = False) -> str:
        options: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": kernel // 2, "bias": bias}
        return self.add(self.kind, x, filters=width, **options)

    def normed(self, x: str, width: int, kernel: int, stride: int = 1) -> str:
        """Convolution and batch normalization."""
        return self.add("batch_norm", self.conv(x, width, kernel, stride))

    def layer(self, x: str, width: int, kernel: int, stride: int = 1) -> str:
        """Convolution, batch normalization, ReLU."""
        return self.add("activation", self.normed(x, width, kernel, stride))

    def halved(self, x: str, kind: str = "max_pool") -> str:
        """Half of the positions; an odd last one is padded rather than lost."""
        return self.add(kind, x, size=3, stride=2, padding=1)

    def head(self, x: str, outputs: int) -> NetSpec:
        self.add("dense", self.add("global_pool", x), units=outputs)
        return NetSpec(self.input_shape, tuple(self.nodes))


def vgg(blocks: int, widths: Sequence[int], *, input_shape: Shape, outputs: int) -> NetSpec:
    """Plain stages of `blocks` 3-wide convolutions, max pooling between them (Simonyan & Zisserman 2015).

    Batch normalization stands behind each convolution, and global average pooling takes the place of the
    original's three large dense layers. Each layer reads the one before and nothing else.

    Example:
        >>> spec = vgg(2, (8, 16), input_shape=(1, 28, 28), outputs=10)
        >>> [spec.shapes[name] for name in ("activation_2", "max_pool_1", "activation_4")]
        [(8, 28, 28), (8, 14, 14), (16, 14, 14)]
    """
    graph, x = _Layers(blocks, widths, input_shape), INPUT
    for stage, width in enumerate(widths):
        x = graph.halved(x) if stage else x
        for _ in range(blocks):
            x = graph.layer(x, width, 3)
    return graph.head(x, outputs)


def inception(blocks: int, widths: Sequence[int], *, input_shape: Shape, outputs: int) -> NetSpec:
    """Blocks of four parallel branches that are concatenated (Szegedy et al. 2015).

    A 1-wide convolution; 1 and then 3 wide; 1, 3 and 3 wide (in place of 5 wide); pooling, then 1 wide. They
    share the block's width as 1 : 2 : 2 : 1, so each of `widths` is at least 6. Max pooling between stages.

    Example:
        >>> spec = inception(1, (12,), input_shape=(1, 40), outputs=10)
        >>> [spec.shapes[name][0] for name in spec.nodes[-3].inputs]
        [2, 4, 4, 2]
    """
    graph = _Layers(blocks, widths, input_shape)
    x = graph.layer(INPUT, widths[0], 3)
    for stage, width in enumerate(widths):
        side = check_int("each of widths", width, at_least=6) // 6
        # What rounding leaves goes to `rest`, so that the four branches have exactly the width.
        middle, rest = (width - 2 * side) // 2, (width - 2 * side + 1) // 2
        x = graph.halved(x) if stage else x
        for _ in range(blocks):
            branches = [graph.layer(x, side, 1), graph.layer(graph.layer(x, side, 1), middle, 3)]
            branches.append(graph.layer(graph.layer(graph.layer(x, side, 1), rest, 3), rest, 3))
            branches.append(graph.layer(graph.add("max_pool", x, size=3, stride=1, padding=1), side, 1))
            x = graph.add("concat", *branches)
    return graph.head(x, outputs)


def resnet(blocks: int, widths: Sequence[int], *, input_shape: Shape, outputs: int) -> NetSpec:
    """A residual network of basic blocks with batch normalization, as for CIFAR (He et al. 2016).

    A convolution, then `blocks` blocks of two convolutions for each of the `widths`; a stage after the first
    begins with stride 2. Where shapes change the shortcut is a 1x1 convolution. With three widths, 3 blocks
    make ResNet-20 and 9 make ResNet-56.

    Example:
        >>> spec = resnet(3, (16, 32, 64), input_shape=(3, 32, 32), outputs=10)
        >>> sum(node.op == "add" for node in spec.nodes), spec.shapes["add_9"]
        (9, (64, 8, 8))
    """
    return _residual(_Layers(blocks, widths, input_shape), blocks, widths, outputs, lambda x, width: x)


def senet(
    blocks: int, widths: Sequence[int], *, input_shape: Shape, outputs: int, reduction: int = 4
) -> NetSpec:
    """`resnet` whose blocks weigh their channels by what they see of the whole image (Hu et al. 2018).

    Global average pooling, a dense layer of 1/`reduction` of the channels, ReLU, a dense layer, a sigmoid:
    one gate per channel, before the block is added to its shortcut.

    Example:
        >>> spec = senet(1, (8, 16), input_shape=(1, 28, 28), outputs=10)
        >>> spec.shapes["activation_3"], [node.op for node in spec.nodes].count("multiply")
        ((2,), 2)
    """
    check_int("reduction", reduction, at_least=1)
    graph = _Layers(blocks, widths, input_shape)

    def gated(x: str, width: int) -> str:
        # At least 1 unit, however few channels a budget leaves.
        squeezed = graph.add("dense", graph.add("global_pool", x), units=max(1, width // reduction))
        opened = graph.add("dense", graph.add("activation", squeezed), units=width)
        return graph.add("multiply", x, graph.add("activation", opened, kind="sigmoid"))

    return _residual(graph, blocks, widths, outputs, gated)


def _residual(
    graph: _Layers, blocks: int, widths: Sequence[int], outputs: int, gated: Callable[[str, int], str]
) -> NetSpec:
    x, before = graph.layer(INPUT, widths[0], 3), widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            # No ReLU behind the second convolution: one stands behind the addition.
            inner = gated(graph.normed(graph.layer(x, width, 3, stride), width, 3), width)
            shortcut = x if (before, stride) == (width, 1) else graph.normed(x, width, 1, stride)
            x, before = graph.add("activation", graph.add("add", inner, shortcut)), width
    return graph.head(x, outputs)


def densenet(blocks: int, widths: Sequence[int], *, input_shape: Shape, outputs: int) -> NetSpec:
    """Each block adds channels to all that came before it (Huang et al. 2017).

    `widths` are growth rates, the channels that a block adds: batch normalization, ReLU, 3-wide convolution,
    concatenated with what it read. Between stages a 1-wide convolution halves the channels and average
    pooling the positions. The first convolution has twice the first growth rate.

    Example:
        >>> spec = densenet(3, (4, 4), input_shape=(1, 40), outputs=10)
        >>> spec.shapes["concat_3"], spec.shapes["concat_6"]
        ((20, 40), (22, 20))
    """
    graph = _Layers(blocks, widths, input_shape)

    def active(x: str) -> str:
        return graph.add("activation", graph.add("batch_norm", x))

    channels = 2 * widths[0]
    x = graph.conv(INPUT, channels, 3)
    for stage, growth in enumerate(widths):
        if stage:
            channels //= 2
            x = graph.halved(graph.conv(active(x), channels, 1), "avg_pool")
        for _ in range(blocks):
            x, channels = graph.add("concat", x, graph.conv(active(x), growth, 3)), channels + growth
    return graph.head(active(x), outputs)


def vit(
    blocks: int,
    widths: Sequence[int],
    *,
    input_shape: Shape,
    outputs: int,
    heads: int = 2,
    patch: int = 4,
) -> NetSpec:
    """Attention over patches: a small vision Transformer (Vaswani et al. 2017; Dosovitskiy et al. 2021).

    `widths` are two: channels of a patch, and hidden units of each block's perceptron. `heads` heads have
    widths[0] // heads channels each. Patches of `patch` positions do not overlap; what is left over at the
    end is padded. Positions are told by fixed sinusoids. Unlike the original: batch normalization takes the
    place of layer normalization, and an average over patches that of a class token. It has one stage.

    Example:
        >>> spec = vit(1, (8, 16), input_shape=(1, 28, 28), outputs=10)
        >>> spec.shapes["position_1"], spec.shapes["attention_1"]
        ((8, 7, 7), (8, 7, 7))
    """
    if len(widths) != 2:
        refuse("widths of a vit must be two: channels of a patch, hidden units", tuple(widths))
    graph, width = _Layers(blocks, widths, input_shape), widths[0]
    size = check_int("each of widths", width, at_least=check_int("heads", heads, at_least=1)) // heads
    # Padding on both sides, so that (n + 2 padding) // patch counts the patch that is begun.
    padding = tuple((-n % check_int("patch", patch, at_least=1) + 1) // 2 for n in input_shape[1:])
    options: dict[str, Any] = {"kernel": patch, "stride": patch, "padding": padding}
    x = graph.add("position", graph.add(graph.kind, INPUT, filters=width, **options))
    for _ in range(blocks):
        read = graph.add("batch_norm", x)
        parts = [graph.conv(read, heads * size, 1, bias=True) for _ in ("query", "key", "value")]
        x = graph.add("add", x, graph.conv(graph.add("attention", *parts, heads=heads), width, 1, bias=True))
        hidden = graph.conv(graph.add("batch_norm", x), widths[1], 1, bias=True)
        x = graph.add("add", x, graph.conv(graph.add("activation", hidden, kind="gelu"), width, 1, bias=True))
    return graph.head(graph.add("batch_norm", x), outputs)
