"""What is published, read back, and which row file made it stale."""

from __future__ import annotations

import dataclasses
import json

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.records import read_published, write_record
from nnopt_lib.experiments.run import run_experiment
from nnopt_lib.paths import published_file
from nnopt_lib.results import figures
from nnopt_lib.results.claims import claim, replay
from nnopt_lib.results.seals import read_status
from nnopt_lib.results.staleness import (
    check_fresh,
    read_claims,
    stale_rows,
)
from tests.published import publish, seal


@pytest.fixture
def results(tmp_path, monkeypatch):
    """One chapter that was saved with two experiments, and whose claim rests on the first."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    folder = tmp_path / "chapters" / "results"
    (folder / "claims").mkdir(parents=True)
    for name in ("01-one", "01-two"):
        (folder / f"{name}.jsonl").write_text('{"y": 1}\n')
    claim = {"chapter": "01-first", "id": "more", "kind": "claim", "rests_on": ["01-one"]}
    (folder / "claims" / "01-first.json").write_text(json.dumps([claim]))
    seal("01-first", ["01-two", "01-one"])
    return folder


def test_rows_as_they_were_are_not_stale(results):
    assert list(read_claims()) == ["01-first/more"]
    assert stale_rows("01", ["01-one", "01-two"], read_status()) == []
    check_fresh(read_claims())


def test_only_what_rests_on_a_changed_file_is_stale_and_the_file_is_named(results):
    (results / "01-two.jsonl").write_text('{"y": 2}\n')
    check_fresh(read_claims())
    (results / "01-one.jsonl").write_text('{"y": 2}\n')
    with pytest.raises(NnoptError) as error:
        check_fresh({"the claim 01-first/more": read_claims()["01-first/more"]})
    assert str(error.value) == (
        "stale, since chapters/results/01-one.jsonl changed: the claim 01-first/more. Run nnopt run 01 --save."
    )


def test_what_cannot_be_known_is_not_taken_for_fresh(results):
    (results / "01-two.jsonl").unlink()
    (results / "01-new.jsonl").write_text("")
    assert stale_rows("01-first", ["01-new", "01-one", "01-two"], read_status()) == [
        "chapters/results/01-new.jsonl was not noted when the chapter was saved",
        "chapters/results/01-two.jsonl is missing",
    ]
    with pytest.raises(NnoptError) as error:
        check_fresh({"old": {"chapter": "01-first"}})
    assert str(error.value) == (
        "stale, since they do not say which rows they rest on: old. Run nnopt run 01 --save."
    )


# From rows to what rests on them, and back when a row changes


@dataclasses.dataclass(frozen=True)
class Setting:
    seed: int


EXPERIMENTS = ("01-left", "01-right", "01-unused")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A project whose chapter is saved: three experiments, statements and figures on one, two or none."""
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    for variable in ("NNOPT_BUILD", "NNOPT_STORE", "NNOPT_USED", "NNOPT_ROWS"):
        monkeypatch.delenv(variable, raising=False)
    rows = {
        name: run_experiment(name, [Setting(0), Setting(1)], lambda setting: {"y": setting.seed})
        for name in EXPERIMENTS
    }
    left, right, _ = rows.values()
    claim("01-first", "left", "Left.", holds=True, rows=left)
    claim("01-first", "both", "Both.", holds=True, rows=(left, right))
    claim("01-first", "none", "None.", holds=True, rows=())
    common = {"quantity": "q", "published": 1, "measured": (1, 1, 1), "mark": "V", "source": "s"}
    replay("01-first", "right", rows=[row for row in right if row["y"] == 1], **common)
    options = {"x": "seed", "y": "y", "x_label": "seed", "y_label": "y", "alt": "A line."}
    figures.save_figure("01-right", right, "curves", **options)
    figures.save_figure("01-both", [{"seed": 0, "y": 1}], "curves", rests_on=rows.values(), **options)
    figures.save_figure("01-none", [{"seed": 0, "y": 1}], "curves", rests_on=(), **options)
    _save(tmp_path, rows)
    return tmp_path


def _save(project, rows):
    """Publish what `nnopt run --save` would, and draw the published figures for a paper."""
    for name, published in rows.items():
        publish(name, [row["run_id"] for row in published])
    folder = project / "chapters" / "results"
    for name in ("claims", "figures"):
        (folder / name).mkdir()
    (project / "build" / "claims" / "01-first.json").rename(folder / "claims" / "01-first.json")
    for path in (project / "build" / "figures").iterdir():
        (path / "figure.json").rename(folder / "figures" / f"{path.name}.json")
    seal("01-first", rows)
    for path in (project / "build" / "figures").iterdir():
        figures.redraw(path.name, formats=["svg"], out=project / "paper")


def change_a_row(experiment):
    """Another value in one published record, sealed anew, as a run of other code would publish it."""
    file = published_file(experiment)
    lines = file.read_text().splitlines(keepends=True)
    record = next(iter(read_published(experiment).values()))
    write_record(file.with_suffix(".new"), {**record, "rows": [{"y": 7}]})
    file.write_text(file.with_suffix(".new").read_text() + "".join(lines[1:]))


def stale_files(project):
    """The pictures that --verify calls stale, with its reason."""
    verdicts = figures.verify(project / "paper")
    return {
        name: verdict for name, verdict in verdicts.items() if name.endswith(".svg") and verdict != "same"
    }


def test_nothing_is_stale_as_long_as_no_row_changes(saved):
    check_fresh(read_claims())
    assert stale_files(saved) == {}


@pytest.mark.parametrize(
    ("experiment", "claims", "pictures"),
    [
        ("01-left", ["01-first/left", "01-first/both"], ["01-both.svg"]),
        ("01-right", ["01-first/both", "01-first/right"], ["01-both.svg", "01-right.svg"]),
        ("01-unused", [], ["01-both.svg"]),
    ],
)
def test_a_changed_row_makes_stale_exactly_what_rests_on_it_and_names_it(saved, experiment, claims, pictures):
    change_a_row(experiment)
    reason = f"chapters/results/{experiment}.jsonl changed"
    assert stale_files(saved) == dict.fromkeys(pictures, f"stale, since {reason}")
    status = read_status()
    stale = {
        name: reasons
        for name, record in read_claims().items()
        if (reasons := stale_rows("01-first", record["rests_on"], status))
    }
    assert stale == {name: [reason] for name in claims}
    if claims:
        with pytest.raises(NnoptError) as error:
            check_fresh(read_claims())
        sentence = f"stale, since {reason}: {'; '.join(claims)}. Run nnopt run 01 --save."
        assert str(error.value) == sentence
    else:
        check_fresh(read_claims())
