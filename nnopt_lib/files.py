"""Files written whole or not at all, locks, hashes; arrays kept in safetensors files that are not trusted."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_lib.checks import NnoptError, refuse

if TYPE_CHECKING:
    import numpy as np

PLAN = "plan.json"  # of files replaced together: written last, so that where it stands all else does too
DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` whole or not at all, making its folder where needed.

    Text is written as UTF-8. A full or read-only disk is one sentence and leaves the old file whole. Where
    `path` is a link, the file that it leads to is written. Refuses what is no ordinary file: replacing a
    device or a pipe by a file would take it from everybody else.
    Example: ``write_atomically(Path("build/rows.json"), "[]")``.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device, a pipe or a socket"
            refuse("only an ordinary file can be written or replaced", f"{path}, which is {kind}")
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink()
            raise


def replace_together(
    journal: Path, root: Path, contents: Mapping[str, bytes], removed: Iterable[str] = ()
) -> None:
    """Replace and remove several files below `root`, all of them or none, whatever happens meanwhile.

    Parameters:
        journal: a folder on the same disk that nobody else uses, gone afterwards; one caller at a time.
        contents: what each file is to hold, by its path from `root`; `removed`: paths of files that go.

    All is first written into `journal`. If that fails, nothing has changed; if the process is killed later,
    `finish_replacing` does what is left.
    """
    shutil.rmtree(journal, ignore_errors=True)  # of one who was killed before it was complete
    staged = {name: f"{number}.new" for number, name in enumerate(contents)}
    try:
        for name, content in contents.items():
            write_atomically(journal / staged[name], content)
        plan = {"staged": staged, "removed": list(removed)}
        write_atomically(journal / PLAN, json.dumps(plan) + "\n")
    except BaseException:
        shutil.rmtree(journal, ignore_errors=True)
        raise
    finish_replacing(journal, root)


def finish_replacing(journal: Path, root: Path) -> None:
    """Do what is left of a `replace_together` that was killed; nothing where its journal is incomplete."""
    if not (journal / PLAN).is_file():
        return
    try:
        plan = json.loads((journal / PLAN).read_text(encoding="utf-8"))
        staged = {_below(root, name): journal / Path(file).name for name, file in plan["staged"].items()}
        removed = [_below(root, name) for name in plan["removed"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "Remove that folder, and save what it was to publish again."
        refuse(f"{journal / PLAN} must be a plan that nnopt wrote", None, remedy)
    with writing(journal):
        for target, file in staged.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # moved before the process was killed
                os.replace(file, target)
        for target in removed:
            target.unlink(missing_ok=True)
        shutil.rmtree(journal)


def _below(root: Path, name: str) -> Path:
    """The path `name` from `root`; a ValueError for one that leads out of it."""
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(root):
        raise ValueError(name)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk inside the block into one sentence that names `path`."""
    try:
        yield
    except OSError as error:
        remedy = "Free some space" if error.errno in DISK_FULL else "Make that folder writable"
        raise NnoptError(
            f"{path} could not be written: {error.strerror}. {remedy} and run again; "
            "what was there before is untouched."
        ) from error


def lock(path: Path, timeout: float = -1) -> Any:
    """An exclusive lock beside `path`, for a with statement; None after `timeout` seconds.

    The system frees it when its process dies, however that happens.
    """
    import filelock

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(filelock.Timeout):  # an OSError too, but not the disk's
            return filelock.FileLock(path.with_suffix(".lock"), timeout=timeout).acquire()
    return None


def save_tensors(path: str | Path, arrays: Mapping[str, np.ndarray], kind: str, text: str) -> None:
    """Write arrays and a text to a safetensors file of this kind, whole or not at all."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    metadata = {"format": kind, "text": text, "sha256": _digest(arrays, text)}
    write_atomically(Path(path), save(arrays, metadata))


def load_tensors(path: str | Path, kind: str, rule: str, remedy: str) -> tuple[dict[str, np.ndarray], str]:
    """Read what `save_tensors` wrote; a file that is damaged or of another kind is refused by `rule`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        refuse(rule, " ".join(str(error).split()) or type(error).__name__, remedy)
    if metadata.get("format") != kind:
        refuse(rule, f"format {metadata.get('format')!r}", remedy)
    text = metadata.get("text", "")
    if _digest(arrays, text) != metadata.get("sha256"):
        refuse(rule, "contents that do not have the sha256 they were saved with", remedy)
    return arrays, text


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        # Type and shape stand in the file's header, and the same bytes are other numbers under another type.
        described = json.dumps([name, arrays[name].dtype.str, list(arrays[name].shape)])
        digest.update(described.encode() + b"\0" + arrays[name].tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_of(*contents: bytes | str) -> str:
    """The sha256 of contents, each told apart from the next."""
    total = hashlib.sha256()
    for content in contents:
        data = content.encode() if isinstance(content, str) else content
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()
