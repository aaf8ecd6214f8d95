"""Recipes of smaller models: saved, loaded in either framework, read without trust."""

import io
import json

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.files import load_tensors, save_tensors
from tests.networks import CLASSICS
from tests.pruned import X, close, pruned_lenet

pytestmark = pytest.mark.torch


def test_a_recipe_loads_into_ones_own_class_and_as_a_built_model(tmp_path):
    import torch

    from tests.torch_architectures import LeNet

    model, masks = pruned_lenet()
    once = nnopt.remove_nodes(model, masks, example_input=X)
    twice = nnopt.prune(once, sparsity=0.3, granularity="node", example_input=X)
    for small in (once, nnopt.remove_nodes(once, twice, example_input=X)):
        with torch.no_grad():
            small.fc3.bias += 1  # what it learned since is saved, too
        path = tmp_path / "small.safetensors"
        nnopt.save_small(small, path)
        cut = nnopt.load_small(path, model=LeNet(), example_input=X)
        built = nnopt.load_small(path, framework="torch")
        assert type(cut) is LeNet
        for loaded in (cut, built):
            assert close(nnopt.predict(small, X), nnopt.predict(loaded, X))
        nnopt.save_small(cut, tmp_path / "again.safetensors")
        files = [
            load_tensors(file, "nnopt-small-2", "", "") for file in (path, tmp_path / "again.safetensors")
        ]
        assert files[0][1] == files[1][1]
        for name, value in files[0][0].items():
            np.testing.assert_array_equal(value, files[1][0][name])


def saved(tmp_path):
    model, masks = pruned_lenet()
    path = tmp_path / "small.safetensors"
    nnopt.save_small(nnopt.remove_nodes(model, masks, example_input=X), path)
    return path


def test_a_recipe_for_another_network_is_refused(tmp_path):
    from torch import nn

    from tests.torch_architectures import LeNet

    path = saved(tmp_path)
    other = LeNet()
    other.fc2 = nn.Linear(20, 11)
    other.fc3 = nn.Linear(11, 10)
    with pytest.raises(NnoptError) as error:
        nnopt.load_small(path, model=other, example_input=X)
    assert str(error.value) == (
        f"{path} must hold a recipe for this network; received one for another "
        "(with 12 channels in layer 'fc2', not 11)."
    )


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    import torch

    path = saved(tmp_path)
    whole, rule = path.read_bytes(), f"{path} must be a whole file that save_small wrote; received "
    for byte in np.random.default_rng(0).choice(len(whole), 60, replace=False):  # one bit of it flipped
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        with pytest.raises(NnoptError) as error:
            nnopt.load_small(path)
        assert str(error.value).startswith(rule) and "\n" not in str(error.value)
    path.write_bytes(whole)
    weights, text = load_tensors(path, "nnopt-small-2", "", "")
    recipe = json.loads(text)
    recipe["kept"]["conv1"] = [0, 99]
    for other in (json.dumps(recipe), "[]", "{}", "no json"):
        save_tensors(path, weights, "nnopt-small-2", other)
        with pytest.raises(NnoptError) as error:
            nnopt.load_small(path)
        assert str(error.value).startswith(rule + "a recipe that does not fit its weights (")
    torch.save(weights, stream := io.BytesIO())
    path.write_bytes(stream.getvalue())
    with pytest.raises(NnoptError):
        nnopt.load_small(path)


def test_a_model_that_was_not_made_smaller_has_no_recipe(tmp_path):
    from tests.torch_architectures import LeNet

    with pytest.raises(NnoptError) as error:
        nnopt.save_small(LeNet(), tmp_path / "small.safetensors")
    assert str(error.value) == (
        "a model to save as a recipe must come from remove_nodes or load_small; received LeNet."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.keras
def test_a_recipe_made_in_torch_loads_in_keras_with_equal_outputs(tmp_path):
    spec = CLASSICS["lenet_5"]
    model = nnopt.build(spec, seed=1)
    small = nnopt.remove_nodes(model, nnopt.prune(model, sparsity=0.6, granularity="node"))
    nnopt.save_small(small, tmp_path / "small.safetensors")
    x = np.random.default_rng(0).standard_normal((3, *spec.input_shape), np.float32)
    for options in ({"framework": "keras"}, {"model": nnopt.build(spec, "keras", seed=2)}):
        loaded = nnopt.load_small(tmp_path / "small.safetensors", **options)
        assert close(nnopt.predict(small, x), nnopt.predict(loaded, x))
