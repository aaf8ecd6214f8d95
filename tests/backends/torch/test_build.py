import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, arrays, every_operation, networks

pytestmark = pytest.mark.torch


def test_build_is_an_ordinary_module():
    model = nnopt.build(nnopt.mlp((32,), inputs=64, outputs=10))
    assert isinstance(model, torch.nn.Module) and isinstance(model.dense_1, torch.nn.Linear)
    assert sum(p.numel() for p in model.parameters()) == 2_410
    x = torch.randn(3, 64)
    expected = model.dense_2(torch.relu(model.dense_1(x)))
    assert torch.equal(model(x), expected)
    for other in (copy.deepcopy(model), torch.export.export(model, (x,)).module()):
        assert torch.allclose(other(x), expected, atol=1e-6)
    fresh = nnopt.build(model.spec, seed=1)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)


def test_torch_modules_made_by_hand_give_the_same_outputs():
    spec = every_operation()
    net = nnopt.build(spec, seed=3).eval()
    x = torch.randn(2, 4, 11, 9)
    h = torch.nn.functional.gelu(net.batch_norm_1(net.conv2d_1(x)))
    h = h + net.conv2d_2(h)
    gate = torch.sigmoid(net.excite(h.mean((2, 3))))
    h = h * gate[:, :, None, None]
    pools = [torch.nn.MaxPool2d(3, 2, 1)(h), torch.nn.AvgPool2d(3, 2, 1)(h)]
    h = torch.cat(pools, 1)
    flat = torch.cat([torch.nn.functional.silu(h.flatten(1)), h.amax((2, 3))], 1)
    assert torch.allclose(net(x), net.logits(flat), atol=1e-6)


@given(networks())
@settings(max_examples=40, deadline=None)
def test_every_network_builds_trains_a_step_and_keeps_its_weights(spec):
    weights = initial_weights(spec, 5)
    model = nnopt.build(spec, seed=5)
    assert all(np.array_equal(value, weights[name]) for name, value in nnopt.get_weights(model).items())
    x = np.random.default_rng(0).normal(size=(6, *spec.input_shape)).astype(np.float32)
    assert nnopt.predict(model, x).shape == (6, *spec.shapes[spec.output])
    model(torch.as_tensor(x)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_build_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    nnopt.build(CLASSICS["lenet_5"])
    assert torch.equal(torch.rand(1), expected)


def test_shared_and_half_precision_weights():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.b.weight = self.a.weight

    assert list(nnopt.get_weights(Tied())) == ["a/kernel", "a/bias", "b/bias"]
    half = torch.nn.Linear(3, 2).to(torch.bfloat16)
    weights = nnopt.get_weights(half)
    assert weights["kernel"].dtype == np.float32
    nnopt.set_weights(half, {name: value + 1 for name, value in weights.items()})
    assert half.weight.dtype == torch.bfloat16
    np.testing.assert_allclose(nnopt.get_weights(half)["kernel"], weights["kernel"] + 1, rtol=2**-7)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m, d: nnopt.build(nnopt.mlp((3,), inputs=2, outputs=2), "jax"),
            "framework must be one of torch, keras; received 'jax'.",
        ),
        (
            lambda m, d: nnopt.set_weights(m, {}),
            "weights must have the model's names; received missing ['dense_1/bias', 'dense_1/kernel'], not the model's [].",
        ),
        (
            lambda m, d: nnopt.set_weights(
                m, {"dense_1/kernel": np.zeros((12, 4)), "dense_1/bias": np.zeros(4)}
            ),
            "weight 'dense_1/kernel' must have the shape (4, 12); received (12, 4).",
        ),
        (
            lambda m, d: nnopt.copy_weights(m, torch.nn.Linear(3, 2)),
            "models must have weights of equal names, or of equal shapes in equal order; received dense_1/kernel "
            "(4, 12), dense_1/bias (4,) against kernel (2, 3), bias (2,).",
        ),
        (
            lambda m, d: nnopt.build(NetSpec((2,), (Node("train", "dense", "input", {"units": 2}),))),
            "node name 'train' is taken by torch.nn.Module. Rename the node.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call(nnopt.build(nnopt.mlp((), inputs=12, outputs=4)), arrays())
    assert str(error.value) == sentence
