"""A student's bundle: what is in it, what is not, and what cannot be packed."""

from __future__ import annotations

import io
import re
import zipfile

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.cli import main
from nnopt_lib.course.labs import pack as packing
from nnopt_lib.course.labs.pack import CHECKOUT, pack
from nnopt_lib.course.labs.sources import find_labs
from tests import labs_class
from tests.labs_class import at_home

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def bundle(released, tmp_path_factory):
    """The bundle of the tiny lab as released in a class, with a file of data beside it."""
    (released.folder / "release" / "tiny" / "data.csv").write_text("1,2")
    with at_home(released.folder.parent):
        (lab,) = find_labs(["tiny"], released.folder)
        return pack(lab, released, tmp_path_factory.mktemp("out") / "tiny.zip")


def test_the_bundle_holds_notebook_library_and_how_to_start(bundle, released):
    with zipfile.ZipFile(bundle) as file:
        contents = {name: file.read(name) for name in file.namelist()}
        assert {one.external_attr >> 16 for one in file.infolist()} == {0o644}
    wheel = "nnopt-0.1.0-py3-none-any.whl"
    names = ["README.txt", "constraints.txt", "data.csv", wheel, "tiny.ipynb"]
    assert sorted(contents) == [f"tiny/{name}" for name in sorted(names)]
    assert contents["tiny/tiny.ipynb"] == released.notebook("release", "tiny").read_bytes()
    words = contents["tiny/README.txt"].decode()
    assert words.startswith("Which weights are large?\n")
    assert f"pip install -c constraints.txt {wheel}\n" in words and "jupyter lab tiny.ipynb\n" in words


def test_neither_bundle_nor_wheel_holds_solutions_hidden_tests_or_sources_of_labs(bundle):
    with zipfile.ZipFile(bundle) as file:
        wheel = zipfile.ZipFile(io.BytesIO(file.read("tiny/nnopt-0.1.0-py3-none-any.whl")))
        notebook = file.read("tiny/tiny.ipynb").decode()
    assert "np.abs(values)" not in notebook and "HIDDEN" not in notebook
    names = wheel.namelist()
    kinds = {name.rpartition(".")[2] for name in names if name.startswith("nnopt_lib/")}
    assert kinds == {"py", "pyi", "typed", "npz", "md"}
    assert [name for name in names if name.endswith(".md")] == ["nnopt_lib/data/samples/README.md"]
    assert {name.split("/")[0] for name in names} == {"nnopt_lib", "nnopt-0.1.0.dist-info"}
    assert "nnopt_lib/course/labs/student.py" in names  # what the notebooks import
    text = "\n".join(wheel.read(name).decode() for name in names if not name.endswith(".npz"))
    secrets = ["### BEGIN SOLUTION\n", "### BEGIN HIDDEN TESTS\n"]
    sources = [path.read_text() for path in (CHECKOUT / "chapters" / "labs").glob("*.md")]
    assert len(sources) >= 5
    for source in sources:
        secrets += re.findall(r"### BEGIN SOLUTION\n((?:.+\n){2,}?) *### END SOLUTION", source)
        secrets += re.findall(r"### BEGIN HIDDEN TESTS\n((?:.+\n)+?)### END HIDDEN TESTS", source)
    assert len(secrets) > 30
    assert [secret for secret in secrets if secret in text] == []


def test_what_is_not_released_cannot_be_packed_and_the_command_names_the_file(
    course, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(packing, "build_wheel", lambda folder: labs_class.SOURCE)
    assert main(["labs", "pack", "tiny", "--out", str(tmp_path / "a" / "b.zip")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a/b.zip\n"
    with zipfile.ZipFile(tmp_path / "a" / "b.zip") as file:  # without a class the committed copy
        assert "tiny/tiny.ipynb" in file.namelist()
    course.notebook("release", "tiny").unlink()
    assert (
        main(["labs", "pack", "tiny", "--course", str(course.folder), "--out", str(tmp_path / "c.zip")]) == 1
    )
    assert capsys.readouterr().err == (
        f"nnopt: lab tiny must have a student copy to be packed; received no {course.folder}/release/tiny/tiny.ipynb. "
        f"nnopt labs release tiny --course {course.folder} makes it.\n"
    )
    assert not (tmp_path / "c.zip").exists()


def test_a_wheel_that_cannot_be_built_is_one_sentence(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "nnopt_lib").mkdir(parents=True)
    monkeypatch.setattr(packing, "CHECKOUT", checkout)
    with pytest.raises(NnoptError) as refused:
        packing.build_wheel(tmp_path / "out")
    assert str(refused.value) == (
        "a bundle is packed in the course's checkout; received a library in "
        f"{checkout} without pyproject.toml."
    )
    (checkout / "pyproject.toml").write_text("[project\n")
    (checkout / "README.md").touch()
    with pytest.raises(NnoptError) as refused:
        packing.build_wheel(tmp_path / "again")
    sentence = str(refused.value)
    assert sentence.startswith("the library's wheel could not be built; received ") and "\n" not in sentence
    assert sentence.endswith(
        "Is there pip, setuptools 77 or later, and space? pip install -U pip setuptools."
    )
