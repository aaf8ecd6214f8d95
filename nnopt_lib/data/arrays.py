"""A data set as arrays in three parts, read at once or on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnopt_lib.checks import refuse

PARTS = ("train", "validation", "test")
ARRAYS = tuple(f"{letter}_{part}" for part in PARTS for letter in "xy")


@dataclass(frozen=True)
class Deferred:
    """What is known of a set before it is read: enough to find stored rows and to count examples."""

    read: Callable[[], Mapping[str, np.ndarray]]
    sizes: Mapping[str, int]
    shape: tuple[int, ...]
    fingerprint: str | None  # None where the options are nobody's but the caller's: then it needs the arrays


@dataclass(frozen=True, repr=False)
class Data:
    """A data set in three parts; `dataclasses.replace` makes a changed copy.

    Parameters:
        name: for messages and records.
        x_train, x_validation, x_test: float32, (examples, features) or (examples, channels, *spatial).
        y_train, y_validation, y_test: int64 labels from 0, (examples,). A part may be empty.
        classes: how many different labels there are.

    `fingerprint` is a hash over all arrays; it enters the id of every run that used them. `sizes` counts the
    examples of each part, and `shape` is that of one example. Your own arrays make a `Data` just as well as
    `load_data` does; what `load_data` returns reads its arrays when one of them is first asked for.
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
        for part in PARTS:
            x = np.ascontiguousarray(getattr(self, f"x_{part}"), np.float32)
            y = np.ascontiguousarray(getattr(self, f"y_{part}"), np.int64)
            if len(x) != len(y):
                refuse(f"x_{part} and y_{part} must have equal lengths", f"{len(x)} and {len(y)}")
            if len(y) and not 0 <= y.min() <= y.max() < self.classes:
                refuse(f"labels must be from 0 to {self.classes - 1}", f"{y.min()} to {y.max()} in y_{part}")
            object.__setattr__(self, f"x_{part}", x)
            object.__setattr__(self, f"y_{part}", y)

    @classmethod
    def on_first_use(cls, name: str, classes: int, deferred: Deferred) -> Data:
        """A `Data` whose arrays `deferred.read` gives when one is asked for; its fingerprint is checked."""
        data = object.__new__(cls)
        for field, value in (("name", name), ("classes", classes), ("_deferred", deferred)):
            object.__setattr__(data, field, value)
        return data

    # Python calls this for absent attributes only, so arrays that have been read cost nothing extra.
    def __getattr__(self, name: str) -> Any:
        if name not in ARRAYS or "_deferred" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self._read(self.__dict__["_deferred"])
        return self.__dict__[name]

    def _read(self, deferred: Deferred) -> None:
        whole = Data(self.name, **deferred.read(), classes=self.classes)
        if deferred.fingerprint not in (None, whole.fingerprint):
            refuse(
                f"the arrays of {self.name} must have the fingerprint {deferred.fingerprint}",
                whole.fingerprint,
                "Install the versions that constraints.txt names.",
            )
        for array in ARRAYS:
            object.__setattr__(self, array, getattr(whole, array))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes: with arrays, since another machine may not have the files."""
        arrays = {array: getattr(self, array) for array in ARRAYS}
        return {**self.__dict__, **arrays}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "_deferred"})

    def __repr__(self) -> str:
        sizes = " + ".join(f"{size:,}" for size in self.sizes.values())
        return f"<Data {self.name}: {sizes} examples of shape {self.shape}, {self.classes} classes>"

    @property
    def _not_read(self) -> Deferred | None:
        return None if "x_train" in self.__dict__ else self.__dict__["_deferred"]

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples train, validation and test have; known without reading them."""
        if deferred := self._not_read:
            return dict(deferred.sizes)
        return {part: len(getattr(self, f"y_{part}")) for part in PARTS}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example; known without reading any."""
        deferred = self._not_read
        return deferred.shape if deferred else self.x_train.shape[1:]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a sha256 over all arrays with their names, shapes and types.

        For the sets and options that the course uses it is a constant of the code, and no array is read.
        """
        if (deferred := self._not_read) and deferred.fingerprint:
            return deferred.fingerprint
        digest = hashlib.sha256()
        for array in ARRAYS:
            values = getattr(self, array)
            digest.update(f"{array} {values.shape} {values.dtype.str}".encode() + values.tobytes())
        return digest.hexdigest()[:16]
