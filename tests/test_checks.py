import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError, check_fraction, check_int, check_number, nearest, refuse


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_fractions_are_at_least_0_and_below_1(value):
    if 0 <= value < 1:
        assert check_fraction("sparsity", value) == value
    else:
        with pytest.raises(NnoptError, match="sparsity must be at least 0 and below 1; received"):
            check_fraction("sparsity", value)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (80, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        (1.0, "sparsity must be at least 0 and below 1; received 1."),
        (-0.1, "sparsity must be at least 0 and below 1; received -0.1."),
        (math.nan, "sparsity must be at least 0 and below 1; received nan."),
        ("0.8", "sparsity must be at least 0 and below 1; received '0.8'."),
        (True, "sparsity must be at least 0 and below 1; received True."),
    ],
)
def test_a_sparsity_out_of_range_is_one_sentence_with_a_remedy(value, sentence):
    with pytest.raises(NnoptError) as error:
        check_fraction("sparsity", value)
    assert str(error.value) == sentence


def test_numpy_numbers_are_numbers():
    import numpy as np

    assert check_int("epochs", np.int64(3), at_least=1) == 3
    assert check_number("rate", np.float32(0.5), above=0) == 0.5


def test_bounds_are_inclusive_where_they_say_so():
    assert check_int("seed", 0, at_least=0, at_most=0) == 0
    assert check_number("decay", 0, at_least=0) == 0
    with pytest.raises(NnoptError, match=r"^rate must be a finite number, above 0; received 0\.$"):
        check_number("rate", 0, above=0)


def test_nearest_and_refuse_make_whole_sentences():
    assert nearest("profil", ["profile", "device"]) == "Did you mean 'profile'?"
    assert nearest("x", ["profile", "device"]) == "Choose from device, profile."
    with pytest.raises(NnoptError) as error:
        refuse("rule", "this", "Do that.")
    assert str(error.value) == "rule; received this. Do that."
    with pytest.raises(ValueError, match=r"^rule\.$"):
        refuse("rule")
