import numpy as np
import pytest
import torch

import nnopt_lib as nnopt
from tests.networks import CLASSICS, arrays, every_operation

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_fit_equals_a_loop_written_by_hand(name, schedule):
    recipe = {
        "sgd": {"weight_decay": 0.01},
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.9, "nesterov": True},
        "adam": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
        "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
    }[name]
    data = arrays()
    training = nnopt.Training(epochs=3, batch_size=16, learning_rate_schedule=schedule, **recipe)
    spec = nnopt.mlp((9,), inputs=12, outputs=4)
    model, by_hand = nnopt.build(spec, seed=2), nnopt.build(spec, seed=2)
    history = nnopt.fit(model, data, training, seed=7, device="cpu")

    options = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        options |= {"momentum": training.momentum, "nesterov": training.nesterov}
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[
        training.optimizer
    ](by_hand.parameters(), **options)
    total_steps = 3 * -(-len(data.x_train) // 16)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total_steps)
    losses = []
    for epoch in range(3):
        order = np.random.default_rng([7, epoch]).permutation(len(data.x_train))
        total = 0.0
        for first in range(0, len(order), 16):
            batch = order[first : first + 16]
            loss = torch.nn.functional.cross_entropy(
                by_hand(torch.as_tensor(data.x_train[batch])), torch.as_tensor(data.y_train[batch])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule == "cosine":
                falling.step()
            total += loss.item() * len(batch)
        losses.append(total / len(order))
    for (key, a), b in zip(
        nnopt.get_weights(model).items(), nnopt.get_weights(by_hand).values(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=key)
    assert history["train_loss"] == pytest.approx(losses, abs=1e-5)
    assert history.kept_row == 3 and [row["epoch"] for row in history.rows] == [1, 2, 3]


def test_early_stopping_goes_back_to_the_best_epoch():
    data = arrays(noise=3.0)  # labels nearly unlearnable: validation loss soon rises
    training = nnopt.Training(epochs=60, batch_size=8, learning_rate=0.2, momentum=0.9, patience=4)
    model = nnopt.build(nnopt.mlp((32,), inputs=12, outputs=4))
    history = nnopt.fit(model, data, training, seed=1)
    losses = history["validation_loss"]
    assert len(losses) < 60 and history.kept_row == int(np.argmin(losses)) + 1 == len(losses) - 4
    assert nnopt.evaluate(model, data.x_validation, data.y_validation)["loss"] == pytest.approx(
        min(losses), abs=1e-6
    )


def test_fit_takes_any_module_and_leaves_frozen_parameters_alone():
    data = arrays()
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
    model[0].weight.requires_grad_(False)
    frozen, free = model[0].weight.clone(), model[2].weight.clone()
    nnopt.fit(model, data, nnopt.Training(epochs=1), seed=3)
    assert torch.equal(model[0].weight, frozen) and not torch.equal(model[2].weight, free)
    again = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
    assert list(nnopt.get_weights(again)) == ["0/kernel", "0/bias", "2/kernel", "2/bias"]


def test_dropout_repeats_with_the_seed():
    def run(seed):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
        nnopt.fit(model, arrays(), nnopt.Training(epochs=2), seed=seed)
        return nnopt.get_weights(model)["2/kernel"]

    assert np.array_equal(run(1), run(1)) and not np.array_equal(run(1), run(2))


def test_inference_leaves_every_submodules_mode_as_it_was():
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5))
    model.train()
    model[1].eval()
    statistics = model[1].running_mean.clone()
    first, second = (nnopt.predict(model, arrays().x_test) for _ in range(2))
    assert np.array_equal(first, second) and torch.equal(model[1].running_mean, statistics)
    assert (model.training, model[1].training, model[2].training) == (True, False, True)


def test_predict_does_not_depend_on_the_batch_size():
    model = nnopt.build(CLASSICS["mnist1d_cnn"])
    x = np.random.default_rng(0).normal(size=(11, 1, 40)).astype(np.float32)
    np.testing.assert_allclose(nnopt.predict(model, x, batch_size=4), nnopt.predict(model, x), atol=1e-6)


def test_runner_runs_the_model_without_gradients():
    model = nnopt.build(CLASSICS["mlp"])
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    out = nnopt.runner(model, x)()
    assert not out.requires_grad
    np.testing.assert_allclose(out.numpy(), nnopt.predict(model, x), atol=1e-6)


def test_no_tensor_is_made_on_the_wrong_device(monkeypatch):
    """The meta device stands for an accelerator: mixing it with a CPU tensor raises, wherever it is done."""
    from nnopt_lib.backends.torch import fit as torch_fit

    monkeypatch.setattr(torch_fit, "resolve_device", lambda device="auto": torch.device("meta"))
    model = nnopt.build(every_operation())
    batch = np.zeros((8, 4, 11, 9), np.float32)
    model.to("meta")
    assert model(torch.as_tensor(batch).to("meta")).device.type == "meta"
    loss = torch.nn.functional.cross_entropy(
        model(torch.zeros(8, 4, 11, 9, device="meta")), torch.zeros(8, dtype=torch.long, device="meta")
    )
    loss.backward()
    assert {p.grad.device.type for p in model.parameters()} == {"meta"}

    # The loop itself: everything up to the first number that is read back, which meta tensors do not have.
    data = arrays()
    model = nnopt.build(nnopt.mlp((9,), inputs=12, outputs=4, batch_norm=True))
    for optimizer in ("sgd", "adam", "adamw"):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            nnopt.fit(model, data, nnopt.Training(epochs=1, optimizer=optimizer))
        assert {p.grad.device.type for p in model.parameters()} == {"meta"}


def test_the_source_names_no_device_outside_resolve_device():
    from pathlib import Path

    library = Path(nnopt.__file__).parent
    for name in (
        "backends/torch/build.py",
        "backends/torch/fit.py",
        "backends/torch/stack.py",
        "training/fit.py",
    ):
        assert ".cuda()" not in (library / name).read_text(), name
