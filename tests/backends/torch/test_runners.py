import functools

import numpy as np
import pytest
import torch
from torch import nn

from nnopt_lib.backends.torch import runners
from nnopt_lib.checks import NnoptError


def test_layers_of_a_kernel_compute_it():
    random = np.random.default_rng(0)
    kernel, x = random.standard_normal((4, 3), np.float32), random.standard_normal((2, 3), np.float32)
    np.testing.assert_allclose(runners.layer_of(kernel)(torch.from_numpy(x)).numpy(), x @ kernel.T, atol=1e-6)
    kernel, image = np.zeros((2, 3, 3, 5), np.float32), np.zeros((1, 3, 8, 8), np.float32)
    kernel[1, 2, 1, 2], image[0, 2, 4, 7] = 2, 3  # the middle of a kernel multiplies the place itself
    out = runners.layer_of(kernel)(torch.from_numpy(image)).numpy()
    assert out.shape == (1, 2, 8, 8) and out[0, 1, 4, 7] == 6 and out.sum() == 6


def test_threads_come_back_after_an_error():
    def fail():
        raise KeyError(torch.get_num_threads())

    before = torch.get_num_threads()
    with pytest.raises(KeyError, match=str(before + 1)):
        runners.on_threads(fail, before + 1)()
    assert torch.get_num_threads() == before == runners.threads()


def test_every_one_of_many_layers_is_compiled(monkeypatch):
    """Torch compiles eight shapes of a class, and would run the others as they are without a word."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setenv("CXX", "sh")  # any program: this backend needs none
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    x = np.ones((1, 3), np.float32)  # networks of equal shapes would share what is compiled
    runs = [runners.compiled(nn.Sequential(nn.Linear(3, out)), x, 1) for out in range(2, 12)]
    assert len(graphs) == 10
    for run in runs:
        run()
    assert len(graphs) == 10  # none is compiled when it is timed
    torch.compiler.reset()


def two_of_four(rows, columns):
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.view(-1, 4)[:, :2] = 0
    return layer


def test_a_card_takes_only_what_is_pruned_2_4(monkeypatch):
    monkeypatch.setattr(runners, "check_card", lambda: None)
    sentence = (
        "'cuda_2:4' needs a dense layer with at most 2 of every 4 inputs, its sizes multiples of 64;"
        " received none. Prune it with granularity='2:4' first."
    )
    for layer in (nn.Linear(64, 64), two_of_four(64, 68), two_of_four(65, 64), nn.Conv2d(64, 64, 1)):
        with pytest.raises(NnoptError) as caught:
            runners.on_card(nn.Sequential(layer))
        assert str(caught.value) == sentence


@pytest.mark.parametrize("capability", [None, (7, 5), (8, 0)])
def test_cards_without_such_kernels_are_refused(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if capability == (8, 0):
        return runners.check_card()
    received = "none" if capability is None else "one of capability 7.5"
    with pytest.raises(NnoptError) as caught:
        runners.check_card()
    assert str(caught.value) == (
        f"2:4 kernels need a CUDA card of compute capability 8.0 or later; received {received}."
        " Leave 'cuda_2:4' out."
    )


@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)),
    reason="needs such a card",
)
def test_a_card_gives_what_the_model_gives():
    model, x = nn.Sequential(two_of_four(128, 64), nn.ReLU(), nn.Linear(128, 3)), torch.randn(8, 64)
    given = runners.on_card(model)(x.cuda().half()).float().cpu()
    torch.testing.assert_close(given, model(x), atol=1e-2, rtol=1e-2)
