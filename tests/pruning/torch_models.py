"""PyTorch models that nobody described, a loop to train them in, and what their zeros must be."""

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt


class Tied(nn.Module):
    """Words in, words out, by one and the same weights."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 20)
        self.out.weight = self.embedding.weight

    def forward(self, words):
        return self.out(torch.tanh(self.hidden(self.embedding(words).mean(1))))


def mlp():
    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 2), padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 2),
        nn.Flatten(),
        nn.Linear(6 * 4 * 5, 4),
    )


def shared():
    layer = nn.Linear(12, 12)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(12, 4))


MODELS = {
    "mlp": (mlp, lambda n: torch.randn(n, 12), ["0/kernel", "2/kernel"]),
    "convolutional": (
        convolutional,
        lambda n: torch.randn(n, 3, 5, 5),
        ["0/kernel", "3/kernel", "4/kernel", "6/kernel"],
    ),
    "tied": (Tied, lambda n: torch.randint(0, 20, (n, 3)), ["embedding/kernel", "hidden/kernel"]),
    "shared": (shared, lambda n: torch.randn(n, 12), ["0/kernel", "3/kernel"]),
}


each_model = pytest.mark.parametrize("kind", MODELS)


def make(kind, seed=0):
    torch.manual_seed(seed)
    model, inputs, names = MODELS[kind]
    return model(), inputs(16), names


def kernels(model):
    """Every kernel once, by the parameter itself."""
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
    return list({id(m.weight): m.weight for m in model.modules() if isinstance(m, layers)}.values())


def bits(tensor):
    return (
        tensor.detach().numpy(force=True).tobytes()
        if tensor.dtype != torch.bfloat16
        else bits(tensor.view(torch.int16))
    )


def assert_zeros(model, masks, optimizer=None):
    """What is removed is +0, in weights and, where an optimizer is given, in all its state."""
    count = 0
    for mask, parameter in zip(masks.values(), kernels(model), strict=True):
        removed = torch.tensor(~mask)
        gone = parameter.detach()[removed]
        assert (gone == 0).all() and not torch.signbit(gone).any()
        count += gone.numel()
        if optimizer is not None:
            states = [
                s for s in optimizer.state[parameter].values() if getattr(s, "shape", None) == mask.shape
            ]
            assert states
            assert all((state[removed] == 0).all() for state in states)
    assert count == masks.removed > 0


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.9, centered=True),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}


LOOPS = ("plain", "accumulation", "compiled model", "compiled step")


def train(model, x, optimizer, steps, loop="plain", check=lambda: None):
    """A loop as a reader writes it, on random labels; `check` is called after every step."""
    labels = torch.randint(0, 4, (len(x),))
    loss_of = nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad()
        loss = loss_of(model(x), labels)
        loss.backward()
        optimizer.step()

    if loop == "compiled model":
        forward = torch.compile(model, backend="aot_eager")
    elif loop == "compiled step":
        step = torch.compile(step, backend="eager")
    for number in range(steps):
        if loop == "accumulation":
            loss_of(model(x[number % 4 :: 4]), labels[number % 4 :: 4]).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        elif loop == "compiled model":
            optimizer.zero_grad()
            loss_of(forward(x), labels).backward()
            optimizer.step()
        else:
            step()
        check()


SPEC = nnopt.mlp((9, 5), inputs=12, outputs=4, activation="tanh")


RECIPES = {
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 1e-2},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
}


def assert_zero_weights(weights, masks):
    for name, mask in masks.items():
        gone = weights[name][~mask]
        assert (gone == 0).all() and not np.signbit(gone).any()
