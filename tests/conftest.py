import contextlib
import gc
import multiprocessing.util
import os
import resource
import sys
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("NNOPT_PROGRESS", "0")  # no progress bars among the tests' output
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # processes at once share the cores
    SHARE = str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, SHARE)

FRAMEWORKS = ("torch", "keras")
# Their tests share something that takes long to make: a graded class, a book, a paper, figures.
SHARING = (
    "course/book/test_build.py",
    "course/labs/test_cheats.py",
    "course/labs/test_commands.py",
    "course/labs/test_grade.py",
    "course/labs/test_kinds.py",
    "course/test_writeup.py",
    "results/test_figures.py",
)


def _left_out(config: pytest.Config) -> list[str]:
    """The frameworks that `-m` leaves out, as in ``-m "not torch and not keras"``."""
    return [name for name in FRAMEWORKS if f"not {name}" in config.option.markexpr]


def pytest_ignore_collect(collection_path, config):
    """Do not even import the tests of a framework that is left out: that alone takes seconds."""
    folders = set(zip(collection_path.parts, collection_path.parts[1:], strict=False))
    left_out = {("backends", name) for name in _left_out(config)}
    if ("backends", "torch") in left_out:
        left_out.add(("tests", "zoo"))  # networks in PyTorch
    return True if folders & left_out else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``-n 2``: the files that share go to one process each, whole and first; other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if file.endswith(SHARING) else nodeid

    return Sharing(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_finish(session):
    """What collection made stays for good: the garbage collector need not look through it at every turn."""
    gc.freeze()


def pytest_sessionfinish(session):
    """Tests without a framework's mark must not load it, or they would not be the quick ones."""
    loaded = [name for name in _left_out(session.config) if name in sys.modules]
    if loaded:
        session.exitstatus = 1
        print(f"\nan unmarked test has loaded {', '.join(loaded)}")


@pytest.fixture(scope="session")
def private_temporary_folder(tmp_path_factory):
    """The temporary folder from here on: other test processes have theirs, so what is found in it is our own.

    Once in a process, since a forkserver keeps the environment that it was started with.
    """
    tmp_path_factory.getbasetemp()  # stays where pytest keeps what tests left
    multiprocessing.util.get_temp_dir()  # taken down at the very end, so not in here
    with (
        tempfile.TemporaryDirectory(prefix="tests-of-nnopt-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        os.chmod(folder, 0o755)  # sandboxes run as other accounts
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@contextlib.contextmanager
def small_files():
    """A disk that takes no file above 100 bytes, as a full one would (also refuses root).

    Not a fixture: pytest writes its progress before it takes fixtures down, and its output may be a file.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
