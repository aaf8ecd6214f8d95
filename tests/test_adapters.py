"""The adapters of both frameworks offer what is stated of them, each in a module of its own."""

import inspect

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import adapters, frameworks
from nnopt_lib.structure.weights import initial_weights
from tests.networks import arrays

PARTS = {
    "build": adapters.Backend,
    "fit": adapters.TrainingBackend,
    "masks": adapters.MaskBackend,
    "penalties": adapters.PenaltyBackend,
    "sharing": adapters.SharingBackend,
    "distillation": adapters.DistillationBackend,
    "describe": adapters.DescriptionBackend,
    "reading": adapters.ReadingBackend,
    "removal": adapters.RemovalBackend,
    "gradients": adapters.GradientBackend,
    "activations": adapters.ActivationBackend,
    "quantization": adapters.QuantizationBackend,
}


def parameters(function: object) -> list[inspect._ParameterKind]:
    """How each parameter is passed; adapters name some of them otherwise."""
    return [one.kind for one in inspect.signature(function).parameters.values()]  # type: ignore[arg-type]


def stated_by(protocol: type) -> dict[str, object]:
    """The functions that a protocol states, by name."""
    return {name: f for name, f in vars(protocol).items() if inspect.isfunction(f) and name[0] != "_"}


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("framework", frameworks.FRAMEWORKS)
def test_an_adapter_offers_what_is_stated(framework, part):
    module = frameworks._part(framework, part)
    stated = stated_by(PARTS[part])
    assert stated
    for name, function in stated.items():
        assert parameters(getattr(module, name)) == parameters(function)[1:], name


@pytest.mark.torch
def test_a_stack_offers_what_is_stated():
    stack = frameworks.stacks().Stack
    for name in stated_by(adapters.Stack):
        assert inspect.signature(getattr(stack, name)) == inspect.signature(getattr(adapters.Stack, name))


@pytest.mark.torch
@pytest.mark.keras
@pytest.mark.parametrize("trained", ["torch", "keras", "stack"])
def test_all_three_are_trained_by_the_one_loop_through_the_same_methods(trained):
    spec, data, training = nnopt.mlp((5,), inputs=12, outputs=4), arrays(), nnopt.Training()
    if trained == "stack":
        weights = [initial_weights(spec, seed) for seed in (0, 1)]
        stack = frameworks.stacks().Stack(spec, [0, 1], weights, [None, None], "cpu")
        learner = frameworks.stacks().learner(stack, [data], training, None)
    else:
        model, adapter = nnopt.build(spec, trained), frameworks.training_backend(trained)
        optimizer = adapter.optimizer_for(model, data.x_train[:1], training, "cpu")
        learner = adapter.learner(model, data, training, optimizer, [], "cpu")
    for name, function in stated_by(adapters.Learner).items():
        assert parameters(getattr(learner, name)) == parameters(function)[1:], name
    models = 2 if trained == "stack" else 1
    order = learner.indices(np.stack([np.arange(len(data.x_train))] * models))
    logits = learner.predict([data.x_train[:7]])
    sums = np.asarray(learner.step(order[:, :7], 0.1))
    assert logits.shape == (models, 7, 4) and sums.shape == (2, models)
    for model, outputs in enumerate(logits):  # the sums are those before the step
        exponentials = np.exp(outputs - outputs.max(1, keepdims=True))
        chosen = (exponentials / exponentials.sum(1, keepdims=True))[range(7), data.y_train[:7]]
        np.testing.assert_allclose(sums[0, model], -np.log(chosen).sum(), rtol=1e-5)
        assert sums[1, model] == (outputs.argmax(1) == data.y_train[:7]).sum()
    first = learner.predict([data.x_test])
    learner.keep(models - 1)
    learner.step(order[:, 7:14], 0.1)
    moved = learner.predict([data.x_test])
    learner.restore()
    restored = learner.predict([data.x_test])
    assert np.array_equal(restored[-1], first[-1]) and not np.array_equal(moved[-1], first[-1])
    if trained == "stack":  # of a model of which nothing was kept, the weights of the last step stay
        assert np.array_equal(restored[0], moved[0])
