"""Published rows computed anew: what is compared, what is told, and what is kept for the book's page."""

from __future__ import annotations

import datetime
import json
import math
from types import SimpleNamespace

import pytest

from nnopt_lib import paths
from nnopt_lib.checks import NnoptError
from nnopt_lib.cli import main
from nnopt_lib.course.book.pages import machines_table
from nnopt_lib.course.chapters import run as running
from nnopt_lib.course.chapters import verify as verification
from nnopt_lib.course.chapters.save import save_chapter
from nnopt_lib.course.chapters.source import find_chapters
from nnopt_lib.course.chapters.verify import problems, save_report, summary, verify_chapter
from nnopt_lib.experiments import records
from nnopt_lib.results.claims import claim
from nnopt_lib.results.staleness import read_machines
from tests.published import seal
from tests.tiny_course import edit, write_course

HERE, ELSEWHERE = "AMD EPYC (R)", "Intel(R) Xeon(R)"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A course of two tiny chapters, on a machine with a name."""
    write_course(tmp_path, monkeypatch)
    origin = {"versions": {"numpy": "2"}, "hardware": {"cpu": HERE, "cores": 2}, "commit": None}
    monkeypatch.setattr(verification, "provenance", lambda: origin)
    return tmp_path


def published(experiment, values, seeds=None):
    """Publish rows by seed as another machine computed them; returns the run ids."""
    lines, ids = [], []
    for seed, rows in zip(seeds or range(len(values)), values, strict=True):
        identity = records.run_id(experiment, {"seed": seed}, "", 1)
        record = {"format": 1, "experiment": experiment, "settings": {"seed": seed}, "run_id": identity}
        record |= {"data": "", "results_version": 1, "rows": rows}
        record["provenance"] = {"hardware": {"cpu": ELSEWHERE}}
        lines.append(records._line(record))
        ids.append(identity)
    file = paths.published_file(experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))
    seal({"01": "01-first", "02": "02-second"}[experiment[:2]])
    return ids


@pytest.fixture
def computing(monkeypatch):
    """A stand-in for papermill: what it is given is what the chapters compute here, by experiment and seed."""
    computed, conclusions, ignored = {}, {}, []

    def execute(name, notebook, parameters, output, environment):
        assert parameters["recompute"] is True
        if computed.get(name) == "fails":
            raise NnoptError(f"chapter {name} failed in code cell 3: ValueError: no.")
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            for experiment, values in computed.get(name, {}).items():
                ids = []
                for seed, rows in enumerate(values):
                    identity = records.run_id(experiment, {"seed": seed}, "", 1)
                    record = {"format": 1, "experiment": experiment, "settings": {"seed": seed}}
                    record |= {"run_id": identity, "data": "", "results_version": 1, "rows": rows}
                    record["provenance"] = {}
                    records.write_record(paths.store_folder() / experiment / f"{identity}.json", record)
                    ids.append(identity)
                verification.Path(environment["NNOPT_USED"]).parent.mkdir(exist_ok=True)
                with open(environment["NNOPT_USED"], "a") as used:
                    used.write(json.dumps({"experiment": experiment, "run_ids": ids}) + "\n")
            for words in conclusions.get(name, []):
                claim(name, *words[:2], holds=words[2], rows=())
        output = {"output_type": "stream", "text": ignored}
        cell = {"cell_type": "code", "metadata": {"tags": ["nbval-ignore-output"]}, "outputs": [output]}
        return json.dumps({"cells": [cell]})

    monkeypatch.setattr(running, "execute", execute)
    return computed, conclusions, ignored


def verify(name="1", tolerance=0.01, profile="quick"):
    (chapter,) = find_chapters([name])
    return verify_chapter(chapter, tolerance, profile)


# Comparing


def test_equal_rows_are_counted_and_nothing_else_is_said(project, computing):
    rows = [[{"y": 0.5, "counts": [1, 2], "loss": math.nan}], [{"y": 1.0, "counts": [], "loss": 1}]]
    published("01-rows", [*rows, [{"y": 9.0, "counts": [], "loss": 1}]])
    computing[0]["01-first"] = {"01-rows": rows}
    report = verify(tolerance=0)
    assert (report.runs, report.differing, report.worst) == (2, 0, None)
    assert problems(report) == []
    assert summary(report) == ["01-first                 2 runs equal to within 0"]
    assert not (project / "build" / "recomputed" / "01-first").exists()


def test_rows_that_a_chapter_only_quotes_are_not_its_to_verify(project, computing):
    published("01-rows", [[{"y": 0.5}]])
    published("02-rows", [[{"y": 0.5}]])
    computing[0]["01-first"] = {"01-rows": [[{"y": 0.5}]], "02-rows": []}
    report = verify(profile="published")
    assert [one.experiment for one in report.comparisons] == ["01-rows"] and problems(report) == []


def test_what_differs_is_one_line_for_each_experiment_with_the_worst_run_and_both_machines(computing):
    ids = published("01-rows", [[{"y": 0.5}], [{"y": 0.25}], [{"y": 0.75}]])
    published("01-same", [[{"z": 1}]])
    computing[0]["01-first"] = {
        "01-rows": [[{"y": 0.501}], [{"y": 0.45}], [{"y": 0.65}]],
        "01-same": [[{"z": 1}]],
    }
    report = verify()
    assert problems(report) == [
        "01-rows: 2 of 3 runs differ by more than 0.01, at most y of run "
        f"{ids[1]}: published 0.25, computed 0.45 (published on {ELSEWHERE}; computed on {HERE})."
    ]
    assert summary(report) == ["01-first                 2 of 4 runs differ by more than 0.01"]
    assert [one.unequal for one in report.comparisons] == [3, 0]
    assert problems(verify(tolerance=0.25)) == []


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        (100.0, 101.0, 1 / 101),  # relative above 1
        (0.1, 0.11, 0.01),  # absolute below
        ("relu", "tanh", math.inf),
        (math.nan, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
        ([1, 2], [1], math.inf),
        ([1], [1, 2], math.inf),
        ([], [0], math.inf),
        ([[1, 2], 3], [[1], 3], math.inf),
        ({"a": 1}, {"a": 1, "b": 2}, math.inf),  # a name more, or less, or another
        ({"a": 1, "b": 2}, {"a": 1}, math.inf),
        ({"a": 1}, {"b": 1}, math.inf),
        ({"a": {"b": 1}}, {"a": {"b": 1.5}}, 1 / 3),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0.0),
        ([1], {"a": 1}, math.inf),
        ([1], 1, math.inf),
        (1, None, math.inf),
        (1, "1", math.inf),
        (-1.0, 1.0, 2.0),
        (math.inf, -math.inf, math.inf),
        (math.inf, math.inf, 0.0),
        ([1, [2.0]], [1, [2.5]], 0.2),
        ({"a": 1, "b_seconds": 2}, {"a": 1, "b_seconds": 9}, 0.0),
        (None, None, 0.0),
    ],
)
def test_the_distance_of_two_values(one, other, distance):
    assert max(pair[0] for pair in verification._pairs(one, other)) == pytest.approx(distance)


def test_rows_that_do_not_match_are_a_difference_with_the_number_of_the_row_among_several(computing):
    ids = published("01-rows", [[{"y": 1}, {"y": 2}], [{"y": 1}, {"y": 2}], [{"y": 1}]])
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}, {"y": 3}], [{"y": 1}, {"y": 2}], [{"y": 1}]]}
    (line,) = problems(verify())
    assert f"at most y in row 2 of run {ids[0]}: published 2, computed 3 " in line
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}], [{"y": 1}, {"y": 2}], [{"z": 1}]]}
    report = verify()
    assert report.differing == 2 and report.worst[1].field == "rows"


@pytest.mark.parametrize(
    ("here", "computed"),
    [
        ([{"y": 1, "z": 2}], [{"y": 1}]),
        ([{"y": 1}], [{"y": 1, "z": 2}]),
        ([{"y": 1}], [{"z": 1}]),
        ([{"y": 1}, {"y": 2}], [{"y": 1}]),
        ([{"y": 1}], [{"y": 1}, {"y": 2}]),
        ([{"y": 1}, {"y": 2}], [{"y": 1}, {"y": 2, "z": 3}]),
        ([{"y": 1}], []),
        ([{"y": 1, "fit_seconds": 3}], [{"y": 1}]),  # a time is not compared, but it is there
        ([{"y": [1, 2]}], [{"y": [1]}]),
        ([{"y": [1]}], [{"y": [1, 2]}]),
        ([{"y": {"a": 1}}], [{"y": {"a": 1, "b": 2}}]),
        ([{"y": {"a": 1, "b": 2}}], [{"y": {"a": 1}}]),
    ],
)
def test_a_field_a_row_or_an_item_more_or_less_is_a_difference_that_no_tolerance_allows(
    computing, here, computed
):
    ids = published("01-rows", [here, [{"y": 5}]])
    computing[0]["01-first"] = {"01-rows": [computed, [{"y": 5}]]}
    report = verify(tolerance=1e9)
    assert (report.runs, report.differing) == (2, 1)
    experiment, worst = report.worst
    assert (experiment, worst.run_id, worst.distance) == ("01-rows", ids[0], math.inf)


def test_a_run_that_was_noted_but_left_no_record_is_a_difference(computing, monkeypatch):
    published("01-rows", [[{"y": 1}]])
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}]]}
    monkeypatch.setattr(verification, "read_record", lambda path: None)
    report = verify(tolerance=1e9)
    assert (report.runs, report.differing, report.worst[1].computed) == (1, 1, None)


def test_times_are_not_compared(computing):
    published("01-rows", [[{"y": 1, "fit_seconds": 5.0, "images_per_second": 3}], [{"y": 2}]])
    published("01-latency", [[{"milliseconds": 5.0, "low": 4.0}]])
    computing[0]["01-first"] = {
        "01-rows": [[{"y": 1, "fit_seconds": 9.0, "images_per_second": 7}], [{"y": 2}]],
        "01-latency": [[{"milliseconds": 50.0, "low": 40.0}]],
    }
    report = verify()
    assert (report.runs, problems(report)) == (2, [])


def test_a_chapter_that_shares_no_run_or_fails_is_a_problem(computing):
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}]]}
    assert problems(verify()) == [
        "the quick profile of 01-first must share runs with its published rows; received none. "
        "Run nnopt run 01 --save first."
    ]
    computing[0]["01-first"] = "fails"
    report = verify()
    assert problems(report) == ["chapter 01-first failed in code cell 3: ValueError: no."]
    assert summary(report) == ["01-first                 nothing compared"]


def test_damaged_lines_are_listed_by_file_and_number(project, computing):
    published("01-rows", [[{"y": 1}], [{"y": 2}]])
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}], [{"y": 2}]]}
    file = paths.published_file("01-rows")
    edit(file, '"y": 2', '"y": 3')
    report = verify()
    remedy = "take the file from git or run nnopt run 01 --save"
    assert problems(report) == [f"{file} line 2 does not match its own sha256; {remedy}."]
    assert report.runs == 1


# Conclusions


def test_the_published_profile_compares_conclusions_but_those_about_times(project, computing):
    computed, conclusions, ignored = computing
    published("01-rows", [[{"y": 1}], [{"y": 2}]])
    computed["01-first"] = {"01-rows": [[{"y": 1}]]}
    conclusions["01-first"] = [
        ("same", "So it is.", True),
        ("digit", "It is 2.1 points.", True),
        ("moved", "It is above 0.", True),
        ("time", "It takes 3 ms.", True),
        ("latency-eager", "Half.", True),
    ]
    for words in conclusions["01-first"]:
        claim("01-first", *words[:2], holds=words[2], rows=())
    folder = paths.published_file("01-first").parent / "claims"
    folder.mkdir()
    (project / "build" / "claims" / "01-first.json").rename(folder / "01-first.json")
    seal("01-first")
    assert verify(profile="quick").claims is None
    report = verify(profile="published")
    assert (report.claims, report.changed) == (
        4,
        [],
    )
    conclusions["01-first"] = [
        ("same", "So it is.", True),
        ("digit", "It is 2.2 points.", True),
        ("moved", "It is above 0.", False),
        ("time", "It takes 4 ms.", False),
        ("latency-eager", "A third.", False),
    ]
    ignored.append("✗ does not hold here: It takes 4 ms.\n")
    report = verify(profile="published")
    assert report.claims == 3
    assert [(one["id"], one["moved"]) for one in report.changed] == [("digit", False), ("moved", True)]
    assert problems(report) == [
        f"01-rows: 1 published runs are not asked for here (published on {ELSEWHERE}; computed on {HERE}).",
        "01-first: the verdict on moved moves: published '✓ It is above 0.', "
        f"computed '✗ does not hold here: It is above 0.' (computed on {HERE}).",
    ]
    assert summary(report)[1:5] == [
        f"{'':24} 3 claims: 2 read otherwise, 1 change verdict",
        "  digit",
        "    published: ✓ It is 2.1 points.",
        "    computed:  ✓ It is 2.2 points.",
    ]


# The command, and the book's page


def test_all_chapters_are_gone_through_before_the_command_fails(computing, capsys):
    ids = published("01-rows", [[{"y": 1}]])
    published("02-rows", [[{"y": 2}]])
    computing[0].update({"01-first": {"01-rows": [[{"y": 5}]]}, "02-second": {"02-rows": [[{"y": 2}]]}})
    assert main(["results", "verify"]) == 1
    out, err = capsys.readouterr()
    assert out == (
        "01-first                 1 of 1 runs differ by more than 0.01\n"
        "02-second                1 runs equal to within 0.01\n"
    )
    assert err == (
        f"nnopt: 01-rows: 1 of 1 runs differ by more than 0.01, at most y of run {ids[0]}: published 1, "
        f"computed 5 (published on {ELSEWHERE}; computed on {HERE}).\n"
    )
    assert main(["results", "verify", "02"]) == 0
    assert read_machines() == []


def test_what_was_seen_is_kept_by_machine_chapter_and_profile_and_shown(project, computing, capsys):
    published("01-rows", [[{"y": 0.5}], [{"y": 0.25}]])
    published("02-rows", [[{"y": 2}]])
    computing[0].update({"01-first": {"01-rows": [[{"y": 0.501}], [{"y": 0.45}]]}})
    computing[0]["02-second"] = {"02-rows": [[{"y": 2}]]}
    assert main(["results", "verify", "02", "--save"]) == 0
    assert main(["results", "verify", "01", "--save"]) == 1
    file = project / "chapters" / "results" / "machines" / "amd-epyc.json"
    assert str(file) in capsys.readouterr().out
    (machine,) = read_machines()
    assert machine["cpu"] == HERE and list(machine["chapters"]) == ["01-first", "02-second"]
    seen = machine["chapters"]["01-first"]["quick"]
    assert (seen["runs"], seen["unequal"], seen["differing"], seen["absent"]) == (2, 2, 1, 0)
    assert (seen["worst"]["field"], seen["worst"]["published"], seen["worst"]["computed"]) == (
        "y",
        0.25,
        0.45,
    )
    assert seen["versions"] == {"numpy": "2"} and seen["hardware"]["cores"] == 2 and len(seen["date"]) == 10

    table = machines_table({"01-first": "Does it?"}, [machine]).splitlines()
    where = f"{HERE}, {seen['date']}; published on {ELSEWHERE}"
    assert table[2:] == [
        f"| {where} | [01 · Does it?](../chapters/01-first.ipynb) | 2 | 2, 1 by more than 0.01 | "
        "y of `01-rows`: 0.25 published, 0.45 there | not compared (quick profile) |",
        f"| {where} | 02 | 1 | none | – | not compared (quick profile) |",
    ]


def test_a_report_is_dated_by_the_day_on_which_it_was_saved_everywhere_on_earth(computing, monkeypatch):
    published("01-rows", [[{"y": 1}]])
    computing[0]["01-first"] = {"01-rows": [[{"y": 1}]]}
    report = verify()

    days = iter((30, 31))

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            assert tz is datetime.UTC
            return cls(2031, 12, next(days), 23, 59, 59, tzinfo=tz)

    monkeypatch.setattr(verification, "datetime", SimpleNamespace(datetime=Clock, UTC=datetime.UTC))
    for date in ("2031-12-30", "2031-12-31"):  # a later report replaces an earlier one, with its date
        save_report(report)
        (machine,) = read_machines()
        assert machine["chapters"]["01-first"]["quick"]["date"] == date
        assert f"| {HERE}, {date}; published on " in machines_table({}, [machine])


def test_the_published_profile_is_shown_before_the_quick_one_with_what_would_move():
    moved = {"id": "b", "published": "It is | so.", "computed": "It is not.", "moved": True}
    seen = {"date": "2026-01-02", "published_on": [ELSEWHERE], "tolerance": 0.01, "runs": 9, "unequal": 0}
    seen |= {"differing": 0, "absent": 2, "worst": None, "claims": 5}
    by_profile = {
        "quick": {},
        "published": {**seen, "changed": [moved, {**moved, "id": "a", "moved": False}]},
    }
    table = machines_table({}, [{"cpu": HERE, "chapters": {"01-first": by_profile}}])
    assert table.endswith(
        "| 9 | none; 2 more are not asked for there | – | `b`: “It is \\| so.” becomes “It is not.”; "
        "1 read otherwise in a digit |"
    )
    by_profile["published"]["changed"] = []
    assert machines_table({}, [{"cpu": HERE, "chapters": {"01-first": by_profile}}]).endswith("| none of 5 |")
    assert machines_table({}, []) == "Nobody has compared another machine yet."


@pytest.mark.notebook
def test_a_real_kernel_computes_apart_and_disturbs_nothing(project, monkeypatch):
    (chapter,) = find_chapters(["1"])
    monkeypatch.setenv("NNOPT_STORE", str(project / "mine"))
    save_chapter(chapter)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    report = verify_chapter(chapter, tolerance=0)
    assert (report.runs, problems(report)) == (2, [])  # the quick profile's two seeds
    after = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {"01-first.lock"}
    edit(chapter.source, "s.seed * 2}", "s.seed * 3}")
    assert problems(verify_chapter(chapter, 0.01))[0].startswith(
        "01-rows: 1 of 2 runs differ by more than 0.01, at most y of run "
    )
    assert save_report(verify_chapter(chapter, 0.01)).name == "amd-epyc.json"
