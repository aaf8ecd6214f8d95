"""Models and tensors are told apart by their types; names of frameworks are checked."""

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import NnoptError, frameworks


@pytest.mark.torch
def test_a_module_of_ones_own_and_a_tensor_are_pytorchs():
    import torch

    class Mine(torch.nn.Linear):
        pass

    assert frameworks.framework_of(Mine(2, 3)) == "torch"
    assert frameworks.framework_of_tensor(torch.nn.Parameter(torch.zeros(2))) == "torch"


@pytest.mark.keras
def test_a_model_of_ones_own_and_a_tensor_are_keras():
    from nnopt_lib.backends.keras import keras, tf

    class Mine(keras.Model):
        pass

    assert frameworks.framework_of(Mine()) == "keras"
    assert frameworks.framework_of_tensor(tf.zeros(2)) == "keras"


def test_what_is_no_model_is_refused():
    with pytest.raises(NnoptError) as refusal:
        frameworks.framework_of(np.zeros(3))
    assert str(refusal.value) == (
        "a model must be a torch.nn.Module or a keras.Model; received numpy.ndarray."
    )


def test_a_framework_of_another_name_is_refused_before_it_is_imported():
    with pytest.raises(NnoptError) as refusal:
        nnopt.build(nnopt.mlp((), inputs=2, outputs=2), "tensorflow")
    assert str(refusal.value) == "framework must be one of torch, keras; received 'tensorflow'."
