"""`load_data`: the sets of examples with labels, with options that reshape, reduce and split them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnopt_lib.checks import check_choice, check_int, refuse
from nnopt_lib.data.arrays import ARRAYS, PARTS, Data, Deferred
from nnopt_lib.data.catalog import FASHION_FILES, MNIST_FILES
from nnopt_lib.data.files import RemoteFile, read_checked
from nnopt_lib.data.fingerprints import FINGERPRINTS

SAMPLES = Path(__file__).parent / "samples"
# sha256 of MNIST-1D's float32 inputs with the generator's default arguments: train, test.
MNIST1D_HASHES = ("d53506bddd12d3b7", "30addc43827c82aa")
# sha256 over the arrays of a sample, as `sample_hash` takes it.
SAMPLE_HASHES = {
    "mnist-sample": "ed54fbc0d9228094f2a6a180ff2f16029e42798bd3d18daa8859c1dfc688b658",
    "fashion-mnist-sample": "8a0111bee0e7669a363fd0b3bc7dab4bdd8c19cf810c1d31eaf4d8953dc58908",
}

Raw = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x and y to train on, x and y to test on


@dataclass(frozen=True)
class Source:
    """How a set is read, and what is known of it before: `read` takes the seed of the split and the draw."""

    read: Callable[[int, int], Raw]
    train: int
    test: int
    shape: tuple[int, ...]
    validation: int  # by default
    top: float = 1.0  # the largest value of a pixel
    classes: int = 10


def load_data(
    name: str,
    *,
    flat: bool = True,
    scale: bool = True,
    pool: int = 1,
    examples: tuple[int, int, int] | None = None,
    validation: int | None = None,
    split_seed: int = 0,
    draw: int = 0,
) -> Data:
    """A data set by its name; its arrays are read, and checked, when one is first asked for.

    Parameters:
        name: ``"digits"`` (1,797 images of 8x8), ``"mnist1d"`` (5,000 signals of 40 samples), ``"mnist"`` and
            ``"fashion-mnist"`` (70,000 images of 28x28), ``"mnist-sample"`` and ``"fashion-mnist-sample"``
            (6,000 of these, in the repository), ``"monks-1"`` to ``"monks-3"`` (432 rows of 17 bits).
        flat: (examples, features); False gives (examples, 1, height, width) or (examples, 1, length).
        scale: pixel values from 0 to 1; False leaves 0 to 16 (digits) or 0 to 255. The others have no pixels.
        pool: images are averaged over squares of so many pixels a side, which must divide both sides.
        examples: at most so many to train on, to validate and to test on: the first of each part.
        validation: examples taken from the training set for decisions; by default 180 (digits), 400
            (MNIST-1D), 5,000 (MNIST, Fashion-MNIST), 500 (their samples), none (MONK's).
        split_seed: of the split. digits splits in three, every class equally (360 to test on); the test
            sets of the others are fixed, and only train and validation are drawn.
        draw: of MNIST-1D, which is generated: 0 is the published set, every other number a new sample of the
            same task (train and test), by the generator with another seed. The others have one only.

    Returns a new `Data`. Errors: an unknown name and options that do not fit it, at once; when the arrays are
    asked for, files that are neither local nor reachable, or whose bytes are not the published ones (named,
    with expected and actual hash).

    Example:
        >>> load_data("digits").x_test.shape
        (360, 64)
    """
    check_choice("data", name, SOURCES)
    check_int("split_seed", split_seed, at_least=0)
    if check_int("draw", draw, at_least=0) and name != "mnist1d":
        refuse("draw is for generated data, mnist1d", f"draw {draw} of {name}", "Leave it out.")
    source = SOURCES[name]
    held = check_int("validation", source.validation if validation is None else validation, at_least=0)
    if held >= source.train:
        refuse(f"validation must leave something of the {source.train:,} training examples", held)
    sizes = _sizes(source, held, examples)
    shape = _pooled_shape(name, source.shape, pool)
    read = functools.partial(_read, name, flat, scale, pool, sizes, held, split_seed, draw)
    shown = (int(np.prod(shape)),) if flat else (1, *shape)
    asked = {"flat": flat, "scale": scale, "pool": pool, "examples": examples, "split_seed": split_seed}
    asked["draw"] = draw
    asked["validation"] = None if held == source.validation else held
    deferred = Deferred(read, sizes, shown, FINGERPRINTS.get(f"{name}{_changed(asked)}"))
    return Data.on_first_use(name, source.classes, deferred)


def _changed(asked: Mapping[str, object]) -> str:
    """The options that differ from the default ones, as ``" flat=False validation=0"``."""
    parameters = inspect.signature(load_data).parameters
    changed = (
        name for name, option in parameters.items() if asked.get(name, option.default) != option.default
    )
    return "".join(f" {name}={asked[name]}" for name in changed)


def _sizes(source: Source, held: int, examples: tuple[int, int, int] | None) -> dict[str, int]:
    whole = (source.train - held, held, source.test)
    if examples is None:
        return dict(zip(PARTS, whole, strict=True))
    if len(examples) != len(PARTS):
        refuse("examples must be three numbers, for train, validation and test", examples)
    wanted = [check_int("examples", number, at_least=0) for number in examples]
    return dict(zip(PARTS, map(min, wanted, whole), strict=True))


def _pooled_shape(name: str, shape: tuple[int, ...], pool: int) -> tuple[int, ...]:
    check_int("pool", pool, at_least=1)
    if pool > 1 and (len(shape) != 2 or any(side % pool for side in shape)):
        refuse(f"pool must divide both sides of the images of {name}", f"pool {pool} and shape {shape}")
    return tuple(side // pool for side in shape)


def _read(
    name: str,
    flat: bool,
    scale: bool,
    pool: int,
    sizes: dict[str, int],
    held: int,
    split_seed: int,
    draw: int,
) -> dict[str, np.ndarray]:
    """The arrays of `Data`, read and made as the options ask for."""
    source = SOURCES[name]
    x, y, x_test, y_test = source.read(split_seed, draw)
    chosen, kept = _split(y, held, split_seed)
    pairs = {"train": (x, y, kept), "validation": (x, y, chosen), "test": (x_test, y_test, None)}
    arrays = {}
    for part, (values, labels, index) in pairs.items():
        first = np.arange(sizes[part]) if index is None else index[: sizes[part]]
        part_x = values[first].astype(np.float32) / np.float32(source.top if scale else 1)
        arrays[f"x_{part}"] = _shaped(part_x, source.shape, pool, flat)
        arrays[f"y_{part}"] = labels[first]
    return {array: arrays[array] for array in ARRAYS}


def _shaped(x: np.ndarray, shape: tuple[int, ...], pool: int, flat: bool) -> np.ndarray:
    """`x` (examples, ...) pooled, as (examples, features) or with a channel, (examples, 1, *shape)."""
    if pool > 1:
        height, width = (side // pool for side in shape)
        x = x.reshape(len(x), height, pool, width, pool).mean((2, 4))
        shape = (height, width)
    return x.reshape(len(x), *((int(np.prod(shape)),) if flat else (1, *shape)))


def _split(y: np.ndarray, held: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `held` examples, every class in proportion, and of the others, each in rising order."""
    if held == 0:
        return np.arange(0), np.arange(len(y))
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(np.arange(len(y)), test_size=held, random_state=seed, stratify=y)
    return np.sort(out), np.sort(kept)


# ---------------------------------------------------------------- the sources


def _digits(split_seed: int, draw: int) -> Raw:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    test, rest = _split(y, 360, split_seed)
    return x[rest], y[rest], x[test], y[test]


def _mnist1d(split_seed: int, draw: int) -> Raw:
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.seed += draw
    made = make_dataset(arguments)
    x, x_test = (np.asarray(made[part], np.float32) for part in ("x", "x_test"))
    for part, expected in zip((x, x_test), () if draw else MNIST1D_HASHES, strict=not draw):
        actual = hashlib.sha256(part.tobytes()).hexdigest()
        if not actual.startswith(expected):
            refuse(
                f"generated MNIST-1D must have the sha256 {expected}...",
                f"{actual[:16]}...",
                "Install the versions that constraints.txt names.",
            )
    return x, made["y"], x_test, made["y_test"]


def _idx_set(files: tuple[RemoteFile, ...], split_seed: int, draw: int) -> Raw:
    """The four arrays of a set in MNIST's form; the split leaves its test set alone."""
    x, y, x_test, y_test = (read_idx(read_checked(file), file.path) for file in files)
    return x, y, x_test, y_test


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


def _sample(name: str, split_seed: int, draw: int) -> Raw:
    """The images that lie in the repository (nnopt_lib/data/samples), checked against their hash."""
    whole, arrays = name.removesuffix("-sample"), []
    rule = f"{SAMPLES}/{whole}-*.npz must hold the arrays of {name} with the sha256 {SAMPLE_HASHES[name]}"
    remedy = "Restore the files from the repository."
    for part in ("train", "test"):
        try:
            with np.load(SAMPLES / f"{whole}-{part}.npz", allow_pickle=False) as stored:
                arrays += [stored["x"], stored["y"]]
        except Exception as error:  # a damaged zip file fails in many ways
            refuse(rule, f"{type(error).__name__}: {error}", remedy)
    raw = (arrays[0], arrays[1], arrays[2], arrays[3])
    if (actual := sample_hash(raw)) != SAMPLE_HASHES[name]:
        refuse(rule, actual, remedy)
    return raw


def sample_hash(raw: Raw) -> str:
    """The sha256 over shapes and bytes of a sample's four arrays, whatever way they are compressed."""
    digest = hashlib.sha256()
    for array in raw:
        digest.update(f"{array.shape} {array.dtype.str}".encode() + array.tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- MONK's problems

MONKS_VALUES = (3, 3, 2, 3, 4, 2)  # of head, body, smile, holding, jacket, tie
MONKS_RULES: dict[int, Callable[..., bool]] = {
    1: lambda head, body, smile, holding, jacket, tie: head == body or jacket == 1,
    2: lambda *attributes: sum(value == 1 for value in attributes) == 2,
    3: lambda head, body, smile, holding, jacket, tie: (
        (jacket == 3 and holding == 1) or (jacket != 4 and body != 3)
    ),
}
MONKS_FLIPPED = {3: (5, 61, 203, 213, 214, 391)}  # training labels that break the rule on purpose
# Which of the 432, counted from 1 in the order of their attributes, are trained on (Thrun et al. 1991).
MONKS_TRAIN = {
    1: """
        5 6 19 22 27 28 37 39 42 50 51 53 56 57 61 62 64 67 72 76 86 87 88 92 93 94 99 103 107 111 114
        116 117 119 120 124 130 132 134 135 136 137 139 143 144 149 150 153 154 156 157 159 160 167 172
        173 176 181 184 188 191 195 196 197 206 209 210 212 214 216 217 222 223 224 227 239 241 249 253
        258 261 264 270 273 274 275 286 289 290 297 300 308 313 316 324 326 332 337 344 346 352 361 362
        366 377 379 383 385 387 392 398 400 402 403 404 408 409 414 415 416 426 428 430 432
    """,
    2: """
        4 7 9 10 11 13 15 19 23 25 26 37 39 40 42 44 50 58 60 61 62 63 65 66 68 69 70 71 72 75 79 85 87
        89 90 93 94 95 96 98 100 101 102 107 108 110 111 116 117 120 125 126 127 130 134 136 139 145 148
        149 156 162 164 166 167 169 172 175 179 184 185 186 188 190 192 197 200 201 205 213 214 215 217
        220 222 223 224 225 228 229 233 235 236 240 241 242 246 249 253 254 256 258 259 263 266 267 269
        272 273 275 278 285 286 288 295 298 300 302 303 304 305 306 308 310 313 316 317 318 319 320 323
        330 331 332 336 338 340 341 342 346 347 353 355 357 358 361 364 365 366 369 371 372 374 377 382
        384 385 387 389 390 398 409 417 419 421 422 425 427 432
    """,
    3: """
        2 3 4 5 7 9 12 16 28 32 36 39 40 41 42 45 46 53 59 60 61 65 66 67 68 70 71 77 80 81 83 84 89 91
        92 99 103 110 111 113 117 121 122 123 128 134 136 143 145 146 151 152 153 154 164 166 167 172
        183 186 198 200 202 203 209 212 213 214 216 220 226 229 230 239 245 249 251 252 254 261 266 268
        271 277 280 281 283 288 289 291 293 304 306 312 315 326 328 329 340 343 349 354 364 366 370 377
        382 383 390 391 400 401 403 404 407 409 410 420 422 425 430 432
    """,
}


def _monks(number: int, split_seed: int, draw: int) -> Raw:
    """All 432 combinations, an attribute of v values as v zeros and ones: (432, 17)."""
    rows = list(itertools.product(*(range(1, count + 1) for count in MONKS_VALUES)))
    ones = [np.eye(count, dtype=np.float32) for count in MONKS_VALUES]
    x = np.array([np.concatenate([one[v - 1] for one, v in zip(ones, row, strict=True)]) for row in rows])
    y = np.array([MONKS_RULES[number](*row) for row in rows], np.int64)
    train = np.array([int(text) for text in MONKS_TRAIN[number].split()]) - 1
    y_train = y.copy()
    flipped = np.array(MONKS_FLIPPED.get(number, ()), int) - 1
    y_train[flipped] = 1 - y_train[flipped]
    return x[train], y_train[train], x, y


def _image_source(read: Callable[[int, int], Raw]) -> Source:
    return Source(read, 60_000, 10_000, (28, 28), validation=5_000, top=255.0)


def _sample_source(name: str) -> Source:
    return Source(functools.partial(_sample, name), 5_000, 1_000, (28, 28), validation=500, top=255.0)


SOURCES: dict[str, Source] = {
    "digits": Source(_digits, 1_437, 360, (8, 8), validation=180, top=16.0),
    "mnist1d": Source(_mnist1d, 4_000, 1_000, (40,), validation=400),
    "mnist": _image_source(functools.partial(_idx_set, MNIST_FILES)),
    "fashion-mnist": _image_source(functools.partial(_idx_set, FASHION_FILES)),
    **{name: _sample_source(name) for name in SAMPLE_HASHES},
    **{
        f"monks-{number}": Source(
            functools.partial(_monks, number), len(ids.split()), 432, (17,), validation=0, classes=2
        )
        for number, ids in MONKS_TRAIN.items()
    },
}
