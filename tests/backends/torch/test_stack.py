import numpy as np
import pytest
from hypothesis import given, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.weights import INITIALIZERS
from tests.networks import CLASSICS, arrays, effect_of_rounding, every_operation, networks

pytestmark = pytest.mark.torch


def loop(spec, data, training, seed, init="glorot_uniform"):
    model = nnopt.build(spec, seed=seed, init=init)
    history = nnopt.fit(model, data, training, seed=seed, device="cpu")
    return nnopt.get_weights(model), history


def assert_equal_to_loop(spec, data, training, seeds, init="glorot_uniform", atol=1e-4):
    stack = nnopt.fit_many(spec, data, training, seeds=seeds, init=init, device="cpu")
    for index, seed in enumerate(seeds):
        weights, history = loop(spec, data, training, seed, init)
        stacked = stack.weights(index)
        assert list(stacked) == list(weights)
        for name, value in weights.items():
            np.testing.assert_allclose(stacked[name], value, atol=atol, err_msg=f"seed {seed}: {name}")
        assert stack.histories[index].kept_row == history.kept_row
        assert len(stack.histories[index].rows) == len(history.rows)
        for column in history.rows[0]:
            np.testing.assert_allclose(stack.histories[index][column], history[column], atol=1e-3)
    return stack


@pytest.mark.parametrize("init", INITIALIZERS)
def test_the_articles_network_on_digits_after_an_epoch(init):
    data = nnopt.load_data("digits")
    training = nnopt.Training(epochs=1, learning_rate=0.01, momentum=0.9)
    assert_equal_to_loop(CLASSICS["mlp"], data, training, [0, 3, 11], init)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "adam", "learning_rate": 1e-2},
        {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
        {"shuffle": False},
        {"batch_size": 1000},
    ],
)
def test_every_recipe_equals_the_loop(recipe):
    spec = nnopt.mlp((9, 5), inputs=12, outputs=4, activation="tanh")
    assert_equal_to_loop(spec, arrays(), nnopt.Training(**{"epochs": 3, "batch_size": 16} | recipe), [1, 2])


def test_every_operation_equals_the_loop():
    data = arrays(shape=(4, 11, 9), examples=40)
    data.y_train, data.y_validation = data.y_train % 5, data.y_validation % 5
    training = nnopt.Training(epochs=2, batch_size=10, learning_rate=0.05, momentum=0.5)
    assert_equal_to_loop(every_operation(), data, training, [0, 1, 2])


@given(networks())
@settings(max_examples=30, deadline=None)
def test_random_networks_give_the_loops_outputs(spec):
    from nnopt_lib.backends.torch.stack import Stack
    from nnopt_lib.structure.weights import initial_weights

    seeds = [4, 9]
    stack = Stack(spec, seeds, [initial_weights(spec, seed) for seed in seeds], [None] * len(seeds), "cpu")
    x = np.random.default_rng(0).normal(size=(3, *spec.input_shape)).astype(np.float32)
    for index, seed in enumerate(seeds):
        model = nnopt.build(spec, seed=seed)
        atol = 1e-5 + effect_of_rounding(model, x)
        # rtol: float32 has seven digits, and products of gates make outputs of 25 and more
        np.testing.assert_allclose(stack.predict(x)[index], nnopt.predict(model, x), atol=atol, rtol=1e-5)


def test_early_stopping_is_decided_for_each_seed():
    data = arrays(noise=2.0)
    training = nnopt.Training(epochs=40, batch_size=8, learning_rate=0.1, momentum=0.9, patience=2)
    spec = nnopt.mlp((16,), inputs=12, outputs=4)
    stack = assert_equal_to_loop(spec, data, training, list(range(6)), atol=1e-3)
    assert len({history.kept_row for history in stack.histories}) > 1


def test_without_one_finite_loss_the_weights_of_the_last_step_stay_as_in_the_loop():
    data, spec = arrays(), nnopt.mlp((16,), inputs=12, outputs=4)
    training = nnopt.Training(epochs=5, learning_rate=1e30, patience=2)
    weights, history = loop(spec, data, training, 0)
    stack = nnopt.fit_many(spec, data, training, seeds=[0, 1], device="cpu")
    assert history.kept_row == stack.histories[0].kept_row == 0
    assert len(history.rows) == len(stack.histories[0].rows) == 2
    for name, value in stack.weights(0).items():
        assert np.isnan(value).all() == np.isnan(weights[name]).all()
    assert np.isnan(stack.weights(0)["dense_2/kernel"]).all()


def test_a_seeds_result_does_not_depend_on_its_neighbors():
    spec, data, training = nnopt.mlp((9,), inputs=12, outputs=4), arrays(), nnopt.Training(epochs=2)
    together = nnopt.fit_many(spec, data, training, seeds=[5, 6, 7])
    alone = nnopt.fit_many(spec, data, training, seeds=[6])
    for name, value in alone.weights(0).items():
        np.testing.assert_allclose(together.weights(1)[name], value, atol=1e-6)


def test_weights_build_an_ordinary_model_with_the_stacks_scores():
    spec, data = nnopt.mlp((9,), inputs=12, outputs=4), arrays()
    stack = nnopt.fit_many(spec, data, nnopt.Training(epochs=2), seeds=[5, 6])
    model = nnopt.build(spec)
    nnopt.set_weights(model, stack.weights(1))
    row = stack.evaluate(data.x_test, data.y_test)[1]
    assert row["seed"] == 6
    scores = nnopt.evaluate(model, data.x_test, data.y_test)
    assert row["accuracy"] == scores["accuracy"] and row["loss"] == pytest.approx(scores["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seeds": []}, "seeds must be distinct, and at least one; received []."),
        ({"seeds": [1, 1]}, "seeds must be distinct, and at least one; received [1, 1]."),
        ({"seeds": [-1]}, "seed must be a whole number, at least 0; received -1."),
        (
            {"training": nnopt.Training(mixed_precision=True)},
            "fit_many trains in float32; received mixed_precision=True. Use fit, or leave it out.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(arguments, sentence):
    defaults = {"training": nnopt.Training(epochs=1), "seeds": [0]}
    with pytest.raises(NnoptError) as error:
        nnopt.fit_many(CLASSICS["mlp"], arrays(), **{**defaults, **arguments})
    assert str(error.value) == sentence
