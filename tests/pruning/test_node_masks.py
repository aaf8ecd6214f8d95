"""What a mask on nodes means for weights, and options that do not go with nodes."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.node_masks import weight_masks
from nnopt_lib.structure.coupling import couple
from tests.pruned import X
from tests.structure.test_coupling import residual


def test_a_masked_node_is_kernel_row_bias_scale_and_shift():
    coupling = couple(residual())
    masks = weight_masks(coupling, np.array([True, False, True, True, True, True]))
    assert set(masks) == {
        *(
            f"{name}/{part}"
            for name in ("stem", "depthwise", "project", "side")
            for part in ("kernel", "bias")
        ),
        *("norm/scale", "norm/shift"),
    }
    for name, mask in masks.items():
        assert mask.shape == coupling.spec.parameter_shapes()[name]
        gone = () if name.startswith("side") else (1,)
        assert [number for number, row in enumerate(mask) if not row.all()] == list(gone)
        assert not any(mask[number].any() for number in gone)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"allocation": "erk"},
            "granularity 'node' shares sparsity evenly; received allocation='erk'. Leave it out.",
        ),
        (
            {"names": ["conv1/kernel"]},
            "granularity 'node' ranks all nodes that can leave; received names. Use skip, or leave it out.",
        ),
        (
            {"granularity": "weight", "round_to": 8},
            "round_to belongs to granularity 'node'; received granularity='weight'. Leave it out.",
        ),
        (
            {"granularity": "weight", "rounding": "up"},
            "rounding belongs to granularity 'node'; received granularity='weight'. Leave it out.",
        ),
        (
            {"round_to": 8, "rounding": "sideways"},
            "rounding must be one of nearest, up, down; received 'sideways'.",
        ),
        ({"round_to": 0}, "round_to must be a whole number, at least 1; received 0."),
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
    ],
)
def test_options_that_do_not_go_with_nodes_are_refused(options, sentence):
    from tests.torch_architectures import LeNet

    with pytest.raises(NnoptError) as error:
        nnopt.prune(LeNet(), **{"sparsity": 0.5, "granularity": "node", "example_input": X, **options})
    assert str(error.value) == sentence


# ---------------------------------------------------------------- saved, loaded, held again


def networks(framework):
    """A network of `build`, and one of the user's own where the framework has no other example."""
    yield nnopt.build(nnopt.cnn((6, 9), input_shape=(1, 10, 10), outputs=4), framework, seed=1), None
    if framework == "torch":
        from tests.torch_architectures import LeNet, drawn

        yield drawn(LeNet()), X


def optimizer_of(model, framework):
    if framework == "torch":
        import torch

        return torch.optim.SGD(model.parameters(), 0.1)
    import keras

    return keras.optimizers.SGD(0.1)


@pytest.mark.parametrize(
    "framework", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("torch", "keras")]
)
def test_saved_masks_on_nodes_are_held_applied_continued_and_removed_again(framework, tmp_path):
    for model, x in networks(framework):
        options = {"granularity": "node", "example_input": x}
        masks = nnopt.prune(model, sparsity=0.4, **options)
        masks.save(tmp_path / "masks.safetensors")
        loaded = nnopt.NodeMasks.load(tmp_path / "masks.safetensors")
        assert type(loaded) is nnopt.NodeMasks and repr(loaded) == repr(masks) and loaded == masks
        assert loaded.weights == masks.weights and list(loaded.weights) == list(masks.weights)
        nnopt.apply_masks(model, loaded)
        nnopt.hold(model, loaded, optimizer_of(model, framework))
        again = nnopt.prune(model, sparsity=0.6, previous=loaded, **options)
        assert again.removed > loaded.removed
        assert all(not (mask & ~loaded[name]).any() for name, mask in again.items())
        small = [nnopt.remove_nodes(model, one, example_input=x) for one in (masks, loaded)]
        weights = [nnopt.get_weights(one) for one in small]
        assert all(np.array_equal(weights[0][name], value) for name, value in weights[1].items())
        loaded.save(tmp_path / "again.safetensors")
        assert nnopt.NodeMasks.load(tmp_path / "again.safetensors").weights == masks.weights


LAYERS_ONLY = (
    "masks on nodes must say what they mean for weights to be held or applied; received one array for each "
    "layer. Take those of prune, or of NodeMasks.load."
)


@pytest.mark.torch
def test_masks_that_know_layers_only_are_refused_where_weights_are_masked(tmp_path):
    import torch

    model = nnopt.build(nnopt.mlp((8,), inputs=4, outputs=2))
    masks = nnopt.prune(model, sparsity=0.5, granularity="node")
    masks.save(tmp_path / "masks.safetensors")
    by_layer = nnopt.Masks.load(tmp_path / "masks.safetensors")
    made = nnopt.NodeMasks(dict(masks))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for one in (by_layer, made):
        calls = (
            lambda one=one: nnopt.hold(model, one, optimizer),
            lambda one=one: nnopt.apply_masks(model, one),
            lambda one=one: nnopt.rewind(model, nnopt.get_weights(model), one),
        )
        for call in calls:
            with pytest.raises(NnoptError) as error:
                call()
            assert str(error.value) == LAYERS_ONLY
        assert one.size == 8 and one.removed == 4  # channels, which here are nodes
        assert tuple(nnopt.remove_nodes(model, one).dense_1.weight.shape) == (4, 4)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    made.save(tmp_path / "made.safetensors")
    assert nnopt.Masks.load(tmp_path / "made.safetensors") == masks


@pytest.mark.torch
def test_files_of_other_masks_are_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    model = nnopt.build(nnopt.mlp((8,), inputs=4, outputs=2))
    nnopt.prune(model, sparsity=0.5).save(path)
    rule = f"{path} must be a whole file that NodeMasks.save wrote; received "
    with pytest.raises(NnoptError) as error:
        nnopt.NodeMasks.load(path)
    assert str(error.value) == f"{rule}other masks. Load those on weights by Masks.load."
    nnopt.prune(model, sparsity=0.5, granularity="node").save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(NnoptError) as error:
            nnopt.NodeMasks.load(path)
        assert str(error.value).startswith(rule)
        assert str(error.value).endswith(". Save the masks again, or use another file.")


def test_a_file_of_masks_with_parts_of_other_names_is_refused(tmp_path):
    from nnopt_lib.pruning.masks import write_parts

    path, mask = tmp_path / "masks.safetensors", {"a": np.array([True, False])}
    for parts in (
        {"layers": mask, "weights": mask},
        {"layers": mask, "weights": mask, "nodes": mask},
        {"weights": mask, "nodes": {"kept": mask["a"]}},
    ):
        write_parts(path, parts)
        with pytest.raises(NnoptError) as error:
            nnopt.NodeMasks.load(path)
        assert "received other masks." in str(error.value)


# ---------------------------------------------------------------- shared weights


@pytest.mark.torch
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_layers_that_share_weights_lose_the_same_nodes(part):
    import torch
    from torch import nn

    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    setattr(model[4], part, getattr(model[2], part))
    x = torch.randn(2, 4)
    masks = nnopt.prune(model, sparsity=0.5, granularity="node", scope="layer", example_input=x)
    if part == "weight":  # one layer's by name; its columns are shared as well, so all lose the same
        assert np.array_equal(masks["0"], masks["2"]) and "4" not in masks
    else:
        assert np.array_equal(masks["2"], masks["4"])
    small = nnopt.remove_nodes(model, masks, example_input=x)
    assert getattr(small[4], part) is getattr(small[2], part)
    torch.testing.assert_close(small(x), model(x))
    assert small[2].out_features == small[4].out_features == 4
