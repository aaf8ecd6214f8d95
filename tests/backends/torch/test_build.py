import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.structure.spec import NetSpec, Node
from nnopt_lib.structure.weights import initial_weights
from tests.networks import CLASSICS, arrays, every_operation, networks

pytestmark = pytest.mark.torch


def test_build_is_an_ordinary_module():
    model = nnopt.build(nnopt.mlp((32,), inputs=64, outputs=10))
    assert isinstance(model, torch.nn.Module) and isinstance(model.dense_1, torch.nn.Linear)
    assert sum(p.numel() for p in model.parameters()) == 2_410
    x = torch.randn(3, 64)
    expected = model.dense_2(torch.relu(model.dense_1(x)))
    assert torch.equal(model(x), expected)
    for other in (copy.deepcopy(model), torch.export.export(model, (x,)).module()):
        assert torch.allclose(other(x), expected, atol=1e-6)
    fresh = nnopt.build(model.spec, seed=1)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)


def test_torch_modules_made_by_hand_give_the_same_outputs():
    spec = every_operation()
    net = nnopt.build(spec, seed=3).eval()
    x = torch.randn(2, 4, 11, 9)
    h = torch.nn.functional.gelu(net.batch_norm_1(net.conv2d_1(x)))
    h = h + net.conv2d_2(h)
    gate = torch.sigmoid(net.excite(h.mean((2, 3))))
    h = h * gate[:, :, None, None]
    pools = [torch.nn.MaxPool2d(3, 2, 1)(h), torch.nn.AvgPool2d(3, 2, 1)(h)]
    h = torch.cat(pools, 1)
    flat = torch.cat([torch.nn.functional.silu(h.flatten(1)), h.amax((2, 3))], 1)
    assert torch.allclose(net(x), net.logits(flat), atol=1e-6)


@given(networks())
@settings(max_examples=40, deadline=None)
def test_every_network_builds_trains_a_step_and_keeps_its_weights(spec):
    weights = initial_weights(spec, 5)
    model = nnopt.build(spec, seed=5)
    assert all(np.array_equal(value, weights[name]) for name, value in nnopt.get_weights(model).items())
    x = np.random.default_rng(0).normal(size=(6, *spec.input_shape)).astype(np.float32)
    assert nnopt.predict(model, x).shape == (6, *spec.shapes[spec.output])
    model(torch.as_tensor(x)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_build_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    nnopt.build(CLASSICS["lenet_5"])
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_fit_equals_a_loop_written_by_hand(name):
    recipe = {
        "sgd": {"weight_decay": 0.01},
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.9, "nesterov": True},
        "adam": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
        "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
    }[name]
    data, training = arrays(), nnopt.Training(epochs=3, batch_size=16, **recipe)
    spec = nnopt.mlp((9,), inputs=12, outputs=4)
    model, by_hand = nnopt.build(spec, seed=2), nnopt.build(spec, seed=2)
    history = nnopt.fit(model, data, training, seed=7, device="cpu")

    options = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        options |= {"momentum": training.momentum, "nesterov": training.nesterov}
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[
        training.optimizer
    ](by_hand.parameters(), **options)
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
    seen = []
    mean = torch_fit.accuracy_and_loss
    monkeypatch.setattr(torch_fit, "accuracy_and_loss", lambda *a: seen.append(a) or mean(*a))
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


def test_seed_everything_covers_all_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    nnopt.seed_everything(5)
    first = draw()
    nnopt.seed_everything(5)
    assert draw() == first
    nnopt.seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_shared_and_half_precision_weights():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.b.weight = self.a.weight

    assert list(nnopt.get_weights(Tied())) == ["a/kernel", "a/bias", "b/bias"]
    half = torch.nn.Linear(3, 2).to(torch.bfloat16)
    weights = nnopt.get_weights(half)
    assert weights["kernel"].dtype == np.float32
    nnopt.set_weights(half, {name: value + 1 for name, value in weights.items()})
    assert half.weight.dtype == torch.bfloat16
    np.testing.assert_allclose(nnopt.get_weights(half)["kernel"], weights["kernel"] + 1, rtol=2**-7)


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
        (
            lambda m, d: nnopt.build(nnopt.mlp((3,), inputs=2, outputs=2), "jax"),
            "framework must be one of torch, keras; received 'jax'.",
        ),
        (lambda m, d: nnopt.predict(m, d.x_test[:0]), "predict needs at least one example; received none."),
        (
            lambda m, d: nnopt.set_weights(m, {}),
            "weights must have the model's names; received missing ['dense_1/bias', 'dense_1/kernel'], not the model's [].",
        ),
        (
            lambda m, d: nnopt.set_weights(
                m, {"dense_1/kernel": np.zeros((12, 4)), "dense_1/bias": np.zeros(4)}
            ),
            "weight 'dense_1/kernel' must have the shape (4, 12); received (12, 4).",
        ),
        (
            lambda m, d: nnopt.copy_weights(m, torch.nn.Linear(3, 2)),
            "models must have weights of equal names, or of equal shapes in equal order; received dense_1/kernel "
            "(4, 12), dense_1/bias (4,) against kernel (2, 3), bias (2,).",
        ),
        (
            lambda m, d: nnopt.build(NetSpec((2,), (Node("train", "dense", "input", {"units": 2}),))),
            "node name 'train' is taken by torch.nn.Module. Rename the node.",
        ),
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
