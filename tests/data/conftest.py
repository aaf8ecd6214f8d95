import functools
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from nnopt_lib.data import classification, files
from nnopt_lib.data.classification import FINGERPRINTS, SOURCES
from nnopt_lib.data.files import RemoteFile
from tests.data.idx_files import IDX, idx


@pytest.fixture
def small_mnist(monkeypatch, tmp_path):
    """Four small files in MNIST's own format, which `load_data` takes for the published ones; no cache, no network."""
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 256, (200, 28, 28), np.uint8),
        np.arange(200, dtype=np.uint8) % 10,
        random.integers(0, 256, (50, 28, 28), np.uint8),
        np.arange(50, dtype=np.uint8) % 10,
    ]
    contents = dict(zip(IDX, map(idx, arrays), strict=True))
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)

    def serve(*mirrors):
        remote = tuple(
            RemoteFile(
                f"mnist/{name}", hashlib.sha256(content).hexdigest(), tuple(f"{m}{name}.gz" for m in mirrors)
            )
            for name, content in contents.items()
        )
        read = functools.partial(classification._idx_set, remote)
        monkeypatch.setitem(
            SOURCES, "mnist", replace(SOURCES["mnist"], read=read, train=200, test=50, validation=20)
        )
        monkeypatch.delitem(FINGERPRINTS, "mnist")

    return arrays, contents, serve


@pytest.fixture
def server(tmp_path):
    """A web server of the folder ``served``; gives its address, the folder, and the list of what was asked for."""
    served, asked = tmp_path / "served", []
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served))
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}/", served, asked
    running.shutdown()
    running.server_close()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No NNOPT_DATA, an empty cache, and addresses that refuse at once."""
    monkeypatch.delenv("NNOPT_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    real = files.read_checked

    def unreachable(file):
        return real(replace(file, addresses=("http://127.0.0.1:9/x",)))

    for module in ("classification", "other"):
        monkeypatch.setattr(f"nnopt_lib.data.{module}.read_checked", unreachable)
    return tmp_path / "nnopt"
