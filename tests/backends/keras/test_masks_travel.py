"""Masks fit the model they were made for after saving, loading, cloning, wrapping, and in another process."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.backends.keras import keras
from nnopt_lib.checks import NnoptError

pytestmark = [pytest.mark.torch, pytest.mark.keras]

layers = keras.layers


def stack(*inside, size=6):
    return keras.Sequential([keras.Input((size,)), *inside])


def plain():
    return stack(layers.Dense(8, "relu"), layers.Dense(8, "relu"), layers.Dense(8))


def narrower():
    return stack(layers.Dense(8, "relu"), layers.Dense(8, "relu"), layers.Dense(4))


def nested():
    return stack(stack(layers.Dense(6), layers.Dense(6)), layers.Dense(6), layers.Dense(4))


def functional():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "relu")(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([layers.Dense(8)(hidden), hidden])))


def recurrent():
    return keras.Sequential(
        [keras.Input((5, 4)), layers.Bidirectional(layers.GRU(3, return_sequences=True)), layers.Dense(4)]
    )


def subclassed():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = stack(layers.Dense(6)), stack(layers.Dense(6))

        def call(self, x):
            return self.second(self.first(x))

    model = Two()
    model(np.zeros((1, 6), np.float32))
    return model


MODELS = {f.__name__: f for f in (plain, narrower, nested, functional, recurrent, subclassed)}


def saved(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def cloned(model, _):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def wrapped(model, _):
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, layers.Softmax()(model(inputs)))


def wrapped_and_saved(model, path):
    return saved(wrapped(model, path), path)


def written_again(model, _):
    again = next(make for name, make in MODELS.items() if name == model.kind)()
    again.set_weights(model.get_weights())
    return again


WAYS = {f.__name__: f for f in (saved, cloned, wrapped, wrapped_and_saved, written_again)}
DENSE = [(kind, way) for kind in MODELS for way in WAYS if kind != "subclassed" or way == "written_again"]


def made(kind):
    model = MODELS[kind]()
    model.kind = kind
    return model


def kernels(model):
    """Values of what is pruned, found without the library, in the model's order and in Keras's layout."""
    owners = {id(layer.kernel): layer for layer in model._flatten_layers() if isinstance(layer, layers.Dense)}
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables if id(v) in owners]


def zeros(model):
    return [value == 0 for value in kernels(model)]


def assert_removed(model, masks):
    found = kernels(model)
    assert len(found) == len(masks)
    for value, mask in zip(found, masks.values(), strict=True):
        assert np.array_equal(value == 0, ~mask.T)


@pytest.mark.parametrize(("kind", "way"), DENSE)
def test_masks_go_with_the_model(kind, way, tmp_path):
    model = made(kind)
    dense, first, before = model.get_weights(), nnopt.get_weights(model), kernels(model)
    nnopt.prune(model, sparsity=0.4).save(tmp_path / "masks")
    masks = nnopt.Masks.load(tmp_path / "masks")
    other = WAYS[way](model, tmp_path)
    assert_removed(other, masks)
    other.set_weights(dense)  # the same order: nothing is 0 now
    nnopt.apply_masks(other, masks)
    assert_removed(other, masks)
    nnopt.rewind(other, first, masks)
    for value, old, mask in zip(kernels(other), before, masks.values(), strict=True):
        assert np.array_equal(value, np.where(mask.T, old, 0))
    more = nnopt.prune(other, sparsity=0.7, previous=masks)
    assert list(more) == nnopt.prunable(other) and more.removed == round(0.7 * more.size)
    assert all(not (new & ~old).any() for new, old in zip(more.values(), masks.values(), strict=True))
    back = nnopt.prune(model, sparsity=0.8, previous=more)  # and the other way
    assert list(back) == nnopt.prunable(model)
    assert all(not (new & ~old).any() for new, old in zip(back.values(), more.values(), strict=True))
    scores = {name: abs(nnopt.get_weights(other)[name]) for name in nnopt.prunable(other)}
    again = nnopt.make_masks(scores, sparsity=0.7, previous=masks)
    assert all(not (new & ~old).any() for new, old in zip(again.values(), masks.values(), strict=True))


@pytest.mark.parametrize("way", ["saved", "cloned", "wrapped_and_saved"])
def test_masks_on_some_weights_alone_go_by_the_names_of_their_layers(way, tmp_path):
    """All three kernels but the first are alike: order and shapes would not tell."""
    model = made("plain")
    names = [name for name in nnopt.get_weights(model) if "dense" in name.split("/")[-2]][-2:]
    assert {name.split("/")[-1] for name in names} == {"kernel", "bias"}
    model.layers[-1].bias.assign(np.arange(1.0, 9.0) / 20)
    masks = nnopt.prune(model, sparsity=0.5, names=names)
    other = WAYS[way](model, tmp_path)
    before = other.get_weights()
    other.set_weights([value + 1 for value in before])
    nnopt.apply_masks(other, masks)
    gone = [value == 0 for value in other.get_weights()]
    assert [value.any() for value in gone] == [False] * 4 + [True] * 2
    assert sum(value.sum() for value in gone) == masks.removed == 36


def test_masks_fit_in_another_process(tmp_path):
    model = made("nested")
    nnopt.prune(model, sparsity=0.5).save(tmp_path / "masks")
    model.save(tmp_path / "model.keras")
    program = f"""
        import numpy as np, nnopt_lib as nnopt
        from nnopt_lib.backends.keras import keras
        keras.layers.Dense(2)  # so that numbers of layers that are called by Keras are others
        model = keras.models.load_model({str(tmp_path / "model.keras")!r})
        masks = nnopt.Masks.load({str(tmp_path / "masks")!r})
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        nnopt.hold(model, masks)
        x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
        model.fit(x, x[:, :4], batch_size=4, verbose=0)
        dense = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]
        print(sorted((np.asarray(layer.kernel) == 0).sum() for layer in dense))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(sorted(np.int64(value.sum()) for value in zeros(model)))


@pytest.mark.parametrize("way", ["saved", "cloned", "written_again"])
def test_masks_on_nodes_go_with_the_model(way, tmp_path):
    model = made("narrower")
    options = {"granularity": "node"}
    nnopt.prune(model, sparsity=0.25, **options).save(tmp_path / "masks")
    masks = nnopt.NodeMasks.load(tmp_path / "masks")
    other = WAYS[way](model, tmp_path)
    other.set_weights([value + 1 for value in other.get_weights()])
    nnopt.apply_masks(other, masks)
    rows = [(value == 0).all(0) for value in kernels(other)]
    assert [row.tolist() for row in rows[:2]] == [(~mask).tolist() for mask in masks.values()]
    other.compile(keras.optimizers.Adam(0.01), "mse")
    nnopt.hold(other, masks)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    other.fit(x, np.zeros((16, 4)), batch_size=4, verbose=0)
    assert [(value == 0).all(0).tolist() for value in kernels(other)] == [row.tolist() for row in rows]
    more = nnopt.prune(other, sparsity=0.5, previous=masks, **options)
    assert more.removed == 8
    assert all(not (new & ~old).any() for new, old in zip(more.values(), masks.values(), strict=True))
    assert not set(more) & set(masks) or way != "saved"  # the names are those of the model that is there


# ---------------------------------------------------------------- refusals


def refusal(call):
    with pytest.raises(NnoptError) as error:
        call()
    return str(error.value)


def test_masks_that_could_be_of_several_layers_are_refused_and_nothing_changes():
    mask = np.eye(8, dtype=bool)
    model = stack(*(layers.Dense(8) for _ in range(3)), size=8)
    before = model.get_weights()
    for masks in (
        {"elsewhere/kernel": mask},  # one of three
        {"elsewhere/kernel": mask, "there/kernel": mask},
        {f"place_{number}/kernel": mask for number in range(4)},  # more than there are
        {f"place_{number}/gamma": mask for number in range(3)},  # another kind of weight
        {f"place_{number}/kernel": mask[:, :7] for number in range(3)},
    ):
        model.compile("sgd", "mse")
        for call in (nnopt.apply_masks, nnopt.hold):
            sentence = refusal(lambda call=call, masks=masks: call(model, nnopt.Masks(masks)))
            assert sentence == (
                "masks must have the names and shapes of the model's weights; received "
                + ", ".join(f"{name} {np.shape(one)} for none" for name, one in masks.items())
                + "."
            )
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_known_names_are_never_taken_for_others():
    """Their shapes are those of the two layers, in the other order of axes, and so of each other."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(4, name="b")(layers.Dense(3, name="a")(inputs)))
    masks = nnopt.Masks({"a/kernel": np.ones((4, 3), bool), "b/kernel": np.ones((3, 4), bool)})
    assert "a/kernel (4, 3) for (3, 4), b/kernel (3, 4) for (4, 3)." in refusal(
        lambda: nnopt.apply_masks(model, masks)
    )


# ---------------------------------------------------------------- names of one's own


def backbone(name):
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, "relu", name="a")(inputs)
    out = layers.Dense(5, name="b", use_bias=name != "right")(hidden)
    return keras.Model(inputs, layers.BatchNormalization(name="norm")(out), name=name)


def two_streams(make):
    one, other = keras.Input((6,)), keras.Input((6,))
    both = layers.Concatenate()([make("left")(one), make("right")(other)])
    return keras.Model([one, other], layers.Dense(3, name="head")(both))


def deeper(name):
    inputs = keras.Input((6,))
    return keras.Model(inputs, backbone("trunk")(inputs), name=name)


def in_a_row(name):
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, name="a"), layers.Dense(5, name="b")], name=name
    )


TWINS = {
    "functional": (backbone, "a"),
    "deeper": (deeper, "trunk/a"),
    "loaded": (in_a_row, "a"),
}


@pytest.mark.parametrize("kind", TWINS)
def test_backbones_with_layers_of_one_name_are_told_apart_by_theirs(kind, tmp_path):
    make, inner = TWINS[kind]
    model = two_streams(make)
    if kind == "loaded":
        model = saved(model, tmp_path)
    names = list(nnopt.get_weights(model))
    assert len(set(names)) == len(names) == len(model.weights)
    assert {name for name in names if name.endswith("a/kernel")} == {
        f"left/{inner}/kernel",
        f"right/{inner}/kernel",
    }
    if kind == "functional":  # all of a layer go together, though one of the two has no bias
        assert [name for name in names if name.endswith("b/bias")] == ["left/b/bias"]
    assert names[-2:] == ["head/kernel", "head/bias"]
    masks = nnopt.prune(model, sparsity=0.5)
    assert_removed(model, masks)
    other = saved(model, tmp_path)
    other.set_weights([value + 1 for value in other.get_weights()])
    nnopt.apply_masks(other, masks)
    assert_removed(other, masks)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    nnopt.hold(model, masks)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    model.fit([x, x], np.zeros((16, 3)), batch_size=4, verbose=0)
    assert_removed(model, masks)
    weights = nnopt.get_weights(model)
    nnopt.set_weights(other, weights)
    assert all(np.array_equal(value, nnopt.get_weights(other)[name]) for name, value in weights.items())


def test_names_of_a_backbone_alone_and_of_one_beside_another_kind_stay():
    assert list(nnopt.get_weights(backbone("left")))[:2] == ["a/kernel", "a/bias"]
    inputs = keras.Input((6,))
    out = layers.Dense(2, name="head")(backbone("left")(inputs))
    assert list(nnopt.get_weights(keras.Model(inputs, out)))[::8] == ["a/kernel", "head/kernel"]


def test_layers_of_ones_own_that_are_called_the_same_are_numbered():
    class Same(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(6, name="x"), layers.Dense(6, name="x")

        def call(self, x):
            return self.second(self.first(x))

    class Twice(layers.Layer):
        def __init__(self):
            super().__init__(name="twice")
            self.one, self.two = (self.add_weight((2,), name="w") for _ in range(2))

        def call(self, x):
            return x * self.one[0] * self.two[1]

    model = Same()
    model(np.zeros((1, 6), np.float32))
    names = nnopt.prunable(model)
    assert [name.rpartition("/")[0].rpartition("/")[2] for name in names] == ["x_1", "x_2"]
    masks = nnopt.prune(model, sparsity=0.5)
    assert_removed(model, masks)
    model = stack(Twice(), layers.Dense(2))
    assert [name.rpartition("/")[2] for name in nnopt.get_weights(model)][:2] == ["w", "w_1"]
