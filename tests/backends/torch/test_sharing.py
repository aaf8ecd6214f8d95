"""Shared values in PyTorch: gradients against sums by hand, members equal to the last bit after any optimizer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib import compression
from nnopt_lib.backends.torch.sharing import regularizer
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.masks import Masks
from tests.networks import arrays

pytestmark = pytest.mark.torch
SPEC = nnopt.mlp((7, 5), inputs=12, outputs=4, activation="tanh")
RECIPES = {
    "sgd": {"learning_rate": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"optimizer": "adam", "learning_rate": 1e-2, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
}


def shared_model(framework="torch", bits=2, seed=1):
    model = nnopt.build(SPEC, framework, seed=seed)
    masks = nnopt.prune(model, sparsity=0.6)
    return model, masks, compression.share_weights(model, bits=bits, masks=masks)


def check_members(model, shared):
    for name, one in shared.items():
        kernel = nnopt.get_weights(model)[name]
        assert not kernel[~one.mask].any()
        values = [np.unique(kernel[one.mask & (one.codes == code)].view(np.int32)) for code in range(4)]
        assert all(len(each) == 1 for each in values)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("masked", [False, True])
def test_members_stay_equal_to_the_last_bit_and_learn(recipe, masked):
    model, masks, shared = shared_model()
    before, data = nnopt.get_weights(model), arrays()
    training = nnopt.Training(epochs=6, batch_size=16, **RECIPES[recipe])
    history = nnopt.fit(model, data, training, sharing=shared, masks=masks if masked else None, device="cpu")
    check_members(model, shared)
    now = compression.shared_now(model, shared)
    assert all((now[name].codebook != shared[name].codebook).all() for name in shared)
    assert not np.array_equal(before["dense_1/bias"], nnopt.get_weights(model)["dense_1/bias"])
    assert history["train_loss"][-1] < history["train_loss"][0]
    nnopt.fit(model, data, training, sharing=shared, device="cpu")  # once more, by the same codes
    check_members(model, shared)


def test_a_step_moves_each_value_by_the_sum_of_its_gradients():
    model, _, shared = shared_model()
    data = arrays()
    x, y = torch.as_tensor(data.x_train), torch.as_tensor(data.y_train)
    nn.functional.cross_entropy(model(x), y).backward()
    gradients = {"dense_1/kernel": model.dense_1.weight.grad.numpy().copy()}
    regularizer(model, shared).after_backward()
    one = shared["dense_1/kernel"]
    for code in range(4):
        members = one.mask & (one.codes == code)
        total = gradients["dense_1/kernel"][members].astype(np.float64).sum()
        np.testing.assert_allclose(model.dense_1.weight.grad.numpy()[members], total, rtol=1e-4, atol=1e-7)
    assert not model.dense_1.weight.grad.numpy()[~one.mask].any()


def test_the_sum_is_the_slope_of_the_loss_along_a_value():
    """The gradient of a value, against differences of the loss when all its weights move together."""
    model, _, shared = shared_model()
    model.double()
    data, one = arrays(), shared["dense_2/kernel"]
    x, y = torch.as_tensor(data.x_train, dtype=torch.float64), torch.as_tensor(data.y_train)
    nn.functional.cross_entropy(model(x), y).backward()
    regularizer(model, shared).after_backward()
    for code in range(4):
        members = torch.from_numpy(one.mask & (one.codes == code))
        losses = []
        with torch.no_grad():
            for step in (1e-5, -2e-5, 1e-5):
                model.dense_2.weight[members] += step
                losses.append(nn.functional.cross_entropy(model(x), y).item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert model.dense_2.weight.grad[members][0].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_weights_that_differ_by_a_bit_are_equal_after_a_step():
    model, _, shared = shared_model()
    at_work = regularizer(model, shared)
    members = np.argwhere(shared["dense_1/kernel"].mask & (shared["dense_1/kernel"].codes == 1))
    row, column = members[-1]
    with torch.no_grad():
        model.dense_1.weight[row, column] *= 1 + 2**-20
        removed = np.argwhere(~shared["dense_1/kernel"].mask)[0]
        model.dense_1.weight[removed[0], removed[1]] = 3
    at_work.after_step(0.1)
    check_members(model, shared)


def test_a_frozen_kernel_stays_and_the_others_learn():
    model, _, shared = shared_model()
    model.dense_1.weight.requires_grad_(False)
    before = nnopt.get_weights(model)
    nnopt.fit(model, arrays(), nnopt.Training(epochs=1), sharing=shared, device="cpu")
    after = nnopt.get_weights(model)
    assert np.array_equal(before["dense_1/kernel"], after["dense_1/kernel"])
    assert not np.array_equal(before["dense_2/kernel"], after["dense_2/kernel"])


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))


def test_a_users_own_module_with_a_convolution():
    model, data = convolutional(), arrays()
    with_channels = {part: getattr(data, part)[:, None] for part in ("x_train", "x_validation", "x_test")}
    data = SimpleNamespace(**{**vars(data), **with_channels})
    shared = compression.share_weights(model, bits={"0/kernel": 1, "3/kernel": 2})
    nnopt.fit(model, data, nnopt.Training(epochs=2), sharing=shared, device="cpu")
    assert [len(np.unique(nnopt.get_weights(model)[name])) for name in shared] == [2, 4]


def with_other_masks():
    model, masks, shared = shared_model()
    other = {name: mask & (np.arange(mask.size).reshape(mask.shape) > 0) for name, mask in masks.items()}
    other["dense_3/kernel"] = masks["dense_3/kernel"] & False
    return model, Masks(other), shared


def test_what_cannot_be_trained_so_is_refused_and_nothing_changes():
    model, masks, shared = with_other_masks()
    count = int(shared["dense_3/kernel"].mask.sum())
    before = nnopt.get_weights(model)
    options = {"device": "cpu", "sharing": shared}
    with pytest.raises(NnoptError) as error:
        nnopt.fit(
            model, arrays(), nnopt.Training(), masks=Masks({n: masks[n] for n in list(masks)[2:]}), **options
        )
    assert str(error.value) == (
        f"sharing must leave out what masks remove from 'dense_3/kernel'; received {count} weights that have "
        "a value. Pass the masks to share_weights."
    )
    assert all(np.array_equal(value, before[name]) for name, value in nnopt.get_weights(model).items())
    with pytest.raises(NnoptError) as error:
        nnopt.fit(nnopt.build(SPEC, seed=5), arrays(), nnopt.Training(), **options)
    assert str(error.value) == (
        "weights of 'dense_1/kernel' with equal codes must be equal; received some that differ. "
        "Call share_weights on this model first, or anew."
    )
    with pytest.raises(NnoptError) as error:
        nnopt.fit(model, arrays(), nnopt.Training(), sharing=2)
    assert str(error.value) == "sharing must be what share_weights gave, by name; received int."
