"""Nodes removed for real in PyTorch: equal outputs, ordinary modules, recipes."""

import copy
import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from tests.networks import architectures, every_operation  # noqa: E402
from tests.pruned import (  # noqa: E402
    LEAVING_CONSTANTS,
    NORM_BEHIND_SIGMOID,
    X,
    check_constants_are_folded,
    check_random_graph,
    close,
    pruned_lenet,
)
from tests.torch_architectures import TORCH, drawn  # noqa: E402


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(architectures(), st.integers(0, 99), st.floats(0, 0.95))
def test_removed_equals_masked_on_300_random_graphs(spec, seed, sparsity):
    check_random_graph(spec, "torch", seed, sparsity)


@pytest.mark.parametrize("name", TORCH)
def test_removed_equals_masked_on_architectures(name):
    model = drawn(TORCH[name]())
    masks = nnopt.prune(model, sparsity=0.4, scope="layer", granularity="node", example_input=X)
    masked = nnopt.predict(model, X)
    small = nnopt.remove_nodes(model, masks, example_input=X)
    assert type(small) is type(model) and close(masked, nnopt.predict(small, X))
    assert np.abs(masked - masked[:1]).max() > 1e-4  # something still comes through
    before, after = (nnopt.measure.count(nnopt.describe(m, X)) for m in (model, small))
    assert after.macs < before.macs
    assert after.parameters == sum(p.numel() for p in small.parameters())
    assert list(small.state_dict()) == list(model.state_dict())


def test_the_result_is_an_ordinary_module():
    model, masks = pruned_lenet()
    expected = nnopt.predict(model, X)
    model.conv1.weight.requires_grad_(False)
    small = nnopt.remove_nodes(model, masks, example_input=X)
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in small.parameters())
    assert not small.conv1.weight.requires_grad and small.conv2.weight.requires_grad
    assert (small.conv2.in_channels, small.fc2.out_features) == (
        small.conv1.out_channels,
        small.fc3.in_features,
    )
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in model.parameters()}
    x = torch.from_numpy(X)
    copied = copy.deepcopy(small)
    copied.load_state_dict(small.state_dict())
    exported = torch.export.export(small.eval(), (x,)).module()
    for one in (copied.eval(), torch.compile(small, backend="eager"), exported):
        assert close(expected, one(x).detach().numpy())
    torch.nn.functional.cross_entropy(small.train()(x), torch.tensor([1, 2, 3, 4])).backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)


def test_onnx_runtime_gives_the_same_outputs(tmp_path):
    import onnxruntime

    model, masks = pruned_lenet()
    small = nnopt.remove_nodes(model, masks, example_input=X).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        torch.onnx.export(
            small, (torch.from_numpy(X),), str(tmp_path / "small.onnx"), dynamo=True, verbose=False
        )
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"))
    (given_,) = session.run(None, {session.get_inputs()[0].name: X})
    assert close(nnopt.predict(model, X), given_)


def test_held_nodes_stay_zero_and_leave_after_training():
    model, masks = pruned_lenet()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    nnopt.hold(model, masks, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.from_numpy(X)), torch.tensor([1, 2, 3, 4])).backward()
        optimizer.step()
    small = nnopt.remove_nodes(model, masks, example_input=X)
    assert close(nnopt.predict(model, X), nnopt.predict(small, X))


@pytest.mark.parametrize("name", LEAVING_CONSTANTS)
def test_constants_that_removed_nodes_leave_are_folded_into_all_that_reads_them(name):
    check_constants_are_folded(LEAVING_CONSTANTS[name], "torch")


def test_a_batch_norm_behind_a_sigmoid_gives_what_the_masked_one_gives():
    check_random_graph(NORM_BEHIND_SIGMOID, "torch", 3, 0.5)


def test_every_operation_at_once():
    check_random_graph(every_operation(), "torch", 3, 0.5)


# Refusals


def test_sizes_in_forward_leave_a_layer_whole_by_name():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc, self.head = nn.Conv2d(3, 4, 16), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.fc(self.conv(x).view(-1, 4)).relu())

    model = Fixed()
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)
    assert list(masks) == ["fc"] and set(masks.whole) == {"conv", "head"}
    assert masks.whole["conv"].startswith("'view' in Fixed cannot do with fewer channels (RuntimeError: ")
    assert repr(masks).endswith("1 array; 2 layers whole, see .whole)")
    small = nnopt.remove_nodes(model, masks, example_input=X)
    assert small.fc.out_features == 3 and small.conv.out_channels == 4


class CopiesItself(nn.Module):
    """A model that says itself how it is copied, as some that hold a connection or a lock do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
        self.copies = 0

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

    def __deepcopy__(self, memo):
        new = memo[id(self)] = type(self)()
        new.first, new.second = copy.deepcopy(self.first, memo), copy.deepcopy(self.second, memo)
        new.copies = self.copies + 1
        return new


def test_a_model_is_copied_by_its_own_rule():
    model, x = CopiesItself(), torch.ones(3, 4)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=x)
    small = nnopt.remove_nodes(model, masks, example_input=x)
    assert (small.copies, model.copies) == (1, 0)
    assert small.first.weight.shape == (3, 4) and model.first.weight.shape == (6, 4)
