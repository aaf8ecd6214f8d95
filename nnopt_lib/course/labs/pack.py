"""What a student needs for a lab, in one .zip file: the notebook and the library, no solutions."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import nnopt_lib
from nnopt_lib.checks import refuse
from nnopt_lib.course.chapters.source import Chapter
from nnopt_lib.course.labs.gradebook import Course
from nnopt_lib.files import write_atomically, writing

CHECKOUT = Path(nnopt_lib.__file__).parents[1]
README = """\
{title}

You need Python 3.11, 3.12 or 3.13, and the network once, for about 2 GB of other packages.
In the folder in which this file lies:

  python -m venv lab
  lab/bin/pip install -c constraints.txt {wheel}
  lab/bin/jupyter lab {notebook}

On Windows, write lab\\Scripts\\pip and lab\\Scripts\\jupyter instead.

Write your name into the first code cell as your teacher's list has it, work from top to bottom,
save, and hand in {notebook}.
"""


def pack(lab: Chapter, course: Course | None, out: Path) -> Path:
    """Write the bundle of a lab to `out`: the notebook that students get, the library's wheel, a README.

    The notebook is the one released in `course`, with that class's key; without a course, the committed one.
    """
    notebook = course.notebook("release", lab.name) if course else lab.notebook
    if not notebook.is_file():
        word = f"nnopt labs release {lab.name} " + (f"--course {course.folder}" if course else "--save")
        refuse(f"lab {lab.name} must have a student copy to be packed", f"no {notebook}", f"{word} makes it.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        beside = (
            notebook.parent.iterdir() if course else [notebook]
        )  # with data that a lab of one's own may have
        contents = {
            **{path.name: path.read_bytes() for path in sorted(beside) if path.is_file()},
            wheel.name: wheel.read_bytes(),
            "constraints.txt": (CHECKOUT / "constraints.txt").read_bytes(),
            "README.txt": README.format(
                title=lab.title, wheel=wheel.name, notebook=f"{lab.name}.ipynb"
            ).encode(),
        }
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{lab.name}/{name}", time.localtime()[:6])
            entry.external_attr = 0o644 << 16  # else only the owner could read what is unpacked
            file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    write_atomically(out, bundle.getvalue())
    return out


def build_wheel(folder: Path) -> Path:
    """Build the library's wheel in `folder`, from the checkout and without network."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        refuse(
            "a bundle is packed in the course's checkout", f"a library in {CHECKOUT} without pyproject.toml"
        )
    # Of a copy: setuptools leaves its build/ in the folder, and what lay there from before would go along.
    copy, made = folder / "library", folder / "wheel"
    with writing(folder):
        shutil.copytree(
            CHECKOUT / "nnopt_lib", copy / "nnopt_lib", ignore=shutil.ignore_patterns("__pycache__")
        )
        for path in (CHECKOUT / "pyproject.toml", CHECKOUT / "README.md", *CHECKOUT.glob("LICENSE*")):
            shutil.copy(path, copy)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", *offline]
    done = subprocess.run([*command, f"--wheel-dir={made}", str(copy)], capture_output=True, text=True)
    wheels = sorted(made.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        wrong = [line for line in said if "error" in line.lower()] or said or ["pip said nothing"]
        remedy = "Is there pip, setuptools 77 or later, and space? pip install -U pip setuptools."
        refuse("the library's wheel could not be built", wrong[-1][:200], remedy)
    return wheels[0]
