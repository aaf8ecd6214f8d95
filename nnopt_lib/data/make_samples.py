"""Make the files of nnopt_lib/data/samples from the whole sets: ``python -m nnopt_lib.data.make_samples``.

Needed only when the choice of images changes; prints the hashes that `SAMPLE_HASHES` must then hold.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

from nnopt_lib.data.classification import SAMPLE_HASHES, SAMPLES, SOURCES, Raw, sample_hash
from nnopt_lib.files import write_atomically

TRAIN_OF_CLASS, TEST_OF_CLASS = 500, 100


def choose(y: np.ndarray, of_class: int) -> np.ndarray:
    """Indices of so many examples of every class, evenly spread over the order of the set, rising."""
    by_class = [np.flatnonzero(y == label) for label in np.unique(y)]
    spread = [index[np.arange(of_class) * len(index) // of_class] for index in by_class]
    return np.sort(np.concatenate(spread))


def sample(whole: Raw) -> Raw:
    """The sample of a whole set, as bytes."""
    x, y, x_test, y_test = whole
    train, test = choose(y, TRAIN_OF_CLASS), choose(y_test, TEST_OF_CLASS)
    return x[train], y[train], x_test[test], y_test[test]


def compressed(x: np.ndarray, y: np.ndarray) -> bytes:
    """Both arrays as the bytes of an .npz file. LZMA, since zlib needs a quarter more."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (("x", x), ("y", y)):
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_LZMA)
    return content.getvalue()


def main() -> None:
    """Write the files and print the hashes of their arrays."""
    for name in SAMPLE_HASHES:
        whole = name.removesuffix("-sample")
        arrays = sample(SOURCES[whole].read(0, 0))
        for part, pair in (("train", arrays[:2]), ("test", arrays[2:])):
            write_atomically(SAMPLES / f"{whole}-{part}.npz", compressed(*pair))
        print(name, sample_hash(arrays))


if __name__ == "__main__":
    main()
