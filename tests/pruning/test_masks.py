"""Masks by the contract: exact counts, ties, nesting, n:m, equal to an oracle that sorts; files; refusals."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from nnopt_lib import Masks, make_masks, shuffle_masks
from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning.scores import magnitude
from tests.conftest import small_files
from tests.pruning.oracles import (
    assert_same,
    oracle,
    oracle_by_layer,
)

# The same answers, whatever is read at a time and however badly the sample misleads: (CHUNK, SAMPLE)


# ---------------------------------------------------------------- rules, one by one


@pytest.mark.parametrize(
    ("size", "sparsity", "removed"), [(5, 0.5, 2), (7, 0.5, 4), (4, 0.125, 0), (4, 0.375, 2)]
)
def test_half_a_weight_rounds_to_even(size, sparsity, removed):
    scores = {"a": np.arange(size, dtype=np.float32)}
    for scope in ("global", "layer"):
        masks = make_masks(scores, sparsity=sparsity, scope=scope)
        assert masks.removed == removed == round(sparsity * size)
        assert masks["a"].tolist() == [False] * removed + [True] * (size - removed)


def test_of_equal_scores_the_earlier_is_kept_across_layers():
    scores = {"z": np.zeros((2, 2)), "a": np.zeros(3)}  # the mapping's order, not the alphabet's
    masks = make_masks(scores, sparsity=4 / 7)
    assert masks["z"].tolist() == [[True, True], [True, False]] and not masks["a"].any()


def test_zeros_of_both_signs_are_equal():
    masks = make_masks({"a": np.array([-0.0, 0.0, -0.0, 0.0])}, sparsity=0.5)
    assert masks["a"].tolist() == [True, True, False, False]


def test_infinities_are_scores_like_others():
    scores = {"a": np.array([np.inf, -np.inf, 1.0, np.inf]), "b": np.array([-np.inf, np.inf], np.float16)}
    masks = make_masks(scores, sparsity=0.5)
    assert masks["a"].tolist() == [True, False, False, True] and masks["b"].tolist() == [False, True]
    masks = make_masks(scores, sparsity=4 / 6)
    assert masks["a"].tolist() == [True, False, False, True] and masks["b"].tolist() == [False, False]


def test_large_whole_numbers_are_compared_exactly():
    big = 2**62
    masks = make_masks({"a": np.array([big + 1, big, big + 2])}, sparsity=1 / 3)
    assert masks["a"].tolist() == [True, False, True]  # in float64 all three would be equal


def test_the_most_negative_integer_has_the_largest_magnitude():
    """abs(-128) is -128 in eight bits."""
    for kind in (np.int8, np.int16, np.int32, np.int64):
        weights = {"a": np.array([[np.iinfo(kind).min, 1, 2, 3]], kind)}
        assert make_masks(magnitude(weights), sparsity=0.75)["a"].tolist() == [[True, False, False, False]]
        assert make_masks(magnitude(weights), granularity="1:4")["a"].tolist() == [
            [True, False, False, False]
        ]
        lamp = make_masks(magnitude(weights), sparsity=0.75, scope="layer", allocation="lamp")
        assert lamp["a"].tolist() == [[True, False, False, False]]


def test_a_scalar_and_an_empty_array_are_weights_like_others():
    masks = make_masks({"a": np.array(2.0), "b": np.zeros((0, 3)), "c": np.array([1.0, 3.0])}, sparsity=0.5)
    assert masks.removed == 2 and masks["a"].shape == () and masks["b"].shape == (0, 3)
    assert masks["c"].tolist() == [False, True]
    assert make_masks({"a": np.array(2.0)}, sparsity=0.9)["a"].tolist() is False


def test_previous_masks_only_shrink_and_count():
    random = np.random.default_rng(5)
    scores = {"a": random.random((6, 7)), "b": random.random(31)}
    before = None
    for sparsity in (0.0, 0.2, 0.2, 0.36, 0.7, 0.99):
        scores = {
            name: random.random(array.shape) for name, array in scores.items()
        }  # other scores each time
        masks = make_masks(scores, sparsity=sparsity, previous=before)
        assert masks.removed == round(sparsity * 73)
        if before is not None:
            assert all(not (masks[name] & ~before[name]).any() for name in masks)
        before = masks


@given(
    st.lists(
        arrays_of.arrays(
            np.float32,
            arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=4),
            elements=st.floats(-2, 2, width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.floats(0, 0.99), min_size=1, max_size=3),
    st.sampled_from(["global", "layer"]),
)
@settings(max_examples=150, deadline=None)
def test_any_scores_give_the_oracles_masks_level_by_level(layers, sparsities, scope):
    scores = {str(index): array for index, array in enumerate(layers)}
    before = None
    for sparsity in sorted(sparsities):
        masks = make_masks(scores, sparsity=sparsity, scope=scope, previous=before)
        count = round(sparsity * sum(array.size for array in layers))
        assert_same(
            masks,
            oracle(scores, count, before) if scope == "global" else oracle_by_layer(scores, sparsity, before),
        )
        before = masks


def test_arguments_stay_as_they_are():
    frozen = np.random.default_rng(0).random((4, 8))
    frozen.flags.writeable = False
    scores, before = {"a": frozen}, make_masks({"a": frozen}, sparsity=0.2)
    kept = before["a"].copy()
    for options in (
        {"sparsity": 0.5},
        {"sparsity": 0.5, "scope": "layer", "allocation": "lamp"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "erk"},
    ):
        make_masks(scores, previous=before, **options)
    make_masks(scores, granularity="2:4")
    assert np.array_equal(before["a"], kept) and list(scores) == ["a"]


# ---------------------------------------------------------------- many weights


# ---------------------------------------------------------------- shuffled masks


def test_shuffled_masks_keep_their_counts_and_change_places():
    random = np.random.default_rng(0)
    masks = make_masks({"a": random.random((20, 30)), "b": random.random((5, 4, 3, 3))}, sparsity=0.7)
    before = {name: mask.copy() for name, mask in masks.items()}
    shuffled = shuffle_masks(masks, seed=1)
    assert isinstance(shuffled, Masks) and shuffled.sparsities() == masks.sparsities()
    assert all(shuffled[name].shape == masks[name].shape for name in masks)
    assert all(not np.array_equal(shuffled[name], masks[name]) for name in masks)
    assert shuffled == shuffle_masks(masks, seed=1) and shuffled != shuffle_masks(masks, seed=2)
    assert all(np.array_equal(masks[name], mask) for name, mask in before.items())


def test_shuffling_does_not_keep_rows_or_columns_together():
    mask = np.ones((10, 100), bool)
    mask[:5] = False
    for layout in (mask, mask.T):
        shuffled = shuffle_masks(Masks({"a": layout}), seed=0)["a"]
        for axis in (0, 1):
            assert shuffled.mean(axis).min() > 0 and shuffled.mean(axis).max() < 1


def test_shuffling_is_even_and_layers_of_one_shape_differ():
    mask = np.arange(20) < 5
    counts = sum(shuffle_masks(Masks({"a": mask}), seed=seed)["a"].astype(int) for seed in range(2000))
    assert counts.min() > 420 and counts.max() < 580  # 500 each, standard deviation 19
    twins = shuffle_masks(Masks({"a": np.arange(400) < 200, "b": np.arange(400) < 200}), seed=0)
    assert not np.array_equal(twins["a"], twins["b"])


# ---------------------------------------------------------------- the type


def some_masks():
    random = np.random.default_rng(4)
    return make_masks(
        {"dense_1/kernel": random.random((7, 5)), "conv/kernel": random.random((4, 3, 3, 3))}, sparsity=0.6
    )


def test_counts_of_masks():
    masks = Masks({"a": np.array([[True, False], [True, True]]), "b": np.array([False, False])})
    assert (masks.size, masks.removed, masks.sparsity, masks.density) == (6, 3, 0.5, 0.5)
    assert masks.sparsities() == {"a": 0.25, "b": 1.0}
    assert list(masks) == ["a", "b"] and len(masks) == 2 and "a" in masks
    assert repr(masks) == "Masks(sparsity 0.5: 3 of 6 weights removed, 2 arrays)"
    one = Masks({"a/kernel": np.array([[True, False]])})
    assert repr(one) == "Masks(sparsity 0.5: 1 of 2 weights removed, 1 array)"


def test_masks_are_copied_and_read_only():
    own = np.array([True, False])
    masks = Masks({"a": own})
    own[:] = False
    assert masks["a"].tolist() == [True, False]
    with pytest.raises(ValueError):
        masks["a"][0] = False
    made = make_masks({"a": np.arange(4.0)}, sparsity=0.5)
    with pytest.raises(ValueError):
        made["a"][0] = True
    with pytest.raises(TypeError):
        made["a"] = own  # a mapping that cannot be assigned to


def test_masks_are_equal_by_contents():
    first, second = some_masks(), some_masks()
    assert first == second and first is not second
    changed = {name: mask.copy() for name, mask in first.items()}
    changed["conv/kernel"][0, 0, 0, 0] ^= True
    assert first != Masks(changed)
    assert first != Masks({"conv/kernel": first["conv/kernel"]})
    assert first != dict(first) and first != 1
    assert Masks({"a": np.ones(4, bool)}) != Masks({"a": np.ones((2, 2), bool)})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "masks must be a mapping of names to boolean arrays, at least one; received dict."),
        (
            [np.ones(2, bool)],
            "masks must be a mapping of names to boolean arrays, at least one; received list.",
        ),
        ({"a": np.ones(2)}, "mask 'a' must be a boolean array, True = keep; received float64."),
        ({"a": np.ones(2, np.int8)}, "mask 'a' must be a boolean array, True = keep; received int8."),
        ({"a": [True, False]}, "mask 'a' must be a boolean array, True = keep; received list."),
        ({1: np.ones(2, bool)}, "mask names must be strings; received 1."),
    ],
)
def test_masks_of_something_else_are_refused(given, sentence):
    with pytest.raises(NnoptError) as error:
        Masks(given)
    assert str(error.value) == sentence


# ---------------------------------------------------------------- files


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(
            lambda name: name != "__metadata__"
        ),
        arrays_of.arrays(bool, arrays_of.array_shapes(min_dims=0, max_dims=4, max_side=5, min_side=0)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_saved_is_loaded(tmp_path_factory, given):
    path = tmp_path_factory.getbasetemp() / "any" / "masks.safetensors"
    Masks(given).save(path)
    loaded = Masks.load(path)
    assert_same(loaded, given)
    assert loaded == Masks(given) and list(path.parent.iterdir()) == [path]


def test_a_saved_file_is_small_safe_and_read_only_when_loaded(tmp_path):
    masks = make_masks({"a": np.random.default_rng(0).random((1000, 100))}, sparsity=0.9)
    masks.save(tmp_path / "masks.safetensors")
    assert (tmp_path / "masks.safetensors").stat().st_size < 100_000 / 8 + 500
    loaded = Masks.load(str(tmp_path / "masks.safetensors"))
    assert loaded.sparsity == 0.9 and loaded.removed == 90_000
    with pytest.raises(ValueError):
        loaded["a"][0, 0] = True
    from safetensors import safe_open

    with safe_open(str(tmp_path / "masks.safetensors"), "numpy") as file:
        assert json.loads(file.metadata()["text"]) == {"a": [1000, 100]}


def assert_whole_file_sentence(sentence, path):
    assert sentence.startswith(f"{path} must be a whole file that Masks.save wrote; received ")
    assert sentence.endswith(". Save the masks again, or use another file.") and "\n" not in sentence


def assert_refused_as_a_file(path, received=None):
    """The one sentence: rule with the file's name, what is wrong, remedy."""
    with pytest.raises(NnoptError) as error:
        Masks.load(path)
    sentence = str(error.value)
    assert_whole_file_sentence(sentence, path)
    if received is not None:
        assert sentence.split("; received ", 1)[1].startswith(received)
    return sentence


@pytest.mark.parametrize(
    "change", [lambda b: b ^ 1, lambda b: 0, lambda b: ord("7")], ids=["bit", "0", "digit"]
)
def test_a_damaged_byte_anywhere_is_noticed(tmp_path, change):
    """Every byte of header and data in turn. A change that leaves the masks what they were is none."""
    path = tmp_path / "masks.safetensors"
    masks = some_masks()
    masks.save(path)
    whole = path.read_bytes()
    harmless = 0
    for index, byte in enumerate(whole):
        if change(byte) == byte:
            continue
        path.write_bytes(whole[:index] + bytes([change(byte)]) + whole[index + 1 :])
        try:
            assert Masks.load(path) == masks, f"byte {index}: other masks were loaded"
            harmless += 1
        except NnoptError as error:
            assert_whole_file_sentence(str(error), path)
    assert harmless < 0.1 * len(whole) + whole.count(b" ")


def test_a_truncated_or_longer_file_is_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    some_masks().save(path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused_as_a_file(path)
    path.write_bytes(whole + b"\0")
    assert_refused_as_a_file(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save

    path = tmp_path / "other"
    assert_refused_as_a_file(path, "")  # there is none
    path.mkdir()
    assert_refused_as_a_file(path, "")
    path = tmp_path / "text.json"
    path.write_text('{"a": [true, false]}' * 20)
    assert_refused_as_a_file(path, "")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"dense_1/kernel": np.zeros((3, 2), np.float32)}))
    assert_refused_as_a_file(path, "format None.")
    path.write_bytes(save({"dense_1/kernel": np.zeros(2, np.uint8)}, {"format": "pt"}))
    assert_refused_as_a_file(path, "format 'pt'.")
    path.write_bytes(save({"dense_1/kernel": np.zeros(2, np.uint8)}, {"format": "nnopt-masks-1"}))
    assert_refused_as_a_file(path)


def test_a_file_whose_seal_fits_but_whose_shapes_do_not_is_refused(tmp_path):
    """Written by hand, or by a version with a mistake: one sentence all the same."""
    from nnopt_lib.files import save_tensors

    path = tmp_path / "masks.safetensors"
    packed = {"a": np.zeros(1, np.uint8)}
    for shapes in (
        '{"a": [9]}',
        '{"b": [4]}',
        '{"a": [4], "b": [4]}',
        '{"a": "4"}',
        "[]",
        "no json",
        '{"a": [-8]}',
    ):
        save_tensors(path, packed, "nnopt-masks-1", shapes)
        assert_refused_as_a_file(path)


def test_a_full_disk_is_one_sentence_and_the_old_masks_stay(tmp_path):
    path = tmp_path / "masks.safetensors"
    some_masks().save(path)

    with pytest.raises(NnoptError) as refusal, small_files():
        shuffle_masks(some_masks(), seed=0).save(path)
    assert str(refusal.value) == (
        f"{path} could not be written: File too large. Free some space and run again; "
        "what was there before is untouched."
    )
    assert Masks.load(path) == some_masks() and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- refusals

SCORES = {"a": np.arange(8.0).reshape(2, 4), "b": np.arange(6.0)}
KEPT = make_masks(SCORES, sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 80}, "sparsity must be at least 0 and below 1; received 80. For 80 %, pass 0.8."),
        ({"sparsity": 1.0}, "sparsity must be at least 0 and below 1; received 1."),
        ({"sparsity": -0.1}, "sparsity must be at least 0 and below 1; received -0.1."),
        ({"sparsity": math.nan}, "sparsity must be at least 0 and below 1; received nan."),
        ({"sparsity": "0.5"}, "sparsity must be at least 0 and below 1; received '0.5'."),
        ({}, "sparsity must be at least 0 and below 1; received None."),
        (
            {"sparsity": 0.5, "scope": "globl"},
            "scope must be one of global, layer; received 'globl'. Did you mean 'global'?",
        ),
        (
            {"sparsity": 0.5, "scope": "layer", "allocation": "erks"},
            "allocation must be one of uniform, erk, lamp; received 'erks'. Did you mean 'erk'?",
        ),
        (
            {"sparsity": 0.5, "allocation": "erk"},
            "allocation shares sparsity among layers; received scope='global'. Pass scope='layer' with it.",
        ),
        (
            {"sparsity": 0.5, "granularity": "node"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received 'node'. "
            "Choose from 2:4, weight.",
        ),
        (
            {"granularity": "4:2"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received '4:2'.",
        ),
        (
            {"granularity": "0:4"},
            "granularity must be 'weight' or n:m with 1 <= n < m, such as '2:4'; received '0:4'.",
        ),
        (
            {"granularity": "2:4", "sparsity": 0.6},
            "sparsity must be 0.5 with granularity '2:4'; received 0.6. Leave it out.",
        ),
        (
            {"granularity": "2:4", "scope": "layer"},
            "granularity '2:4' ranks within its runs; received scope='layer'. Leave scope out.",
        ),
        (
            {"granularity": "2:3"},
            "granularity '2:3' needs inputs in multiples of 3; received a of shape (2, 4). "
            "Leave this layer out by names=.",
        ),
        (
            {"granularity": "2:4"},
            "granularity '2:4' needs inputs in multiples of 4; received b of shape (6,). "
            "Leave this layer out by names=.",
        ),
        (
            {"sparsity": 0.3, "previous": KEPT},
            "sparsity must not fall, and the previous masks removed 7 weights of all layers together; "
            "received a target of 4. Pass a higher sparsity, or leave previous out.",
        ),
        (
            {
                "sparsity": 0.6,
                "scope": "layer",
                "previous": Masks({"a": np.ones((2, 4), bool), "b": np.arange(6) < 1}),
            },
            "sparsity must not fall, and the previous masks removed 5 weights of b; received a target of 4. "
            "Pass a higher sparsity, or leave previous out.",
        ),
        (
            {"sparsity": 0.5, "previous": Masks({"a": np.ones((4, 2), bool), "c": np.ones(2, bool)})},
            "masks must have the names and shapes of the model's weights; received a (4, 2) for (2, 4), "
            "c (2,) for none, b missing for (6,).",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(NnoptError) as error:
        make_masks(SCORES, **options)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({}, "scores must be a mapping of names to arrays, at least one; received dict."),
        ([np.ones(3)], "scores must be a mapping of names to arrays, at least one; received list."),
        ({"a": np.zeros((0, 3))}, "there must be a weight to prune; received empty arrays only."),
        ({"a": np.array(["x", "y"])}, "scores of 'a' must be real numbers; received type <U1."),
        ({"a": np.ones(3, complex)}, "scores of 'a' must be real numbers; received type complex128."),
        ({"a": np.ones(3, bool)}, "scores of 'a' must be real numbers; received type bool."),
        ({"a": np.ones(3, object)}, "scores of 'a' must be real numbers; received type object."),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, sentence):
    with pytest.raises(NnoptError) as error:
        make_masks(scores, sparsity=0.5)
    assert str(error.value) == sentence


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.0},
        {"sparsity": 0.5},
        {"sparsity": 0.9},
        {"sparsity": 0.5, "scope": "layer"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "erk"},
        {"sparsity": 0.5, "scope": "layer", "allocation": "lamp"},
        {"granularity": "1:2"},
    ],
    ids=str,
)
def test_scores_with_nan_are_refused_and_the_layer_is_named(kind, options):
    random = np.random.default_rng(0)
    for index in (0, 17, 39):
        scores = {"fine": random.random((3, 4)).astype(kind), "broken": random.random((10, 4)).astype(kind)}
        scores["broken"].flat[index] = np.nan
        with pytest.raises(NnoptError) as error:
            make_masks(scores, **options)
        assert str(error.value) == "scores must not hold NaN; received NaN in 'broken'."


def test_a_seed_that_is_none_is_refused():
    for seed in (-1, 0.5, None):
        with pytest.raises(NnoptError, match="seed must be a whole number, at least 0; received"):
            shuffle_masks(some_masks(), seed=seed)
