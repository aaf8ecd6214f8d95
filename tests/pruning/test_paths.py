import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.paths import POWERS, first_usable, is_removed


def test_what_only_adds_is_removed():
    adding = ["a/bias", "a/b/bias", "norm/shift", "norm/mean", "self_attn/in_proj_bias", "norm/beta"]
    assert all(map(is_removed, adding))
    assert not any(map(is_removed, ["a/kernel", "norm/scale", "norm/variance", "class_token", "bias/kernel"]))


def test_the_first_scale_without_overflow_or_underflow_counts():
    def attempt(scale):
        return (np.inf, {"a": np.array([np.inf])}) if scale >= 1e-150 else (1.0, {"a": np.array([scale])})

    assert first_usable(attempt)["a"] == [1e-200]
    vanishing = first_usable(lambda scale: (0.0, {"a": np.array([1.0 if scale > 1e150 else 0.0])}))
    assert vanishing["a"] == [1.0]


def test_nothing_left_is_an_answer_and_overflow_everywhere_a_refusal():
    assert not first_usable(lambda scale: (0.0, {"a": np.zeros(2)}))["a"].any()
    asked = []
    with pytest.raises(NnoptError) as error:
        first_usable(lambda scale: (asked.append(scale) or np.nan, {"a": np.ones(1)}))
    assert len(asked) == len(POWERS)
    sentence = (
        "SynFlow's scores must fit into double precision; received a network whose paths sum to too much."
    )
    assert str(error.value) == sentence
