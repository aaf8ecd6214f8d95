import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.data import load_data
from nnopt_lib.data.arrays import ARRAYS
from nnopt_lib.data.classification import FINGERPRINTS


def test_a_wrong_constant_is_refused_and_nothing_is_kept(monkeypatch):
    right = FINGERPRINTS["digits"]
    monkeypatch.setitem(FINGERPRINTS, "digits", "0123456789abcdef")
    data = load_data("digits")
    with pytest.raises(NnoptError) as error:
        data.x_train  # noqa: B018
    assert str(error.value) == (
        f"the arrays of digits must have the fingerprint 0123456789abcdef; received {right}. "
        "Install the versions that constraints.txt names."
    )
    assert not set(ARRAYS) & set(vars(data))


def test_a_copy_and_another_process_get_the_arrays_and_not_the_way_to_read_them():
    data = load_data("digits")
    copied = pickle.loads(pickle.dumps(data))
    assert copied.fingerprint == FINGERPRINTS["digits"] and "_deferred" not in vars(copied)
    np.testing.assert_array_equal(copied.x_validation, load_data("digits").x_validation)


def test_loading_imports_nothing_heavy_before_an_array_is_asked_for():
    program = (
        "import sys, nnopt_lib; nnopt_lib.load_data('mnist').fingerprint; nnopt_lib.load_data('digits').sizes\n"
        "print(sorted({'sklearn', 'mnist1d', 'pooch', 'torch', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_fingerprint_sees_every_array():
    data = load_data("digits")
    prints = {data.fingerprint}
    for part in ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test"):
        changed = getattr(data, part).copy()
        changed.flat[0] = (changed.flat[0] + 1) % 10
        prints.add(replace(data, **{part: changed}).fingerprint)
    assert len(prints) == 7
