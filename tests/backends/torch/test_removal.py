"""Nodes removed for real in PyTorch: equal outputs, ordinary modules, recipes."""

import copy
import io
import json
import warnings

import numpy as np
import pytest

pytestmark = pytest.mark.torch

import torch  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import nnopt_lib as nnopt  # noqa: E402
from nnopt_lib.checks import NnoptError  # noqa: E402
from nnopt_lib.files import load_tensors, save_tensors  # noqa: E402
from tests.networks import architectures, every_operation  # noqa: E402
from tests.torch_architectures import TORCH, LeNet, drawn  # noqa: E402

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * max(1, np.abs(a).max())


def randomized(spec, framework, seed):
    """A model whose biases, scales and running statistics are not what they are at first."""
    random, model = np.random.default_rng(seed), nnopt.build(spec, framework, seed=seed)
    weights = nnopt.get_weights(model)
    for name, value in weights.items():
        low, high = (0.5, 1.5) if name.endswith(("scale", "variance")) else (-0.3, 0.3)
        weights[name] = value * ("kernel" in name) + random.uniform(low, high, value.shape).astype(np.float32)
    nnopt.set_weights(model, weights)
    return model


def check_random_graph(spec, framework, seed, sparsity):
    """Masked, removed, and loaded from a recipe into another model: all give the same outputs."""
    model = randomized(spec, framework, seed)
    try:
        masks = nnopt.prune(model, sparsity=sparsity, granularity="node", score="random", seed=seed)
    except NnoptError as error:
        assert "needs a layer whose outputs another layer reads" in str(error)
        return
    x = np.random.default_rng(seed).standard_normal((3, *spec.input_shape), np.float32)
    masked, small = nnopt.predict(model, x), nnopt.remove_nodes(model, masks, fold=True)
    assert close(masked, nnopt.predict(small, x))
    assert nnopt.get_weights(small).keys() >= nnopt.get_weights(model).keys()
    after = nnopt.describe(small)
    assert {name: value.shape for name, value in nnopt.get_weights(small).items()} == (
        after.parameter_shapes(trainable=False)
    )


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


def pruned_lenet():
    model = drawn(LeNet())
    return model, nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)


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


def test_nodes_of_the_masks_alone_make_the_same_model(tmp_path):
    model, masks = pruned_lenet()
    masks.save(tmp_path / "masks.safetensors")
    loaded = nnopt.Masks.load(tmp_path / "masks.safetensors")
    both = [nnopt.remove_nodes(model, one, example_input=X) for one in (masks, loaded)]
    for a, b in zip(both[0].parameters(), both[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_recipe_loads_into_ones_own_class_and_as_a_built_model(tmp_path):
    model, masks = pruned_lenet()
    once = nnopt.remove_nodes(model, masks, example_input=X)
    twice = nnopt.prune(once, sparsity=0.3, granularity="node", example_input=X)
    for place, small in enumerate((once, nnopt.remove_nodes(once, twice, example_input=X))):
        with torch.no_grad():
            small.fc3.bias += 1  # what it learned since is saved, too
        path = tmp_path / f"{place}.safetensors"
        nnopt.save_small(small, path)
        own = nnopt.load_small(path, model=LeNet(), example_input=X)
        built = nnopt.load_small(path, framework="torch")
        assert type(own) is LeNet
        for one in (own, built):
            assert close(nnopt.predict(small, X), nnopt.predict(one, X))
        nnopt.save_small(own, tmp_path / "again.safetensors")
        files = [
            load_tensors(file, "nnopt-small-1", "", "") for file in (path, tmp_path / "again.safetensors")
        ]
        assert files[0][1] == files[1][1]
        for name, value in files[0][0].items():
            np.testing.assert_array_equal(value, files[1][0][name])


def test_every_operation_at_once():
    check_random_graph(every_operation(), "torch", 3, 0.5)


# Refusals


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (
            {"conv3": np.ones(6, bool)},
            "the model has no layer 'conv3' whose nodes can be removed. Did you mean 'conv2'?",
        ),
        (
            {"conv1": np.zeros(6, bool)},
            "a layer must keep at least one node; layer 'conv1'; received a mask that removes all.",
        ),
    ],
)
def test_wrong_masks_are_refused_and_the_model_stays(masks, sentence):
    model = drawn(LeNet())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NnoptError) as error:
        nnopt.remove_nodes(model, nnopt.Masks(masks), example_input=X)
    assert str(error.value) == sentence
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sizes_in_forward_are_refused():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 16), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.conv(x).view(-1, 4))

    model = Fixed()
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", example_input=X)
    with pytest.raises(NnoptError) as error:
        nnopt.remove_nodes(model, masks, example_input=X)
    sentence = str(error.value)
    assert sentence.startswith("the code of Fixed must run with smaller layers; received ")
    assert sentence.endswith(". Write no sizes into forward: flatten(1) for view.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"allocation": "erk"},
            "granularity 'node' shares sparsity evenly; received allocation='erk'. Leave it out.",
        ),
        (
            {"names": ["conv1/kernel"]},
            "granularity 'node' ranks all nodes that can leave; received names. Leave it out.",
        ),
        (
            {"granularity": "weight", "round_to": 8},
            "round_to belongs to granularity 'node'; received granularity='weight'. Leave it out.",
        ),
        ({"round_to": 0}, "round_to must be a whole number, at least 1; received 0."),
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
    ],
)
def test_options_that_do_not_go_with_nodes_are_refused(options, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.prune(LeNet(), **{"sparsity": 0.5, "granularity": "node", "example_input": X, **options})
    assert str(error.value) == sentence


def test_a_network_without_nodes_to_remove_is_refused():
    with pytest.raises(NnoptError) as error:
        nnopt.prune(
            nn.Sequential(nn.Linear(3, 2)), sparsity=0.5, granularity="node", example_input=np.zeros((1, 3))
        )
    assert str(error.value) == (
        "a model to prune by nodes needs a layer whose outputs another layer reads; received none."
    )


def saved(tmp_path):
    model, masks = pruned_lenet()
    path = tmp_path / "small.safetensors"
    nnopt.save_small(nnopt.remove_nodes(model, masks, example_input=X), path)
    return path


def test_a_recipe_for_another_network_is_refused(tmp_path):
    path = saved(tmp_path)
    other = LeNet()
    other.fc2 = nn.Linear(20, 11)
    other.fc3 = nn.Linear(11, 10)
    with pytest.raises(NnoptError) as error:
        nnopt.load_small(path, model=other, example_input=X)
    assert str(error.value) == (
        f"{path} must hold a recipe for this network; received one for another "
        "(dense {'units': 12, 'bias': True} for dense 'fc2' {'units': 11, 'bias': True})."
    )


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = saved(tmp_path)
    whole, rule = path.read_bytes(), f"{path} must be a whole file that save_small wrote; received "
    places = np.random.default_rng(0).choice(len(whole), 60, replace=False)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(NnoptError) as error:
            nnopt.load_small(path)
        assert str(error.value).startswith(rule) and "\n" not in str(error.value)
    path.write_bytes(whole)
    weights, text = load_tensors(path, "nnopt-small-1", "", "")
    recipe = json.loads(text)
    recipe["kept"]["conv1"] = [0, 99]
    for other in (json.dumps(recipe), "[]", "{}", "no json"):
        save_tensors(path, weights, "nnopt-small-1", other)
        with pytest.raises(NnoptError) as error:
            nnopt.load_small(path)
        assert str(error.value).startswith(rule + "a recipe that does not fit its weights (")
    torch.save(weights, stream := io.BytesIO())
    path.write_bytes(stream.getvalue())
    with pytest.raises(NnoptError):
        nnopt.load_small(path)


def test_a_model_that_was_not_made_smaller_has_no_recipe(tmp_path):
    with pytest.raises(NnoptError) as error:
        nnopt.save_small(LeNet(), tmp_path / "small.safetensors")
    assert str(error.value) == (
        "a model to save as a recipe must come from remove_nodes or load_small; received LeNet."
    )
    assert list(tmp_path.iterdir()) == []
