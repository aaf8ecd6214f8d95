"""What a teacher of PyTorch shows: its loss against NumPy's formula, the outputs of its layers."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from nnopt_lib import NnoptError
from nnopt_lib.backends.torch.distillation import layer_outputs, loss

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.3), (20.0, 0.9)])
def test_the_loss_is_the_formulas(temperature, alpha):
    draw = np.random.default_rng(0)
    student, teacher, y = draw.normal(size=(7, 4)), draw.normal(size=(7, 4)), draw.integers(0, 4, 7)
    at = [log_softmax(logits / temperature, 1) for logits in (student, teacher)]
    divergence = (np.exp(at[1]) * (at[1] - at[0])).sum(1).mean()
    plain = -log_softmax(student, 1)[range(7), y].mean()
    ours = loss(torch.tensor(student), teacher, y, temperature, alpha)
    expected = (1 - alpha) * plain + alpha * temperature**2 * divergence
    np.testing.assert_allclose(float(ours), expected, rtol=1e-5)


def test_outputs_of_layers_are_those_of_the_modules_by_hand_and_no_hook_stays():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.Dropout(0.5), torch.nn.ReLU())
    x = np.random.default_rng(0).normal(size=(5, 2, 8)).astype(np.float32)
    shown = layer_outputs(model, ["0", "2"], x, 2)  # in batches, and without dropout
    with torch.no_grad():
        by_hand = model[0](torch.tensor(x))
    np.testing.assert_allclose(shown["0"], by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown["2"], by_hand.relu(), rtol=1e-5, atol=1e-6)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_not_there_is_refused_with_the_nearest_name():
    model = torch.nn.Sequential()
    model.add_module("dense_1", torch.nn.Linear(2, 2))
    with pytest.raises(NnoptError) as refusal:
        layer_outputs(model, ["dense1"], np.zeros((1, 2), np.float32), 1)
    assert str(refusal.value) == "the model has no layer 'dense1'. Did you mean 'dense_1'?"
