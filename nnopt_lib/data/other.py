"""Sets that are no examples with labels: text, sentences, a table of networks, trained weights.

Each function returns at once; the files are read, and checked, when their content is first asked for. Every
set has a `fingerprint` that `run_experiment` takes, so that stored rows are found where the files are not.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.data.catalog import CATALOG
from nnopt_lib.data.files import find_local, read_checked

# Where the checkpoint of the WoodFisher MLP holds its kernels: (name, shape, offset in bytes), float32.
WOODFISHER_KERNELS = (
    ("dense_1", (40, 784), 138_925),
    ("dense_2", (20, 40), 5_445),
    ("dense_3", (10, 20), 138_117),
)


@dataclass(frozen=True)
class FileSet:
    """A named set of files; `fingerprint` stands for their content and is known without them."""

    name: str

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, a constant of the code; every file is checked against it when read."""
        return CATALOG[self.name].fingerprint

    def _content(self, part: str) -> bytes:
        """The checked content of the file whose path ends in `part`."""
        return read_checked(next(file for file in CATALOG[self.name].files if file.path.endswith(part)))

    def _csv(self, part: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self._content(part).decode(), newline="")))


class Text(FileSet):
    """One text."""

    @functools.cached_property
    def text(self) -> str:
        """All of it."""
        return self._content("").decode()


class Questions(FileSet):
    """Questions and what each is about: `train` and `test` are lists of (question, number of its intent)."""

    @functools.cached_property
    def intents(self) -> list[str]:
        """The names of the intents in alphabetical order; their places here are the numbers."""
        return sorted({intent for _, intent in self._csv("train.csv")[1:]})

    @functools.cached_property
    def train(self) -> list[tuple[str, int]]:
        """10,003 questions."""
        return self._part("train.csv")

    @functools.cached_property
    def test(self) -> list[tuple[str, int]]:
        """3,080 questions."""
        return self._part("test.csv")

    def _part(self, file: str) -> list[tuple[str, int]]:
        number_of = {intent: number for number, intent in enumerate(self.intents)}
        return [(question, number_of[intent]) for question, intent in self._csv(file)[1:]]


class SentencePairs(FileSet):
    """Pairs of sentences with how alike they are: lists of (one, other, score from 0 to 5)."""

    @functools.cached_property
    def train(self) -> list[tuple[str, str, float]]:
        """5,749 pairs."""
        return self._part("train.csv")

    @functools.cached_property
    def validation(self) -> list[tuple[str, str, float]]:
        """1,500 pairs, which their authors call dev."""
        return self._part("dev.csv")

    @functools.cached_property
    def test(self) -> list[tuple[str, str, float]]:
        """1,379 pairs."""
        return self._part("test.csv")

    def _part(self, file: str) -> list[tuple[str, str, float]]:
        return [(one, other, float(score)) for one, other, score in self._csv(file)]


class NetworkTable(FileSet):
    """Networks that others have trained, by their code."""

    @functools.cached_property
    def networks(self) -> dict[str, dict[str, Any]]:
        """``{"02012100": {"test_acc": [three], "mean_acc", "std", "params", "flops"}, ...}`` as published.

        A code has a digit for each of eight places: 0 nothing, 1 and 2 two kinds of block.
        """
        return dict(json.loads(self._content("")))


class Encoder(FileSet):
    """A trained Transformer."""

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Arrays by the names of the original, as (out, in)."""
        from safetensors.numpy import load

        return dict(load(self._content("model.safetensors")))

    @functools.cached_property
    def vocabulary(self) -> list[str]:
        """WordPiece units; a unit's place is its number."""
        return self._content("vocab.txt").decode().splitlines()


class Kernels(FileSet):
    """The kernels of a trained network without biases."""

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """float32 arrays ``{"dense_1/kernel": (40, 784), "dense_2/kernel": (20, 40), ...}``."""
        (checkpoint,) = CATALOG[self.name].files
        if checkpoint.instead and find_local(checkpoint.instead):
            from safetensors.numpy import load

            arrays = load(read_checked(checkpoint.instead))
            return {f"{name}/kernel": arrays[f"{name}.weight"] for name, _, _ in WOODFISHER_KERNELS}
        content = read_checked(checkpoint)
        return {
            f"{name}/kernel": np.frombuffer(content, "<f4", int(np.prod(shape)), offset).reshape(shape).copy()
            for name, shape, offset in WOODFISHER_KERNELS
        }


def tinyshakespeare() -> Text:
    """1,115,394 characters of Shakespeare's plays (Karpathy 2015); its `text` is read on first use.

    Errors: none here; where the file is neither local nor to be had, asking for `text` is one sentence.
    """
    return Text("tinyshakespeare")


def banking77() -> Questions:
    """Questions to a bank with 77 intents (Casanueva et al. 2020): `train`, `test`, `intents`."""
    return Questions("banking77")


def sts_benchmark() -> SentencePairs:
    """Pairs of sentences with their similarity (Cer et al. 2017): `train`, `validation`, `test`."""
    return SentencePairs("sts-benchmark")


def nas_bench_macro() -> NetworkTable:
    """CIFAR-10 accuracies of all networks of one search space (Su et al. 2021): `networks`."""
    return NetworkTable("nas-bench-macro")


def minilm() -> Encoder:
    """all-MiniLM-L6-v2, a sentence encoder (Wang et al. 2020): `weights`, `vocabulary`.

    BERT's form: 6 layers, width 384, 12 heads, inner width 1,536, GELU, LayerNorm with 1e-12; a sentence is
    the mean over its tokens, scaled to length 1.
    """
    return Encoder("minilm-l6-v2")


def woodfisher_mlp() -> Kernels:
    """The authors' own trained 784-40-20-10 network on MNIST (Singh & Alistarh 2020): `weights`.

    Published as a pickled checkpoint, which is not unpickled: the kernels are taken from its checked bytes.
    """
    return Kernels("woodfisher-mlp")
