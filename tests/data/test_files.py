import gzip
import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.data import load_data
from nnopt_lib.data.classification import FINGERPRINTS
from tests.data.idx_files import IDX, check_small, idx


@pytest.mark.parametrize("form", ["mnist/{}.gz", "mnist/{}", "{}.gz", "{}"])
def test_a_local_folder_wins_in_every_form(small_mnist, form, tmp_path, monkeypatch):
    arrays, contents, serve = small_mnist
    serve()
    for name, content in contents.items():
        path = tmp_path / form.format(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    check_small(load_data("mnist"), arrays)


def test_a_mirror_is_downloaded_checked_and_cached(small_mnist, server, tmp_path):
    arrays, contents, serve = small_mnist
    address, served, asked = server
    (served / "bad").mkdir()  # a mirror that has every file, with other content
    for name, content in contents.items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))
        (served / "bad" / f"{name}.gz").write_bytes(gzip.compress(b"other"))
    dead = "http://127.0.0.1:9/"  # the discard port: refused at once
    serve(dead, f"{address}bad/", address)
    data = load_data("mnist")
    assert asked == []  # nothing is asked for before an array is
    check_small(data, arrays)
    assert len(asked) == 8
    check_small(load_data("mnist"), arrays)
    assert len(asked) == 8  # from the cache
    cached = tmp_path / "cache" / "nnopt" / "mnist" / "t10k-labels-idx1-ubyte.gz"
    cached.write_bytes(gzip.compress(b"other"))
    with pytest.raises(NnoptError) as error:
        load_data("mnist").y_test  # noqa: B018
    expected, actual = (hashlib.sha256(content).hexdigest() for content in (contents[IDX[3]], b"other"))
    assert str(error.value) == (
        f"{cached} must have the sha256 {expected} (uncompressed); received {actual}. "
        "It is damaged or another file: remove it, or put the right one at mnist/t10k-labels-idx1-ubyte in that folder."
    )


def test_what_is_nowhere_is_known_all_the_same_and_one_sentence_once_its_arrays_are_needed(nowhere):
    data = load_data("mnist", validation=0, flat=False)
    assert data.fingerprint == FINGERPRINTS["mnist flat=False validation=0"]
    assert (data.sizes, data.shape) == ({"train": 60_000, "validation": 0, "test": 10_000}, (1, 28, 28))
    assert repr(data) == "<Data mnist: 60,000 + 0 + 10,000 examples of shape (1, 28, 28), 10 classes>"
    for needed in (lambda: data.x_train, lambda: replace(data, name="own"), lambda: pickle.dumps(data)):
        with pytest.raises(NnoptError) as error:
            needed()
        assert str(error.value) == (
            f"mnist/train-images-idx3-ubyte must be in the folder that NNOPT_DATA names, in {nowhere}, or at a public "
            "address; received http://127.0.0.1:9/x: ConnectionError. Connect to a network, or put the file into a "
            "folder and name that in NNOPT_DATA."
        )
    with pytest.raises(AttributeError, match="Data has no attribute 'x_trian'"):
        data.x_trian  # noqa: B018


def test_a_local_folder_without_the_set_leaves_the_download(small_mnist, server, tmp_path, monkeypatch):
    arrays, contents, serve = small_mnist
    address, served, asked = server
    for name, content in contents.items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))
    serve(address)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path / "data"))
    check_small(load_data("mnist"), arrays)
    assert len(asked) == 4


def test_a_local_folder_that_does_not_exist_is_refused(nowhere, monkeypatch):
    monkeypatch.setenv("NNOPT_DATA", "no/such/folder")
    with pytest.raises(NnoptError) as error:
        load_data("mnist").x_train  # noqa: B018
    assert str(error.value) == (
        "NNOPT_DATA must name a folder that exists; received 'no/such/folder'. Unset it to download data."
    )


def test_a_truncated_archive_is_refused(small_mnist, tmp_path, monkeypatch):
    _, contents, serve = small_mnist
    serve()
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content)[:-20])
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    with pytest.raises(
        NnoptError, match=r"train-images-idx3-ubyte\.gz must be a readable file; received .*ended"
    ):
        load_data("mnist").x_train  # noqa: B018


def test_swapped_files_and_the_sample_are_not_taken_for_the_whole_set(tmp_path, monkeypatch):
    """The sample's own images under the whole set's names, in its format, and two files of one set swapped."""
    sample = load_data("mnist-sample", scale=False, validation=0)
    (tmp_path / "mnist").mkdir()
    images = {
        IDX[0]: sample.x_train.reshape(-1, 28, 28), IDX[1]: sample.y_train,
        IDX[2]: sample.x_test.reshape(-1, 28, 28), IDX[3]: sample.y_test,
    }  # fmt: skip
    for name, array in images.items():
        (tmp_path / "mnist" / name).write_bytes(idx(array.astype(np.uint8)))
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    for swapped in (False, True):
        if swapped:
            (tmp_path / "mnist" / IDX[0]).write_bytes((tmp_path / "mnist" / IDX[2]).read_bytes())
        with pytest.raises(
            NnoptError, match=rf"mnist/{IDX[0]} must have the sha256 ba891046\w+ \(uncompressed\)"
        ):
            load_data("mnist").x_train  # noqa: B018
