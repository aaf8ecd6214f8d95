import random

import numpy as np
import pytest
import torch

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.networks import arrays
from tests.pruning.torch_models import RECIPES, SPEC, assert_zero_weights, mlp

pytestmark = pytest.mark.torch


def test_seed_everything_covers_all_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    nnopt.seed_everything(5)
    first = draw()
    nnopt.seed_everything(5)
    assert draw() == first
    nnopt.seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m, d: nnopt.fit("model", d, nnopt.Training()),
            "a model must be a torch.nn.Module or a keras.Model; received builtins.str.",
        ),
        (
            lambda m, d: nnopt.fit(m, d, nnopt.Training(), device="gpu"),
            "device must be one of auto, cpu, cuda, mps; received 'gpu'. Did you mean 'cpu'?",
        ),
        (lambda m, d: nnopt.predict(m, d.x_test[:0]), "predict needs at least one example; received none."),
        (
            lambda m, d: nnopt.fit(torch.nn.Flatten(), d, nnopt.Training()),
            "a model needs at least one trainable parameter; received none.",
        ),
        (
            lambda m, d: nnopt.seed_everything(-1),
            "seed must be a whole number, from 0 to 4294967295; received -1.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call(nnopt.build(nnopt.mlp((), inputs=12, outputs=4)), arrays())
    assert str(error.value) == sentence


# With masks


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_keeps_zeros(recipe):
    model = nnopt.build(SPEC)
    masks = nnopt.prune(model, sparsity=0.7)
    first = nnopt.get_weights(model)
    nnopt.fit(model, arrays(), nnopt.Training(epochs=3, **recipe), masks=masks, device="cpu")
    weights = nnopt.get_weights(model)
    assert_zero_weights(weights, masks)
    assert all((weights[name][mask] != first[name][mask]).any() for name, mask in masks.items())


def test_fit_masks_a_dense_model_and_best_weights_too():
    model, masks = nnopt.build(SPEC), nnopt.prune(nnopt.build(SPEC), sparsity=0.7)
    recipe = nnopt.Training(epochs=30, learning_rate=0.5, momentum=0.9, patience=2)
    nnopt.fit(model, arrays(noise=2.0), recipe, masks=masks, device="cpu")
    assert_zero_weights(nnopt.get_weights(model), masks)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_fit_many_equals_fit_for_every_seed(recipe):
    """Other weights, other masks, one dense, a seed twice."""
    seeds, data = [3, 3, 5, 8], arrays()
    training = nnopt.Training(steps=25, batch_size=16, **recipe)
    starts = [nnopt.get_weights(nnopt.build(SPEC, seed=10 + index)) for index in range(4)]
    kernels = [{n: abs(w) for n, w in start.items() if n.endswith("kernel")} for start in starts]
    masks = [nnopt.make_masks(kernels[0], sparsity=0.5), None, nnopt.make_masks(kernels[2], sparsity=0.9)]
    masks.append(nnopt.make_masks({"dense_2/kernel": kernels[3]["dense_2/kernel"]}, sparsity=0.5))
    copies = [{name: value.copy() for name, value in start.items()} for start in starts]
    stack = nnopt.fit_many(SPEC, data, training, seeds=seeds, weights=starts, masks=masks, device="cpu")
    for index, (seed, start, mask) in enumerate(zip(seeds, copies, masks, strict=True)):
        model = nnopt.build(SPEC)
        nnopt.set_weights(model, start)
        history = nnopt.fit(model, data, training, seed=seed, masks=mask, device="cpu")
        own = stack.weights(index)
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(own[name], value, atol=1e-5, err_msg=f"{index}: {name}")
        assert_zero_weights(own, mask or {})
        assert stack.histories[index]["train_loss"] == pytest.approx(history["train_loss"], abs=1e-4)
        assert all(np.array_equal(starts[index][name], value) for name, value in start.items())


def test_fit_many_with_masks_alone_starts_from_its_seeds():
    masks = [nnopt.prune(nnopt.build(SPEC, seed=seed), sparsity=0.6) for seed in (1, 2)]
    training = nnopt.Training(steps=7)
    stack = nnopt.fit_many(SPEC, arrays(), training, seeds=[1, 2], masks=masks, device="cpu")
    for index, seed in enumerate((1, 2)):
        model = nnopt.build(SPEC, seed=seed)
        nnopt.fit(model, arrays(), training, seed=seed, masks=masks[index], device="cpu")
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(stack.weights(index)[name], value, atol=1e-5)


def test_zeros_stay_zero_in_a_stack_that_diverges():
    """A gradient that is not finite, times 0, is not 0."""
    data, masks = arrays(), nnopt.prune(nnopt.build(SPEC), sparsity=0.6)
    data.x_train[:] *= 1e30
    relu = nnopt.mlp((9, 5), inputs=12, outputs=4)
    training = nnopt.Training(steps=5, learning_rate=1e10)
    stack = nnopt.fit_many(relu, data, training, seeds=[0], masks=[masks], device="cpu")
    assert_zero_weights(stack.weights(0), masks)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": [None]}, "masks must be one per seed, 2; received 1."),
        ({"weights": []}, "weights must be one per seed, 2; received 0."),
    ],
)
def test_fit_many_refuses_what_is_not_one_per_seed(options, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, arrays(), nnopt.Training(steps=1), seeds=[1, 2], **options)
    assert str(error.value) == sentence


def test_fit_many_refuses_masks_of_another_network():
    masks = nnopt.prune(mlp(), sparsity=0.5)
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, arrays(), nnopt.Training(steps=1), seeds=[1], masks=[masks])
    assert str(error.value) == (
        "masks must have the names and shapes of the model's weights; received "
        "0/kernel (7, 12) for none, 2/kernel (4, 7) for none."
    )


# A falling rate, and a data set for each network


def test_a_threshold_keeps_up_with_the_falling_rate():
    """One weight without a gradient but the penalty's: each step shortens it by that step's rate."""
    spec = nnopt.mlp((), inputs=2, outputs=4)
    data = arrays(shape=(2,))
    data.x_train[:] = 0.0  # so the loss does not move the kernel
    recipe = nnopt.Training(steps=6, batch_size=8, learning_rate=0.1, momentum=0.5)
    penalty = nnopt.Penalty("proximal_l1", 0.01)
    for framework in ("torch", "keras"):
        model = nnopt.build(spec, framework, seed=0)
        before = nnopt.get_weights(model)["dense_1/kernel"]
        nnopt.fit(model, data, recipe, penalty=penalty, device="cpu")
        shortened = sum(recipe.rate(step, 6) for step in range(1, 7)) / (1 - 0.5) * 0.01
        expected = np.sign(before) * np.maximum(abs(before) - shortened, 0)
        np.testing.assert_allclose(nnopt.get_weights(model)["dense_1/kernel"], expected, atol=1e-6)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_stack_with_a_data_set_for_each_network_equals_fit_on_each(patience):
    sets = [arrays(seed=seed) for seed in (0, 1, 2)]
    recipe = nnopt.Training(epochs=6, batch_size=16, learning_rate=0.3, momentum=0.9, patience=patience)
    stack = nnopt.fit_many(SPEC, sets, recipe, seeds=[7, 8, 9], device="cpu")
    x, y = ([getattr(data, part) for data in sets] for part in ("x_test", "y_test"))
    for index, row in enumerate(stack.evaluate(x, y)):
        model = nnopt.build(SPEC, seed=7 + index)
        history = nnopt.fit(model, sets[index], recipe, seed=7 + index, device="cpu")
        for name, value in nnopt.get_weights(model).items():
            np.testing.assert_allclose(stack.weights(index)[name], value, atol=1e-5, err_msg=name)
        alone = nnopt.evaluate(model, x[index], y[index])
        assert row["accuracy"] == alone["accuracy"] and row["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        losses = stack.histories[index]["validation_loss"]
        assert losses == pytest.approx(history["validation_loss"], abs=1e-4)
    predicted = stack.predict(x)
    assert np.array_equal(predicted[1], stack.predict(x[1])[1])  # an array alone is for all of them


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (
            lambda: [arrays(), arrays()],
            "data must be one set, or a list of one for each of 3 networks; received 2.",
        ),
        (
            lambda: [arrays(), arrays(), arrays(examples=80)],
            "data sets of one stack must have equal sizes and shapes; received (80, 12) to train on and (90, 12) to train on.",
        ),
    ],
)
def test_data_sets_that_do_not_fit_a_stack_are_refused(sets, sentence):
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(SPEC, sets(), nnopt.Training(steps=1), seeds=[0, 1, 2])
    assert str(error.value).startswith(sentence)


def test_inputs_and_labels_that_are_not_one_each_are_refused():
    data = arrays()
    stack = nnopt.fit_many(SPEC, data, nnopt.Training(steps=1), seeds=[0, 1, 2], device="cpu")
    for call in (
        lambda: stack.predict([data.x_test] * 2),
        lambda: stack.evaluate(data.x_test, [data.y_test] * 2),
    ):
        with pytest.raises(NnoptError) as error:
            call()
        assert str(error.value).endswith(
            "must be one array, or a list of one for each of 3 networks; received 2."
        )
