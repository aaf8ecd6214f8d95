import numpy as np
import pytest

from nnopt_lib.data import classification, load_data, make_samples
from nnopt_lib.data.catalog import CATALOG
from nnopt_lib.data.classification import SAMPLE_HASHES, SOURCES


@pytest.mark.parametrize("name", SAMPLE_HASHES)
def test_a_sample_has_every_class_alike(name):
    data = load_data(name)
    assert (data.x_train.shape, data.x_validation.shape, data.x_test.shape) == (
        (4_500, 784),
        (500, 784),
        (1_000, 784),
    )
    assert [np.bincount(y).tolist() for y in (data.y_train, data.y_validation, data.y_test)] == [
        [450] * 10, [50] * 10, [100] * 10
    ]  # fmt: skip


def test_samples_are_small():
    assert sum(path.stat().st_size for path in classification.SAMPLES.iterdir()) < 4_000_000


@pytest.mark.parametrize("name", SAMPLE_HASHES)
def test_the_script_makes_the_samples_that_are_committed(name):
    whole = name.removesuffix("-sample")
    if not CATALOG[whole].is_local:
        pytest.skip(f"{whole} is not on this machine")
    made = make_samples.sample(SOURCES[whole].read(0, 0))
    assert classification.sample_hash(made) == SAMPLE_HASHES[name]


def test_the_script_spreads_its_choice_over_the_order():
    y = np.repeat([0, 1], [100, 50])
    assert make_samples.choose(y, 5).tolist() == [0, 20, 40, 60, 80, 100, 110, 120, 130, 140]
