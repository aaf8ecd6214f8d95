"""Sets that are no examples with labels, on small files of their formats, and the real ones where they are."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.data import catalog, other
from nnopt_lib.data.catalog import CATALOG

SETS = [name for name, entry in CATALOG.items() if entry.files]
READERS = {
    "tinyshakespeare": lambda: nnopt.data.tinyshakespeare().text,
    "banking77": lambda: nnopt.data.banking77().train,
    "sts-benchmark": lambda: nnopt.data.sts_benchmark().test,
    "nas-bench-macro": lambda: nnopt.data.nas_bench_macro().networks,
    "minilm-l6-v2": lambda: nnopt.data.minilm().vocabulary,
    "woodfisher-mlp": lambda: nnopt.data.woodfisher_mlp().weights,
}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Lay down small files as a set's own: their content becomes what the catalog asks for."""
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")

    def put_files(name, **contents):
        """`contents` by the ends of the files' paths, with _ for . in them."""
        changed = []
        for file in CATALOG[name].files:
            content = next(c for end, c in contents.items() if file.path.endswith(end.replace("_", ".")))
            (tmp_path / file.path).parent.mkdir(exist_ok=True)
            (tmp_path / file.path).write_bytes(content)
            changed.append(
                replace(file, sha256=hashlib.sha256(content).hexdigest(), addresses=(), instead=None)
            )
        monkeypatch.setitem(catalog.CATALOG, name, replace(CATALOG[name], files=tuple(changed)))

    return put_files


def test_a_text_is_read_as_it_is(put):
    put("tinyshakespeare", txt="First Citizen:\nWe are accounted — poor.\r\n".encode())
    assert nnopt.data.tinyshakespeare().text == "First Citizen:\nWe are accounted — poor.\r\n"


def test_questions_get_numbers_of_their_intents_in_alphabetical_order(put):
    train = b'text,category\nHow?,pin\n"Where, please?\nNow?",atm\nWhy?,card\n'
    put("banking77", train_csv=train, test_csv=b"text,category\nWhen?,card\n")
    questions = nnopt.data.banking77()
    assert questions.intents == ["atm", "card", "pin"]
    assert questions.train == [("How?", 2), ("Where, please?\nNow?", 0), ("Why?", 1)]
    assert questions.test == [("When?", 1)]


def test_pairs_have_a_score(put):
    put("sts-benchmark", train_csv=b'A,"B, b",3.8\n', dev_csv=b"C,D,5.0\n", test_csv=b"E,F,0.0\n")
    pairs = nnopt.data.sts_benchmark()
    assert (pairs.train, pairs.validation, pairs.test) == (
        [("A", "B, b", 3.8)],
        [("C", "D", 5.0)],
        [("E", "F", 0.0)],
    )


def test_a_table_of_networks_is_what_was_published(put):
    table = {
        "02012100": {"test_acc": [89.5, 88.9, 89.2], "mean_acc": 89.2, "std": 0.2, "params": 8, "flops": 9}
    }
    put("nas-bench-macro", json=json.dumps(table).encode())
    assert nnopt.data.nas_bench_macro().networks == table


def test_an_encoder_has_weights_and_a_vocabulary(put):
    arrays = {"embeddings.word_embeddings.weight": np.ones((3, 2), np.float32)}
    put("minilm-l6-v2", model_safetensors=save(arrays), vocab_txt=b"[PAD]\n##ing\nthe\n")
    encoder = nnopt.data.minilm()
    assert encoder.vocabulary == ["[PAD]", "##ing", "the"]
    np.testing.assert_array_equal(encoder.weights["embeddings.word_embeddings.weight"], np.ones((3, 2)))


def checkpoint():
    """Bytes of the published checkpoint's length, with known kernels where it has them, and no pickle in it."""
    content = bytearray(b"\xff" * 390_621)
    kernels = {}
    for name, shape, offset in other.WOODFISHER_KERNELS:
        kernels[f"{name}/kernel"] = np.random.default_rng(offset).normal(size=shape).astype(np.float32)
        content[offset : offset + kernels[f"{name}/kernel"].nbytes] = kernels[f"{name}/kernel"].tobytes()
    return bytes(content), kernels


def test_kernels_are_taken_from_a_checkpoint_that_is_never_unpickled(put, monkeypatch):
    content, kernels = checkpoint()
    put("woodfisher-mlp", ckpt=content)
    weights = nnopt.data.woodfisher_mlp().weights
    assert list(weights) == list(kernels)
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(weights[name], kernel)
        assert weights[name].flags.writeable


def test_kernels_come_from_arrays_where_somebody_has_put_them(put, tmp_path, monkeypatch):
    content, kernels = checkpoint()
    put("woodfisher-mlp", ckpt=content)
    arrays = save({name.replace("/kernel", ".weight"): 2 * kernel for name, kernel in kernels.items()})
    (tmp_path / "woodfisher-mlp" / "weights.safetensors").write_bytes(arrays)
    (file,) = CATALOG["woodfisher-mlp"].files
    safe = catalog.RemoteFile("woodfisher-mlp/weights.safetensors", hashlib.sha256(arrays).hexdigest(), ())
    entry = replace(CATALOG["woodfisher-mlp"], files=(replace(file, instead=safe),))
    monkeypatch.setitem(catalog.CATALOG, "woodfisher-mlp", entry)
    np.testing.assert_array_equal(
        nnopt.data.woodfisher_mlp().weights["dense_3/kernel"], 2 * kernels["dense_3/kernel"]
    )


@pytest.mark.parametrize("name", READERS)
def test_other_content_is_refused_by_name(name, tmp_path, monkeypatch):
    for file in CATALOG[name].files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(b"other")
    monkeypatch.setenv("NNOPT_DATA", str(tmp_path))
    with pytest.raises(
        NnoptError, match=rf"^{tmp_path}/\S+ must have the sha256 \w+ \(uncompressed\); received "
    ):
        READERS[name]()


@pytest.mark.parametrize("name", READERS)
def test_a_set_that_is_nowhere_has_its_fingerprint_and_is_one_sentence_when_read(name, tmp_path, monkeypatch):
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda cache: tmp_path)
    dead = tuple(replace(file, addresses=("http://127.0.0.1:9/x",)) for file in CATALOG[name].files)
    before = CATALOG[name].fingerprint
    monkeypatch.setitem(catalog.CATALOG, name, replace(CATALOG[name], files=dead))
    assert CATALOG[name].fingerprint == before and not CATALOG[name].is_local
    with pytest.raises(
        NnoptError, match="must be in the folder that NNOPT_DATA names, in .*: ConnectionError"
    ):
        READERS[name]()


def test_fingerprints_differ_and_follow_the_content():
    fingerprints = {CATALOG[name].fingerprint for name in SETS}
    assert len(fingerprints) == len(SETS)
    file = CATALOG["tinyshakespeare"].files[0]
    other_content = replace(CATALOG["tinyshakespeare"], files=(replace(file, sha256="0" * 64),))
    assert other_content.fingerprint not in fingerprints
    for name, reader in (("banking77", nnopt.data.banking77), ("minilm-l6-v2", nnopt.data.minilm)):
        assert reader().fingerprint == CATALOG[name].fingerprint


COUNTS = {
    "tinyshakespeare": 1_115_394,
    "banking77": 10_003,
    "sts-benchmark": 1_379,
    "nas-bench-macro": 6_561,
    "minilm-l6-v2": 30_522,
    "woodfisher-mlp": 3,
}


@pytest.mark.parametrize("name", READERS)
def test_the_real_files_where_they_are_at_hand(name):
    if not CATALOG[name].is_local:
        pytest.skip(f"{name} is not on this machine")
    assert len(READERS[name]()) == COUNTS[name]
