"""The repository's own papers agree with each other, and the library keeps its layers."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

LIBRARY = ROOT / "nnopt_lib"


def imports_of(path: Path) -> set[str]:
    """Full names of all that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


IMPORTS = {path.relative_to(LIBRARY).as_posix(): imports_of(path) for path in sorted(LIBRARY.rglob("*.py"))}


# The laws of the layout


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the library in `folder`, by the laws in its pyproject.toml."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_laws_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "law"),
    [
        ("structure/spec.py", "from nnopt_lib.pruning import masks", "Arrows between folders point downward"),
        (
            "training/fit.py",
            "def f():\n    from nnopt_lib.backends.torch import stack",
            "Nothing imports an adapter",
        ),
        (
            "results/claims.py",
            "from nnopt_lib.course import writeup",
            "Nothing but the command imports the course",
        ),
        ("pruning/masks.py", "def f():\n    import torch", "Only adapters import a framework"),
        (
            "structure/spec.py",
            "from nnopt_lib.structure import families",
            "Arrows inside structure point downward",
        ),
    ],
)
def test_an_import_against_a_law_fails(tmp_path: Path, module: str, statement: str, law: str) -> None:
    shutil.copytree(LIBRARY, tmp_path / "nnopt_lib", ignore=shutil.ignore_patterns("__pycache__", "samples"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "nnopt_lib" / module, "a", encoding="utf-8") as file:
        file.write(f"\n\n{statement}\n")
    done = lint_imports(tmp_path)
    broken = [line for line in done.stdout.splitlines() if line.strip().endswith("BROKEN")]
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(line.strip().startswith(law) for line in broken), broken


def test_the_law_about_frameworks_names_all_but_the_adapters() -> None:
    law = next(law for law in laws() if law["name"] == "Only adapters import a framework")
    rooms = {
        path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    sources = {name.removeprefix("nnopt_lib.") for name in law["source_modules"]}
    assert sources == rooms - {"__init__", "backends"}


def laws() -> list[dict]:
    """The contracts of import-linter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["tool"]["importlinter"]["contracts"])


def purpose(room: str) -> str:
    """The first sentence of a module's or folder's docstring."""
    file = LIBRARY / room / "__init__.py" if (LIBRARY / room).is_dir() else LIBRARY / f"{room}.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def quoted(rooms: list[str]) -> str:
    return ", ".join(f"`{room}`" for room in rooms)


def map_of_the_house() -> str:
    """The page in CONTRIBUTING.md that says what is where, made from the laws and from docstrings."""
    layered = {law["containers"][0]: law["layers"] for law in laws() if law["type"] == "layers"}
    floors = [[room.strip() for room in floor.split("|")] for floor in layered.pop("nnopt_lib")]
    importers = {
        law["protected_modules"][0].removeprefix("nnopt_lib."): [
            name.removeprefix("nnopt_lib.") for name in law["allowed_importers"]
        ]
        for law in laws()
        if law["type"] == "protected"
    }
    lines = ["| room | what it is for | may import | imported by |", "|---|---|---|---|"]
    for floor, below in zip(floors, [*floors[1:], []], strict=True):
        free = [room for room in below if importers.get(room) != []]
        may = f"{quoted(free)} and below" if free else "nothing of ours"
        for room in floor:
            by = quoted(importers[room]) or "nobody" if room in importers else "all above"
            by = "nobody" if floor is floors[0] else by
            lines.append(f"| `{room}` | {purpose(room)} | {may} | {by} |")
    lines.append("")
    for folder, layers in layered.items():
        chain = " → ".join(quoted([room.strip() for room in layer.split("|")]) for layer in layers)
        lines.append(f"- Inside `{folder.removeprefix('nnopt_lib.')}`: {chain}.")
    return "\n".join(lines)


def test_the_map_of_the_house_says_what_the_laws_say() -> None:
    assert map_of_the_house() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_importing_the_library_loads_no_framework() -> None:
    program = (
        "import sys, nnopt_lib, nnopt_lib.checks\n"
        "heavy = {'torch', 'tensorflow', 'keras', 'matplotlib', 'scipy', 'sklearn', 'papermill', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_exist_where_the_package_says() -> None:
    import nnopt_lib

    for module, names in nnopt_lib._HOME.items():
        path = LIBRARY / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        defined = ast.parse(path.read_text(encoding="utf-8")).body
        top = {node.name for node in defined if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        top |= {
            alias.asname or alias.name
            for node in defined
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert set(names) <= top, f"{module} lacks {sorted(set(names) - top)}"


def test_the_stub_for_editors_names_what_the_package_offers() -> None:
    import nnopt_lib

    stub = ast.parse((LIBRARY / "__init__.pyi").read_text(encoding="utf-8"))
    homes = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    offered = {name: f"nnopt_lib.{module}.{name}" for name, module in nnopt_lib._MODULE_OF.items()}
    offered |= {name: f"nnopt_lib.{module}" for name, module in nnopt_lib._MODULES.items()}
    assert homes == offered


def test_every_module_has_its_file_of_tests() -> None:
    """Rules are tested through the reader that applies them."""

    def file_of(module: Path) -> Path:
        if module.parent.name == "rules":
            return module.parent.parent / "test_reading.py"
        return module.parent / f"test_{module.name.lstrip('_')}"

    modules = [path.relative_to(LIBRARY) for path in LIBRARY.rglob("*.py") if path.name != "__init__.py"]
    missing = [module.as_posix() for module in modules if not (ROOT / "tests" / file_of(module)).is_file()]
    assert missing == []


PROGRAM = """
from typing import Any, assert_type

import numpy as np

import nnopt_lib as nnopt
from nnopt_lib import {names}

assert_type(nnopt.mlp((8,), inputs=64, outputs=10), nnopt.NetSpec)
deeper, weights = nnopt.deepen(nnopt.mlp((8,), inputs=64, outputs=10), "activation_1")
assert_type(deeper, nnopt.NetSpec)
assert_type(deeper.node("dense_1"), nnopt.Node)
digits = nnopt.load_data("digits")
assert_type(digits, nnopt.Data)
model = nnopt.build(deeper)
history = nnopt.fit(model, digits, nnopt.Training(epochs=1))
assert_type(history, nnopt.History)
assert_type(history["train_loss"], list[float])
stack = nnopt.fit_many(deeper, digits, nnopt.Training(), seeds=range(3))
assert_type(stack.histories, list[Any])
masks = nnopt.prune(model, sparsity=0.5)
assert_type(masks, nnopt.Masks)
assert_type(nnopt.shuffle_masks(masks, seed=0), nnopt.Masks)
assert_type(nnopt.measure.interval([0.1, 0.2, 0.3]), tuple[float, float, float])
space = nnopt.SearchSpace(nnopt.mlp, units=[(8,)], inputs=64, outputs=10)
assert_type(nnopt.search(space, data="digits"), nnopt.SearchResult)
nnopt.prune(model, sparsity="half")  # type: ignore[arg-type]
"""


def test_a_users_program_passes_mypy_strict(tmp_path: Path) -> None:
    """Of an installed package types are read from `py.typed` and the stub, as an editor does, too."""
    import nnopt_lib

    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(names=", ".join(nnopt_lib.__all__)), encoding="utf-8")
    # Strict also about ignores that are not needed: the last line must be an error without its comment.
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += [f"--config-file={os.devnull}", "--ignore-missing-imports", str(program)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Success: no issues found in 1 source file\n")


def test_modules_and_functions_stay_small() -> None:
    long = []
    for path in (ROOT / "nnopt_lib").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        long += [f"{path.name}: {lines} lines"] * (lines > 350)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                # Without its docstring, which the more a function is asked for must say the more.
                first = node.body[0] if ast.get_docstring(node) else None
                said = (first.end_lineno or 0) - first.lineno + 1 if first else 0
                if (size := (node.end_lineno or 0) - node.lineno + 1 - said) > 60:
                    long.append(f"{path.name}: {node.name} has {size} lines")
    assert long == []


# Dependencies


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "constraints.txt pins exact versions only"
    return {canonicalize_name(name): version.strip() for name, version in pins}


def requirements() -> list[Requirement]:
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    pins = constraints()
    for needed in requirements():
        version = pins.get(canonicalize_name(needed.name))
        assert version, f"constraints.txt does not pin {needed.name}"
        assert needed.specifier.contains(version, prereleases=True), f"{needed} does not allow {version}"


def test_what_is_installed_is_what_was_tested() -> None:
    pins = constraints()
    installed_by_setup = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for needed in map(Requirement, installed_by_setup):
        installed = importlib.metadata.version(needed.name).partition("+")[0]  # a CPU build says +cpu
        assert installed == pins[canonicalize_name(needed.name)], f"{needed.name}; make setup installs it"


def test_the_environment_for_conda_points_at_the_same_files() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert python == f"python {PROJECT['requires-python']}"
    assert pip == "pip"
    assert packages == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_every_import_of_the_library_is_declared() -> None:
    declared = {canonicalize_name(needed.name) for needed in requirements()}
    distributions = importlib.metadata.packages_distributions()
    used = {name.split(".")[0] for names in IMPORTS.values() for name in names} - {"nnopt_lib"}
    for package in sorted(used - set(sys.stdlib_module_names)):
        names = {canonicalize_name(name) for name in distributions.get(package, [package])}
        assert names & declared, f"{package} is imported and not in pyproject.toml"


# Papers


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    text = (ROOT / "nnopt_lib" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "(.+)"$', text, re.M)[1] == PROJECT["version"]  # type: ignore[index]


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
    assert PROJECT["license"] == " AND ".join(citation["license"])


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


def commands(tool: str) -> dict[str, set[str]]:
    """What documents tell readers to type, by its first word after `tool`."""
    versions: dict[str, set[str]] = {}
    for page in documents():
        text = page.read_text(encoding="utf-8")
        for line in re.findall(rf"(?:^|`){tool} +(?!-)([^`#\n]+)", text, re.M):
            versions.setdefault(line.split()[0], set()).add(line.strip())
    return versions


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"setup", "book", "test"} <= set(commands("make")) <= targets


def test_nnopt_commands_in_the_documents_exist() -> None:
    from typer.main import get_command

    from nnopt_lib import cli

    known = get_command(cli.app)
    told = commands("nnopt")
    assert {"list", "run", "check", "book", "figures", "results", "env"} <= set(told)
    for name, lines in told.items():
        if name == "COMMAND":
            continue
        command = known.commands[name]  # type: ignore[attr-defined]
        for line in lines:
            words = line.split()[1:]
            inner = command
            if words and words[0] in getattr(command, "commands", {}):
                inner = command.commands[words[0]]
            options = {option for parameter in inner.params for option in parameter.opts} | {"--help"}
            assert {word for word in words if word.startswith("-")} <= options, line


def test_the_readme_lists_every_chapter() -> None:
    chapters = [path.stem for path in (ROOT / "chapters").glob("[0-9][0-9]-*.md")]
    assert [name for name in chapters if f"`{name}`" not in README] == []
    assert chapters, "there are chapters"


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [*documents(), ROOT / "CHANGELOG.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def own_files() -> list[Path]:
    """All files of the checkout that git keeps or would keep."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert ROOT / "README.md" in files
    return [path for path in files if path.is_file()]


def test_committed_files_name_no_place_of_one_machine() -> None:
    home = re.compile(rf"{re.escape(str(ROOT))}(?![\w-])|/home/\w+/|/Users/\w+/")
    kinds = {".py", ".md", ".ipynb", ".json", ".jsonl", ".yml", ".toml", ".txt", ".cff"}
    for path in own_files():
        match = home.search(path.read_text(encoding="utf-8")) if path.suffix in kinds else None
        assert not match, f"{path.name} names {match[0] if match else ''}"


def test_large_files_stay_out() -> None:
    assert [path.name for path in own_files() if path.stat().st_size > 2_000_000] == []


def records_of(chapter: str) -> list[dict]:
    file = ROOT / "chapters" / "results" / "claims" / f"{chapter}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def claims_of(chapter: str) -> dict[str, dict]:
    return {record["id"]: record["numbers"] for record in records_of(chapter) if record["kind"] == "claim"}


def test_the_readmes_headline_is_what_the_rows_say():
    numbers = claims_of("06-search")
    gains = [numbers[f"gain-{budget}"] for budget in ("parameters", "operations", "time")]
    told = ["{mean:+.2f} points [{low:+.2f}, {high:+.2f}]".format(**gain) for gain in gains]
    told.append(
        "{macs_ratio:.0f} times the operations and {time_ratio:.0f} times the time".format(**gains[0])
    )
    assert [part for part in told if part not in " ".join(README.split())] == []
    verdicts = {record["id"]: record["verdict"] for record in records_of("06-search")}
    undecided = all(
        verdicts[f"gain-{budget}"] == "undecided" for budget in ("parameters", "operations", "time")
    )
    assert ("None of the three can be told from nothing" in " ".join(README.split())) is undecided


def test_the_words_below_the_readmes_picture_are_what_the_rows_say():
    records = {record["id"]: record for record in records_of("09-magnitude")}
    form = "{mean:.1f} points [{low:.1f}, {high:.1f}] ahead of a small dense one"
    told = [form.format(**records["small-mlp"]["numbers"])]
    difference = "{mean:.1f} [{low:.1f}, {high:.1f}], which decides nothing".format(
        **records["small-cnn"]["numbers"]
    )
    told.append(difference.replace("-", "−"))
    assert [part for part in told if part not in " ".join(README.split())] == []
    verdicts = [records[one]["verdict"] for one in ("half-mlp", "half-cnn", "small-mlp", "small-cnn")]
    assert verdicts == ["holds", "holds", "holds", "undecided"]
