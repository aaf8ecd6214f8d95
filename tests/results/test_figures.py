"""Figures are saved with their rows, drawn again from them, and verified against them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from nnopt_lib import figures
from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.records import sealed
from nnopt_lib.experiments.rows import Row
from tests.published import seal
from tests.results.kinds import CURVES, INTERVALS, KINDS, ROOFLINE

RUNS = [Row({"seed": seed}, experiment=name) for name in ("01-runs", "01-other-runs") for seed in range(2)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A project in which each kind of figure was saved once (drawing takes its time)."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNOPT_HOME", str(folder))
        for kind in KINDS:
            save(kind, name=f"01-{kind}")
    return folder


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(home))


def save(kind, name="01-demo", **changes):
    rows, options = KINDS[kind]
    return figures.save_figure(
        name, rows, kind, alt="What it shows.", **{"rests_on": (), **options, **changes}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_saved_in_all_forms_with_its_rows_and_manifest(kind, home):
    name, folder = f"01-{kind}", home / "build" / "figures" / f"01-{kind}"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.{ending}" for ending in ("svg", "pdf", "png", "csv", "tex", "bib", "manifest.json")),
        "figure.json",
    }
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
    assert [{k: v for k, v in row.items() if v} for row in rows] == [
        {k: json.dumps(v) if isinstance(v, list) else str(v) for k, v in row.items() if v is not None}
        for row in KINDS[kind][0]
    ]
    manifest = json.loads((folder / f"{name}.manifest.json").read_text())
    assert manifest["kind"] == kind and manifest["versions"]["numpy"] and len(manifest["rows_sha256"]) == 64
    if kind == "intervals":
        assert (manifest["run_ids"], manifest["seeds"]) == (["a", "b"], [0, 1])


def test_a_notebook_shows_picture_and_alternative_text(home):
    bundle, metadata = save("intervals")._repr_mimebundle_()
    stored = home / "build" / "figures" / "01-demo" / "01-demo.png"
    assert bundle == {"image/png": stored.read_bytes(), "text/plain": "What it shows."}
    assert bundle["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["alt"] == "What it shows."


def test_redrawing_equal_rows_gives_equal_bytes(home, tmp_path):
    figures.redraw("01-curves", out=tmp_path)
    for form in figures.FORMATS:
        first = home / "build" / "figures" / "01-curves" / f"01-curves.{form}"
        assert (tmp_path / first.name).read_bytes() == first.read_bytes()


def test_a_published_figure_is_redrawn_without_a_run(home, tmp_path, monkeypatch):
    published = tmp_path / "chapters" / "results" / "figures"
    published.mkdir(parents=True)
    made = home / "build" / "figures" / "01-intervals"
    (published / "01-intervals.json").write_bytes((made / "figure.json").read_bytes())
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    seal("01-first")
    assert figures.list_figures() == ["01-intervals"]
    monkeypatch.setattr(figures, "provenance", lambda: {"commit": "of another machine"})
    written = figures.redraw("01-intervals", formats=["svg"], out=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "01-intervals.manifest.json").read_text())
    assert manifest["versions"]["numpy"] and manifest["commit"] != "of another machine"
    endings = {"svg", "csv", "tex", "bib", "manifest.json"}
    assert {path.name for path in written} == {f"01-intervals.{ending}" for ending in endings}
    assert written[0].read_bytes() == (made / "01-intervals.svg").read_bytes()


def test_the_readmes_picture_is_the_published_figure(home, monkeypatch, tmp_path):
    root = Path(__file__).parents[2]
    monkeypatch.setenv("NNOPT_HOME", str(root))
    figures.redraw("09-fronts", formats=("svg",), out=tmp_path)
    assert (tmp_path / "09-fronts.svg").read_bytes() == (
        root / "book" / "_static" / "09-fronts.svg"
    ).read_bytes()


def test_paper_style_has_column_width_and_embedded_fonts(home, tmp_path):
    written = figures.redraw("01-curves", style="paper", width_inches=3.3, formats=["pdf"], out=tmp_path)
    content = written[0].read_bytes()
    width, _ = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content).groups()
    assert float(width) == pytest.approx(3.3 * 72, abs=0.01)
    assert b"/FontFile2" in content and b"/Type3" not in content


@pytest.fixture
def paper(home, tmp_path, monkeypatch):
    """A project with one published figure, its chapter and a bibliography, and the figure drawn for a paper."""
    root, folder = tmp_path / "project", tmp_path / "paper"
    for name in ("chapters/results/figures", "book"):
        (root / name).mkdir(parents=True)
    made = home / "build" / "figures" / "01-intervals" / "figure.json"
    (root / "chapters/results/figures/01-intervals.json").write_bytes(made.read_bytes())
    (root / "chapters/01-first.md").write_text("As {cite}`ada1843notes` and {cite:t}`bob2000other, eve` say.")
    entry = "@article{%s,\n author = {Lovelace, Ada},\n title = {{Notes}},\n year = {1843}\n}\n"
    bib = "".join(entry % key for key in ("ada1843notes", "bob2000other", "nobody"))
    (root / "book/references.bib").write_text(bib)
    monkeypatch.setenv("NNOPT_HOME", str(root))
    seal("01-first")
    figures.redraw("01-intervals", style="paper", width_inches=3.25, formats=["pdf", "svg"], out=folder)
    return root, folder


def test_what_is_published_is_drawn_unless_ones_own_is_asked_for(paper, tmp_path):
    root, _ = paper
    figure = json.loads((root / "chapters/results/figures/01-intervals.json").read_text())
    figure["rows"][0]["mean"] = 0.945
    made = root / "build/figures/01-intervals"
    made.mkdir(parents=True)
    (made / "figure.json").write_text(json.dumps(sealed(figure)))
    for own, mean in ((False, "0.94"), (True, "0.945")):
        figures.redraw("01-intervals", formats=["svg"], out=tmp_path / "out", own=own)
        assert (tmp_path / "out/01-intervals.csv").read_text().splitlines()[1].split(",")[1] == mean
        assert set(figures.verify(tmp_path / "out").values()) == {"same"}


def test_a_paper_is_verified_as_long_as_nothing_changed(paper):
    _, folder = paper
    endings = ("pdf", "svg", "csv", "tex", "bib")
    assert figures.verify(folder) == {f"01-intervals.{ending}": "same" for ending in endings}


@pytest.mark.parametrize("rests_on", [RUNS, (RUNS[:1], [RUNS[1:]])], ids=["list", "nested"])
def test_a_summary_rests_on_the_experiments_of_the_rows_that_it_was_made_from(home, rests_on):
    save("intervals", rests_on=rests_on)
    figure = json.loads((home / "build/figures/01-demo/figure.json").read_text())
    assert figure["rests_on"] == ["01-runs", "01-other-runs"]
    manifest = json.loads((home / "build/figures/01-demo/01-demo.manifest.json").read_text())
    assert manifest["rests_on"] == figure["rests_on"] and manifest["run_ids"] == ["a", "b"]


def test_rows_of_an_experiment_that_are_drawn_themselves_are_what_a_figure_rests_on(home):
    drawn = [Row(row, experiment="01-runs") for row in INTERVALS]
    figures.save_figure("01-demo", drawn, "intervals", x_label="accuracy", alt="A.")
    figure = json.loads((home / "build/figures/01-demo/figure.json").read_text())
    assert figure["rests_on"] == ["01-runs"] and figure["rows"] == INTERVALS


def test_a_picture_of_no_stored_rows_says_so(home):
    save("curves", rests_on=())
    assert json.loads((home / "build/figures/01-demo/figure.json").read_text())["rests_on"] == []


def test_verify_tells_hands_rows_and_loss_apart(paper):
    root, folder = paper
    (folder / "01-intervals.tex").write_text("polished")
    (folder / "01-intervals.svg").unlink()
    assert figures.verify(folder) == {
        "01-intervals.pdf": "same",
        "01-intervals.svg": "missing",
        "01-intervals.csv": "same",
        "01-intervals.tex": "changed by hand",
        "01-intervals.bib": "same",
    }
    published = root / "chapters/results/figures/01-intervals.json"
    figure = json.loads(published.read_text())
    figure["rows"][0]["mean"] = 0.945
    published.write_text(json.dumps(figure))
    seal("01-first")
    verdicts = figures.verify(folder)
    assert verdicts["01-intervals.pdf"] == verdicts["01-intervals.csv"] == "stale, since its rows changed"
    assert verdicts["01-intervals.tex"] == "changed by hand" and verdicts["01-intervals.bib"] == "same"
    (root / "chapters/01-first.md").write_text("As {cite}`nobody` says.")
    assert figures.verify(folder)["01-intervals.bib"] == "stale, since what its chapter cites changed"
    published.unlink()
    assert set(figures.verify(folder).values()) == {"no longer a figure"}


def test_verify_names_the_row_file_that_changed_under_a_figure(paper):
    root, folder = paper
    published, rows = (
        root / "chapters/results/figures/01-intervals.json",
        root / "chapters/results/01-runs.jsonl",
    )
    figure = {**json.loads(published.read_text()), "rests_on": ["01-runs"]}
    published.write_text(json.dumps(figure))
    rows.write_text("{}")
    seal("01-first", ["01-runs"])
    assert set(figures.verify(folder).values()) == {"same"}
    rows.write_text("{ }")
    verdicts = figures.verify(folder)
    assert verdicts.pop("01-intervals.bib") == "same"
    assert set(verdicts.values()) == {"stale, since chapters/results/01-runs.jsonl changed"}


@pytest.fixture
def own(paper, tmp_path):
    """Beside the published figure one of one's own with another mean, drawn: its file, and the folder drawn to."""
    root, _ = paper
    published = root / "chapters/results/figures/01-intervals.json"
    figure = {**json.loads(published.read_text()), "rests_on": ["01-runs"]}
    figure["rows"][0]["mean"] = 0.945
    made = root / "build/figures/01-intervals/figure.json"
    made.parent.mkdir(parents=True)
    made.write_text(json.dumps(sealed(figure)))
    figures.redraw("01-intervals", formats=["svg"], out=tmp_path / "own", own=True)
    return made, tmp_path / "own"


def with_mean(file, mean):
    figure = json.loads(file.read_text())
    figure["rows"][0]["mean"] = mean
    file.write_text(json.dumps(sealed(figure)))
    if "results" in file.parts:
        seal("01-first")


def test_verify_compares_ones_own_figure_with_what_this_machine_saved_last(own):
    made, folder = own
    assert figures.verify(folder) == {f"01-intervals.{end}": "same" for end in ("svg", "csv", "tex", "bib")}
    with_mean(made, 0.944)
    changed = dict.fromkeys(("svg", "csv", "tex"), "stale, since its rows changed")
    assert figures.verify(folder) == {
        f"01-intervals.{end}": v for end, v in {**changed, "bib": "same"}.items()
    }
    with_mean(made, 0.945)
    (folder / "01-intervals.tex").write_text("polished")
    (folder / "01-intervals.csv").unlink()
    verdicts = {"svg": "same", "csv": "missing", "tex": "changed by hand", "bib": "same"}
    assert figures.verify(folder) == {f"01-intervals.{end}": verdict for end, verdict in verdicts.items()}


def test_what_is_published_makes_ones_own_figure_not_stale_and_the_other_way_round(own, paper):
    made, folder = own
    root, printed = paper
    with_mean(root / "chapters/results/figures/01-intervals.json", 0.941)
    (root / "chapters/results/01-runs.jsonl").write_text("{}")  # rows that no saved chapter has noted
    assert set(figures.verify(folder).values()) == {"same"}
    assert figures.verify(printed)["01-intervals.svg"] == "stale, since its rows changed"
    with_mean(root / "chapters/results/figures/01-intervals.json", 0.94)
    with_mean(made, 0.944)
    assert figures.verify(folder)["01-intervals.svg"] == "stale, since its rows changed"
    assert set(figures.verify(printed).values()) == {"same"}


def test_a_figure_that_was_just_saved_is_verified_where_it_was_saved(home):
    save("intervals", name="01-own")
    folder = home / "build/figures/01-own"
    assert set(figures.verify(folder).values()) == {"same"} and len(figures.verify(folder)) == 6
    with_mean(folder / "figure.json", 0.944)
    assert figures.verify(folder)["01-own.pdf"] == "stale, since its rows changed"


def test_a_figure_that_was_just_saved_is_ones_own_even_if_another_is_published(paper):
    root, _ = paper
    changed = [{**INTERVALS[0], "mean": 0.945}, INTERVALS[1]]
    figures.save_figure("01-intervals", changed, "intervals", x_label="accuracy", alt="A.", rests_on=RUNS)
    verdicts = figures.verify(root / "build/figures/01-intervals")
    assert len(verdicts) == 6 and set(verdicts.values()) == {"same"}


def test_verify_says_of_every_figure_of_a_folder_what_became_of_it(own, tmp_path):
    _, folder = own
    root = folder.parent / "project"
    published = root / "chapters/results/figures/01-second.json"
    published.write_text((root / "chapters/results/figures/01-intervals.json").read_text())
    figure = {**json.loads(published.read_text()), "name": "01-second"}
    published.write_text(json.dumps(figure))
    seal("01-first")
    figures.redraw("01-second", formats=["svg"], out=folder)
    assert len(figures.verify(folder)) == 8 and set(figures.verify(folder).values()) == {"same"}
    published.unlink()
    verdicts = figures.verify(folder)
    assert {file[:9]: verdict for file, verdict in verdicts.items()} == {
        "01-interv": "same",
        "01-second": "no longer a figure",
    }


def test_a_manifest_says_with_which_words_it_was_drawn(paper, tmp_path):
    _, folder = paper
    manifest = json.loads((folder / "01-intervals.manifest.json").read_text())
    words = {"style": "paper", "width_inches": 3.25, "formats": ["pdf", "svg"], "own": False}
    assert manifest["drawn"] == words


def test_verify_needs_a_manifest_that_can_be_read(paper, tmp_path):
    with pytest.raises(NnoptError) as error:
        figures.verify(tmp_path / "nowhere")
    rule = "--verify needs a folder that nnopt figures --out has written, with a .manifest.json"
    assert str(error.value) == f"{rule}; received {tmp_path / 'nowhere'}."
    manifest = paper[1] / "01-intervals.manifest.json"
    manifest.write_text("{}")
    with pytest.raises(NnoptError) as error:
        figures.verify(paper[1])
    rule = f"{manifest} must be a whole manifest of nnopt figures; received KeyError('name')."
    assert str(error.value) == f"{rule} Draw the figure again."


def test_an_out_folder_that_is_a_file_leaves_the_file_as_it_was(paper, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NnoptError) as error:
        figures.redraw("01-intervals", out=tmp_path / "out")
    assert (
        str(error.value)
        == f"out must be a folder, there or to be made; received the file {tmp_path / 'out'}."
    )
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: save("intervals", name="demo"),
            "a figure's name must begin with its chapter's number and -; received 'demo'. As 01-held-out.",
        ),
        (
            lambda: save("intervals", xlabel="a"),
            "figure 01-demo: intervals has no option 'xlabel'. Did you mean 'x_label'?",
        ),
        (
            lambda: save("curves", y_brake=(1, 2)),
            "figure 01-demo: curves has no option 'y_brake'. Did you mean 'y_break'?",
        ),
        (
            lambda: figures.save_figure(
                "01-demo", CURVES, "curves", alt="A.", x="width", y="seconds", x_label="w"
            ),
            "figure 01-demo: curves needs the option 'y_label'.",
        ),
        (
            lambda: save("intervals", name="01-/../../x"),
            "a figure's name must begin with its chapter's number and -; received '01-/../../x'. As 01-held-out.",
        ),
        (
            lambda: save("intervals", mark="print"),
            "the rows of figure 01-demo must have the field 'print'; received "
            "['high', 'label', 'low', 'mean', 'printed', 'run_id', 'seed'].",
        ),
        (lambda: save("curves", low=None), "a band needs both low and high; received low=None, high='high'."),
        (
            lambda: figures.save_figure("01-demo", ROOFLINE[1:], "roofline", alt="A.", rests_on=()),
            "a roofline needs one row of kind 'roof'; received none.",
        ),
        (
            lambda: save("curves", y="second"),
            "the rows of figure 01-demo must have the field 'second'; received "
            "['high', 'low', 'seconds', 'series', 'width'].",
        ),
        (
            lambda: figures.save_figure("01-demo", CURVES, "curve", alt="A."),
            "kind must be one of intervals, curves, bars, pairs, images, roofline, graph, contours; received 'curve'. Did you mean 'curves'?",
        ),
        (
            lambda: figures.save_figure("01-demo", [], "roofline", alt="A."),
            "figure 01-demo needs at least one row; received none.",
        ),
        (
            lambda: figures.save_figure("01-demo", ROOFLINE, "roofline", alt=" "),
            "figure 01-demo needs an alternative text; received ' '.",
        ),
        (
            lambda: save("intervals", rests_on=None),
            "the rows of figure 01-demo must be rows as run_experiment returns them, which know their experiment; "
            "received a plain dictionary with the fields label, mean, low, high, printed, run_id, seed. "
            "Pass rests_on=<the rows that these were summarized from>, "
            "or rests_on=() for a picture of no stored rows.",
        ),
        (
            lambda: save("intervals", rests_on=INTERVALS),
            "rests_on of figure 01-demo must be rows as run_experiment returns them, which know their experiment; "
            "received a plain dictionary with the fields label, mean, low, high, printed, run_id, seed. "
            "Pass () for a picture of no stored rows.",
        ),
        (
            lambda: figures.redraw("01-curve"),
            "there is no figure '01-curve'. Did you mean '01-curves'?",
        ),
        (
            lambda: figures.redraw("01-demo", style="papper"),
            "style must be one of screen, paper; received 'papper'. Did you mean 'paper'?",
        ),
        (
            lambda: figures.redraw("01-demo", width_inches=0),
            "width_inches must be a finite number, at least 1.0, below 100; received 0.",
        ),
        (
            lambda: figures.redraw("01-demo", width_inches=float("nan")),
            "width_inches must be a finite number, at least 1.0, below 100; received nan.",
        ),
        (
            lambda: figures.redraw("01-demo", width_inches=-3.25),
            "width_inches must be a finite number, at least 1.0, below 100; received -3.25.",
        ),
        (
            lambda: figures.redraw("01-demo", width_inches=3.25e4),
            "width_inches must be a finite number, at least 1.0, below 100; received 32500.",
        ),
        (
            lambda: figures.redraw("01-demo", formats=["gif"]),
            "format must be one of svg, pdf, png; received 'gif'.",
        ),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
