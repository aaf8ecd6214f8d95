"""The classics have the sizes that their papers give."""

import pytest

from nnopt_lib.structure import classics
from tests.networks import parameter_count


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (classics.mlp((32,), inputs=64, outputs=10), 2_410),
        (classics.mlp((), inputs=64, outputs=10), 650),
        (classics.lenet_300_100(), 266_200 + 410),
        (classics.lenet_5(), 431_080),
        (classics.mnist1d_mlp(), 15_210),
        (classics.mnist1d_cnn(), 5_210),
        # conv 1*8*9, norm 16, conv 8*16*9, norm 32, dense 16*10+10
        (
            classics.cnn((8, 16), input_shape=(1, 28, 28), outputs=10, batch_norm=True),
            72 + 16 + 1152 + 32 + 170,
        ),
        (classics.cnn((8,), input_shape=(2, 40), outputs=4, kernel=5), 2 * 8 * 5 + 8 + 36),
    ],
)
def test_classics_have_the_published_parameter_counts(spec, parameters):
    assert parameter_count(spec) == parameters
