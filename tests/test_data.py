import functools
import gzip
import hashlib
import http.server
import struct
import threading
from dataclasses import replace

import numpy as np
import pytest

from nnopt_lib import data as module
from nnopt_lib.checks import NnoptError
from nnopt_lib.data import Data, load_data, read_idx


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def small_mnist(monkeypatch):
    """Four small files in MNIST's own format, with hashes that `load_data` expects."""
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": random.integers(0, 256, (200, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(200, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": random.integers(0, 256, (50, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(50, dtype=np.uint8) % 10,
    }
    files = {name: idx(array) for name, array in arrays.items()}
    monkeypatch.setattr(
        module, "MNIST_FILES", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    )
    return arrays, files


def check_small(data, arrays):
    assert (data.x_train.shape, data.x_test.shape) == ((180, 784), (50, 784))
    np.testing.assert_array_equal(data.x_test * 255, arrays["t10k-images-idx3-ubyte"].reshape(50, -1))
    assert np.array_equal(data.y_test, arrays["t10k-labels-idx1-ubyte"])
    assert len(data.x_validation) == 20


@pytest.mark.parametrize("place", ["mnist/{}.gz", "{}"])
def test_a_local_folder_wins_in_every_form(small_mnist, place, tmp_path, monkeypatch):
    arrays, files = small_mnist
    for name, content in files.items():
        path = tmp_path / place.format(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    monkeypatch.setattr(module, "MNIST_MIRRORS", ())
    check_small(load_data("mnist", validation=20), arrays)


def test_a_mirror_is_downloaded_checked_and_cached(small_mnist, tmp_path, monkeypatch):
    arrays, files = small_mnist
    served, cache, asked = tmp_path / "served", tmp_path / "cache", []
    served.mkdir()
    for name, content in files.items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (served / "bad").mkdir()  # a mirror that has every file, with other content
    for name in files:
        (served / "bad" / f"{name}.gz").write_bytes(gzip.compress(b"other"))
    here = f"http://127.0.0.1:{server.server_port}/"
    dead = "http://127.0.0.1:9/"  # the discard port: refused at once
    monkeypatch.setattr(module, "MNIST_MIRRORS", (dead, f"{here}bad/", here))
    monkeypatch.setattr("pooch.os_cache", lambda name: cache / name)
    check_small(load_data("mnist", validation=20), arrays)
    server.shutdown()
    server.server_close()
    assert len(asked) == 8
    check_small(load_data("mnist", validation=20), arrays)  # from the cache, with no server left
    (cache / "nnopt" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(NnoptError) as error:
        load_data("mnist", validation=20)
    actual = hashlib.sha256(b"other").hexdigest()
    assert str(error.value) == (
        f"{cache / 'nnopt' / 't10k-labels-idx1-ubyte.gz'} must have the sha256 "
        f"{module.MNIST_FILES['t10k-labels-idx1-ubyte']} (uncompressed); received {actual}. "
        "The file is damaged: remove it and run again."
    )


def test_missing_with_no_network_names_file_folder_and_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    monkeypatch.setattr(module, "MNIST_MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.raises(NnoptError) as error:
        load_data("mnist")
    assert str(error.value) == (
        f"train-images-idx3-ubyte.gz is not in {tmp_path / 'nnopt'} and could not be downloaded "
        "(http://127.0.0.1:9/: ConnectionError). Connect to a network, or put MNIST's four files into a folder and "
        "name it in the variable NNOPT_DATA."
    )


def test_a_local_folder_without_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    with pytest.raises(NnoptError) as error:
        load_data("mnist")
    assert str(error.value) == (
        f"NNOPT_DATA must name a folder that holds mnist/train-images-idx3-ubyte.gz; received {str(tmp_path)!r}. "
        "Put the four files of MNIST there, or unset NNOPT_DATA to download them."
    )


def test_a_truncated_archive_is_refused(small_mnist, tmp_path, monkeypatch):
    _, files = small_mnist
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content)[:-20])
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    with pytest.raises(
        NnoptError, match=r"train-images-idx3-ubyte\.gz must be a readable file; received .*ended"
    ):
        load_data("mnist")


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


def test_real_mnist_where_it_is_at_hand():
    try:
        data = load_data("mnist", flat=False)
    except NnoptError as error:
        pytest.skip(f"MNIST is not on this machine: {error}")
    assert (data.x_train.shape, data.x_test.shape) == ((55_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


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
    ours, theirs = (load_data("mnist1d", split_seed=seed) for seed in (0, 1))
    assert np.array_equal(ours.x_test, theirs.x_test) and not np.array_equal(ours.x_train, theirs.x_train)


def test_shapes_and_scale():
    assert load_data("digits", flat=False).x_train.shape == (1_257, 1, 8, 8)
    assert load_data("digits").x_train.max() == 1 and load_data("digits", scale=False).x_train.max() == 16


def test_fingerprint_sees_every_array():
    data = load_data("digits")
    prints = {data.fingerprint}
    for part in ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test"):
        changed = getattr(data, part).copy()
        changed.flat[0] = (changed.flat[0] + 1) % 10
        prints.add(replace(data, **{part: changed}).fingerprint)
    assert len(prints) == 7


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: load_data("minst"),
            "data must be one of digits, mnist1d, mnist; received 'minst'. Did you mean 'mnist'?",
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
