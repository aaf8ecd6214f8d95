"""The course's data sets as checked arrays: digits, MNIST-1D and MNIST.

digits is inside scikit-learn and MNIST-1D is generated, so both work without a network. MNIST comes from the
folder that NNOPT_DATA names, else from a cache, else from public mirrors; whatever its source, the bytes are
checked before they are used.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from nnopt_lib.checks import NnoptError, check_choice, check_int, refuse

# sha256 of the uncompressed files.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# sha256 of MNIST-1D's float32 inputs with the generator's default arguments: train, test.
MNIST1D_HASHES = ("d53506bddd12d3b7", "30addc43827c82aa")


@dataclass(frozen=True)
class Data:
    """A data set in three parts; `dataclasses.replace` makes a changed copy.

    Parameters:
        name: for messages and records.
        x_train, x_validation, x_test: float32, (examples, features) or (examples, channels, *spatial).
        y_train, y_validation, y_test: int64 labels from 0, (examples,). A part may be empty.
        classes: how many different labels there are.

    `fingerprint` is a hash over all arrays; it enters the id of every run that used them. Your own arrays
    make a `Data` just as well as `load_data` does.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            x = np.ascontiguousarray(getattr(self, f"x_{part}"), np.float32)
            y = np.ascontiguousarray(getattr(self, f"y_{part}"), np.int64)
            if len(x) != len(y):
                refuse(f"x_{part} and y_{part} must have equal lengths", f"{len(x)} and {len(y)}")
            if len(y) and not 0 <= y.min() <= y.max() < self.classes:
                refuse(f"labels must be from 0 to {self.classes - 1}", f"{y.min()} to {y.max()} in y_{part}")
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", y)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a sha256 over all arrays with their names, shapes and types."""
        digest = hashlib.sha256()
        for name in (field.name for field in fields(self) if field.name[:2] in ("x_", "y_")):
            array = getattr(self, name)
            digest.update(f"{name} {array.shape} {array.dtype.str}".encode() + array.tobytes())
        return digest.hexdigest()[:16]


def load_data(
    name: str, *, flat: bool = True, scale: bool = True, validation: int | None = None, split_seed: int = 0
) -> Data:
    """Load ``"digits"``, ``"mnist1d"`` or ``"mnist"``.

    Parameters:
        name: digits has 1,797 images of 8x8, MNIST-1D 5,000 signals of 40 samples, MNIST 70,000 of 28x28.
        flat: (examples, features); False gives (examples, 1, height, width) or (examples, 1, length).
        scale: pixel values from 0 to 1; False leaves 0 to 16 (digits) or 0 to 255. MNIST-1D has no pixels.
        validation: examples taken from the training set for decisions; by default 180, 400 and 5,000.
        split_seed: of the split. digits splits in three, every class equally (360 to test on); the test
            sets of the other two are fixed, and only train and validation are drawn.

    Returns a new `Data`. Errors: an unknown name; MNIST that is neither local nor reachable; a file whose
    bytes are not the published ones (named, with expected and actual hash).

    Example:
        >>> load_data("digits").x_test.shape
        (360, 64)
    """
    check_choice("data", name, _SOURCES)
    check_int("split_seed", split_seed, at_least=0)
    load, shape, top, default = _SOURCES[name]
    x, y, test = load(split_seed)
    x = x.astype(np.float32) / np.float32(top if scale else 1)
    if not flat:
        x = x.reshape(len(x), 1, *shape)
    x_rest, y_rest, x_test, y_test = x[:-test], y[:-test], x[-test:], y[-test:]
    count = check_int("validation", default if validation is None else validation, at_least=0)
    if count >= len(y_rest):
        refuse(f"validation must leave something of the {len(y_rest):,} training examples", count)
    held, kept = _split(y_rest, count, split_seed)
    return Data(name, x_rest[kept], y_rest[kept], x_rest[held], y_rest[held], x_test, y_test, classes=10)


def _split(y: np.ndarray, held: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `held` examples, every class in proportion, and of the others, each in rising order."""
    if held == 0:
        return np.arange(0), np.arange(len(y))
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(np.arange(len(y)), test_size=held, random_state=seed, stratify=y)
    return np.sort(out), np.sort(kept)


def _digits(split_seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    test, rest = _split(y, 360, split_seed)
    order = np.concatenate([rest, test])
    return x[order], y[order], len(test)


def _mnist1d(split_seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    parts = [np.asarray(made[part], np.float32) for part in ("x", "x_test")]
    for part, expected in zip(parts, MNIST1D_HASHES, strict=True):
        actual = hashlib.sha256(part.tobytes()).hexdigest()
        if not actual.startswith(expected):
            refuse(
                f"generated MNIST-1D must have the sha256 {expected}...",
                f"{actual[:16]}...",
                "Install the versions that constraints.txt names.",
            )
    return np.concatenate(parts), np.concatenate([made["y"], made["y_test"]]), len(parts[1])


def _mnist(split_seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    arrays = {name: read_idx(_mnist_bytes(name), name) for name in MNIST_FILES}
    x = np.concatenate([arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]])
    y = np.concatenate([arrays["train-labels-idx1-ubyte"], arrays["t10k-labels-idx1-ubyte"]])
    return x.reshape(len(x), -1), y, len(arrays["t10k-labels-idx1-ubyte"])


_Source = tuple[Callable[[int], tuple[np.ndarray, np.ndarray, int]], tuple[int, ...], float, int]
# name: (loader: x, y with the test set last, and its length), shape of one example, top value, validation
_SOURCES: dict[str, _Source] = {
    "digits": (_digits, (8, 8), 16.0, 180),
    "mnist1d": (_mnist1d, (40,), 1.0, 400),
    "mnist": (_mnist, (28, 28), 255.0, 5_000),
}


# ---------------------------------------------------------------- MNIST's files


def read_idx(content: bytes, name: str) -> np.ndarray:
    """The array of unsigned bytes in an IDX file (LeCun's format: 0, 0, type 8, dimensions, sizes, bytes)."""
    rule = f"{name} must be an IDX file of unsigned bytes"
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        refuse(rule, f"it begins with {content[:4].hex(' ')}")
    rank = content[3]
    if len(content) < 4 + 4 * rank:
        refuse(rule, f"{len(content)} bytes, too few for its header")
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape)):
        refuse(rule, f"{values.size} values where its header says {shape}")
    return values.reshape(shape)


def _mnist_bytes(name: str) -> bytes:
    """The checked, uncompressed content of one file of MNIST, from the first place that has it."""
    folder = os.environ.get("NNOPT_DATA")
    if folder:
        places = [Path(folder) / sub / f"{name}{end}" for sub in ("mnist", ".") for end in (".gz", "")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            refuse(
                f"NNOPT_DATA must name a folder that holds mnist/{name}.gz",
                repr(folder),
                "Put the four files of MNIST there, or unset NNOPT_DATA to download them.",
            )
        return _checked(path, name)
    return _downloaded(name)


def _checked(path: Path, name: str) -> bytes:
    """The uncompressed content of `path`, if it is what was published as `name`."""
    content = _uncompressed(path)
    actual = hashlib.sha256(content).hexdigest()
    if actual != MNIST_FILES[name]:
        refuse(
            f"{path} must have the sha256 {MNIST_FILES[name]} (uncompressed)",
            actual,
            "The file is damaged: remove it and run again.",
        )
    return content


def _uncompressed(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        refuse(f"{path} must be a readable file", str(error), "Remove it and run again.")


def _downloaded(name: str) -> bytes:
    """The checked content from the cache, or from the first mirror whose file is the published one."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # notebooks compare stderr
    cache, reasons = Path(pooch.os_cache("nnopt")), []
    if (cached := cache / f"{name}.gz").is_file():
        return _checked(cached, name)
    for mirror in MNIST_MIRRORS:
        try:
            pooch.retrieve(f"{mirror}{name}.gz", known_hash=None, path=cache, fname=cached.name)
            return _checked(cached, name)
        except Exception as error:  # whatever a mirror does or sends, the next one is tried
            cached.unlink(missing_ok=True)
            reasons.append(
                f"{mirror}: {'damaged file' if isinstance(error, NnoptError) else type(error).__name__}"
            )
    raise NnoptError(
        f"{name}.gz is not in {cache} and could not be downloaded ({'; '.join(reasons)}). Connect to a "
        "network, or put MNIST's four files into a folder and name it in the variable NNOPT_DATA."
    )
