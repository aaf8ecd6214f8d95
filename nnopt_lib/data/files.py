"""Files of a named set: in NNOPT_DATA, else in the cache, else downloaded; checked, whatever the source."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from nnopt_lib.checks import NnoptError, refuse

TIMEOUT_SECONDS = 10  # of one connection: without a network a chapter should not wait for minutes


@dataclass(frozen=True)
class RemoteFile:
    """One file: its path below NNOPT_DATA, the sha256 of its uncompressed content, its public addresses.

    `instead` is the same content in another form, which is read where it lies on this machine.
    """

    path: str
    sha256: str
    addresses: tuple[str, ...]
    instead: RemoteFile | None = None


def read_checked(file: RemoteFile) -> bytes:
    """The uncompressed content of `file`, from NNOPT_DATA, the cache or the first address that has it.

    A gzipped file is as good as an uncompressed one. Refuses a local file whose content is not what was
    published, naming it, and a file that no source has, naming what each said.
    """
    if (folder := _data_folder()) and not folder.is_dir():
        refuse("NNOPT_DATA must name a folder that exists", repr(str(folder)), "Unset it to download data.")
    local = find_local(file)
    return _checked(local, file) if local else _downloaded(file)


def find_local(file: RemoteFile) -> Path | None:
    """Where `file` lies on this machine, NNOPT_DATA before the cache, or None; its content is not read."""
    folders = [folder for folder in (_data_folder(), _cache()) if folder]
    names = [file.path, Path(file.path).name]  # with or without the folder of its set
    candidates = [folder / f"{name}{end}" for folder in folders for name in names for end in (".gz", "")]
    return next((path for path in candidates if path.is_file()), None)


def _data_folder() -> Path | None:
    folder = os.environ.get("NNOPT_DATA")
    return Path(folder) if folder else None


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("nnopt"))


def _checked(path: Path, file: RemoteFile) -> bytes:
    content = _uncompressed(path)
    actual = hashlib.sha256(content).hexdigest()
    if actual != file.sha256:
        refuse(
            f"{path} must have the sha256 {file.sha256} (uncompressed)",
            actual,
            f"It is damaged or another file: remove it, or put the right one at {file.path} in that folder.",
        )
    return content


def _uncompressed(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        refuse(f"{path} must be a readable file", str(error), "Remove it and run again.")


def _downloaded(file: RemoteFile) -> bytes:
    """The checked content, kept in the cache; an address with other content is as good as a silent one."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # notebooks compare stderr
    reasons = []
    for address in file.addresses:
        end = ".gz" if address.endswith(".gz") and not file.path.endswith(".gz") else ""
        cached = _cache() / f"{file.path}{end}"
        try:
            download = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
            pooch.retrieve(
                address, known_hash=None, path=cached.parent, fname=cached.name, downloader=download
            )
            return _checked(cached, file)
        except Exception as error:  # whatever an address does or sends, the next one is tried
            cached.unlink(missing_ok=True)
            what = "other content" if isinstance(error, NnoptError) else type(error).__name__
            reasons.append(f"{address}: {what}")
    refuse(
        f"{file.path} must be in the folder that NNOPT_DATA names, in {_cache()}, or at a public address",
        "; ".join(reasons) or "none",
        "Connect to a network, or put the file into a folder and name that in NNOPT_DATA.",
    )
