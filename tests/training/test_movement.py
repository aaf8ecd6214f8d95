"""Movement, against a loop written out; the same in both frameworks."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.frameworks import gradient_backend_of
from nnopt_lib.structure.classics import mlp
from tests.networks import arrays

pytestmark = pytest.mark.torch

SPEC = mlp((6,), inputs=12, outputs=4)
RECIPE = nnopt.Training(epochs=2, batch_size=7, learning_rate=0.1, momentum=0.9)


def test_it_trains_as_fit_does_and_sums_the_slopes_on_its_way():
    data = arrays()
    model, fitted = nnopt.build(SPEC, seed=0), nnopt.build(SPEC, seed=0)
    scores = nnopt.movement(model, data, RECIPE, seed=3, device="cpu")
    nnopt.fit(fitted, data, RECIPE, seed=3, device="cpu")
    trained = nnopt.get_weights(fitted)
    assert all((value == trained[name]).all() for name, value in nnopt.get_weights(model).items())
    assert {name: one.shape for name, one in scores.items()} == {
        "dense_1/kernel": (6, 12),
        "dense_2/kernel": (4, 6),
    }


def test_plain_descent_moves_by_what_is_summed():
    """By one step of plain gradient descent, -dL/dw = (after - before) / rate."""
    data, rate = arrays(), 0.05
    recipe = nnopt.Training(steps=1, batch_size=len(data.x_train), learning_rate=rate)
    model = nnopt.build(SPEC, seed=0)
    before = nnopt.get_weights(model)
    scores = nnopt.movement(model, data, recipe, device="cpu")
    after = nnopt.get_weights(model)
    for name, score in scores.items():
        assert score == pytest.approx(before[name] * (after[name] - before[name]) / rate, abs=1e-5)


def test_a_loop_of_ones_own_adds_up_the_same():
    data = arrays()
    model = nnopt.build(SPEC, seed=0)
    moved = gradient_backend_of(model).Movement(model, ["dense_1/kernel"])
    optimizer, expected = torch.optim.SGD(model.parameters(), lr=0.1), 0
    for begin in (0, 5):
        part = slice(begin, begin + 5)
        optimizer.zero_grad()
        F.cross_entropy(
            model(torch.as_tensor(data.x_train[part])), torch.as_tensor(data.y_train[part])
        ).backward()
        moved.after_backward()
        expected = expected - (model.dense_1.weight * model.dense_1.weight.grad).detach().numpy()
        optimizer.step()
    assert moved.scores()["dense_1/kernel"] == pytest.approx(expected)


@pytest.mark.keras
def test_keras_sums_what_pytorch_sums():
    data, scores = arrays(), []
    for framework in ("torch", "keras"):
        model = nnopt.build(SPEC, framework, seed=0)
        scores.append(nnopt.movement(model, data, RECIPE, seed=3, device="cpu"))
    for name in scores[0]:
        assert scores[1][name] == pytest.approx(scores[0][name], abs=1e-4)
    assert nnopt.prune(nnopt.build(SPEC), sparsity=0.5, score=scores[1]).removed == round(0.5 * (72 + 24))


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(NnoptError) as error:
        nnopt.movement(nnopt.build(SPEC), arrays(), RECIPE, names=["dense_9/kernel"])
    assert str(error.value) == "the model has no weight 'dense_9/kernel'. Did you mean 'dense_2/kernel'?"
