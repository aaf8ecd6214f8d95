"""Random modules whose `forward` is a sequence of operations drawn by a seed, as readable source.

Every step is run while it is drawn, so that shapes fit and numbers stay in a sane range.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint


class Doubling(torch.autograd.Function):
    """A function of somebody else's: no rule can know it."""

    @staticmethod
    def forward(ctx, x):
        return x * 2 + x.mean(-1, keepdim=True)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Heads(nn.Module):
    """Attention with its sizes in attributes, as many write it."""

    def __init__(self, channels, heads, size):
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv = nn.Linear(channels, 3 * heads * size)
        self.proj = nn.Linear(heads * size, channels)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.size**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, self.heads * self.size))


class Gated(nn.Module):
    """One projection that is split by an attribute."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.hidden = hidden
        self.up = nn.Linear(channels, 2 * hidden)
        self.down = nn.Linear(hidden, channels, bias=False)

    def forward(self, x):
        a, b = torch.split(self.up(x), self.hidden, dim=-1)
        return x + self.down(F.silu(a) * b)


class Gamma(nn.Module):
    """A normalization written by hand, with a scale of its own."""

    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, dtype=torch.float64))

    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * (1 + self.gamma)


class Shuffled(nn.Module):
    """A block of ShuffleNet: half of the channels go through, and all are shuffled."""

    def __init__(self, channels):
        super().__init__()
        self.half = channels // 2
        self.conv = nn.Sequential(
            nn.Conv2d(self.half, self.half, 1, bias=False),
            nn.BatchNorm2d(self.half),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.half, self.half, 3, padding=1, groups=self.half, bias=False),
        )

    def forward(self, x):
        kept, changed = x[:, : self.half], x[:, self.half :]
        out = torch.cat((kept, self.conv(changed)), dim=1)
        b, c, h, w = out.size()
        return out.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


class Bottleneck(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.one = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.two = nn.ModuleList([nn.Conv2d(hidden, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 1)])
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1, dtype=torch.float64))

    def forward(self, x):
        y = F.relu(self.norm(self.one(x)))
        for layer in self.two:
            y = layer(y)
        return F.relu(x + self.scale * y)


class Experts(nn.Module):
    """Kernels in lists and dicts, mixed by weights that are computed."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.up = nn.ParameterList(
            [nn.Parameter(torch.zeros(hidden, channels, dtype=torch.float64)) for _ in "ab"]
        )
        self.down = nn.ParameterDict({n: torch.zeros(channels, hidden, dtype=torch.float64) for n in "ab"})
        self.choice = nn.Linear(channels, 2)

    def forward(self, x):
        weights = self.choice(x).softmax(-1)
        found = [
            F.linear(F.gelu(F.linear(x, up)), down)
            for up, down in zip(self.up, self.down.values(), strict=True)
        ]
        return sum(weights[..., i, None] * one for i, one in enumerate(found))


BLOCKS = {one.__name__: one for one in (Doubling, Heads, Gated, Gamma, Shuffled, Bottleneck, Experts)}


class UnfitError(Exception):
    """An operation that does not fit the values that there are."""


@dataclasses.dataclass
class Val:
    name: str
    shape: tuple[int, ...]
    axis: int  # where its channels usually stand
    free: bool = True  # nothing has read it yet
    plain: bool = True  # may be written to

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def last(self) -> bool:
        return self.axis == self.rank - 1

    @property
    def image(self) -> bool:
        return self.rank == 4 and self.axis == 1


OPERATIONS: dict[str, Callable[[Draw, Val], Any]] = {}
WEIGHTS: dict[str, float] = {}


def op(weight: float = 1.0) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        OPERATIONS[function.__name__] = function
        WEIGHTS[function.__name__] = weight
        return function

    return add


class Draw:
    """A program while it is drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.module = nn.Module().double()
        self.space: dict[str, Any] = {
            "self": self.module,
            "torch": torch,
            "nn": nn,
            "F": F,
            "checkpoint": checkpoint,
            "SimpleNamespace": SimpleNamespace,
            **BLOCKS,
        }
        self.init: list[str] = []
        self.forward: list[str] = []
        self.values: list[Val] = []
        self.layers: list[tuple[str, str, int, int]] = []
        self.done: list[str] = []
        self.number = 0

    def name(self, letter: str) -> str:
        self.number += 1
        return f"{letter}{self.number}"

    def choose(self, options: Any) -> Any:
        return self.random.choice(list(options))

    def width(self) -> int:
        return self.choose([4, 6, 8, 12, 16])

    def layer(self, made: str) -> str:
        """A layer or parameter: `made` is the code that makes it."""
        name = f"self.{self.name('p' if made.startswith('nn.Parameter') else 'm')}"
        line = f"{name} = {made}"
        exec(line, self.space)
        self.init.append(line)
        made_now = getattr(self.module, name[5:])
        if isinstance(made_now, nn.Module):
            made_now.double()
            randomize(made_now, self.random)
        return name

    def setup(self, line: str) -> None:
        exec(line, self.space)
        self.init.append(line)

    def run(self, line: str) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(line, self.space)
        self.forward.append(line)

    def new(self, code: str, axis: int, *read: Val, plain: bool = True) -> Val:
        """A new value that `code` computes."""
        name = self.name("v")
        self.run(f"{name} = {code}")
        value = self.space[name]
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise UnfitError(f"{code} is no array of numbers")
        value = Val(name, tuple(value.shape), axis % max(1, value.dim()), plain=plain)
        self.check(value)
        for one in read:
            one.free = False
        self.values.append(value)
        return value

    def check(self, value: Val) -> None:
        number = self.space[value.name]
        if value.rank not in (2, 3, 4) or number.numel() > 20000 or 0 in value.shape or value.shape[0] != 3:
            raise UnfitError("of no shape to go on with")
        if not torch.isfinite(number).all() or number.abs().max() > 1e3:
            raise UnfitError("too large")

    def other(self, x: Val, fits: Callable[[Val], bool]) -> Val:
        found = [one for one in self.values if one is not x and fits(one)]
        if not found:
            raise UnfitError("no second value")
        free = [one for one in found if one.free]
        return self.choose(free or found)

    def rows(self, x: Val) -> str:
        return self.choose([f"{x.name}.shape[0]", f"{x.name}.size(0)", f"len({x.name})"])


def randomize(module: nn.Module, numbers: random.Random) -> None:
    generator = torch.Generator().manual_seed(numbers.randrange(2**31))
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
                tensor.copy_(0.5 + drawn.abs())
            elif tensor.dim() > 1:
                tensor.copy_(drawn * (1.5 / max(1, tensor[0].numel())) ** 0.5)
            else:
                tensor.copy_(drawn * 0.5)


# ------------------------------------------------------------------ layers with kernels


def _last(x: Val) -> Val:
    if not x.last:
        raise UnfitError
    return x


def _first(x: Val, *ranks: int) -> Val:
    if x.axis != 1 or x.rank not in ranks:
        raise UnfitError
    return x


@op(6)
def linear(d: Draw, x: Val) -> None:
    _last(x)
    out, bias = d.width(), d.choose(["", "", ", bias=False"])
    name = d.layer(f"nn.Linear({x.channels}, {out}{bias})")
    d.layers.append((name, "linear", x.channels, out))
    d.new(f"{name}({x.name})", -1, x)


@op(3)
def linear_relu(d: Draw, x: Val) -> None:
    _last(x)
    out, act = d.width(), d.choose(["ReLU()", "GELU()", "Tanh()", "SiLU()", "LeakyReLU(0.1)", "Hardswish()"])
    name = d.layer(f"nn.Sequential(nn.Linear({x.channels}, {out}), nn.{act})")
    d.new(f"{name}({x.name})", -1, x)


@op(0.8)
def functional_linear(d: Draw, x: Val) -> None:
    _last(x)
    out = d.width()
    weight = d.layer(f"nn.Parameter(0.4 * torch.randn({out}, {x.channels}, dtype=torch.float64))")
    bias = d.layer(f"nn.Parameter(torch.randn({out}, dtype=torch.float64))")
    d.new(d.choose([f"F.linear({x.name}, {weight}, {bias})", f"F.linear({x.name}, {weight})"]), -1, x)


@op(1)
def matmul_with_parameter(d: Draw, x: Val) -> None:
    _last(x)
    weight = d.layer(f"nn.Parameter(0.4 * torch.randn({x.channels}, {d.width()}, dtype=torch.float64))")
    code = [f"{x.name} @ {weight}", f"torch.matmul({x.name}, {weight})", f"{x.name}.matmul({weight})"]
    if x.rank == 3:
        code.append(f"torch.einsum('btc,cd->btd', {x.name}, {weight})")
    d.new(d.choose(code), -1, x)


@op(0.7)
def functional_conv(d: Draw, x: Val) -> None:
    _first(x, 4)
    weight = d.layer(f"nn.Parameter(0.3 * torch.randn({d.width()}, {x.channels}, 3, 3, dtype=torch.float64))")
    d.new(f"F.conv2d({x.name}, {weight}, padding=1)", 1, x)


@op(1.5)
def layer_again(d: Draw, x: Val) -> None:
    fitting = [one for one in d.layers if one[2] == x.channels and (one[1] == "linear") == x.last]
    fitting = [one for one in fitting if one[1] == "linear" or (one[1] == "conv" and x.image)]
    if not fitting:
        raise UnfitError
    name = d.choose(fitting)[0]
    d.new(f"{name}({x.name})", x.axis, x)


@op(0.7)
def layer_under_two_names(d: Draw, x: Val) -> None:
    fitting = [one for one in d.layers if one[2] == x.channels and one[1] == "linear" and x.last]
    if not fitting:
        raise UnfitError
    name = f"self.{d.name('m')}"
    d.setup(f"{name} = {d.choose(fitting)[0]}")
    d.new(f"{name}({x.name})", x.axis, x)


@op(1)
def tied_weights(d: Draw, x: Val) -> None:
    _last(x)
    fitting = [one for one in d.layers if one[1] == "linear" and one[2] == x.channels]
    if not fitting:
        raise UnfitError
    name, _, size, out = d.choose(fitting)
    new = d.layer(f"nn.Linear({size}, {out})")
    d.setup(f"{new}.weight = {name}.weight")
    d.new(f"{new}({x.name})", -1, x)


@op(1)
def transposed_tie(d: Draw, x: Val) -> None:
    _last(x)
    fitting = [one for one in d.layers if one[1] == "linear" and one[3] == x.channels]
    if not fitting:
        raise UnfitError
    name = d.choose(fitting)[0]
    d.new(d.choose([f"F.linear({x.name}, {name}.weight.t())", f"{x.name} @ {name}.weight"]), -1, x)


@op(0.2)
def computed_kernel(d: Draw, x: Val) -> None:
    _last(x)
    name = d.layer(f"nn.Linear({x.channels}, {d.width()})")
    d.new(f"F.linear({x.name}, {name}.weight - {name}.weight.mean(1, keepdim=True), {name}.bias)", -1, x)


@op(0.2)
def weight_norm(d: Draw, x: Val) -> None:
    _last(x)
    name = d.layer(f"nn.utils.parametrizations.weight_norm(nn.Linear({x.channels}, {d.width()}))")
    d.new(f"{name}({x.name})", -1, x)


@op(7)
def conv2d(d: Draw, x: Val) -> None:
    _first(x, 4)
    kernel, stride, dilation = d.choose([1, 3, 3, 2, (1, 3)]), d.choose([1, 1, 1, 2]), d.choose([1, 1, 1, 2])
    mode = d.choose(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"])
    padding = d.choose([0, 1, 1, "'same'" if stride == 1 else 1])
    out, bias = d.width(), d.choose(["", "", ", bias=False"])
    options = f"stride={stride}, dilation={dilation}, padding={padding}, padding_mode='{mode}'{bias}"
    name = d.layer(f"nn.Conv2d({x.channels}, {out}, {kernel}, {options})")
    if kernel == 3 and stride == 1:
        d.layers.append((name, "conv", x.channels, out))
    d.new(f"{name}({x.name})", 1, x)


@op(2)
def conv2d_in_groups(d: Draw, x: Val) -> None:
    _first(x, 4)
    groups = d.choose([2, 2, 4, x.channels, x.channels])
    if x.channels % groups:
        raise UnfitError
    out = groups * d.choose([1, 2, 3])
    name = d.layer(f"nn.Conv2d({x.channels}, {out}, 3, padding=1, groups={groups})")
    d.new(f"{name}({x.name})", 1, x)


@op(1.5)
def conv1d(d: Draw, x: Val) -> None:
    _first(x, 3)
    groups = d.choose([1, 1, 1, 2, x.channels])
    if x.channels % groups:
        raise UnfitError
    out, mode = groups * d.choose([2, 4]), d.choose(["zeros", "zeros", "reflect", "circular"])
    name = d.layer(
        f"nn.Conv1d({x.channels}, {out}, 3, padding={d.choose([0, 1, 2])}, stride={d.choose([1, 1, 2])}, "
        f"padding_mode='{mode}', groups={groups})"
    )
    d.new(f"{name}({x.name})", 1, x)


@op(1)
def conv_transpose2d(d: Draw, x: Val) -> None:
    _first(x, 4)
    groups = d.choose([1, 1, 1, 2])
    if x.channels % groups or x.shape[-1] > 8:
        raise UnfitError
    options = d.choose(["2, stride=2", "3, padding=1", "3, stride=2, padding=1, output_padding=1"])
    name = d.layer(
        f"nn.ConvTranspose2d({x.channels}, {groups * d.choose([2, 4])}, {options}, groups={groups})"
    )
    d.new(f"{name}({x.name})", 1, x)


@op(0.5)
def conv_transpose1d(d: Draw, x: Val) -> None:
    _first(x, 3)
    name = d.layer(f"nn.ConvTranspose1d({x.channels}, {d.width()}, 2, stride=2)")
    d.new(f"{name}({x.name})", 1, x)


@op(0.3)
def bilinear(d: Draw, x: Val) -> None:
    _last(x)
    y = d.other(x, lambda one: one.shape[:-1] == x.shape[:-1] and one.last)
    name = d.layer(f"nn.Bilinear({x.channels}, {y.channels}, {d.width()})")
    d.new(f"{name}({x.name}, {y.name})", -1, x, y)


@op(0.3)
def recurrent(d: Draw, x: Val) -> None:
    if x.rank != 3 or not x.last:
        raise UnfitError
    kind = d.choose(["nn.GRU", "nn.LSTM", "nn.RNN"])
    name = d.layer(f"{kind}({x.channels}, {d.width()}, batch_first=True)")
    d.new(f"{name}({x.name})[0]", -1, x)


# ------------------------------------------------------------------ normalizations


@op(3)
def batch_norm(d: Draw, x: Val) -> None:
    _first(x, 2, 3, 4)
    kind = {2: 1, 3: 1, 4: 2}[x.rank]
    options = d.choose(["", "", "", ", affine=False", ", track_running_stats=False"])
    if x.rank == 2 and options.endswith("stats=False"):
        raise UnfitError
    name = d.layer(f"nn.BatchNorm{kind}d({x.channels}{options})")
    d.new(f"{name}({x.name})", 1, x)


@op(1)
def group_norm(d: Draw, x: Val) -> None:
    _first(x, 3, 4)
    groups = d.choose([1, 2, 2, 4, x.channels])
    if x.channels % groups:
        raise UnfitError
    name = d.layer(f"nn.GroupNorm({groups}, {x.channels}{d.choose(['', '', ', affine=False'])})")
    d.new(f"{name}({x.name})", 1, x)


@op(1)
def instance_norm(d: Draw, x: Val) -> None:
    _first(x, 3, 4)
    options = d.choose(["", ", affine=True", ", affine=True, track_running_stats=True"])
    name = d.layer(f"nn.InstanceNorm{x.rank - 2}d({x.channels}{options})")
    d.new(f"{name}({x.name})", 1, x)


@op(0.5)
def layer_norm(d: Draw, x: Val) -> None:
    shape = d.choose([[x.shape[-1]], list(x.shape[-2:])]) if x.rank > 2 else [x.shape[-1]]
    name = d.layer(f"nn.LayerNorm({shape})")
    d.new(f"{name}({x.name})", x.axis, x)


@op(0.3)
def rms_norm(d: Draw, x: Val) -> None:
    name = d.layer(f"nn.RMSNorm({x.shape[-1]})")
    d.new(f"{name}({x.name})", x.axis, x)


@op(0.2)
def normalize(d: Draw, x: Val) -> None:
    d.new(f"F.normalize({x.name}, dim={d.choose(range(1, x.rank))})", x.axis, x)


# ------------------------------------------------------------------ element by element


@op(5)
def activation(d: Draw, x: Val) -> None:
    d.new(
        d.choose(
            [
                "F.relu({0})",
                "torch.relu({0})",
                "{0}.relu()",
                "F.gelu({0})",
                "F.silu({0})",
                "torch.tanh({0})",
                "F.elu({0})",
                "F.selu({0})",
                "F.celu({0})",
                "F.leaky_relu({0}, 0.2)",
                "F.mish({0})",
                "F.hardswish({0})",
                "F.softsign({0})",
                "F.hardtanh({0})",
                "F.relu6({0})",
                "F.softshrink({0})",
                "F.hardshrink({0})",
                "F.tanhshrink({0})",
                "{0}.abs()",
                "{0}.clamp(-1, 1)",
                "{0}.clamp(min=0)",
                "torch.sin({0})",
                "{0} ** 2",
                "torch.where({0} > 0, {0}, 0.1 * {0})",
                "{0} * ({0} > 0)",
                "{0}.erf()",
                "torch.atan({0})",
                "{0} * torch.sigmoid({0})",
                "{0} / (1 + {0}.abs())",
                "torch.sqrt({0}.abs())",
                "{0}.sign() * {0}.abs().log1p()",
            ]
        ).format(x.name),
        x.axis,
        x,
    )


@op(1)
def activation_that_moves_zero(d: Draw, x: Val) -> None:
    d.new(
        d.choose(
            [
                "torch.sigmoid({0})",
                "{0}.sigmoid()",
                "F.softplus({0})",
                "torch.exp(-{0}.abs())",
                "torch.cos({0})",
                "F.hardsigmoid({0})",
                "F.logsigmoid({0})",
                "1 / (1 + {0} ** 2)",
                "{0}.clamp(min=0.3)",
                "F.threshold({0}, 0.1, 0.5)",
                "1 - {0}",
                "{0} + 1",
                "torch.rsqrt({0} ** 2 + 0.5)",
                "torch.maximum({0}, torch.full_like({0}, 0.2))",
                "({0} > 0).double()",
                "{0}.masked_fill({0} > 0.5, 0.5)",
                "{0}.masked_fill({0} < 0.1, 0.1)",
            ]
        ).format(x.name),
        x.axis,
        x,
    )


@op(0.8)
def activation_module(d: Draw, x: Val) -> None:
    kinds = [
        "ReLU()",
        "GELU()",
        "Sigmoid()",
        "ELU()",
        "PReLU()",
        "Softplus()",
        "Hardswish()",
        "Dropout(0.3)",
        "Identity()",
        "Mish()",
    ]
    if x.axis == 1:
        kinds.append(f"PReLU({x.channels})")
    name = d.layer("nn." + d.choose(kinds))
    d.new(f"{name}({x.name})", x.axis, x)


@op(0.6)
def softmax(d: Draw, x: Val) -> None:
    dim = d.choose(range(1, x.rank))
    code = d.choose(
        ["F.softmax({0}, dim={1})", "{0}.softmax({1})", "F.log_softmax({0}, {1})", "nn.Softmax({1})({0})"]
    )
    d.new(code.format(x.name, dim), x.axis, x)


@op(1.5)
def scale(d: Draw, x: Val) -> None:
    d.new(
        d.choose(
            [
                "{0} * 0.5",
                "{0} / 3",
                "2 * {0}",
                "-{0}",
                "{0}.mul(0.7)",
                "torch.div({0}, 2.0)",
                "{0} + 0.3",
                "0.5 - {0}",
            ]
        ).format(x.name),
        x.axis,
        x,
    )


@op(1.5)
def scale_or_shift_by_parameter(d: Draw, x: Val) -> None:
    shape = d.choose([[n if i == x.axis else 1 for i, n in enumerate(x.shape)][1:], list(x.shape[1:]), [1]])
    kind = d.choose(["parameter", "parameter", "buffer"])
    if kind == "buffer":
        name = d.name("b")
        d.setup(f"self.register_buffer('{name}', torch.randn({shape}, dtype=torch.float64))")
        name = f"self.{name}"
    else:
        name = d.layer(f"nn.Parameter(torch.randn({shape}, dtype=torch.float64))")
    code = d.choose(["{0} * {1}", "{0} + {1}", "{0} - {1}", "{1} * {0}", "{1} - {0}", "{0} / (1 + {1}.abs())",
                     "torch.addcmul({0}, {0}, {1})", "{0} * (1 + {1})", "{0} * torch.sigmoid({1})"])  # fmt: skip
    d.new(code.format(x.name, name), x.axis, x)


@op(3)
def two_values(d: Draw, x: Val) -> None:
    y = d.other(x, lambda one: one.shape == x.shape)
    code = d.choose(["{0} + {1}", "{0} + {1}", "{0} * {1}", "{0} - {1}", "torch.maximum({0}, {1})", "{0} / (1 + {1} ** 2)",
                     "torch.add({0}, {1}, alpha=2)", "torch.minimum({0}, {1})", "torch.lerp({0}, {1}, 0.3)",
                     "torch.max({0}, {1})", "torch.where({0} > 0, {0}, {1})", "torch.stack([{0}, {1}]).sum(0)",
                     "torch.hypot({0}, {1})", "sum([{0}, {1}])", "torch.sub({0}, {1}, alpha=0.5)"])  # fmt: skip
    d.new(code.format(x.name, y.name), x.axis, x, y)


@op(1)
def two_values_spread(d: Draw, x: Val) -> None:
    def fits(one: Val) -> bool:
        if one.rank != x.rank or one.shape == x.shape:
            return False
        return all(a == b or 1 in (a, b) for a, b in zip(x.shape, one.shape, strict=True))

    y = d.other(x, fits)
    d.new(
        d.choose(["{0} + {1}", "{0} * {1}", "{0} - {1}", "{0} * torch.sigmoid({1})"]).format(x.name, y.name),
        x.axis,
        x,
        y,
    )


@op(1)
def in_place(d: Draw, x: Val) -> None:
    y = d.new(f"{x.name}.clone()", x.axis, x)
    d.run(
        d.choose(
            ["{0}.relu_()", "{0}.mul_(0.5)", "{0} += 0.1", "{0} *= 2", "{0}.add_({1})", "F.relu({0}, inplace=True)",
             "{0}[:, 1:] = 0", "{0}[:, :2] += 1", "{0}.clamp_(-1, 1)", "{0} -= {1}.mean()", "{0}.copy_({1} * 2)",
             "{0}.zero_()", "{0}[..., 0].mul_(3)"]
        ).format(y.name, x.name)
    )  # fmt: skip
    d.check(y)


@op(0.8)
def in_place_on_another(d: Draw, x: Val) -> None:
    y = d.other(x, lambda one: one.shape == x.shape)
    d.run(d.choose(["{0} += {1}", "{0}.mul_({1})", "{0}.add_({1}, alpha=0.5)"]).format(x.name, y.name))
    d.check(x)
    y.free = False


@op(1)
def gate(d: Draw, x: Val) -> None:
    if x.image:
        few = d.choose([2, 4])
        if d.random.random() < 0.5:
            one, two = (d.layer(f"nn.Conv2d({a}, {b}, 1)") for a, b in ((x.channels, few), (few, x.channels)))
            code = f"{x.name} * torch.sigmoid({two}(F.relu({one}(F.adaptive_avg_pool2d({x.name}, 1)))))"
        else:
            one, two = (d.layer(f"nn.Linear({a}, {b})") for a, b in ((x.channels, few), (few, x.channels)))
            code = f"{x.name} * F.hardsigmoid({two}(F.relu({one}({x.name}.mean((2, 3))))))[:, :, None, None]"
    elif x.last:
        one = d.layer(f"nn.Linear({x.channels}, {x.channels})")
        code = f"{x.name} * torch.sigmoid({one}({x.name}))"
    else:
        raise UnfitError
    d.new(code, x.axis, x)


# ------------------------------------------------------------------ pooling and resizing


@op(2)
def pool(d: Draw, x: Val) -> None:
    _first(x, 3, 4)
    n = x.rank - 2
    d.new(
        d.choose(
            ["F.max_pool{1}d({0}, 2)", "F.max_pool{1}d({0}, 3, stride=2, padding=1)", "F.avg_pool{1}d({0}, 2)",
             "F.max_pool{1}d({0}, 2, ceil_mode=True)", "F.avg_pool{1}d({0}, 3, stride=2, ceil_mode=True)",
             "F.avg_pool{1}d({0}, 3, stride=1, padding=1)", "F.adaptive_avg_pool{1}d({0}, 3)",
             "F.avg_pool{1}d({0}, 3, stride=1, padding=1, count_include_pad=False)", "F.adaptive_max_pool{1}d({0}, 2)",
             "F.lp_pool{1}d({0}.abs() + 0.1, 2, 2)", "F.adaptive_avg_pool{1}d({0}, 1)", "nn.MaxPool{1}d(2)({0})",
             "F.max_pool{1}d({0}, 2, return_indices=True)[0]"]
        ).format(x.name, n),
        1,
        x,
    )  # fmt: skip


@op(1)
def resize(d: Draw, x: Val) -> None:
    _first(x, 4)
    if x.shape[-1] > 8:
        raise UnfitError
    d.new(
        d.choose(
            ["F.interpolate({0}, scale_factor=2)", "F.interpolate({0}, size=(5, 5), mode='bilinear')", "nn.Upsample(scale_factor=2)({0})",
             "F.interpolate({0}, size=4, mode='area')", "F.interpolate({0}, scale_factor=2, mode='bicubic', align_corners=True)"]
        ).format(x.name),
        1,
        x,
    )  # fmt: skip


@op(1)
def pixel_shuffle(d: Draw, x: Val) -> None:
    _first(x, 4)
    d.new(
        d.choose(["F.pixel_shuffle({0}, 2)", "F.pixel_unshuffle({0}, 2)", "nn.PixelShuffle(2)({0})"]).format(
            x.name
        ),
        1,
        x,
    )


@op(1)
def channel_shuffle(d: Draw, x: Val) -> None:
    _first(x, 4)
    groups = 2
    if x.channels % groups:
        raise UnfitError
    b, h, w = d.rows(x), f"{x.name}.shape[2]", f"{x.name}.shape[3]"
    each = d.choose([f"{x.channels // groups}", f"{x.name}.shape[1] // {groups}"])
    d.new(
        d.choose(
            [f"{x.name}.view({b}, {groups}, {each}, {h}, {w}).transpose(1, 2).reshape({b}, -1, {h}, {w})",
             f"F.channel_shuffle({x.name}, {groups})",
             f"{x.name}.unflatten(1, ({groups}, -1)).transpose(1, 2).flatten(1, 2)"]
        ), 1, x,
    )  # fmt: skip


# ------------------------------------------------------------------ moving data


@op(1.5)
def to_tokens(d: Draw, x: Val) -> None:
    _first(x, 3, 4)
    code = ["{0}.flatten(2).transpose(1, 2)", "{0}.reshape({0}.shape[0], {0}.shape[1], -1).permute(0, 2, 1)",
            "{0}.view({0}.size(0), {1}, -1).transpose(1, 2)"]  # fmt: skip
    d.new(d.choose(code).format(x.name, x.channels), -1, x, plain=False)


@op(0.7)
def channels_last(d: Draw, x: Val) -> None:
    if x.rank != 4:
        raise UnfitError
    if x.axis == 1:
        code, axis = (
            [
                "{0}.permute(0, 2, 3, 1)",
                "{0}.movedim(1, -1)",
                "torch.permute({0}, (0, 2, 3, 1)).contiguous()",
            ],
            3,
        )
    else:
        code, axis = ["{0}.permute(0, 3, 1, 2)", "{0}.movedim(-1, 1)"], 1
    d.new(d.choose(code).format(x.name), axis, x, plain=False)


@op(1)
def to_image(d: Draw, x: Val) -> None:
    if x.rank != 3 or not x.last or x.shape[1] not in (4, 6, 9):
        raise UnfitError
    h = {4: 2, 6: 2, 9: 3}[x.shape[1]]
    w = x.shape[1] // h
    size = d.choose([x.channels, f"{x.name}.shape[-1]", -1])
    d.new(f"{x.name}.transpose(1, 2).reshape({d.rows(x)}, {size}, {h}, {w})", 1, x, plain=False)


@op(0.7)
def transpose(d: Draw, x: Val) -> None:
    if x.rank != 3:
        raise UnfitError
    code = d.choose(
        [
            "{0}.transpose(1, 2)",
            "{0}.mT",
            "{0}.permute(0, 2, 1)",
            "torch.swapaxes({0}, 1, 2)",
            "{0}.transpose(-1, -2).contiguous()",
        ]
    )
    d.new(code.format(x.name), 3 - x.axis, x, plain=False)


@op(1)
def flatten(d: Draw, x: Val) -> None:
    if x.rank < 3 or x.shape[1:].count(1) > 2:
        raise UnfitError
    code = [
        "{0}.flatten(1)",
        "{0}.reshape({0}.shape[0], -1)",
        "torch.flatten({0}, 1)",
        "nn.Flatten()({0})",
        "{0}.contiguous().view(len({0}), -1)",
    ]
    d.new(d.choose(code).format(x.name), 1, x, plain=False)


@op(1)
def unflatten(d: Draw, x: Val) -> None:
    if x.rank != 2:
        raise UnfitError
    n = x.shape[1]
    h = d.choose([h for h in (2, 3, 4) if n % h == 0] or [1])
    code = ["{0}.view({0}.shape[0], {1}, {2})", "{0}.reshape(-1, {1}, {2})", "{0}.unflatten(1, ({1}, {2}))", "{0}.view({0}.shape[0], {1}, -1)",
            "{0}.view({0}.shape[0], -1, {2})"]  # fmt: skip
    d.new(d.choose(code).format(x.name, h, n // h), d.choose([1, 2]), x, plain=False)


@op(1)
def unsqueeze(d: Draw, x: Val) -> None:
    if x.rank > 3:
        raise UnfitError
    dim = d.choose(range(1, x.rank + 1))
    index = ", ".join("None" if i == dim else ":" for i in range(x.rank + 1))
    code = d.choose([f"{x.name}.unsqueeze({dim})", f"{x.name}[{index}]"])
    d.new(code, x.axis + (dim <= x.axis), x, plain=False)


@op(1)
def squeeze(d: Draw, x: Val) -> None:
    dims = [i for i, n in enumerate(x.shape) if n == 1 and i]
    if x.rank < 3 or not dims:
        raise UnfitError
    dim = d.choose(dims)
    d.new(f"{x.name}.squeeze({dim})", x.axis - (dim < x.axis) if dim != x.axis else 1, x, plain=False)


@op(0.7)
def expand(d: Draw, x: Val) -> None:
    dims = [i for i, n in enumerate(x.shape) if n == 1 and i]
    if dims:
        dim = d.choose(dims)
        d.new(
            f"{x.name}.expand({', '.join('4' if i == dim else '-1' for i in range(x.rank))})",
            x.axis,
            x,
            plain=False,
        )
    elif x.rank == 2:
        d.new(f"{x.name}.unsqueeze(1).expand(-1, 4, -1)", 2, x, plain=False)
    else:
        raise UnfitError


@op(0.7)
def repeat(d: Draw, x: Val) -> None:
    dim = d.choose(range(1, x.rank))
    if x.shape[dim] > 12:
        raise UnfitError
    times = ", ".join("2" if i == dim else "1" for i in range(x.rank))
    code = d.choose(
        [
            f"{x.name}.repeat({times})",
            f"{x.name}.repeat_interleave(2, dim={dim})",
            f"torch.tile({x.name}, ({times}))",
        ]
    )
    d.new(code, x.axis, x)


@op(1.5)
def cat(d: Draw, x: Val) -> None:
    dim = d.choose([x.axis, x.axis, x.rank - 1, 1])
    ways = [f"torch.cat([{x.name}], {dim})", f"torch.cat([{x.name}, {x.name}], {dim})"]
    with contextlib.suppress(UnfitError):
        y = d.other(
            x,
            lambda one: (
                one.rank == x.rank
                and all(a == b or i == dim for i, (a, b) in enumerate(zip(one.shape, x.shape, strict=True)))
            ),
        )
        ways += [f"torch.cat([{x.name}, {y.name}], {dim})", f"torch.cat(({y.name}, {x.name}), dim={dim})"] * 3
        ways.append(f"torch.cat([{x.name}, torch.zeros_like({y.name})], {dim})")
        y.free = False
    d.new(d.choose(ways), x.axis, x)


@op(1)
def stack(d: Draw, x: Val) -> None:
    if x.rank > 3:
        raise UnfitError
    y = d.other(x, lambda one: one.shape == x.shape)
    dim = d.choose(range(1, x.rank + 1))
    ways = [(f"torch.stack([{x.name}, {y.name}], {dim})", x.axis + (dim <= x.axis)), (f"torch.stack([{x.name}, {y.name}]).mean(0)", x.axis),
            (f"torch.stack([{x.name}, {y.name}], -1).amax(-1)", x.axis), (f"torch.stack([{x.name}, {y.name}], 1).flatten(1, 2)", 1)]  # fmt: skip
    code, axis = d.choose(ways)
    d.new(code, axis, x, y)


@op(1.2)
def pieces(d: Draw, x: Val) -> None:
    dim = d.choose([x.axis, x.axis, d.choose(range(1, x.rank))])
    n = x.shape[dim]
    if n < 4 or n % 2:
        raise UnfitError
    half = n // 2
    cut = d.choose([f"{x.name}.chunk(2, {dim})", f"torch.chunk({x.name}, 2, dim={dim})", f"torch.split({x.name}, {half}, {dim})",
                    f"{x.name}.split([{half}, {half}], dim={dim})", f"{x.name}.tensor_split(2, dim={dim})",
                    f"{x.name}.split([1, {n - 1}], {dim})", f"{x.name}.split({x.name}.shape[{dim}] // 2, dim={dim})"])  # fmt: skip
    a, b = d.name("a"), d.name("a")
    d.run(f"{a}, {b} = {cut}")
    ways = [
        f"{a} * torch.sigmoid({b})",
        f"torch.cat([{b}, {a}], {dim})",
        f"{a} + {b}",
        f"torch.cat([F.relu({a}), {b}], {dim})",
        f"{b} * 1",
    ]
    if "[1, " in cut:
        ways = [ways[1], ways[3], ways[4]]
    d.new(d.choose(ways), x.axis, x)


@op(0.5)
def glu(d: Draw, x: Val) -> None:
    d.new(f"F.glu({x.name}, {x.axis})", x.axis, x)


@op(0.8)
def part(d: Draw, x: Val) -> None:
    dim = d.choose(range(1, x.rank))
    n = x.shape[dim]
    if n < 3:
        raise UnfitError
    what = d.choose(["1:", ":-1", f":{n // 2}", "::2", f"{n // 2}:", "0:1", "[0, 2, 1]", "[-1, 0]"])
    index = ", ".join([":"] * dim + [what])
    ways = [
        f"{x.name}[{index}]",
        f"{x.name}.narrow({dim}, 1, {n - 2})",
        f"{x.name}.index_select({dim}, torch.tensor([2, 0, 1, 1]))",
    ]
    if "[" not in what and dim == x.rank - 1:
        ways.append(f"{x.name}[..., {what}]")
    d.new(d.choose(ways), x.axis, x, plain=False)


@op(1)
def one_of(d: Draw, x: Val) -> None:
    if x.rank < 3:
        raise UnfitError
    dim = d.choose(range(1, x.rank))
    index = ", ".join([":"] * dim + [d.choose(["0", "-1"])])
    ways = [f"{x.name}[{index}]", f"{x.name}.select({dim}, 1)", f"{x.name}.unbind({dim})[0]", f"sum({x.name}.unbind({dim}))",
            f"torch.stack({x.name}.unbind({dim})[::-1], {dim})"]  # fmt: skip
    code = d.choose(ways)
    left = x.axis if "stack" in code else (x.axis - (dim < x.axis) if dim != x.axis else 1)
    d.new(code, left, x, plain=False)


@op(0.8)
def buffer_index(d: Draw, x: Val) -> None:
    dim = d.choose(range(1, x.rank))
    name = d.name("b")
    d.setup(f"self.register_buffer('{name}', torch.randperm({x.shape[dim]}))")
    index = ", ".join([":"] * dim + [f"self.{name}"])
    d.new(d.choose([f"{x.name}[{index}]", f"{x.name}.index_select({dim}, self.{name})"]), x.axis, x)


@op(0.7)
def roll_or_flip(d: Draw, x: Val) -> None:
    dim = d.choose(range(1, x.rank))
    d.new(
        d.choose(
            [
                f"{x.name}.roll(1, {dim})",
                f"torch.roll({x.name}, -2, dims={dim})",
                f"{x.name}.flip({dim})",
                f"torch.flip({x.name}, [{dim}])",
            ]
        ),
        x.axis,
        x,
    )


@op(1)
def pad(d: Draw, x: Val) -> None:
    if x.image and d.random.random() < 0.4:
        code = d.choose(
            [
                "F.pad({0}, (1, 1, 1, 0), mode='reflect')",
                "F.pad({0}, (0, 0, 0, 0, 1, 1))",
                "F.pad({0}, (1, 0), value=0.5)",
            ]
        )
    else:
        code = d.choose(
            [
                "F.pad({0}, (0, 2))",
                "F.pad({0}, (1, 0))",
                "F.pad({0}, (0, 1), value=1.0)",
                "F.pad({0}, (-1, 1))",
            ]
        )
        if x.rank == 3:
            code = d.choose([code, "F.pad({0}, (0, 0, 1, 0))"])
    d.new(code.format(x.name), x.axis, x)


# ------------------------------------------------------------------ reductions


@op(1.5)
def reduce(d: Draw, x: Val) -> None:
    dims = d.choose([[i] for i in range(1, x.rank)] + [[i for i in range(1, x.rank) if i != x.axis]])
    keep = d.random.random() < 0.4
    if not dims or (x.rank - len(dims) < 2 and not keep):
        raise UnfitError
    dim = tuple(dims) if len(dims) > 1 else dims[0]
    ways = ["{0}.mean({1}{2})", "{0}.sum(dim={1}{2})", "{0}.amax({1}{2})", "torch.mean({0}, {1}{2})", "{0}.std({1}{2})", "torch.logsumexp({0}, {1}{2})",
            "{0}.norm(dim={1}{2})", "{0}.amin({1}{2})"]  # fmt: skip
    if len(dims) == 1:
        ways += ["{0}.max({1}{2})[0]", "{0}.max(dim={1}{2}).values", "torch.prod({0}, {1}{2})"]
    code = d.choose(ways).format(x.name, dim, ", keepdim=True" if keep else "")
    axis = x.axis if keep or x.axis in dims else x.axis - sum(i < x.axis for i in dims)
    d.new(code, axis if keep or x.axis not in dims else 1, x)


@op(0.7)
def size_of_channels(d: Draw, x: Val) -> None:
    """Code that asks how many channels there are."""
    size = f"{x.name}.{d.choose([f'shape[{x.axis}]', f'size({x.axis})'])}"
    ways = [f"{x.name} / {size}", f"{x.name} * {size} ** -0.5", f"{x.name}.narrow({x.axis}, 0, {size})"]
    ways.append(f"{x.name}[{', '.join([':'] * x.axis + [f':{size} // 2'])}]")
    if x.rank > 2:
        ways.append(f"{x.name}.sum({x.axis}, keepdim=True) / {size}")
    d.new(d.choose(ways), x.axis, x)


@op(0.5)
def view_written_to(d: Draw, x: Val) -> None:
    """In-place operations on views of a value that is read afterwards."""
    y = d.new(f"{x.name} * 1", x.axis, x)
    flat = f"{y.name}.view({y.name}.shape[0], -1)"
    d.run(
        d.choose(
            [f"{flat}.add_(1)", f"{flat}.mul_(2)", f"{y.name}.transpose(0, 1).tanh_()", f"{y.name}[:, 0] += {y.name}[:, 1]",
             f"{y.name}[..., :2].relu_()", f"{y.name}.unbind(1)[0].fill_(0.3)", f"{y.name}[:] = {x.name} * 2"]
        )
    )  # fmt: skip
    d.check(y)


@op(0.5)
def written_part_by_part(d: Draw, x: Val) -> None:
    name, n = d.name("w"), x.shape[1]
    d.run(
        f"{name} = torch.zeros_like({x.name})"
        if d.random.random() < 0.5
        else f"{name} = {x.name}.new_zeros({x.name}.shape)"
    )
    d.run(
        d.choose(
            [
                f"{name}[:, :{n}] = {x.name}",
                f"{name}[:, :1] = {x.name}[:, -1:]",
                f"{name}.copy_({x.name})",
                f"{name}[...] = {x.name}",
            ]
        )
    )
    d.new(f"{name} * 1", x.axis, x)


@op(0.4)
def looked_at_only(d: Draw, x: Val) -> None:
    """What runs although nothing reads it."""
    if x.last:
        name = d.layer(f"nn.Linear({x.channels}, {d.width()})")
        d.run(f"{d.name('u')} = {name}({x.name})")
    elif x.image:
        name = d.layer(f"nn.BatchNorm2d({x.channels})")
        d.run(f"{d.name('u')} = {name}({x.name}).mean()")
    else:
        raise UnfitError


@op(3)
def block(d: Draw, x: Val) -> None:
    """A module of somebody's own, often several of a class with other widths."""
    n = x.channels
    if x.image:
        ways = [f"Bottleneck({n}, {d.width()})"] + ([f"Shuffled({n})"] if n % 2 == 0 else [])
    elif x.last:
        ways = [f"Gated({n}, {d.width()})", f"Experts({n}, {d.width()})", f"Gamma({n})"]
        if x.rank == 3:
            ways += [f"Heads({n}, {d.choose([1, 2, 4])}, {d.choose([2, 3])})"] * 2
    else:
        raise UnfitError
    name = d.layer(d.choose(ways))
    for _ in range(d.choose([1, 1, 2])):
        x = d.new(f"{name}({x.name})", x.axis, x)


@op(0.4)
def checkpointed(d: Draw, x: Val) -> None:
    _last(x)
    name = d.layer(f"nn.Sequential(nn.Linear({x.channels}, {d.width()}), nn.Tanh())")
    d.new(f"checkpoint({name}, {x.name}, use_reentrant=False)", -1, x)


@op(0.6)
def by_comparison(d: Draw, x: Val) -> None:
    ways = ["{0} * ({0} >= 0)", "{0}.where({0} > 0, {0} * 0.2)", "{0}.masked_fill({0} < 0, 0.0)", "torch.where({0}.abs() < 0.5, 0, {0})",
            "{0}.masked_fill({0}.mean({1}, keepdim=True) > 0, 0.0)", "({0} > {0}.mean()) * {0}"]  # fmt: skip
    d.new(d.choose(ways).format(x.name, x.axis), x.axis, x)


@op(0.4)
def written_out(d: Draw, x: Val) -> None:
    y = d.new(f"{x.name} * 1", x.axis, x)
    n = ", ".join([":"] * (x.rank - 1) + ["0"])
    d.run(
        d.choose(
            [f"torch.add({y.name}, 1, out={y.name})", f"torch.mul({x.name}, 2, out={y.name})", f"{y.name}.detach().add_(0.5)",
             f"{y.name}.unsqueeze(1).sigmoid_()", f"{y.name}[{y.name} < 0] = 0", f"{y.name}[{y.name} > 0.5] = 0.5", f"{y.name}[{n}] = {x.name}[{n}] + 1",
             f"{y.name}.flatten(1)[:, :2] = 0", f"{y.name}.index_fill_(1, torch.tensor([0]), 0.5)"]
        )
    )  # fmt: skip
    d.check(y)


@op(0.5)
def view_read_later(d: Draw, x: Val) -> None:
    """A view is taken, then its base is written to."""
    y = d.new(f"{x.name} * 1", x.axis, x)
    dim = d.choose(range(1, x.rank + 1))
    view = d.name("u")
    d.run(f"{view} = {y.name}.unsqueeze({dim})")
    d.run(d.choose([f"{y.name}.add_(0.5)", f"{y.name} *= 2", f"{y.name}.relu_()", f"{y.name}.sigmoid_()"]))
    d.new(f"{view}.squeeze({dim})", x.axis, y)


@op(0.3)
def cumsum(d: Draw, x: Val) -> None:
    d.new(f"{x.name}.cumsum({d.choose(range(1, x.rank))})", x.axis, x)


# ------------------------------------------------------------------ products of two values and attention


@op(1.5)
def product(d: Draw, x: Val) -> None:
    if x.rank == 2:
        y = d.other(x, lambda one: one.rank == 2)
        ways = [f"torch.einsum('bi,bj->bij', {x.name}, {y.name})", f"{x.name}[:, :, None] * {y.name}[:, None, :]",
                f"torch.bmm({x.name}.unsqueeze(2), {y.name}.unsqueeze(1))"]  # fmt: skip
        d.new(d.choose(ways) + " * 0.3", 2, x, y)
    elif x.rank == 3:
        y = d.other(
            x,
            lambda one: (
                one.rank == 3
                and (one.shape[2] == x.shape[2] or one.shape[1] == x.shape[2] or one.shape[1] == x.shape[1])
            ),
        )
        ways = []
        if y.shape[2] == x.shape[2]:
            ways += [f"{x.name} @ {y.name}.transpose(1, 2)", f"torch.einsum('btc,bsc->bts', {x.name}, {y.name})", f"torch.bmm({x.name}, {y.name}.mT)",
                     f"F.softmax({x.name} @ {y.name}.mT, -1) @ {y.name}"]  # fmt: skip
        if y.shape[1] == x.shape[2]:
            ways += [f"{x.name} @ {y.name}", f"torch.bmm({x.name}, {y.name})"]
        if y.shape[1] == x.shape[1]:
            ways += [f"{x.name}.mT @ {y.name}", f"torch.einsum('btc,btd->bcd', {x.name}, {y.name})"]
        d.new(d.choose(ways) + " * 0.3", 2, x, y)
    else:
        raise UnfitError


@op(1.5)
def attention(d: Draw, x: Val) -> None:
    if x.rank != 3 or not x.last:
        raise UnfitError
    heads, size = d.choose([1, 2, 2, 4]), d.choose([2, 3, 4])
    wide = heads * size
    q, k, v = (d.layer(f"nn.Linear({x.channels}, {wide}{d.choose(['', ', bias=False'])})") for _ in "qkv")
    style = d.choose(["view", "unflatten", "attribute", "single"])
    t = f"{x.name}.shape[1]"
    if style == "view":
        split = f".view({d.rows(x)}, {t}, {heads}, {size}).transpose(1, 2)"
    elif style == "unflatten":
        split = f".unflatten(-1, ({heads}, -1)).transpose(1, 2)"
    elif style == "attribute":
        name = d.name("heads")
        d.setup(f"self.{name} = {heads}")
        split = f".view({d.rows(x)}, {t}, self.{name}, -1).permute(0, 2, 1, 3)"
    else:
        split = ""
    parts = []
    for one in (q, k, v):
        parts.append(d.name("a"))
        d.run(f"{parts[-1]} = {one}({x.name}){split}")
    a = d.name("a")
    if d.random.random() < 0.5:
        causal = d.choose(["", ", is_causal=True"])
        d.run(f"{a} = F.scaled_dot_product_attention({', '.join(parts)}{causal})")
    else:
        d.run(
            f"{a} = torch.softmax({parts[0]} @ {parts[1]}.transpose(-2, -1) / {size} ** 0.5, -1) @ {parts[2]}"
        )
    if split:
        join = d.choose(
            [
                f".transpose(1, 2).reshape({d.rows(x)}, {t}, {wide})",
                f".transpose(1, 2).reshape({d.rows(x)}, {t}, -1)",
                ".transpose(1, 2).flatten(2)",
            ]
        )
        d.run(f"{a} = {a}{join}")
    d.space[a] = d.space[a]
    out = d.layer(f"nn.Linear({wide}, {x.channels})")
    d.new(f"{out}({a})" + d.choose(["", f" + {x.name}"]), -1, x)


@op(0.7)
def multihead_attention(d: Draw, x: Val) -> None:
    if x.rank != 3 or not x.last:
        raise UnfitError
    heads = d.choose([1, 2, 4])
    if x.channels % heads:
        raise UnfitError
    name = d.layer(f"nn.MultiheadAttention({x.channels}, {heads}, batch_first=True)")
    d.new(f"{name}({x.name}, {x.name}, {x.name}" + d.choose([")[0]", ", need_weights=False)[0]"]), -1, x)


@op(0.4)
def transformer_layer(d: Draw, x: Val) -> None:
    if x.rank != 3 or not x.last or x.channels % 2:
        raise UnfitError
    options = d.choose(["", ", norm_first=True", ", activation='gelu'"])
    name = d.layer(f"nn.TransformerEncoderLayer({x.channels}, 2, 12, batch_first=True{options})")
    d.new(f"{name}({x.name})", -1, x)


# ------------------------------------------------------------------ what no rule knows


@op(0.7)
def unknown(d: Draw, x: Val) -> None:
    ways = ["torch.fft.fft({0}).real", "torch.fft.rfft({0}, dim={1}).abs()", "{0}.tanh().cumprod({1})", "torch.sort({0}, dim={1})[0]", "Doubling.apply({0})",
            "torch.logcumsumexp({0}, {1})", "torch.cummax({0}, {1}).values", "{0}.renorm(2, {1}, 1.0)", "torch.diff({0}, dim={1})",
            "torch.quantile({0}, 0.5, dim={1}, keepdim=True)", "torch.median({0}, {1}, keepdim=True).values", "torch.vmap(torch.relu)({0})",
            "F.kl_div({0}.log_softmax(-1), {0}.softmax(-1), reduction='none')", "torch.nan_to_num({0})", "torch.frac({0})"]  # fmt: skip
    if x.shape[-1] >= 3:
        ways += [
            "{0}.topk(2, -1).values",
            "torch.gather({0}, -1, torch.zeros_like({0}, dtype=torch.long)[..., :2])",
            "{0}.unfold(-1, 2, 1).mean(-1)",
        ]
    if x.rank == 3:
        ways += ["torch.cdist({0}, {0})", "torch.tril({0})"]
    if x.image and x.shape[2] >= 2 <= x.shape[3]:
        ways += [
            "F.unfold({0}, 2)",
            "F.local_response_norm({0}, 3)",
            "F.fold(F.unfold({0}, 2), {0}.shape[2:], 2)",
        ]
    d.new(d.choose(ways).format(x.name, d.choose([x.axis, x.axis, x.rank - 1])), x.axis, x)


# ------------------------------------------------------------------ programs


@dataclasses.dataclass
class Program:
    seed: int
    source: str
    operations: list[str]
    model: nn.Module
    example: Any
    inputs: dict[str, torch.Tensor]


def drawn(seed: int) -> Program:
    """The program of this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _drawn(seed)


_STARTS = {
    "image": lambda d: (("x", (3, d.choose([1, 3, 4]), d.choose([4, 5, 7]), d.choose([4, 6, 7])), 1),),
    "tokens": lambda d: (("x", (3, d.choose([4, 6, 9]), d.choose([4, 5, 8])), 2),),
    "sequence": lambda d: (("x", (3, d.choose([2, 4]), d.choose([6, 9])), 1),),
    "vector": lambda d: (("x", (3, d.choose([4, 5, 8])), 1),),
    "words": lambda d: (("ids", (3, d.choose([4, 6, 9])), 2),),
    "two": lambda d: (("x", (3, 4, 6, 6), 1), ("y", (3, 8), 1)),
    "two tokens": lambda d: (("x", (3, 4, 6), 2), ("ids", (3, 4), 2)),
}
_BEGINNINGS = {"image": conv2d, "tokens": linear, "sequence": conv1d, "vector": linear, "two": conv2d}


def _drawn(seed: int) -> Program:
    d = Draw(seed)
    kind = d.choose(_STARTS)
    inputs: dict[str, torch.Tensor] = {}
    for name, shape, axis in _STARTS[kind](d):
        if name == "ids":
            inputs[name] = torch.randint(0, 10, shape)
        else:
            inputs[name] = torch.randn(shape, dtype=torch.float64)
        d.space[name] = inputs[name]
        if name == "ids":
            layer = d.layer(f"nn.Embedding(10, {d.width()})")
            d.new(f"{layer}(ids)", -1)
        else:
            d.values.append(Val(name, shape, axis, plain=False))
    length = d.random.randrange(6, 21)
    if kind in _BEGINNINGS:  # most programs begin with a layer
        attempt(d, _BEGINNINGS[kind], d.values[0])
    tries = 0
    while len(d.done) < length and tries < 400:
        tries += 1
        name = d.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        free = [one for one in d.values if one.free]
        x = d.choose(free[-3:] or d.values[-3:]) if d.random.random() < 0.85 else d.choose(d.values)
        attempt(d, OPERATIONS[name], x)
    _end(d)
    source = _source(d, inputs)
    space: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "F": F,
        "checkpoint": checkpoint,
        "SimpleNamespace": SimpleNamespace,
        **BLOCKS,
    }
    exec(source, space)
    model = space["Program"]().double()
    model.load_state_dict(d.module.state_dict())
    train = d.random.random() < 0.3
    model.train(train)
    example: Any = inputs if len(inputs) > 1 and d.random.random() < 0.5 else tuple(inputs.values())
    example = example if len(inputs) > 1 else next(iter(inputs.values()))
    return Program(seed, source, d.done, model, example, inputs)


def attempt(d: Draw, operation: Any, x: Val) -> bool:
    """One more step; where it does not fit, the program is as before."""
    if operation is in_place_on_another and not x.plain:
        return False
    before = len(d.init), len(d.forward), len(d.values), len(d.layers), [(one, one.free) for one in d.values]
    kept = {
        key: value.clone()
        for key, value in d.space.items()
        if isinstance(value, torch.Tensor) and operation is in_place_on_another
    }
    d.module.eval()
    try:
        operation(d, x)
    except Exception as error:
        if not isinstance(error, (UnfitError, RuntimeError, IndexError, ValueError)):
            raise
        for line in d.init[before[0] :]:
            found = re.match(r"self\.(\w+) =", line) or re.match(r"self\.register_buffer\('(\w+)'", line)
            if found:
                delattr(d.module, found[1])
        del d.init[before[0] :], d.forward[before[1] :], d.values[before[2] :], d.layers[before[3] :]
        for one, free in before[4]:
            one.free = free
        d.space.update(kept)
        return False
    d.done.append(operation.__name__)
    return True


def _end(d: Draw) -> None:
    """What nothing has read is read by a last layer, or is an output, or is never used."""
    outs = []
    for x in [one for one in d.values if one.free][-4:]:
        draw = d.random.random()
        if draw < 0.1 and outs:
            continue
        if draw < 0.25 or x.name in ("x", "y"):
            outs.append(x.name)
            continue
        others = [i for i in range(1, x.rank) if i != x.axis]
        name = d.layer(f"nn.Linear({x.channels}, 3)")
        if others:
            code = f"{name}({x.name}.mean({tuple(others)}))"
        else:
            code = f"{name}({x.name})"
        out = d.name("out")
        d.run(f"{out} = {code}")
        outs.append(out)
    outs = outs or [d.values[-1].name]
    form = d.choose(["tuple", "dict", "list", "nested", "object"])
    if d.random.random() < 0.05 and d.layers:
        outs.append(f"{d.choose(d.layers)[0]}.weight" + d.choose(["", ".pow(2).sum()"]))
    if len(outs) == 1:
        d.forward.append(f"return {outs[0]}")
    elif form == "dict":
        d.forward.append("return {" + ", ".join(f"'{i}': {one}" for i, one in enumerate(outs)) + "}")
    elif form == "list":
        d.forward.append(f"return [{', '.join(outs)}]")
    elif form == "object":
        d.forward.append(
            "return SimpleNamespace(" + ", ".join(f"out{i}={one}" for i, one in enumerate(outs)) + ")"
        )
    elif form == "nested":
        d.forward.append(f"return {{'first': {outs[0]}, 'rest': ({', '.join(outs[1:])},)}}")
    else:
        d.forward.append(f"return {', '.join(outs)}")


def _source(d: Draw, inputs: dict[str, torch.Tensor]) -> str:
    lines = ["class Program(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [f"        {line}" for line in d.init]
    lines += ["", f"    def forward(self, {', '.join(inputs)}):"]
    lines += [f"        {line}" for line in d.forward]
    return "\n".join(lines) + "\n"
