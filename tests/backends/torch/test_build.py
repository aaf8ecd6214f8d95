"""Modules built from descriptions, against modules and functions of PyTorch."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import INPUT, NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, FAMILIES, every_operation, networks

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


def test_attention_is_pytorchs_multi_head_attention():
    spec = NetSpec(
        (6, 5),
        (
            *(Node(n, "conv1d", INPUT, {"filters": 6, "kernel": 1}) for n in ("query", "key", "value")),
            Node("attention", "attention", ("query", "key", "value"), {"heads": 3}),
            Node("mixed", "conv1d", "attention", {"filters": 6, "kernel": 1}),
        ),
    )
    model, x = nnopt.build(spec, seed=2, init="torch_default"), torch.randn(4, 6, 5)
    attention = torch.nn.MultiheadAttention(6, 3, batch_first=True)
    with torch.no_grad():
        parts = [getattr(model, name) for name in ("query", "key", "value")]
        attention.in_proj_weight.copy_(torch.cat([part.weight[:, :, 0] for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        attention.out_proj.weight.copy_(model.mixed.weight[:, :, 0])
        attention.out_proj.bias.copy_(model.mixed.bias)
        sequence = x.transpose(1, 2)  # (batch, positions, channels)
        expected = attention(sequence, sequence, sequence)[0].transpose(1, 2)
        torch.testing.assert_close(model(x), expected)


# ---------------------------------------------------------------- whole models travel


def saved(model):
    """The model after `torch.save` of all of it, and after `pickle`."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))


ONE_DIMENSION = NetSpec(
    (4, 12),
    (
        Node("conv", "conv1d", "input", {"filters": 6, "kernel": 3, "padding": 1}),
        Node("where", "position", "conv"),
        Node("attention", "attention", ("where", "where", "conv"), {"heads": 2}),
        Node("maximum", "max_pool", "attention", {"size": 2}),
        Node("average", "avg_pool", "maximum", {"size": 2}),
        Node("flat", "flatten", "average"),
        Node("logits", "dense", "flat", {"units": 3}),
    ),
)
WHOLE = {
    **CLASSICS,
    **{name: family(1, (8, 16), input_shape=(2, 16, 16), outputs=3) for name, family in FAMILIES.items()},
    "every operation": every_operation(),
    "one dimension": ONE_DIMENSION,
}


def test_pools_of_one_dimension_are_torchs():
    net, x = nnopt.build(ONE_DIMENSION, seed=2).eval(), torch.randn(3, 4, 12)
    h = net.conv(x)
    mixed = net.attention(net.where(h), net.where(h), h)
    pooled = torch.nn.AvgPool1d(2)(torch.nn.MaxPool1d(2)(mixed))
    assert torch.equal(net(x), net.logits(pooled.flatten(1))) and not torch.equal(net.where(h), h)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_are_saved_and_loaded(name):
    model = nnopt.build(WHOLE[name], seed=1).eval()
    x = torch.randn(2, *model.spec.input_shape)
    for loaded in saved(model):
        assert type(loaded) is type(model) and loaded.spec == model.spec
        assert list(loaded.state_dict()) == list(model.state_dict())
        assert torch.equal(loaded(x), model(x))


def test_a_saved_network_is_pruned_trained_and_saved_on():
    model = nnopt.build(nnopt.cnn((8, 16), input_shape=(1, 12, 12), outputs=4))
    x = torch.randn(2, 1, 12, 12)
    for _ in range(2):  # what is loaded can be cut again
        masks = nnopt.prune(model, sparsity=0.4, granularity="node")
        small = nnopt.remove_nodes(model, masks)
        model = saved(small)[0]
        assert torch.equal(model(x), small(x))
        model(x).square().sum().backward()


def test_networks_go_to_other_processes():
    from torch import multiprocessing

    model, x = nnopt.build(WHOLE["every operation"], seed=1).eval(), torch.randn(2, 4, 11, 9)
    with multiprocessing.get_context("spawn").Pool(1) as pool, torch.no_grad():
        torch.testing.assert_close(pool.apply(_outputs, (model, x)), model(x))


def _outputs(model, x):
    with torch.no_grad():
        return model(x)


# ---------------------------------------------------------------- lazy layers

LAZY = {
    "linear": (lambda: torch.nn.LazyLinear(3), "LazyLinear"),
    "after another": (lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LazyLinear(2)), "1"),
    "convolution": (lambda: torch.nn.Sequential(torch.nn.LazyConv2d(3, 2)), "0"),
    "buffers": (lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LazyBatchNorm1d()), "1"),
    "inside": (lambda: torch.nn.Sequential(torch.nn.Sequential(torch.nn.LazyLinear(2))), "0.0"),
}


@pytest.mark.parametrize("name", LAZY)
def test_lazy_layers_before_their_first_call_are_refused_in_a_sentence(name):
    make, layer = LAZY[name]
    x = torch.randn(2, 4)
    calls = (
        nnopt.get_weights,
        nnopt.prunable,
        lambda model: nnopt.describe(model, x),
        lambda model: nnopt.prune(model, sparsity=0.5),
        lambda model: nnopt.prune(model, sparsity=0.5, granularity="node", example_input=x),
        lambda model: nnopt.set_weights(model, {}),
        lambda model: nnopt.apply_masks(model, nnopt.Masks({"kernel": np.ones((3, 4), bool)})),
    )
    for call in calls:
        model = make()
        with pytest.raises(NnoptError) as error:
            call(model)
        assert str(error.value) == (
            f"layer {layer!r} must know its sizes to be read; received a lazy layer that was never called. "
            "Run the model once on a batch first."
        )
        assert [type(p) for p in model.parameters()] == [type(p) for p in make().parameters()]


def test_lazy_layers_after_their_first_call_are_layers():
    model = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.ReLU(), torch.nn.LazyLinear(2))
    x = torch.randn(2, 4)
    model(x)
    assert nnopt.prune(model, sparsity=0.5).size == 48
    assert nnopt.prune(model, sparsity=0.5, granularity="node", example_input=x).removed == 4
