"""Reading PyTorch modules that nobody built with a `NetSpec`."""

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from nnopt_lib.models.describe import read  # noqa: E402
from tests.torch_architectures import TORCH, drawn  # noqa: E402

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)


def twin_outputs(model, x):
    spec, paths, orders = read(model, x)
    own, weights = nnopt.get_weights(model), {}
    for name, shape in spec.parameter_shapes(trainable=False).items():
        layer, part = name.split("/")
        weights[name] = own[f"{paths[layer]}/{part}"].reshape(shape)
    assert not orders
    twin = nnopt.build(spec)
    nnopt.set_weights(twin, weights)
    return nnopt.predict(twin, x)


@pytest.mark.parametrize("name", TORCH)
def test_architectures_are_described_and_their_twins_give_their_outputs(name):
    model = drawn(TORCH[name]()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = twin_outputs(model, X)
    assert model.training and all(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} was changed"
    expected = nnopt.predict(model, X)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(given, expected, atol=1e-5 * max(1, np.abs(expected).max()))


class Calls(nn.Module):
    """A module whose forward is a function of it and x."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.calls = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.calls(self, x)


RULE = "a description must have an operation for everything that a model does; received "
END = (
    ". Understood are dense layers, convolutions, batch normalization, relu, gelu, silu, tanh, sigmoid, pooling, "
    "flattening, additions, products, concatenations, dropout and identities."
)
DENSE = {"fc": nn.Linear(5, 5)}


@pytest.mark.parametrize(
    ("forward", "layers", "received"),
    [
        (lambda m, x: m.norm(m.fc(x)), {**DENSE, "norm": nn.LayerNorm(5)}, "'norm' (LayerNorm)"),
        (lambda m, x: m.act(m.fc(x)), {**DENSE, "act": nn.LeakyReLU()}, "'act' (LeakyReLU)"),
        (lambda m, x: F.softmax(m.fc(x), 1), DENSE, "'softmax'"),
        (lambda m, x: m.fc(x) + 1, DENSE, "'add' with a number or a parameter"),
        (lambda m, x: m.fc(x) + m.fc.bias, DENSE, "'fc.bias', a parameter or buffer used by itself"),
        (lambda m, x: F.gelu(m.fc(x), approximate="tanh"), DENSE, "'gelu' with approximate='tanh'"),
        (lambda m, x: torch.cat([m.fc(x), x], 0), DENSE, "'cat' along another dimension than channels"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(forward, layers, received):
    with pytest.raises(NnoptError) as error:
        nnopt.describe(Calls(forward, **layers), torch.zeros(2, 5))
    assert str(error.value) == RULE + received + END


@pytest.mark.parametrize(
    ("layer", "received"),
    [
        (nn.Conv2d(3, 4, 3, dilation=2), "'0' (Conv2d) with dilation, or padding other than zeros"),
        (
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
            "'0' (Conv2d) with dilation, or padding other than zeros",
        ),
        (nn.MaxPool2d(2, ceil_mode=True), "'0' (MaxPool2d) with ceil_mode=True"),
        (nn.AdaptiveAvgPool2d(2), "'0' (AdaptiveAvgPool2d) that gives (3, 2, 2) for (3, 16, 16)"),
        (
            nn.BatchNorm2d(3, affine=False),
            "'0' (BatchNorm2d) without scale and shift, running statistics or momentum",
        ),
        (nn.Linear(16, 4), "'0' (Linear) on values of shape (3, 16, 16)"),
    ],
)
def test_settings_that_are_not_understood_are_refused(layer, received):
    with pytest.raises(NnoptError) as error:
        nnopt.describe(nn.Sequential(layer, nn.Flatten()), X)
    assert str(error.value) == RULE + received + END


def branching(model, x):
    return model.fc(x) if x.sum() > 0 else model.fc(-x)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            Calls(lambda m, x: m.fc(m.fc(x)), **DENSE),
            "layer 'fc' must be used once; received a second use. Give each use a layer of its own.",
        ),
        (
            Calls(branching, **DENSE),
            "Calls must compute the same whatever its data are, to be described; received a branch on numbers of a tensor. "
            "Keep branches on data out of it.",
        ),
        (
            Calls(lambda m, x: (m.fc(x), x), **DENSE),
            "a model to describe must return one tensor, its last; received tuple.",
        ),
    ],
)
def test_graphs_that_are_not_understood_are_refused(model, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.describe(model, torch.zeros(2, 5))
    assert str(error.value) == sentence


def test_a_batch_of_one_is_enough_and_never_taken_for_a_size_of_one():
    layers = {"conv": nn.Conv2d(3, 4, 3), "head": nn.Linear(4, 10)}

    def over(dims):
        return Calls(lambda m, x: m.head(m.conv(x).mean(dims, keepdim=True).flatten(1)), **layers)

    squeezed = Calls(lambda m, x: m.head(F.adaptive_avg_pool2d(m.conv(x), 1).squeeze()), **layers)
    layers["norm"] = nn.BatchNorm1d(4)  # which fails on the one example's (4,)
    normalized = Calls(lambda m, x: m.head(m.norm(F.adaptive_avg_pool2d(m.conv(x), 1).squeeze())), **layers)
    for model in (over((2, 3)), squeezed, normalized):
        ops = [node.op for node in nnopt.describe(model, X[:1]).nodes]
        assert [op for op in ops if op != "batch_norm"] == ["conv2d", "global_pool", "dense"]
    for model, received in (
        (over((0, 2, 3)), "'mean' that gives (4, 1, 1) for (4, 14, 14)"),
        (Calls(lambda m, x: m.fc(x.view(1, -1)), fc=nn.Linear(768, 10)), "'view' that may mix examples"),
    ):
        with pytest.raises(NnoptError) as error:
            nnopt.describe(model, X[:1])
        assert str(error.value) == RULE + received + END


def test_computed_weights_are_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)), nn.Linear(3, 2))
    with pytest.raises(NnoptError) as error:
        nnopt.describe(model, torch.zeros(2, 5))
    assert str(error.value) == (
        "layer '0' must own its weights to be described; received weights that are computed from others. "
        "Remove the parametrization first."
    )


def test_a_module_needs_an_example_input():
    with pytest.raises(NnoptError) as error:
        nnopt.describe(nn.Linear(3, 2))
    assert str(error.value) == (
        "describing Linear needs an example_input; received none. "
        "Pass a batch that the model reads, as example_input=x."
    )
