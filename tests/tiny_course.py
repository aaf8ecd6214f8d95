"""A course of two tiny chapters by the template, each with one experiment that takes no time."""

from __future__ import annotations

from nnopt_lib import paths
from nnopt_lib.course.chapters import prepare as preparing
from nnopt_lib.experiments import records

CHAPTER = """\
---
kernelspec:
  display_name: Python 3
  name: python3
---

# Does it work?

Yes, it does.

## What you will learn

```{code-cell} ipython3
:tags: [parameters]

profile = "published"
recompute = False
device = "auto"
```

## The idea

```{code-cell} ipython3
import dataclasses, sys
from nnopt_lib.experiments.run import run_experiment
```

## By hand

```{code-cell} ipython3
print(f"accuracy {0.91234:.3f}")
```

## The experiment

```{code-cell} ipython3
@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int

seeds = range(2 if profile == "quick" else 3)
rows = run_experiment("NN-rows", [Settings(s) for s in seeds], lambda s: {"y": s.seed * 2}, recompute=recompute)
[row["y"] for row in rows]
```

## Where it fails

## Claims

```{code-cell} ipython3
def claim(*words): print(*words)
claim("holds")
```

## Exercises

<details>
<summary>Solution</summary>

Nothing.

</details>

## Summary

## Sources
"""


def write_course(folder, monkeypatch):
    """Make `folder` a project with the two chapters and a library of two modules; nothing else is touched."""
    (folder / "chapters").mkdir()
    (folder / "library").mkdir()
    (folder / "library" / "spec.py").write_text("one = 1\n")
    (folder / "library" / "cli.py").write_text("command = 1\n")
    (folder / "constraints.txt").write_text("torch==1\n")
    for name in ("01-first", "02-second"):
        (folder / "chapters" / f"{name}.md").write_text(CHAPTER.replace("NN-rows", f"{name[:2]}-rows"))
    monkeypatch.setenv("NNOPT_HOME", str(folder))
    monkeypatch.setenv("NNOPT_PROGRESS", "0")
    monkeypatch.setattr(preparing, "LIBRARY", folder / "library")
    for name in ("NNOPT_BUILD", "NNOPT_STORE", "NNOPT_ROWS", "NNOPT_USED"):
        monkeypatch.delenv(name, raising=False)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def published_values(experiment="01-rows"):
    """The published value of each seed."""
    published = records.read_published(experiment).values()
    return {record["settings"]["seed"]: record["rows"][0]["y"] for record in published}


def plant_row(value, seed=1, experiment="01-rows"):
    """Put another value under a published run id into the local store, as another processor would."""
    published = records.read_published(experiment).values()
    (record,) = [record for record in published if record["settings"]["seed"] == seed]
    path = paths.store_folder() / experiment / f"{record['run_id']}.json"
    records.write_record(path, {**record, "rows": [{"y": value}]})


def committed_bytes(project):
    """Bytes of all that `--save` commits."""
    files = [path for path in (project / "chapters").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(project)): path.read_bytes() for path in files}
