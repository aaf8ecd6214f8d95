"""First weights: shapes, repetition, and the variances that their papers give."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_lib.checks import NnoptError
from nnopt_lib.structure import classics
from nnopt_lib.structure.weights import INITIALIZERS, check_weights, initial_weights, renamed
from tests.networks import networks


@given(networks())
@settings(max_examples=50)
def test_initial_weights_have_the_described_shapes_and_repeat(spec):
    for init in INITIALIZERS:
        weights = initial_weights(spec, 3, init)
        assert {n: w.shape for n, w in weights.items()} == spec.parameter_shapes(trainable=False)
        assert all(w.dtype == np.float32 for w in weights.values())
        again = initial_weights(spec, 3, init)
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
    different = initial_weights(spec, 4)
    last = f"{spec.output}/kernel"
    assert not np.array_equal(different[last], initial_weights(spec, 3)[last])


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("glorot_uniform", 2 / (784 + 300)),
        ("glorot_normal", 2 / (784 + 300)),
        ("he_normal", 2 / 784),
        ("torch_default", 1 / (3 * 784)),
    ],
)
def test_initial_variance_is_the_published_one(init, variance):
    weights = initial_weights(classics.lenet_300_100(), 0, init)
    # 235,200 draws: the sample variance of a bounded or normal draw is within 2 % with wide margin.
    assert math.isclose(weights["dense_1/kernel"].var(), variance, rel_tol=0.02)
    assert abs(weights["dense_1/kernel"].mean()) < 4 * math.sqrt(variance / 235_200)
    assert np.any(weights["dense_1/bias"]) == (init == "torch_default")


def test_arrays_that_do_not_fit_are_refused_by_name_and_shape():
    spec = classics.mlp((), inputs=3, outputs=2)
    weights = initial_weights(spec, 0)
    copies = check_weights(spec, weights)
    assert all(np.array_equal(copies[name], weights[name]) for name in weights)
    assert not any(np.shares_memory(copies[name], weights[name]) for name in weights)
    foreign = {"dense_1/kernel": np.zeros((3, 2)), "dense_1/scale": np.zeros(2)}
    with pytest.raises(NnoptError) as error:
        check_weights(spec, foreign)
    assert str(error.value) == (
        "weights must have the names and shapes of the model's weights; received dense_1/kernel (3, 2) for "
        "(2, 3), dense_1/scale (2,) for none, dense_1/bias missing for (2,)."
    )


# ---------------------------------------------------------------- arrays under the names that a model has now


def fits(names, arrays, shapes):
    """Which name each array got: they are told apart by an entry of their own."""
    found = renamed({name: np.full(shape, n) for n, (name, shape) in enumerate(arrays)}, dict(shapes))
    return found and {name: names[value.flat[0]] for name, value in found.items()}


@pytest.mark.parametrize(
    ("arrays", "shapes", "expected"),
    [
        ("m/a/k m/b/k", "a/k b/k", "a/k b/k"),  # an outer name less
        ("a/k b/k", "m/a/k m/b/k", "m/a/k m/b/k"),  # one more
        ("b/k", "m/a/k m/b/k m/c/k", "m/b/k"),  # some of them
        ("m/b/k m/a/k", "a/k b/k", "b/k a/k"),  # names before order
        ("0/k 2/k", "net.0/k net.1/k net.2/k", "net.0/k net.2/k"),  # as PyTorch names them
        ("a/k b/k", "b/k a/k c/k", "a/k b/k"),  # all known
        ("x/k y/k", "a/k b/k", "a/k b/k"),  # order
        ("b/k c/k", "a/k b/k", "a/k b/k"),  # order: names that are known in part do not count
        ("x/k y/v", "a/v b/k", None),  # in the other order
        ("x/k y/v", "b/k c/v d/w", "b/k c/v"),  # order among those of one kind
        ("x/k y/v", "a/v b/k c/v", "b/k c/v"),  # the only way
        ("x/k", "a/k b/k", None),  # which?
        ("m/a/k", "l/a/k r/a/k", None),
        ("a/k", "l/a/k r/a/k", None),
        ("x/k y/k", "a/k b/k c/k", None),
        ("x/k y/k", "a/k", None),
        ("a/v", "a/k", None),
        ("m/a/k n/a/k", "a/k", None),  # two for one
        ("a/k", "aa/k ba/k", None),  # names are compared whole
    ],
)
def test_arrays_are_found_by_names_by_their_ends_and_by_order(arrays, shapes, expected):
    arrays, shapes = arrays.split(), shapes.split()
    found = fits(arrays, [(name, (2, 2)) for name in arrays], [(name, (2, 2)) for name in shapes])
    assert found == (expected and dict(zip(expected.split(), arrays, strict=True)))
    assert expected is None or list(found) == expected.split()


def test_shapes_tell_what_names_and_order_do_not():
    shapes = [("a/k", (2, 3)), ("b/k", (2, 2)), ("c/k", (2, 3))]
    assert fits(["x/k"], [("x/k", (2, 2))], shapes) == {"b/k": "x/k"}
    assert fits(["x/k"], [("x/k", (2, 3))], shapes) is None
    assert fits(["x/k", "y/k"], [("x/k", (2, 2)), ("y/k", (2, 3))], shapes) == {"b/k": "x/k", "c/k": "y/k"}
    assert fits(["a/k"], [("a/k", (2, 2))], shapes) is None  # known, and of another shape


@given(networks(), st.data())
@settings(max_examples=50)
def test_all_weights_of_a_network_are_found_in_order_whatever_their_names(spec, data):
    shapes = spec.parameter_shapes()
    others = {f"other_{n}/{name.rpartition('/')[2]}": shape for n, (name, shape) in enumerate(shapes.items())}
    arrays = {name: np.zeros(shape, bool) for name, shape in others.items()}
    found = renamed(arrays, shapes)
    assert list(found) == list(shapes)
    assert all(one is other for one, other in zip(found.values(), arrays.values(), strict=True))
    gone = data.draw(st.sampled_from(list(arrays)))
    part = renamed({name: one for name, one in arrays.items() if name != gone}, shapes)
    expected = [name for name, other in zip(shapes, others, strict=True) if other != gone]
    assert part is None or [shapes[name] for name in part] == [shapes[name] for name in expected]
