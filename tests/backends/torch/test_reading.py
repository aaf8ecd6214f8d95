"""Modules as people write them: what can leave leaves, what cannot is named, and nothing else changes."""

import collections
import dataclasses
import functools
import threading
import types

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from tests.torch_architectures import drawn  # noqa: E402
from tests.torch_reading import Net, check, everything, refused, run  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def features(*shape):
    return torch.randn(5, *shape)


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def linears(**sizes):
    return {name: nn.Linear(*size) for name, size in sizes.items()}


def abc():
    """A chain of three: what `a` and `b` make can leave."""
    return linears(a=(4, 8), b=(8, 6), c=(6, 2))


def convs(**sizes):
    return {name: nn.Conv2d(*size, 3, padding=1) for name, size in sizes.items()}


# ------------------------------------------------------------ parts that run in training only


def deep(m, x):
    x = m.a(x).relu()
    y = m.b(x).relu()
    return [m.c(y), m.side(x), m.other(y)] if m.training else m.c(y)


def auxiliary(m, x):
    x = m.a(x).relu()
    out = {"out": m.b(x).mean((2, 3))}
    if m.training:
        out["aux"] = m.last(m.norm(m.hidden(x)).relu().mean((2, 3)))
    return out


def noisy(m, x):
    x = m.a(x)
    return m.c(m.b(x * m.scale if m.training else x).relu())


@pytest.mark.parametrize(
    ("model", "x", "gone", "whole"),
    [
        (Net(deep, **abc(), side=nn.Linear(8, 3), other=nn.Linear(6, 2)), ROWS, "a b", "c side other"),
        (
            Net(
                auxiliary,
                **convs(a=(3, 8), b=(8, 2), hidden=(8, 6)),
                norm=nn.BatchNorm2d(6),
                last=nn.Linear(6, 3),
            ),
            IMAGES,
            "a hidden",
            "b last",
        ),
        (Net(noisy, **abc(), scale=nn.Parameter(torch.ones(8))), ROWS, "a b", "c"),
    ],
    ids=["deep supervision", "a head with layers of its own", "a parameter"],
)
def test_what_runs_in_training_only_is_cut_as_well(model, x, gone, whole):
    check(model, x, gone=gone, whole=whole)


# ------------------------------------------------------------ attributes


class Anchored(nn.Module):
    """Keeps tensors, arrays and a lock outside its buffers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.strides = torch.tensor([8.0, 16.0])
        self.anchors = [torch.ones(2, 2), {"first": torch.zeros(3)}]
        self.learned = torch.ones(2, requires_grad=True)
        self.array, self.lock = np.arange(3), threading.Lock()
        self.seen = None

    def forward(self, x):
        self.seen = self.a(x)
        return self.b(self.seen.relu()) * self.strides + self.learned


def test_attributes_that_are_tensors_stay():
    model = Anchored()
    small, _ = check(model, ROWS, gone="a", whole="b", trains=False)
    assert torch.equal(small.strides, model.strides) and torch.equal(small.anchors[0], torch.ones(2, 2))
    assert small.strides is not model.strides and small.anchors[1]["first"] is not model.anchors[1]["first"]
    assert np.array_equal(small.array, model.array) and small.learned.requires_grad
    assert small.seen.shape == (5, 4)


def test_a_tensor_that_is_no_parameter_keeps_its_size_and_so_does_what_it_meets():
    model = Net(lambda m, x: m.c(m.b(m.a(x) + m.kept).relu()), **abc(), kept=torch.ones(8))
    _, masks = check(model, ROWS, gone="b", whole="a c")
    assert masks.whole["a"] == "added to, or multiplied with, values whose channels all stay in Net"


# ------------------------------------------------------------ tied weights


def tied_linear():
    model = Net(
        lambda m, x: m.c(m.b(m.a(m.i(x).relu()).relu()).relu()),
        **linears(i=(4, 8), a=(8, 8), b=(8, 8), c=(8, 2)),
    )
    model.b.weight = model.a.weight
    return model


def tied_words(body):
    model = Net(body, e=nn.Embedding(11, 6), a=nn.Linear(6, 8), b=nn.Linear(8, 6), o=nn.Linear(6, 11))
    model.o.weight = model.e.weight
    return model


def twice():
    model = Net(lambda m, x: m.c(m.b(m.again(m.b(m.a(x)).relu()))), **linears(a=(4, 8), b=(8, 8), c=(8, 2)))
    model.again = model.b
    return model


WORDS = torch.arange(10).reshape(2, 5)


@pytest.mark.parametrize(
    ("model", "x", "gone", "whole"),
    [
        (tied_linear(), ROWS, "i a", "c"),
        (tied_words(lambda m, x: m.o(m.b(m.a(m.e(x)).relu()))), WORDS, "a e b", ["e (axis 0)"]),
        (tied_words(lambda m, x: m.o(m.e(x) + m.b(m.a(m.e(x)).relu()))), WORDS, "a e b", ["e (axis 0)"]),
        (twice(), ROWS, "a b", "c"),
    ],
    ids=["linear", "words in and out", "words in and out, with a residual", "one module three times"],
)
def test_tied_weights_stay_tied(model, x, gone, whole):
    small, _ = check(model, x, gone=gone, whole=whole)
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in small.named_parameters()} == names


# ------------------------------------------------------------ inputs


class Keywords(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.a, self.b, self.c, self.read = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), read

    def forward(self, x, y=None, *, scale=1.0):
        parts = self.read(x, y)
        return self.c(self.b(sum(self.a(one) for one in parts) * scale).relu())


@pytest.mark.parametrize(
    ("read", "x"),
    [
        (lambda x, y: [x, y], (ROWS, ROWS + 1)),
        (lambda x, y: [x, y], [ROWS, ROWS.clone()]),
        (lambda x, y: [x, y], {"x": ROWS, "y": ROWS - 1, "scale": 2.0}),
        (lambda x, y: [x] if y is None else [x, y], (ROWS, None)),
        (lambda x, y: [*x, y["last"]], ((ROWS, ROWS + 1), {"last": ROWS})),
        (lambda x, y: x["pair"], ({"pair": [ROWS, ROWS]},)),
        (lambda x, y: [x * y], (ROWS, torch.tensor(2.0))),
        (lambda x, y: [x.masked_fill(y, 0.0)], (ROWS, ROWS > 0)),
    ],
    ids=["tuple", "list", "keyword", "None", "nested", "dict", "scalar", "bool"],
)
def test_inputs_of_every_kind(read, x):
    check(Keywords(read), x, gone="a b", whole="c")


def test_one_dict_as_the_only_argument():
    model = drawn(Net(lambda m, given: m.c(m.b(m.a(given["image"])).relu()), **abc()))
    example = ({"image": ROWS, "name": "first"},)
    check(model, example, gone="a b", whole="c")


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, batch):
        return self.b(self.a(batch["image"]).relu())


def test_a_dict_whose_keys_are_no_arguments_is_the_argument():
    model = drawn(Named())
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input={"image": ROWS, "id": [3]})
    assert list(masks) == ["a"]
    small = nnopt.remove_nodes(model, masks, example_input={"image": ROWS, "id": [3]})
    torch.testing.assert_close(small({"image": ROWS}), model({"image": ROWS}), atol=1e-5, rtol=0)


# ------------------------------------------------------------ outputs

Pair = collections.namedtuple("Pair", "one two")


class Output:
    def __init__(self, one, two):
        self.one, self.two, self.name = one, [two], "anything"


@dataclasses.dataclass
class Result:
    one: torch.Tensor
    two: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        lambda one, two: (one, two),
        lambda one, two: [one, [two, None]],
        lambda one, two: {"one": one, "deeper": {"two": two}},
        Pair,
        Result,
        Output,
        lambda one, two: types.SimpleNamespace(one=one, two=two),
    ],
    ids=["tuple", "list", "dict", "namedtuple", "dataclass", "object", "namespace"],
)
def test_outputs_of_every_kind_keep_all_their_channels(output):
    model = Net(lambda m, x: output(m.c(m.b(m.a(x)).relu()), m.d(m.a(x))), **abc(), d=nn.Linear(8, 3))
    small, _ = check(model, ROWS, gone="a b", whole="c d")
    assert type(small(ROWS)) is type(model(ROWS))


def test_a_layer_that_is_an_output_and_read_on_stays_whole():
    _, masks = check(Net(lambda m, x: (m.c(m.b(m.a(x))), m.a(x)), **abc()), ROWS, gone="b", whole="a c")
    assert masks.whole["a"] == "its channels are outputs of the model"


# ------------------------------------------------------------ concatenations


def dense(join):
    def body(m, x):
        found = [m.i(x)]
        found.append(m.a(join(found).relu()))
        found.append(m.b(join(found).relu()))
        return m.o(join(found).relu())

    return Net(body, **convs(i=(3, 8), a=(8, 6), b=(14, 4), o=(18, 2)))


@pytest.mark.parametrize(
    "join",
    [
        lambda found: torch.cat(found, 1),
        lambda found: torch.cat(tuple(found), dim=-3),
        lambda found: torch.concat(found, dim=1),
        lambda found: torch.hstack(found),
        lambda found: found[0] if len(found) == 1 else torch.cat(found, 1),
    ],
)
def test_lists_of_one_and_of_several_are_concatenated(join):
    check(dense(join), IMAGES, gone="i a b", whole="o")


@pytest.mark.parametrize("count", [1, 2])
def test_stacked_channels_leave_together(count):
    model = Net(
        lambda m, x: m.c(torch.stack([m.a(x), m.b(x)] if count == 2 else [m.a(x)], 1).sum(1).relu()),
        **linears(a=(4, 8), c=(8, 2)),
    )
    if count == 2:
        model.b = nn.Linear(4, 8)
    _, masks = check(model, ROWS, gone="a b"[: 2 * count - 1], whole="c")
    assert count == 1 or np.array_equal(masks["a"], masks["b"])


# ------------------------------------------------------------ activations


def named(one):
    """A name that every process gives: a function's text holds its address."""
    return str(one) if isinstance(one, nn.Module) else getattr(one, "__name__", None)


ZERO_AT_ZERO = [
    *(nn.ReLU(True), nn.ReLU6(), nn.LeakyReLU(0.1), nn.Hardswish(), nn.PReLU(), nn.PReLU(8), nn.ELU()),
    *(nn.Mish(), nn.Hardtanh(), nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh()),
    *(nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.RReLU(), nn.Dropout()),
    *(nn.Identity(), nn.Dropout1d(), nn.AlphaDropout()),
]
ZERO_AT_ZERO_FUNCTIONS = [
    lambda x: x * torch.sigmoid(1.702 * x),
    lambda x: x.clamp(-1, 6) - x.abs() / 3,
    lambda x: torch.sin(x) + torch.expm1(x) + x**2,
    lambda x: torch.where(x > 0, x, 0.01 * x),
    lambda x: torch.max(x, 0.1 * x),
    lambda x: x.mul_(2).relu_(),
    lambda x: x * F.relu6(x + 3) / 6,
    lambda x: F.hardtanh(x, 0.0, 6.0),
    lambda x: x.masked_fill(x < 0, 0.0),
    lambda x: F.threshold(x, 0.1, 0.0),
]
CONSTANT_AT_ZERO = [
    *(nn.Sigmoid(), nn.Hardsigmoid(), nn.Softplus(), nn.LogSigmoid(), nn.Threshold(0.1, 20.0)),
    *(torch.cos, torch.exp, lambda x: x + 1, lambda x: 1 - x.relu(), lambda x: x.sigmoid().cos()),
    lambda x: x.clamp(min=0.3),
]


def around(act, size=8):
    layer = act if isinstance(act, nn.Module) else None
    return Net(
        lambda m, x: m.c(m.b(act(m.a(x)) if layer is None else m.act(m.a(x))).relu()),
        **linears(a=(4, size), b=(size, 6), c=(6, 2)),
        act=layer,
    )


@pytest.mark.parametrize("act", [*ZERO_AT_ZERO, *ZERO_AT_ZERO_FUNCTIONS], ids=named)
def test_activations_that_are_0_at_0(act):
    draws = "Dropout" in str(act) or "RReLU" in str(act)
    check(around(act), ROWS, gone="a b", whole="c", trains=not draws)


@pytest.mark.parametrize("act", CONSTANT_AT_ZERO, ids=named)
def test_activations_that_are_not_0_at_0_are_folded_or_refused(act):
    model = around(act)
    check(model, ROWS, gone="a b", whole="c", fold=True)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer", example_input=ROWS)
    before = everything(model)
    with pytest.raises(NnoptError) as error:
        nnopt.remove_nodes(model, masks, example_input=ROWS)
    constant = act(torch.zeros(()))
    assert str(error.value) == (
        "removing nodes that layer 'b' reads would change its outputs; received an activation that makes "
        f"{float(constant):.3g} of their 0, and fold=False. Pass fold=True to add it to the layer's bias "
        "(under zero padding, borders differ)."
    )
    assert everything(model) == before


@pytest.mark.parametrize(
    "end",
    [
        nn.LogSoftmax(1),
        nn.Softmax(dim=-1),
        nn.Softmin(1),
        lambda x: F.softmax(x, 1),
        lambda x: x.log_softmax(-1),
        lambda x: x.softmax(1).argmax(1),
        lambda x: (x.exp() / x.exp().sum(1, keepdim=True), x.topk(1).values),
        nn.Sigmoid(),
    ],
)
def test_outputs_that_end_in_a_softmax(end):
    check(Net(lambda m, x: end(m.c(m.b(m.a(x)).relu())), **abc()), ROWS, gone="a b", whole="c", trains=False)


def test_a_softmax_over_channels_is_a_barrier_and_one_over_positions_is_none():
    model = Net(
        lambda m, x: m.c(m.b(m.a(x).softmax(-1)).relu().transpose(0, 1).softmax(0).transpose(0, 1)), **abc()
    )
    text = "read together with other channels by 'softmax' in Net"
    assert refused(model, ROWS) == (
        "a model to prune by nodes needs a layer whose outputs another layer reads; received none "
        f"('a': {text}; 'b': {text}; 'c': its channels are outputs of the model)."
    )
    gate = Net(
        lambda m, x: m.b(m.a(x) * m.g(x).flatten(2).softmax(2).view_as(m.a(x))),
        **{"a": nn.Conv2d(3, 8, 1), "g": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 2, 1)},
    )
    _, masks = check(gate, IMAGES, gone="a g", whole="b")
    assert np.array_equal(masks["a"], masks["g"])


# ------------------------------------------------------------ pools, resizing


@pytest.mark.parametrize("side", [4, 8, 13])
@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveAvgPool2d((4, 4)),
        nn.AdaptiveMaxPool2d(4),
        lambda x: F.adaptive_avg_pool2d(x, (4, 4)),
        lambda x: F.adaptive_max_pool2d(F.pad(x, (1, 1, 1, 1)), 4),
        lambda x: F.interpolate(x, (4, 4), mode="area"),
    ],
    ids=["avg", "max", "function", "padded", "area"],
)
def test_adaptive_pools_before_a_dense_layer(pool, side):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(128, 6),
        nn.Tanh(),
        nn.Linear(6, 2),
    )
    model[2] = pool if isinstance(pool, nn.Module) else Net(lambda m, x: pool(x))
    check(model, torch.randn(2, 3, side, side), gone="0 4", whole="6")


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.amax(dim=(-1, -2)),
        lambda x: x.flatten(2).max(2)[0],
        lambda x: F.avg_pool2d(x, x.shape[-2:]).squeeze(-1).squeeze(-1),
        lambda x: F.max_pool2d(x, 8)[:, :, 0, 0],
        lambda x: F.lp_pool2d(x, 2, 8).flatten(1),
        lambda x: x.view(x.size(0), x.size(1), -1).sum(-1),
        lambda x: F.avg_pool2d(x, 3, 2, 1).std((2, 3)),
        lambda x: x.reshape(x.shape[0], -1, 64).mean(2),
    ],
)
def test_pools_over_all_positions(pool):
    model = Net(
        lambda m, x: m.c(pool(m.b(m.a(x).relu()).relu())), **convs(a=(3, 8), b=(8, 6)), c=nn.Linear(6, 2)
    )
    check(model, IMAGES, gone="a b", whole="c")


def unet(m, x):
    side = m.a(x).relu()
    up = m.up(m.b(F.max_pool2d(side, 2)).relu())
    return m.o(torch.cat([side, F.interpolate(up, side.shape[2:]) if up.shape != side.shape else up], 1))


@pytest.mark.parametrize(
    ("up", "inner", "gone"),
    [
        (nn.Upsample(scale_factor=2), 6, "a b"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), 6, "a b"),
        (nn.UpsamplingNearest2d(scale_factor=2), 6, "a b"),
        (nn.ConvTranspose2d(8, 6, 2, 2), 8, "a b up"),
        (nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2), 8, "a b up"),
        (nn.ConvTranspose2d(6, 6, 2, 2, groups=6, bias=False), 6, "a b up"),
        (nn.PixelShuffle(2), 24, "a b"),
        (nn.Sequential(nn.Conv2d(6, 24, 1), nn.PixelShuffle(2), nn.PReLU(6)), 6, "a b up.0"),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(6, 6, 3)), 6, "a b up.1"),
    ],
    ids=["nearest", "bilinear", "old", "transposed", "groups", "depthwise", "shuffle", "subpixel", "resized"],
)
def test_ways_up_in_a_unet(up, inner, gone):
    model = Net(
        unet,
        a=nn.Conv2d(3, 8, 3, padding=1),
        b=nn.Conv2d(8, inner, 3, padding=1),
        up=up,
        o=nn.Conv2d(14, 2, 1),
    )
    check(model, IMAGES, gone=gone, whole="o")


def test_a_pyramid_adds_what_comes_from_above():
    def body(m, x):
        fine = m.a(x).relu()
        coarse = m.b(F.avg_pool2d(fine, 2)).relu()
        top = m.p(coarse)
        return m.o(F.interpolate(top, size=fine.shape[-2:], mode="nearest") + m.q(fine)), m.o(top)

    model = Net(body, **convs(a=(3, 8), b=(8, 6), p=(6, 7), q=(8, 7), o=(7, 2)))
    _, masks = check(model, IMAGES, gone="a b p q", whole="o")
    assert np.array_equal(masks["p"], masks["q"])


def test_pixels_that_are_folded_into_channels():
    model = Net(
        lambda m, x: m.c(F.pixel_unshuffle(m.a(x).relu(), 2)), a=nn.Conv2d(3, 6, 1), c=nn.Conv2d(24, 2, 1)
    )
    check(model, IMAGES, gone="a", whole="c")


# ------------------------------------------------------------ subclasses


class Same(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)


class Norm(nn.BatchNorm2d):
    pass


class Activated(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


class Chain(nn.Sequential):
    def forward(self, x):
        for layer in self[::-1][::-1]:
            x = layer(x)
        return x


class Standardized(nn.Conv2d):
    """Its kernel is computed anew at each call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def test_subclasses_are_read_as_what_they_do():
    model = Chain(
        Same(3, 8, 3), Norm(8), nn.ReLU(), nn.Flatten(), Activated(512, 6), Activated(6, 5), nn.Linear(5, 2)
    )
    small, _ = check(model, IMAGES, gone="0 4 5", whole="6")
    assert (
        type(small[0]) is Same and type(small[1]) is Norm and small[1].num_features == small[0].out_channels
    )
    assert (small[4].in_features, small[4].out_features) == small[4].weight.shape[::-1]


def test_a_layer_that_computes_its_kernel_is_named_and_what_it_reads_stays():
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        Standardized(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
    ]
    _, masks = check(nn.Sequential(*layers, nn.Conv2d(5, 2, 1)), IMAGES, gone="4", whole="0 2 6")
    assert masks.whole == {
        "0": "read by '2', which computes its kernel from other tensors in Standardized",
        "2": "it computes its kernel from other tensors",
        "6": "its channels are outputs of the model",
    }


# ------------------------------------------------------------ squeeze and excitation


def gate_view(m, x):
    batch, channels, _, _ = x.shape
    return x * m.up(m.down(F.adaptive_avg_pool2d(x, 1).view(batch, channels)).relu()).sigmoid().view(
        batch, channels, 1, 1
    )


def gate_expand(m, x):
    return x * m.up(m.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None].expand_as(x)


def gate_einsum(m, x):
    return torch.einsum("bchw,bc->bchw", x, torch.sigmoid(m.up(F.relu(m.down(x.mean(dim=[-1, -2]))))))


def gate_full(m, x):
    y = F.avg_pool2d(x, kernel_size=x.size(2))
    return torch.mul(x, F.hardsigmoid(m.up(F.silu(m.down(y.flatten(1))))).unflatten(1, (-1, 1, 1)))


def gate_kernels(m, x):
    y = x.mean((2, 3), keepdim=True)
    y = F.conv2d(y, m.down.weight[:, :, None, None], m.down.bias).relu()
    return x * m.up(y.flatten(1)).sigmoid().unsqueeze(2).unsqueeze(3)


def gate_plus(m, x):
    return x + x * (1 + torch.tanh(m.up(m.down(x.amax((2, 3))).relu()).reshape(-1, x.shape[1], 1, 1)))


@pytest.mark.parametrize("gate", [gate_view, gate_expand, gate_einsum, gate_full, gate_plus])
def test_squeeze_and_excitation(gate):
    model = Net(
        lambda m, x: m.o(gate(m, m.n(m.a(x)).relu()).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3),
        n=nn.BatchNorm2d(8),
        down=nn.Linear(8, 4),
        up=nn.Linear(4, 8),
        o=nn.Linear(8, 2),
    )
    small, masks = check(model, IMAGES, gone="a down up", whole="o")
    assert np.array_equal(masks["a"], masks["up"]) and small.down.weight.shape == (2, 4)


def test_a_gate_whose_kernel_is_moved_first_stays():
    model = Net(
        lambda m, x: m.o(gate_kernels(m, m.a(x).relu()).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3),
        down=nn.Linear(8, 4),
        up=nn.Linear(4, 8),
        o=nn.Linear(8, 2),
    )
    sentence = refused(model, IMAGES)
    assert "it computes its kernel from other tensors" in sentence


# ------------------------------------------------------------ closures that hold the model


class Closure(nn.Module):
    """Its forward goes by way of something that holds layers of the module itself."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.how = how(self)

    def forward(self, x):
        return self.c(self.how(x).relu())


def nested(m):
    def inner(x):
        return m.b(m.a(x).relu())

    return inner


class Callable:
    def __init__(self, m):
        self.layers = [m.a, m.b]

    def __call__(self, x):
        return self.layers[1](self.layers[0](x).relu())


def by_hook(m):
    m.a.register_forward_hook(lambda module, args, output: m.b(output.relu()))
    return m.a


HELD = "its code holds layers of the model itself (in a lambda, a nested function or a hook)"


@pytest.mark.parametrize(
    "how", [lambda m: lambda x: m.b(m.a(x).relu()), nested, by_hook], ids=["lambda", "nested", "hook"]
)
def test_a_closure_that_holds_the_model_is_refused(how):
    model = Closure(how)
    model.train()
    model(ROWS).sum().backward()
    sentence = refused(model, ROWS)
    assert HELD in sentence and sentence.startswith("a model to prune by nodes needs a layer ")


@pytest.mark.parametrize(
    "how",
    [
        Callable,
        lambda m: functools.partial(lambda a, b, x: b(a(x).relu()), m.a, m.b),
        lambda m: types.MethodType(lambda m, x: m.b(m.a(x).relu()), m),
    ],
    ids=["object", "partial", "method"],
)
def test_what_deepcopy_follows_is_cut_as_well(how):
    check(Closure(how), ROWS, gone="a b", whole="c")


def test_hooks_run_in_the_smaller_model_too():
    model = Net(lambda m, x: m.c(m.b(m.a(x).relu())), **abc())
    model.a.register_forward_hook(lambda module, args, output: 2 * output)
    model.b.register_forward_pre_hook(lambda module, args: (args[0].clamp(max=3),))
    model.c.register_full_backward_hook(lambda module, inputs, outputs: None)
    small, _ = check(model, ROWS, gone="a b", whole="c")
    assert [len(one._forward_hooks) for one in (small.a, small.b)] == [1, 0]


# ------------------------------------------------------------ normalizations


def test_group_normalization_loses_whole_groups():
    model = Net(
        lambda m, x: m.c(m.g(m.a(x)).relu()),
        a=nn.Conv2d(3, 12, 3),
        g=nn.GroupNorm(4, 12),
        c=nn.Conv2d(12, 2, 1),
    )
    small, masks = check(model, IMAGES, gone="a", whole="c")
    rows = masks["a"].reshape(4, 3)
    assert masks.size == 4 and (rows == rows[:, :1]).all()
    assert (small.g.num_groups, small.g.num_channels) == (2, 6)


@pytest.mark.parametrize("groups", [12, 1])
def test_group_normalization_of_each_channel_and_of_all(groups):
    model = Net(
        lambda m, x: m.c(m.g(m.b(m.a(x)))),
        a=nn.Conv2d(3, 8, 3),
        b=nn.Conv2d(8, 12, 3),
        g=nn.GroupNorm(groups, 12),
        c=nn.Conv2d(12, 2, 1),
    )
    _, masks = check(model, IMAGES, gone="a b" if groups > 1 else "a")
    if groups == 1:
        assert masks.whole["b"] == "normalized together with other channels by 'g' in GroupNorm"


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (nn.LayerNorm(8), "layer_norm"),
        (nn.LayerNorm(8, elementwise_affine=False), "layer_norm"),
        (nn.RMSNorm(8), "rms_norm"),
    ],
)
def test_layer_normalization_is_a_barrier_by_name(norm, name):
    model = Net(lambda m, x: m.c(m.b(m.n(m.a(x))).relu()), **linears(a=(4, 8), b=(8, 6), c=(6, 2)), n=norm)
    _, masks = check(model, ROWS, gone="b")
    assert masks.whole == {
        "a": f"normalized together with other channels by 'n' ({name}) in {type(norm).__name__}",
        "c": "its channels are outputs of the model",
    }


@pytest.mark.parametrize(
    "norm",
    [
        lambda m, x: F.normalize(x, dim=1),
        lambda m, x: F.local_response_norm(x, 3),
        lambda m, x: x / x.norm(dim=1, keepdim=True),
        lambda m, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda m, x: F.layer_norm(x, x.shape[1:]),
    ],
    ids=["normalize", "local response", "norm", "by hand", "over all"],
)
def test_what_is_normalized_over_channels_stays(norm):
    model = Net(lambda m, x: m.o(norm(m, m.b(m.a(x)))), **convs(a=(3, 8), b=(8, 6), o=(6, 2)))
    _, masks = check(model, IMAGES, gone="a", whole="b o")
    assert " together with other channels by " in masks.whole["b"]


def test_a_layer_normalization_over_positions_is_none():
    model = Net(
        lambda m, x: m.c(m.n(m.a(x).flatten(2)).mean(2)),
        a=nn.Conv2d(3, 8, 1),
        n=nn.LayerNorm(64, bias=False),
        c=nn.Linear(8, 2),
    )
    check(model, IMAGES, gone="a", whole="c")


@pytest.mark.parametrize(
    "norm",
    [
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.InstanceNorm2d(8, track_running_stats=True),
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.BatchNorm2d(8, affine=False, track_running_stats=False),
        nn.SyncBatchNorm(8),
    ],
    ids=named,
)
def test_normalizations_by_channel(norm):
    model = Net(lambda m, x: m.c(m.n(m.a(x)).relu()), **convs(a=(3, 8), c=(8, 2)), n=norm)
    trains = not isinstance(norm, nn.SyncBatchNorm) and norm.affine
    small, masks = check(model, IMAGES, gone="a", whole="c", trains=trains)
    assert small.n.num_features == 4
    if norm.track_running_stats and not norm.affine:  # the mean of what is masked is what makes it 0
        assert any(name.startswith("n/") and name.endswith("mean") for name in masks.weights)
        assert (model.n.running_mean[~torch.from_numpy(masks["a"])] == 0).all()


def test_a_normalization_before_and_one_after_an_activation():
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 8), nn.Sigmoid(), nn.BatchNorm1d(8), nn.Linear(8, 6)]
    layers += [nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 2), nn.BatchNorm1d(2)]
    check(nn.Sequential(*layers), ROWS, gone="1 4", whole="7")


# ------------------------------------------------------------ tokens


def test_a_dense_layer_on_tokens():
    for shape in ((7, 4), (2, 3, 4), (4,)):
        model = Net(lambda m, x: m.c(m.b(m.a(x).relu()).tanh()), **abc())
        check(model, features(*shape), gone="a b", whole="c")


def test_an_embedding_loses_columns_never_words():
    model = Net(
        lambda m, x: m.c(m.a(m.e(x) + m.p.weight[: x.shape[1]]).relu().mean(1)),
        e=nn.Embedding(11, 8, padding_idx=0),
        p=nn.Embedding(7, 8),
        **linears(a=(8, 6), c=(6, 2)),
    )
    small, masks = check(model, WORDS, gone="e a")
    assert small.e.weight.shape == (11, 4) and small.e.embedding_dim == 4
    bag = Net(lambda m, x: m.c(m.e(x)), e=nn.EmbeddingBag(11, 8, mode="mean"), c=nn.Linear(8, 2))
    small, _ = check(bag, WORDS, gone="e/weight", whole="c")
    assert small.e.embedding_dim == 4


def test_a_mixer_keeps_what_it_normalizes_and_loses_what_is_hidden():
    def body(m, x):
        x = m.i(x)
        x = x + m.t2(m.t1(m.n(x).transpose(1, 2)).relu()).transpose(1, 2)
        return m.o((x + m.c2(m.c1(m.m(x)).relu())).mean(1))

    model = Net(
        body,
        n=nn.LayerNorm(8),
        m=nn.LayerNorm(8),
        **linears(i=(4, 8), t1=(5, 6), t2=(6, 5), c1=(8, 12), c2=(12, 8), o=(8, 2)),
    )
    _, masks = check(model, torch.randn(3, 5, 4), gone="t1 c1", whole="i t2 c2 o")
    assert masks.whole["c2"] == "normalized together with other channels by 'n' (layer_norm) in LayerNorm"


# ------------------------------------------------------------ pieces


@pytest.mark.parametrize(
    "pieces",
    [
        lambda x: x.chunk(2, 1),
        lambda x: x.split(x.shape[1] // 2, 1),
        lambda x: torch.tensor_split(x, 2, dim=1),
        lambda x: x.unflatten(1, (2, -1)).unbind(1),
        lambda x: (x[:, : x.size(1) // 2], x[:, x.size(1) // 2 :]),
        lambda x: (x.narrow(1, 0, x.size(1) // 2), x.narrow(1, x.size(1) // 2, x.size(1) // 2)),
    ],
    ids=["chunk", "split", "tensor_split", "unbind", "slices", "narrow"],
)
@pytest.mark.parametrize("gate", [lambda a, b: a * b.sigmoid(), lambda a, b: b.relu() - a])
def test_equal_pieces_stay_equal(pieces, gate):
    model = Net(lambda m, x: m.c(gate(*pieces(m.a(x)))), **linears(a=(4, 12), c=(6, 2)))
    _, masks = check(model, ROWS, gone="a", whole="c")
    assert np.array_equal(masks["a"][:6], masks["a"][6:]) and masks.size == 6


def test_pieces_that_are_never_joined_are_equal_all_the_same():
    model = Net(
        lambda m, x: m.c(m.a(x).chunk(2, 1)[0]) + m.d(m.a(x).chunk(2, 1)[1].relu()),
        **linears(a=(4, 12), c=(6, 2), d=(6, 2)),
    )
    _, masks = check(model, ROWS, gone="a", whole="c d")
    assert np.array_equal(masks["a"][:6], masks["a"][6:])


@pytest.mark.parametrize(
    ("pieces", "name"),
    [
        (lambda x: x.split([5, 7], 1), "split"),
        (lambda x: (x[:, :5], x[:, 5:]), "getitem"),
        (lambda x: (x[:, ::2], x[:, 1:]), "getitem"),
        (lambda x: (x.narrow(1, 0, 5), x.index_select(1, torch.arange(3))), "narrow"),
    ],
    ids=["split", "slices", "steps", "narrow"],
)
def test_what_is_picked_by_position_stays(pieces, name):
    def body(m, x):
        one, other = pieces(m.a(m.i(x)))
        return m.o(one.sum(1, keepdim=True)) + m.p(other.mean(1, keepdim=True))

    model = Net(body, **linears(i=(4, 8), a=(8, 12), o=(1, 2), p=(1, 2)))
    _, masks = check(model, ROWS, gone="i", whole="a o p")
    assert masks.whole["a"] == f"picked by position by {name!r} in Net"


@pytest.mark.parametrize(
    "shuffle",
    [
        nn.ChannelShuffle(2),
        lambda x: F.channel_shuffle(x, 2),
        lambda x: x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
        lambda x: x.unflatten(1, (2, x.shape[1] // 2)).swapaxes(1, 2).reshape_as(x),
    ],
    ids=["module", "function", "view", "unflatten"],
)
def test_channel_shuffle(shuffle):
    module = shuffle if isinstance(shuffle, nn.Module) else Net(lambda m, x: shuffle(x))
    model = Net(
        lambda m, x: m.c(m.b(m.shuffle(m.a(x).relu())).relu()),
        a=nn.Conv2d(3, 8, 1),
        shuffle=module,
        b=nn.Conv2d(8, 8, 3, groups=4),
        c=nn.Conv2d(8, 2, 1),
    )
    small, masks = check(model, IMAGES, gone="a b", whole="c")
    # A group of `b` reads one channel of each half, at the same place: four nodes.
    assert masks.size == 4 and np.array_equal(masks["a"][:4], masks["a"][4:])
    assert small.b.groups == 2 and small.b.weight.shape == (4, 2, 3, 3)


# ------------------------------------------------------------ recurrent layers


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_inputs_of_a_recurrent_layer_leave_its_hidden_units_stay(kind):
    model = Net(
        lambda m, x: m.c(m.b(m.r(m.a(x).relu())[0][:, -1]).relu()),
        **linears(a=(4, 8), b=(6, 7), c=(7, 2)),
        r=kind(8, 6, num_layers=2, batch_first=True),
    )
    small, masks = check(model, torch.randn(3, 5, 4), gone="a b", whole="r c")
    assert masks.whole["r"] == "a recurrent layer keeps its hidden units"
    assert small.r.input_size == 4 and small.r.weight_ih_l0.shape[1] == 4 and small.r.hidden_size == 6


def test_both_directions_of_a_recurrent_layer_lose_the_same_inputs():
    model = Net(
        lambda m, x: m.c(m.r(m.a(x))[0].mean(1)),
        **linears(a=(4, 8), c=(12, 2)),
        r=nn.GRU(8, 6, batch_first=True, bidirectional=True),
    )
    small, _ = check(model, torch.randn(3, 5, 4), gone="a", whole="r c")
    assert small.r.weight_ih_l0.shape[1] == small.r.weight_ih_l0_reverse.shape[1] == 4


def test_a_recurrent_layer_that_reads_constants_keeps_its_inputs():
    model = Net(
        lambda m, x: m.c(m.r(m.b(m.a(x)).sigmoid())[0].mean(1)),
        **linears(a=(4, 8), b=(8, 6), c=(6, 2)),
        r=nn.LSTM(6, 6, batch_first=True),
    )
    _, masks = check(model, torch.randn(3, 5, 4), gone="a", whole="b r c")
    assert masks.whole["b"] == "read by the recurrent layer 'r' in LSTM"


# ------------------------------------------------------------ parameters without a layer


def parameters(**shapes):
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("run", "own"),
    [
        (lambda m, x: m.c(m.a(x) * m.p), {"p": (8,)}),
        (lambda m, x: m.c(m.a(x) + m.p), {"p": (8,)}),
        (lambda m, x: m.c(m.a(x) * m.p), {"p": (1, 8)}),
        (lambda m, x: m.c(m.a(x) / m.p * m.q), {"p": (8,), "q": (1,)}),
        (lambda m, x: m.c((m.a(x) - m.p) * m.q), {"p": (8,), "q": ()}),
        (lambda m, x: m.c(torch.add(m.a(x), m.p[None])), {"p": (8,)}),
        (lambda m, x: m.c(m.a(x) * (1 + m.p)), {"p": (8,)}),
    ],
    ids=["times", "plus", "times a row", "over", "minus", "plus, moved", "one plus"],
)
def test_parameters_that_are_added_or_multiplied_lose_the_same_entries(run, own):
    small, masks = check(Net(run, **linears(a=(4, 8), c=(8, 2)), **parameters(**own)), ROWS, fold=True)
    assert not masks["a"].all()
    for name, shape in own.items():
        assert getattr(small, name).shape == tuple(4 if size == 8 else size for size in shape)
        assert isinstance(getattr(small, name), nn.Parameter)


def test_scales_of_layers_by_channel_and_position():
    model = Net(
        lambda m, x: m.c((m.a(x) * m.gamma + m.place).relu()),
        a=nn.Conv2d(3, 8, 1),
        c=nn.Conv2d(8, 2, 1),
        **parameters(gamma=(8, 1, 1), place=(1, 8, 8, 8)),
    )
    small, _ = check(model, IMAGES, gone="a")
    assert small.gamma.shape == (4, 1, 1) and small.place.shape == (1, 4, 8, 8)


def test_functions_on_parameters_are_layers():
    def body(m, x):
        x = F.linear(x, m.w1, m.b1).relu()
        x = torch.addmm(m.b2, x, m.w2).relu()
        return F.linear((x @ m.w3).relu(), m.w4)

    model = Net(body, **parameters(w1=(8, 4), b1=(8,), w2=(8, 6), b2=(6,), w3=(6, 5), w4=(2, 5)))
    small, masks = check(model, ROWS, gone="w1 w2 w3", whole="w4")
    assert [tuple(p.shape) for p in (small.w1, small.w2, small.w3)] == [(4, 4), (4, 3), (3, sum(masks["w3"]))]


def test_functional_convolutions_of_a_module_that_keeps_parameters():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel, self.shift = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
            self.reads = nn.Parameter(torch.randn(2, 8, 1, 1))

        def forward(self, x):
            return F.conv2d(F.conv2d(x, self.kernel, self.shift, padding=1).relu(), self.reads)

    small, _ = check(Twice(), IMAGES, gone="kernel", whole="reads")
    assert small.kernel.shape == (4, 3, 3, 3) and small.reads.shape == (2, 4, 1, 1)


# ------------------------------------------------------------ ways of running


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.c, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), reentrant

    def forward(self, x):
        x = checkpoint(self._inner, x, use_reentrant=self.reentrant)
        return self.c(checkpoint(self.b, x.relu(), use_reentrant=self.reentrant).relu())

    def _inner(self, x):
        return self.a(x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointed_modules():
    check(Checkpointed(False), ROWS, gone="a b", whole="c")
    model = nn.Sequential(*abc().values())
    check(
        Net(
            lambda m, x: torch.utils.checkpoint.checkpoint_sequential(m.s, 2, x, use_reentrant=False), s=model
        ),
        ROWS,
        gone="s.0 s.1",
        whole="s.2",
    )


def test_a_wrapped_model_is_read_as_the_model_inside():
    inner = drawn(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    model = nn.DataParallel(inner)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=ROWS)
    small = nnopt.remove_nodes(model, masks, example_input=ROWS)
    assert type(small) is nn.Sequential and small[0].out_features == 4
    torch.testing.assert_close(small(ROWS), inner(ROWS), atol=1e-5, rtol=0)


def test_a_compiled_model_is_refused():
    model = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), backend="eager")
    assert refused(model, ROWS) == (
        "a model to read must not be compiled; received OptimizedModule. "
        "Read the module that was compiled; compile what remove_nodes gives."
    )


def test_other_types_of_numbers():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    small, _ = check(model, ROWS.double(), gone="0", whole="2")
    assert small[0].weight.dtype == torch.float64
    model = drawn(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))).bfloat16()
    small, _ = check_dtype(model, ROWS.bfloat16())
    assert small[2].weight.dtype == torch.bfloat16


def check_dtype(model, x):
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=x)
    small = nnopt.remove_nodes(model, masks, example_input=x)
    torch.testing.assert_close(small(x), model(x), atol=0.05, rtol=0.05)
    return small, masks


# ------------------------------------------------------------ refusals change nothing


def learned(model, x):
    """In the middle of training: gradients, hooks, a frozen parameter, modes that differ."""
    drawn(model).train()
    sum(one.sum() for one in run(model, x)).backward()
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.register_hook(lambda gradient: 2 * gradient)
    next(iter(model.children())).eval()
    model.register_forward_hook(lambda module, args, output: None)
    model.remembered = {"epoch": 3}
    return model


class Stops(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.a, self.fails = nn.BatchNorm1d(4), nn.Linear(4, 8), False

    def forward(self, x):
        self.seen = self.a(self.norm(x))
        if self.fails:
            raise RuntimeError("stopped\nhere")
        return self.seen


def test_every_bit_stays_when_a_model_does_not_run():
    model = learned(Stops(), ROWS)
    model.fails = True
    assert refused(model, ROWS) == (
        "Stops must run on the example_input; received RuntimeError: stopped here. "
        "Pass a batch that it reads: a tensor, a tuple of them, or a dict of keyword arguments."
    )


@pytest.mark.parametrize(
    ("model", "start"),
    [
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), "a model to prune by nodes needs a layer whose"),
        (
            nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)),
            "a model to prune by nodes needs a",
        ),
        (
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Softmax(1)),
            "a model to prune by nodes needs a",
        ),
        (nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4)), "a model to prune by nodes needs a layer whose"),
    ],
)
def test_every_bit_stays_when_nothing_can_be_removed(model, start):
    assert refused(learned(model, ROWS), ROWS).startswith(start)
    sentence = refused(model, ROWS, granularity="head")
    assert sentence.startswith("a model to prune by heads needs attention with several heads; received none")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"example_input": None},
            "reading Net needs an example_input; received none. Pass a batch that the model "
            "reads, as example_input=x.",
        ),
        (
            {"score": "l7"},
            "score must be one of l1, l2, bn_scale, geometric_median, random; received 'l7'.",
        ),
        ({"skip": ["q"]}, "skip names no layer with prunable weights by 'q'. Choose from a, b, c."),
        ({"skip": ["?"]}, "skip must leave a node to remove; received 3 layers that make all of them."),
        (
            {"sparsity": {"a": 1.5}},
            "sparsity['a'] must be at least 0 and below 1; received 1.5. For 1.5 %, pass 0.015.",
        ),
        (
            {"score": "bn_scale"},
            "score 'bn_scale' needs a batch normalization on every node to prune; received none "
            "after layer 'b'. Use score='l1', or build the network with them.",
        ),
    ],
    ids=["no example", "score", "skip", "skip all", "sparsity", "bn_scale"],
)
def test_every_bit_stays_when_options_are_refused(options, sentence):
    model = Net(lambda m, x: m.c(m.b(m.n(m.a(x))).relu()), n=nn.BatchNorm1d(8), **abc())
    assert refused(learned(model, ROWS), ROWS, **options) == sentence


def test_every_bit_stays_when_removal_is_refused():
    model = learned(
        Net(lambda m, x: m.c(m.b(m.n(m.a(x)).sigmoid()).relu()), n=nn.BatchNorm1d(8), **abc()), ROWS
    )
    before = everything(model)
    half = np.arange(8) < 4
    for masks, said in (
        (
            {"a": half},
            "fold=False. Pass fold=True to add it to the layer's bias (under zero padding, borders differ).",
        ),
        ({"q": half}, "the network has no layer 'q'. Choose from a, b."),
        ({"c": ~half[:2]}, "What stays whole there: its channels are outputs of the model."),
        (
            {"a": half & False},
            "a layer must keep at least one node; layer 'a'; received a mask that removes all.",
        ),
        ({"a": half[:3]}, "the mask of layer 'a' must be a boolean array of shape (8,); received bool (3,)."),
    ):
        with pytest.raises(NnoptError) as error:
            nnopt.remove_nodes(model, nnopt.Masks(masks), example_input=ROWS)
        assert everything(model) == before and str(error.value).endswith(said), str(error.value)


def test_what_is_said_of_layers_that_stay_whole():
    def body(m, x):
        x = m.a(x)
        x = torch.special.i0(m.odd(x)) + m.pair(x, x)
        return m.c(m.b(x.cumprod(0)).relu().argsort(1).float())

    model = Net(
        body, **linears(a=(4, 8), odd=(8, 8), b=(8, 6), c=(6, 2), never=(3, 3)), pair=nn.Bilinear(8, 8, 8)
    )
    text = refused(drawn(model), ROWS)
    assert text == (
        "a model to prune by nodes needs a layer whose outputs another layer reads; received none "
        "('pair': read by 'bilinear', for which there is no rule; 'never': it did not run on the example; "
        "'a': read by 'bilinear', for which there is no rule in Bilinear)."
    )
