"""`make mutants`, on a library of one function."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import mutants
from tests.mutations import MODULES, MORE_TESTS, places, sample, stages

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One line that its test checks, one that it runs without a look at what comes out."""
    files = {
        "nnopt_lib/__init__.py": "",
        "nnopt_lib/files.py": "def checked(a: int | None):\n    return a + 2\n\n\ndef run(a):\n    return a * a\n",
        "tests/__init__.py": "",
        "tests/test_files.py": (
            "from nnopt_lib import files\n\n\ndef test_both():\n"
            "    assert files.checked(2) == 4\n    files.run(2)\n"
        ),
        ".gitignore": "build/\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_a_killed_mutant_and_a_survivor_are_told_apart(project: Path, capsys: pytest.CaptureFixture) -> None:
    before = (project / "nnopt_lib/files.py").read_bytes()
    assert mutants.main(["--count", "9"], project) == 1
    said = capsys.readouterr().out
    assert "2 of 3 sampled mutants are killed (66.7%)" in said
    survivor = "nnopt_lib/files.py:6 ReplaceBinaryOperator_Mul_Div\n- return a * a\n+ return a / a\n"
    assert survivor in said
    assert (project / "nnopt_lib/files.py").read_bytes() == before

    # What is known stays known; a new test may kill what survived, and only that runs again.
    assert mutants.main(["--count", "9", "--at-least", "0.6"], project) == 0
    assert " in " not in capsys.readouterr().out.partition("module")[0].replace(survivor, "")
    with open(project / "tests/test_files.py", "a") as file:
        file.write("    assert files.run(3) == 9\n")
    assert mutants.main(["--count", "9"], project) == 0
    assert "3 of 3 sampled mutants are killed" in capsys.readouterr().out
    records = [json.loads(line) for line in (project / "build/mutants.jsonl").read_text().splitlines()]
    assert [record["outcome"] for record in records].count("killed") == 3
    assert len(records) == 4


def test_a_mutant_that_does_not_end_is_killed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "SECONDS_MORE", 1)
    (project / "nnopt_lib/files.py").write_text("def run(a):\n    while True:\n        break\n")
    (project / "tests/test_files.py").write_text(
        "from nnopt_lib import files\n\n\ndef test_it_ends():\n    files.run(2)\n"
    )
    mutants.main(["--count", "9"], project)
    records = [json.loads(line) for line in (project / "build/mutants.jsonl").read_text().splitlines()]
    by = {record["identity"][1]: (record["outcome"], record["by"]) for record in records}
    assert by["ReplaceBreakWithContinue"] == ("killed", "time limit")
    assert by["AddNot"] == ("survived", "")


def test_tests_that_fail_by_themselves_judge_nothing(project: Path) -> None:
    (project / "tests/test_files.py").write_text("def test_no():\n    assert False\n")
    with pytest.raises(SystemExit, match=r"test_files.py fails without any mutation"):
        mutants.main(["--count", "1"], project)


def test_a_seed_gives_one_sample() -> None:
    drawn = {seed: list(sample(ROOT, 5, seed, "pruning/schedules")) for seed in (1, 2)}
    assert drawn[1] == list(sample(ROOT, 5, 1, "pruning/schedules"))
    assert drawn[1] != drawn[2]
    assert drawn[1][:3] == list(sample(ROOT, 3, 1, "pruning/schedules"))


def test_what_no_test_could_see_is_left_alone() -> None:
    text = (
        "import typing\n"
        "Kind = int | str\n"
        "@decorated(1)\n"
        "def f(a: list[2] | None, *, b) -> tuple[3]:\n"
        "    c: int | None = g(*a, **b)\n"
        '    return h("x" + c, zip(a, b, strict=True))\n'
    )
    assert places(text) == {}


def test_every_module_and_every_further_file_of_tests_exists() -> None:
    for pattern in MODULES:
        assert list((ROOT / "nnopt_lib").glob(pattern)), pattern
    for module, tests in MORE_TESTS.items():
        assert (ROOT / "nnopt_lib" / module).is_file()
        assert [test for test in tests if not (ROOT / "tests" / test).is_file()] == []


def test_the_file_that_stands_for_a_module_runs_first() -> None:
    first, then = stages(ROOT, "nnopt_lib/pruning/prune.py")
    assert first == ("tests/pruning/test_prune.py",)
    assert {"tests/pruning/test_masks.py", "tests/backends/torch/test_masks.py"} <= set(then)
    assert first[0] not in then
