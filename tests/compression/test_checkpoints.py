"""The small file: exact in both frameworks, small, and refused in a sentence whatever happened to it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib import compression
from nnopt_lib.checks import NnoptError
from nnopt_lib.compression import load_compressed, save_compressed, size_report
from nnopt_lib.compression.coding import encode
from nnopt_lib.files import load_tensors, save_tensors
from tests.networks import CLASSICS, every_operation

pytestmark = [pytest.mark.torch, pytest.mark.keras]
SPEC = nnopt.mlp((7, 5), inputs=12, outputs=4, batch_norm=True)
KIND = "nnopt-compressed"


def equal(first, second):
    a, b = nnopt.get_weights(first), nnopt.get_weights(second)
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def compressed(framework="torch", spec=SPEC, sparsity=0.6):
    """Pruned, shared, one kernel quantized; and what of it is quantized."""
    model = nnopt.build(spec, framework, seed=3)
    first, *others = nnopt.prunable(model)
    masks = nnopt.prune(model, sparsity=sparsity)
    compression.share_weights(model, bits=3, masks=masks, names=others)
    weights = nnopt.get_weights(model)
    quantized = {first: compression.quantize(weights[first], bits=4, per="row", scheme="affine")}
    nnopt.set_weights(model, {**weights, first: quantized[first].dequantize()})
    return model, quantized


@pytest.mark.parametrize("coder", ["ans", "huffman", None])
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_both_frameworks_load_exactly_what_either_saved(tmp_path, framework, coder):
    model, quantized = compressed(framework)
    path = tmp_path / "a.safetensors"
    nbytes = save_compressed(model, path, quantized=quantized, coder=coder)
    assert nbytes == path.stat().st_size
    for other in ("torch", "keras"):
        loaded = load_compressed(path, framework=other)
        assert nnopt.describe(loaded) == SPEC and equal(model, loaded)
    filled = nnopt.build(SPEC, framework, seed=9)
    assert load_compressed(path, model=filled) is filled and equal(model, filled)
    kinds = [row["kind"] for row in size_report(path) if row["name"].endswith("kernel")]
    assert kinds == ["quantized", "shared", "shared"]


@pytest.mark.parametrize("spec", [*CLASSICS.values(), every_operation()], ids=[*CLASSICS, "every_operation"])
def test_every_description_goes_along(tmp_path, spec):
    model = nnopt.build(spec, seed=1)
    save_compressed(model, tmp_path / "a.safetensors")
    loaded = load_compressed(tmp_path / "a.safetensors")
    assert loaded.spec == spec and equal(model, loaded)


def test_a_lenet_5_of_two_in_a_hundred_weights_takes_ten_kilobytes(tmp_path):
    model, random = nnopt.build(nnopt.lenet_5(), seed=2), np.random.default_rng(0)
    masks = nnopt.prune(model, sparsity=0.98)
    compression.share_weights(model, bits=3, masks=masks)
    weights = nnopt.get_weights(model)
    for name, value in weights.items():  # biases, and all lists, in 16 bits
        value = random.normal(0, 0.1, value.shape) if name.endswith("bias") else value
        weights[name] = np.asarray(value, np.float16).astype(np.float32)
    nnopt.set_weights(model, weights)
    path = tmp_path / "a.safetensors"
    sizes = {coder: save_compressed(model, path, coder=coder) for coder in (None, "huffman", "ans")}
    assert sizes[None] > sizes["huffman"] > sizes["ans"] and sizes["ans"] < 14_000
    rows = {row["name"]: row for row in size_report(path)}
    assert sum(row["bytes"] for row in rows.values()) == sizes["ans"]
    assert all(
        row["bytes"] == row["values"] + row["indices"] + row["codebooks"]
        for name, row in rows.items()
        if name != "header"
    )
    assert rows["header"]["bytes"] < 1100 and rows["dense_1/bias"]["bytes"] == 1000
    assert rows["dense_1/kernel"]["codebooks"] == 16
    kept = np.count_nonzero(weights["dense_1/kernel"])
    assert rows["dense_1/kernel"]["values"] < kept * 3 / 8 + 16
    assert size_report(model) == size_report(path)
    assert equal(model, load_compressed(path))


class Own(nn.Module):
    """No description has words for it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.cumsum(self.first(x), 1))


def test_a_module_without_description_goes_into_one_of_its_kind(tmp_path):
    path = tmp_path / "a.safetensors"
    model = Own()
    save_compressed(model, path)
    assert equal(model, load_compressed(path, model=Own()))
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert str(error.value) == (
        f"{path} must hold a network that NetSpec can describe, to be built; received one with other "
        "operations. Pass model=, a model of this network."
    )
    with pytest.raises(NnoptError, match="^weights must have the model's names; received missing "):
        load_compressed(path, model=nnopt.build(SPEC))


def test_models_of_ones_own_are_built_from_their_description(tmp_path):
    from nnopt_lib.backends.keras import keras

    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 3, 4))
    x = np.random.default_rng(0).normal(size=(5, 2, 6, 5)).astype(np.float32)
    layers = keras.layers
    in_keras = keras.Sequential(
        [keras.Input((6, 5, 2)), layers.Conv2D(3, 3, activation="relu"), layers.Flatten(), layers.Dense(4)]
    )
    for model, example in ((own, torch.as_tensor(x[:1])), (in_keras, None)):
        save_compressed(model, tmp_path / "a.safetensors", example_input=example)
        for framework in ("torch", "keras"):
            loaded = load_compressed(tmp_path / "a.safetensors", framework=framework)
            np.testing.assert_allclose(
                nnopt.predict(loaded, x), nnopt.predict(model, x), rtol=1e-4, atol=1e-5
            )
    again = keras.models.clone_model(in_keras)
    load_compressed(tmp_path / "a.safetensors", model=again)  # by order, where names have changed
    for a, b in zip(nnopt.get_weights(in_keras).values(), nnopt.get_weights(again).values(), strict=True):
        assert np.array_equal(a, b)


# ---------------------------------------------------------------- files that are not what they were


def saved(tmp_path):
    model, quantized = compressed()
    path = tmp_path / "a.safetensors"
    save_compressed(model, path, quantized=quantized)
    return model, path


def test_whatever_byte_changes_the_file_is_refused_or_gives_the_same(tmp_path):
    model, path = saved(tmp_path)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    rule = f"{path} must be a whole file that save_compressed wrote; received "
    for spot in random.choice(len(whole), 250, replace=False).tolist():
        path.write_bytes(whole[:spot] + bytes([int(random.integers(256))]) + whole[spot + 1 :])
        try:
            assert equal(model, load_compressed(path))
        except NnoptError as error:
            refused += 1
            assert str(error).startswith(rule) and "\n" not in str(error)
    assert refused > 240
    for cut in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(NnoptError) as error:
            load_compressed(path)
        assert str(error.value).startswith(rule)
    path.write_bytes(whole + b"\0")
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert str(error.value).startswith(rule)


def forged(path, edit, packed=None):
    """The file with another description (and other bytes), and the sha256 that belongs to it."""
    arrays, text = load_tensors(path, KIND, "", "")
    content = json.loads(text)
    edited = edit(content)
    text = json.dumps(content if edited is None else edited)
    save_tensors(path, arrays if packed is None else {"packed": packed}, KIND, text)


def dig(content, *keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


@pytest.mark.parametrize(
    ("edit", "received"),
    [
        (lambda c: [], "TypeError"),
        (lambda c: {}, "KeyError"),
        (lambda c: dig(c, "version", value=0), "NnoptError"),
        (lambda c: dig(c, "version", value="2"), "NnoptError"),
        (lambda c: dig(c, "network", value=None), "KeyError"),
        (lambda c: dig(c, "network", "nodes", value=[]), "NnoptError"),
        (lambda c: dig(c, "packed", 0, 0, value="pickled"), "KeyError"),
        (lambda c: dig(c, "packed", 0, 2, 0, value=-1), "NnoptError"),
        (lambda c: dig(c, "packed", 0, 2, 0, value=1.5), "NnoptError"),
        (lambda c: dig(c, "packed", 0, 2, value=[5]), "ValueError"),
        (lambda c: dig(c, "packed", 1, 2, value=[9**9]), "NnoptError"),
        (lambda c: dig(c, "packed", value=c["packed"][:-1]), "ValueError"),
        (lambda c: dig(c, "packed", 0, 1, value=[4, "affine", "row", 10**9, 3]), "TypeError"),
        (lambda c: dig(c, "packed", 0, 1, value=[9, "affine", "row", 64]), "NnoptError"),
        (lambda c: dig(c, "packed", 0, 1, value=[4, "affine", "tensor", 64]), "ValueError"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, edit, received):
    _, path = saved(tmp_path)
    forged(path, edit)
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert str(error.value) == (
        f"{path} must be a whole file that save_compressed wrote; received a description that does not fit "
        f"({received}). Save it again, or use another file."
    )


def test_sizes_are_compared_before_anything_is_made(tmp_path):
    spec = nnopt.mlp((), inputs=3, outputs=2)
    path = tmp_path / "a.safetensors"
    save_compressed(nnopt.build(spec), path)

    def larger(content):
        content["network"]["input_shape"] = [2**40]

    forged(path, larger)
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    nbytes = 4 * (2 * 2**40 + 2)
    assert str(error.value) == (
        f"{path} must be a whole file that save_compressed wrote; received weights of {nbytes} bytes where it "
        "says 32. Save it again, or use another file."
    )
    forged(path, lambda content: dig(content, "bytes", value=nbytes))
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert str(error.value) == (
        f"the weights in {path} must take at most 4294967296 bytes; received {nbytes}. Pass a larger max_bytes "
        "if you trust the file."
    )


def test_codes_that_say_more_symbols_than_there_are_weights_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_compressed(nnopt.build(nnopt.mlp((), inputs=3, outputs=2)), path)
    many = encode(np.zeros(2, int))[:3] + b"\xfe\xff\xff\xff\x07"  # 2**31 - 1 times the symbol 0
    parts = [b"\1\6" + many, b"\0" * 24, b"\0" * 8]

    def edit(content):
        content["packed"] = [["sparse", [32], [len(parts[0]), 24]], ["whole", [32], [8]]]

    forged(path, edit, np.frombuffer(b"".join(parts), np.uint8))
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert "a description that does not fit (NnoptError)" in str(error.value)


def test_a_later_version_is_refused(tmp_path):
    _, path = saved(tmp_path)
    forged(path, lambda content: dig(content, "version", value=2))
    for call in (load_compressed, size_report):
        with pytest.raises(NnoptError) as error:
            call(path)
        assert str(error.value) == (
            f"{path} must be of version 1 or before; received version 2. Install the nnopt that wrote it."
        )


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    nnopt.prune(nnopt.build(SPEC), sparsity=0.5).save(path)
    with pytest.raises(NnoptError) as error:
        load_compressed(path)
    assert str(error.value) == (
        f"{path} must be a whole file that save_compressed wrote; received format 'nnopt-masks-1'. "
        "Save it again, or use another file."
    )
    with pytest.raises(NnoptError, match="No such file"):
        load_compressed(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda path: save_compressed(nnopt.build(SPEC), path, coder="zip"),
            "coder must be 'ans', 'huffman' or None; received 'zip'.",
        ),
        (
            lambda path: save_compressed(
                nnopt.build(SPEC), path, quantized={"dense_9/kernel": compression.quantize(np.ones((2, 2)))}
            ),
            "the model has no weight 'dense_9/kernel'. Did you mean 'dense_3/kernel'?",
        ),
        (
            lambda path: save_compressed(
                nnopt.build(SPEC), path, quantized={"dense_1/kernel": compression.quantize(np.ones((7, 12)))}
            ),
            "weights of 'dense_1/kernel' must be those that its quantization gives; received others. "
            "Write quantized.dequantize() into the model, or quantize what it has now.",
        ),
        (
            lambda path: load_compressed(path, framework="torch", model=nnopt.build(SPEC)),
            "framework says what to build, and a model was given; received 'torch'. Leave it out.",
        ),
        (
            lambda path: load_compressed(path, framework="jax"),
            "framework must be one of torch, keras; received 'jax'.",
        ),
        (
            lambda path: load_compressed(path, max_bytes=-1),
            "max_bytes must be a whole number, at least 0; received -1.",
        ),
    ],
)
def test_what_cannot_be_saved_or_loaded_is_refused_in_one_sentence(tmp_path, call, sentence):
    with pytest.raises(NnoptError) as error:
        call(tmp_path / "a.safetensors")
    assert str(error.value) == sentence
    assert list(tmp_path.iterdir()) == []
