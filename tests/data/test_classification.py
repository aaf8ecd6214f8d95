import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.data import Data, classification, load_data, make_samples
from nnopt_lib.data.arrays import ARRAYS
from nnopt_lib.data.catalog import CATALOG
from nnopt_lib.data.classification import FINGERPRINTS, SAMPLE_HASHES, read_idx
from tests.data.idx_files import idx


def test_real_mnist_where_it_is_at_hand():
    if not CATALOG["mnist"].is_local:
        pytest.skip("MNIST is not on this machine")
    data = load_data("mnist", flat=False)
    assert (data.x_train.shape, data.x_test.shape) == ((55_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# Constants


def options_of(key):
    """``"mnist flat=False"`` as a name and the options of `load_data`."""
    name, *words = key.replace(", ", ",").split(" ")
    return name, {option: ast.literal_eval(value) for option, value in (word.split("=") for word in words)}


@pytest.mark.parametrize("key", FINGERPRINTS)
def test_a_constant_is_the_fingerprint_of_the_arrays(key):
    name, options = options_of(key)
    if not CATALOG[name].is_local:
        pytest.skip(f"{name} is not on this machine")
    data = load_data(name, **options)
    assert data.fingerprint == FINGERPRINTS[key] and "x_train" not in vars(data)
    sizes, shape = data.sizes, data.shape
    whole = Data(name, *(getattr(data, array) for array in ARRAYS), classes=data.classes)
    assert (whole.fingerprint, whole.sizes, whole.shape) == (FINGERPRINTS[key], sizes, shape)


def test_the_data_of_every_published_row_is_known_without_reading_it():
    results = Path(__file__).parents[2] / "chapters" / "results"
    lines = [line for file in sorted(results.glob("*.jsonl")) for line in file.read_text().splitlines()]
    used = {(record["experiment"], record["data"]) for record in map(json.loads, lines)}
    known = {"", *FINGERPRINTS.values(), *(entry.fingerprint for entry in CATALOG.values() if entry.files)}
    # A chapter that cuts a set into parts of its own states theirs; they are checked when the arrays are read.
    chapters = (results.parent).glob("*.md")
    known.update(*(re.findall(r'"([0-9a-f]{16})"', file.read_text(encoding="utf-8")) for file in chapters))
    assert [(name, data) for name, data in sorted(used) if not set(data.split("+")) <= known] == []
    assert len(used) > 20


# Samples


def test_a_sample_that_is_not_the_one_committed_is_refused(tmp_path, monkeypatch):
    other = np.zeros((5_000, 28, 28), np.uint8), np.zeros(5_000, np.uint8)
    (tmp_path / "mnist-train.npz").write_bytes(make_samples.compressed(*other))
    (tmp_path / "mnist-test.npz").write_bytes(b"PK")
    monkeypatch.setattr(classification, "SAMPLES", tmp_path)
    rule = f"{tmp_path}/mnist-*.npz must hold the arrays of mnist-sample with the sha256 {SAMPLE_HASHES['mnist-sample']}"
    with pytest.raises(NnoptError) as error:
        load_data("mnist-sample").x_train  # noqa: B018
    assert str(error.value).startswith(f"{rule}; received ") and str(error.value).endswith(
        "Restore the files from the repository."
    )
    (tmp_path / "mnist-test.npz").write_bytes(make_samples.compressed(*other))
    with pytest.raises(NnoptError) as error:
        load_data("mnist-sample").x_train  # noqa: B018
    assert str(error.value) == (
        f"{rule}; received {classification.sample_hash((*other, *other))}. Restore the files from the repository."
    )


def test_rows_of_the_sample_are_never_those_of_the_whole_set():
    by_set = {}
    for key, fingerprint in FINGERPRINTS.items():
        by_set.setdefault(fingerprint, set()).add(key)
    assert all(len(keys) == 1 for keys in by_set.values())


# Deferred arrays


def test_pooling_averages_squares_and_examples_are_the_first_of_each_part():
    whole, small = (
        load_data("digits", flat=False),
        load_data("digits", flat=False, pool=2, examples=(10, 10**6, 20)),
    )
    assert small.sizes == {"train": 10, "validation": 180, "test": 20} and small.shape == (1, 4, 4)
    expected = [
        [whole.x_test[7, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(4)] for i in range(4)
    ]
    np.testing.assert_allclose(small.x_test[7, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(small.y_train, whole.y_train[:10])


# MONK's problems


def robots():
    """All 432 robots by loops, an oracle beside the product in the library: (head, body, smile, hold, jacket, tie)."""
    return [
        (h, b, s, o, j, t) for h in (1, 2, 3) for b in (1, 2, 3) for s in (1, 2) for o in (1, 2, 3)
        for j in (1, 2, 3, 4) for t in (1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "train", "ones", "wrong"), [(1, 124, 216, 0), (2, 169, 142, 0), (3, 122, 228, 6)]
)
def test_monks_problems_have_their_published_counts(number, train, ones, wrong):
    data = load_data(f"monks-{number}")
    assert (len(data.y_train), len(data.y_test), int(data.y_test.sum())) == (train, 432, ones)
    assert (data.x_test.sum(1) == 6).all() and len({row.tobytes() for row in data.x_test}) == 432
    first = [0, 3, 6, 8, 11, 15]  # where each attribute's values begin
    decoded = [
        tuple(int(row[a:b].argmax()) + 1 for a, b in zip(first, [*first[1:], 17], strict=True))
        for row in data.x_test
    ]
    assert decoded == robots()
    label = {row.tobytes(): y for row, y in zip(data.x_test, data.y_test, strict=True)}
    assert sum(label[row.tobytes()] != y for row, y in zip(data.x_train, data.y_train, strict=True)) == wrong


def test_monks_labels_follow_the_rules_in_words():
    labels = [load_data(f"monks-{number}").y_test.astype(bool).tolist() for number in (1, 2, 3)]
    for place, robot in enumerate(robots()):
        head, body, _, hold, jacket, _ = robot
        assert labels[0][place] == (head == body or jacket == 1)
        assert labels[1][place] == (robot.count(1) == 2)
        assert labels[2][place] == (jacket == 3 and hold == 1 or jacket != 4 and body != 3)


# Formats, splits


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"\x89PNG", "it begins with 89 50 4e 47"),
        (b"\0\0\x08\x03\0\0", "6 bytes, too few for its header"),
        (idx(np.zeros((3, 2), np.uint8))[:-1], "5 values where its header says (3, 2)"),
    ],
)
def test_what_is_no_idx_file_is_refused(content, received):
    with pytest.raises(NnoptError) as error:
        read_idx(content, "labels")
    assert str(error.value) == f"labels must be an IDX file of unsigned bytes; received {received}."


def test_digits_are_split_by_class_without_overlap():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    parts = [data.x_train, data.x_validation, data.x_test]
    assert [len(part) for part in parts] == [1_257, 180, 360]
    everything = np.concatenate(parts) * 16
    raw = load_digits().data
    assert np.array_equal(np.sort(everything.sum(1)), np.sort(raw.sum(1)))
    assert {row.tobytes() for row in everything.astype(np.float32)} == {
        row.tobytes() for row in raw.astype(np.float32)
    }
    counts = np.bincount(data.y_test)
    assert counts.min() >= 34 and counts.max() <= 38  # 360 of 1,797, every class in proportion


def test_split_seed_moves_what_it_says():
    first, again, other = (load_data("digits", split_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not np.array_equal(first.y_test, other.y_test)


def test_mnist1d_is_split_and_keeps_the_packages_order(monkeypatch):
    from mnist1d import data as package

    made = package.make_dataset(package.get_dataset_args())  # a second each time
    monkeypatch.setattr(package, "make_dataset", lambda args: made)
    data = load_data("mnist1d", validation=0, flat=False)
    assert data.x_train.shape == (4_000, 1, 40) and len(data.x_validation) == 0
    np.testing.assert_array_equal(data.x_train[:, 0], made["x"].astype(np.float32))
    np.testing.assert_array_equal(data.y_train, made["y"])
    first, second = (load_data("mnist1d", split_seed=seed) for seed in (0, 1))
    assert np.array_equal(first.x_test, second.x_test) and not np.array_equal(first.x_train, second.x_train)


def test_a_draw_is_a_new_sample_of_the_same_task():
    """Other signals in both parts, as many of every class; what is drawn depends on the number alone."""
    published, again, other = (load_data("mnist1d", draw=draw) for draw in (0, 3, 4))
    third = load_data("mnist1d", draw=3)
    assert np.array_equal(again.x_train, third.x_train) and np.array_equal(again.y_test, third.y_test)
    for one, two in ((published, again), (published, other), (again, other)):
        for part in ("x_train", "x_test"):
            signals = [{signal.tobytes() for signal in getattr(data, part)} for data in (one, two)]
            assert signals[0].isdisjoint(signals[1])
    # The templates are the same, so the means of the ten classes look alike, and not like each other.
    means = [np.stack([d.x_train[d.y_train == digit].mean(0) for digit in range(10)]) for d in (again, other)]
    distance = np.linalg.norm(means[0][:, None] - means[1][None], axis=2)
    assert (distance.argmin(1) == np.arange(10)).all()


def test_shapes_and_scale():
    assert load_data("digits", flat=False).x_train.shape == (1_257, 1, 8, 8)
    assert load_data("digits").x_train.max() == 1 and load_data("digits", scale=False).x_train.max() == 16


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: load_data("digits", draw=1),
            "draw is for generated data, mnist1d; received draw 1 of digits. Leave it out.",
        ),
        (lambda: load_data("mnist1d", draw=-1), "draw must be a whole number, at least 0; received -1."),
        (
            lambda: load_data("minst"),
            "data must be one of digits, mnist1d, mnist, fashion-mnist, mnist-sample, fashion-mnist-sample, monks-1, "
            "monks-2, monks-3; received 'minst'. Did you mean 'mnist'?",
        ),
        (
            lambda: load_data("digits", validation=-1),
            "validation must be a whole number, at least 0; received -1.",
        ),
        (
            lambda: load_data("digits", validation=1_437),
            "validation must leave something of the 1,437 training examples; received 1437.",
        ),
        (
            lambda: load_data("mnist", pool=3),
            "pool must divide both sides of the images of mnist; received pool 3 and shape (28, 28).",
        ),
        (
            lambda: load_data("mnist1d", pool=2),
            "pool must divide both sides of the images of mnist1d; received pool 2 and shape (40,).",
        ),
        (
            lambda: load_data("digits", examples=(1, 2)),
            "examples must be three numbers, for train, validation and test; received (1, 2).",
        ),
        (
            lambda: load_data("digits", examples=(-1, 2, 3)),
            "examples must be a whole number, at least 0; received -1.",
        ),
        (
            lambda: Data("own", np.zeros((3, 2)), np.zeros(2), *([np.zeros(0)] * 4), classes=2),
            "x_train and y_train must have equal lengths; received 3 and 2.",
        ),
        (
            lambda: Data("own", np.zeros((2, 2)), np.array([0, 2]), *([np.zeros(0)] * 4), classes=2),
            "labels must be from 0 to 1; received 0 to 2 in y_train.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
