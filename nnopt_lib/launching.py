"""Where a chapter of the built book can be opened to be run: here, and online if the repository is public."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from nnopt_lib.checks import refuse


def repository(root: Path) -> str | None:
    """The repository's public address ``https://github.com/OWNER/NAME``, None where none is named.

    ``NNOPT_REPOSITORY`` wins over ``Repository`` in ``[project.urls]`` of pyproject.toml. Refuses an
    address that neither Colab nor Binder could open.
    """
    address, file = os.environ.get("NNOPT_REPOSITORY", ""), root / "pyproject.toml"
    if not address and file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        address = project.get("urls", {}).get("Repository", "")
    address = address.removesuffix("/").removesuffix(".git")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        refuse(
            "the repository's address must be https://github.com/OWNER/NAME",
            address,
            "Correct NNOPT_REPOSITORY or [project.urls] in pyproject.toml, or leave it out.",
        )
    return address or None


def add_launch_links(text: str, stem: str, address: str | None) -> str:
    """A chapter's first cell with links below its table of time and hardware, that open it to be run."""
    links = [f"[in JupyterLab on this machine](http://localhost:8888/lab/tree/chapters/{stem}.ipynb)"]
    if address:
        place = address.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{place}/blob/main/chapters/{stem}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{place}/main?urlpath=lab/tree/chapters/{stem}.ipynb"
        links += [f"[in Colab]({colab})", f"[on Binder]({binder})"]
    line = f"Run it: {' · '.join(links)}. [How](../book/how-to-read.md)"
    return re.sub(r"(^\| *time *\|.*\n(?:\|.*(?:\n|$))+)", rf"\1\n{line}\n", text, count=1, flags=re.M)
