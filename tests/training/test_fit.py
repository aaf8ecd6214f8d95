import random

import numpy as np
import pytest
import torch

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.networks import arrays

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
