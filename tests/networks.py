"""Random networks for property tests, and one network that has every operation."""

import math
import os
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import families
from nnopt_lib.structure.classics import lenet_5, mlp, mnist1d_cnn, mnist1d_mlp
from nnopt_lib.structure.spec import NetSpec, Node

CLASSICS = {
    "mlp": mlp((32,), inputs=64, outputs=10),
    "mlp_batch_norm": mlp((7, 5), inputs=6, outputs=3, activation="tanh", batch_norm=True),
    "mnist1d_mlp": mnist1d_mlp(),
    "mnist1d_cnn": mnist1d_cnn(),
    "lenet_5": lenet_5(),
}

FAMILIES = {
    f.__name__: f
    for f in (
        families.vgg,
        families.inception,
        families.resnet,
        families.densenet,
        families.senet,
        families.vit,
    )
}
PROPORTIONS = {"vit": (1, 2), "densenet": (1, 1), "inception": (1, 2)}


def examples_in_keras(count: int) -> int:
    """All `count` with NNOPT_EXAMPLES=all, as in the weekly run; else a quarter: Keras takes long to build one."""
    return count if os.environ.get("NNOPT_EXAMPLES") == "all" else count // 4


def every_operation() -> NetSpec:
    """Not square, strided, padded, grouped, gated, with both kinds of pooling: all operations in one graph."""
    return NetSpec(
        (4, 11, 9),
        (
            Node(
                "conv2d_1",
                "conv2d",
                "input",
                {"filters": 6, "kernel": (3, 5), "stride": (2, 1), "padding": (1, 2)},
            ),
            Node("batch_norm_1", "batch_norm", "conv2d_1"),
            Node("gelu_1", "activation", "batch_norm_1", {"kind": "gelu"}),
            Node("conv2d_2", "conv2d", "gelu_1", {"filters": 6, "kernel": 3, "padding": 1, "groups": 2}),
            Node("add_1", "add", ("gelu_1", "conv2d_2")),
            Node("squeeze", "global_pool", "add_1"),
            Node("excite", "dense", "squeeze", {"units": 6}),
            Node("gate", "activation", "excite", {"kind": "sigmoid"}),
            Node("scaled", "multiply", ("gate", "add_1")),
            Node("max_pool_1", "max_pool", "scaled", {"size": 3, "stride": 2, "padding": 1}),
            Node("avg_pool_1", "avg_pool", "scaled", {"size": 3, "stride": 2, "padding": 1}),
            Node("concat_1", "concat", ("max_pool_1", "avg_pool_1")),
            Node("peak", "global_pool", "concat_1", {"kind": "max"}),
            Node("flatten_1", "flatten", "concat_1"),
            Node("silu_1", "activation", "flatten_1", {"kind": "silu"}),
            Node("concat_2", "concat", ("silu_1", "peak")),
            Node("logits", "dense", "concat_2", {"units": 5, "bias": False}),
        ),
    )


def conv(name, source, filters, kernel=3, groups=1):
    options = {"filters": filters, "kernel": kernel, "padding": kernel // 2, "groups": groups}
    return Node(name, "conv2d", source, options)


def residual() -> NetSpec:
    """A stem, a depthwise block with a shortcut around it, a concatenation, a head."""
    nodes = (conv("stem", "input", 4), Node("norm", "batch_norm", "stem"), Node("relu", "activation", "norm"))
    nodes += (conv("depthwise", "relu", 4, groups=4), conv("project", "depthwise", 4, 1))
    nodes += (Node("sum", "add", ("relu", "project")), conv("side", "sum", 2, 1))
    nodes += (Node("joined", "concat", ("sum", "side")), Node("flat", "flatten", "joined"))
    return NetSpec((3, 5, 5), (*nodes, Node("head", "dense", "flat", {"units": 10})))


_UNARY = ("batch_norm", "activation", "max_pool", "avg_pool", "conv")


@st.composite
def networks(draw: st.DrawFn, *, batch_norm: bool = True) -> NetSpec:
    """A random graph over (features,), (channels, length) or (channels, height, width), ending in logits."""
    rank = draw(st.integers(0, 2))
    size = st.integers(1, 4)
    shape = (draw(size) * 2, *(draw(st.integers(4, 7)) for _ in range(rank)))
    nodes: list[Node] = []

    def add(op: str, inputs: tuple[str, ...], options: dict | None = None) -> str:
        name = f"{op}_{len(nodes)}"
        trial = [*nodes, Node(name, op, inputs, options or {})]
        NetSpec(shape, tuple(trial))  # a chain so far: raises where shapes do not fit
        nodes.append(trial[-1])
        return name

    last = "input"
    for _ in range(draw(st.integers(1, 5))):
        current = NetSpec(shape, tuple(nodes)).shapes[last] if nodes else shape
        op = draw(st.sampled_from([o for o in _UNARY if batch_norm or o != "batch_norm"]))
        if op == "conv" and rank:
            groups = draw(st.sampled_from([g for g in (1, 2) if current[0] % g == 0]))
            options = {
                "filters": 2 * draw(size),
                "kernel": draw(st.integers(1, 3)),
                "stride": draw(st.integers(1, 2)),
                "padding": draw(st.integers(0, 2)),
                "groups": groups,
                "bias": draw(st.booleans()),
            }
            op = f"conv{rank}d"
        elif op == "activation":
            options = {"kind": draw(st.sampled_from(("relu", "gelu", "silu", "tanh", "sigmoid")))}
        elif op in ("max_pool", "avg_pool") and rank:
            options = {
                "size": draw(st.integers(2, 3)),
                "stride": draw(st.integers(1, 2)),
                "padding": draw(st.integers(0, 1)),
            }
        elif op == "batch_norm":
            options = {}
        else:
            op, options = ("dense", {"units": draw(size)}) if not rank else ("batch_norm", {})
        try:
            new = add(op, (last,), options)
        except NnoptError:
            continue  # a kernel larger than what is left of its input
        before, after = (NetSpec(shape, tuple(nodes)).shapes[n] for n in (last, new))
        join = draw(st.sampled_from(("none", "add", "concat", "multiply")))
        if (join == "concat" or (join != "none" and before == after)) and before[1:] == after[1:]:
            new = add(join, (last, new))
        last = new
        if rank and draw(st.integers(0, 4)) == 0:
            channels = NetSpec(shape, tuple(nodes)).shapes[last][0]
            heads = draw(st.sampled_from([n for n in (1, 2, 3) if channels % n == 0]))
            position = add("position", (last,))
            last = add("attention", (position, last, position), {"heads": heads})
    if rank:
        last = add(draw(st.sampled_from(("global_pool", "flatten"))), (last,))
    add("dense", (last,), {"units": draw(st.integers(2, 5))})
    return NetSpec(shape, tuple(nodes))


class _Blocks:
    """Adds blocks as architectures have them; `rank` counts spatial dimensions, 0 for dense layers."""

    def __init__(self, draw: st.DrawFn, rank: int) -> None:
        self.draw, self.rank, self.nodes = draw, rank, []
        self.input_shape = (draw(st.integers(1, 3)), *(draw(st.integers(3, 6)) for _ in range(rank)))
        self.channels = {"input": self.input_shape[0]}

    def add(self, op: str, inputs: tuple[str, ...], channels: int, **options: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, options))
        self.channels[name] = channels
        return name

    def layer(self, x: str, channels: int, kernel: int = 3, groups: int = 1) -> str:
        bias = self.draw(st.booleans())
        if not self.rank:
            return self.add("dense", (x,), channels, units=channels, bias=bias)
        options = {"filters": channels, "kernel": kernel, "padding": kernel // 2, "groups": groups}
        return self.add(f"conv{self.rank}d", (x,), channels, bias=bias, **options)

    def activated(self, x: str) -> str:
        if self.draw(st.booleans()):
            x = self.add("batch_norm", (x,), self.channels[x])
        kind = self.draw(st.sampled_from(("relu", "gelu", "silu", "tanh")))
        return self.add("activation", (x,), self.channels[x], kind=kind)

    def block(self, x: str) -> str:
        kinds = ["plain", "residual", "projected", "concat", "gate"]
        kinds += ["depthwise", "grouped", "attention"] if self.rank else []
        kind, width = self.draw(st.sampled_from(kinds)), self.draw(st.integers(1, 4))
        if kind == "plain":
            return self.activated(self.layer(x, width))
        if kind == "residual":
            inner = self.activated(self.layer(x, width))
            return self.activated(self.add("add", (x, self.layer(inner, self.channels[x])), self.channels[x]))
        if kind == "projected":
            return self.add("add", (self.layer(x, width, 1), self.activated(self.layer(x, width))), width)
        if kind == "concat":
            return self.add("concat", (x, self.activated(self.layer(x, width))), self.channels[x] + width)
        if kind == "gate":
            pooled = self.add("global_pool", (x,), self.channels[x]) if self.rank else x
            rank, self.rank = self.rank, 0
            gate = self.layer(self.activated(self.layer(pooled, width)), self.channels[x])
            self.rank = rank
            gate = self.add("activation", (gate,), self.channels[x], kind="sigmoid")
            return self.add("multiply", (x, gate), self.channels[x])
        if kind == "attention":  # three projections, of which the value may have channels of its own
            x = self.add("position", (x,), self.channels[x])
            read = [self.layer(x, 2 * n, 1) for n in (width, width, self.draw(st.integers(1, 3)))]
            heads = self.draw(st.sampled_from((1, 2)))
            out = self.add("attention", tuple(read), self.channels[read[2]], heads=heads)
            return self.add("add", (x, self.layer(out, self.channels[x], 1)), self.channels[x])
        if kind == "depthwise":
            x = self.activated(self.layer(x, self.channels[x], groups=self.channels[x]))
            return self.activated(self.layer(x, width, 1))
        x = self.activated(self.layer(x, 4, 1))
        return self.activated(self.layer(x, 2 * width, groups=2))


@st.composite
def architectures(draw: st.DrawFn) -> NetSpec:
    """A random stack of plain, residual, concatenating, gated, depthwise, grouped, attending blocks; a head."""
    blocks = _Blocks(draw, draw(st.integers(0, 2)))
    x = blocks.layer("input", draw(st.integers(1, 4)))
    for _ in range(draw(st.integers(1, 4))):
        x = blocks.block(x)
    if blocks.rank:
        x = blocks.add(draw(st.sampled_from(("global_pool", "flatten"))), (x,), 0)
        blocks.rank = 0
    if draw(st.booleans()):
        x = blocks.activated(blocks.layer(x, draw(st.integers(1, 4))))
    blocks.layer(x, draw(st.integers(1, 3)))
    return NetSpec(blocks.input_shape, tuple(blocks.nodes))


def parameter_count(spec: NetSpec) -> int:
    return sum(math.prod(shape) for shape in spec.parameter_shapes().values())


def arrays(
    examples: int = 90, noise: float = 0.3, shape: tuple[int, ...] = (12,), seed: int = 0
) -> SimpleNamespace:
    """Small data with the fields of `nnopt_lib.data.Data`: four classes, each around a center of its own."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(4, *shape))
    parts = {}
    for part, count in (("train", examples), ("validation", 40), ("test", 40)):
        labels = random.integers(0, 4, count)
        x = centers[labels] + noise * random.normal(size=(count, *shape))
        parts |= {f"x_{part}": x.astype(np.float32), f"y_{part}": labels}
    return SimpleNamespace(**parts, classes=4)


def effect_of_rounding(model, x):
    """How far a few roundings of the inputs `x` move the model's outputs, at most.

    Products of products before an attention's exponential make much of a rounding, and two orders of a sum
    differ by roundings: no two implementations can be asked to agree any better.
    """
    expected = nnopt.predict(model, x)
    moved = (nnopt.predict(model, x * np.float32(factor)) for factor in (1 - 1e-6, 1 + 1e-6))
    return 4 * max(float(abs(outputs - expected).max()) for outputs in moved)
