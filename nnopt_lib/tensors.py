"""Files of arrays: safetensors with a text and a sha256 over both, written whole, read without trust."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnopt_lib.checks import refuse
from nnopt_lib.store import write_atomically


def save_tensors(path: str | Path, arrays: Mapping[str, np.ndarray], kind: str, text: str) -> None:
    """Write arrays and a text to a safetensors file of this kind, whole or not at all."""
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
        digest.update(name.encode() + b"\0" + arrays[name].tobytes())
    return digest.hexdigest()
