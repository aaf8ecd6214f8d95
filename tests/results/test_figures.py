import csv
import json
import re
from pathlib import Path

import pytest

from nnopt_lib import figures
from nnopt_lib.checks import NnoptError
from nnopt_lib.results import exports as papers
from nnopt_lib.results import plots as drawing
from nnopt_lib.results.staleness import row_hashes

INTERVALS = [
    {"label": "network", "mean": 0.94, "low": 0.93, "high": 0.95, "printed": 0.97, "run_id": "b", "seed": 1},
    {"label": "logistic", "mean": 0.92, "low": 0.91, "high": 0.93, "printed": 0.94, "run_id": "a", "seed": 0},
]
CURVES = [
    {"width": w, "seconds": w * s, "low": w * s * 0.9, "high": w * s * 1.1, "series": f"batch {s}"}
    for s in (1, 2, 3)
    for w in (1, 2, 4, 8)
]
ROOFLINE = [
    {"kind": "roof", "flops_per_second": 2e11, "bytes_per_second": 1e10},
    {"kind": "point", "label": "batch 1", "intensity": 0.5, "flops_per_second": 4e9},
    {"kind": "point", "label": "batch 256", "intensity": 60.0, "flops_per_second": 1.5e11},
]
GRAPH = [{"kind": "node", "label": label, "group": "8 nodes"} for label in ("stem", "side", "sum")]
GRAPH += [{"kind": "node", "label": "head", "group": None}]
GRAPH += [
    {"kind": "edge", "source": source, "target": target}
    for source, target in (("stem", "side"), ("side", "sum"), ("stem", "sum"), ("sum", "head"))
]
KINDS = {
    "intervals": (INTERVALS, {"x_label": "accuracy", "mark": "printed", "mark_label": "printed"}),
    "curves": (
        CURVES,
        {"x": "width", "y": "seconds", "low": "low", "high": "high", "series": "series", "x_label": "width"}
        | {"y_label": "seconds", "x_log": True, "steps": True},
    ),
    "bars": (
        [{"label": "first", "a": 0.2, "b": 0.7}, {"label": "second", "a": 0.8, "b": 0.3}],
        {"fields": {"a": "parameters", "b": "MACs"}, "x_label": "share"},
    ),
    "roofline": (ROOFLINE, {}),
    "graph": (GRAPH, {}),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A project in which each kind of figure was saved once (drawing takes its time)."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNOPT_HOME", str(folder))
        patch.setattr("nnopt_lib.experiments.run._READ", {})  # what other tests of this process have read
        for kind in KINDS:
            save(kind, name=f"01-{kind}")
    return folder


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(home))


def save(kind, name="01-demo", **changes):
    rows, options = KINDS[kind]
    return figures.save_figure(name, rows, kind, alt="What it shows.", **{**options, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_saved_in_all_forms_with_its_rows_and_manifest(kind, home):
    name, folder = f"01-{kind}", home / "build" / "figures" / f"01-{kind}"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.{ending}" for ending in ("svg", "pdf", "png", "csv", "tex", "bib", "manifest.json")),
        "figure.json",
    }
    rows = list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
    assert [{k: v for k, v in row.items() if v} for row in rows] == [
        {k: str(v) for k, v in row.items() if v is not None} for row in KINDS[kind][0]
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
    figures.redraw("01-intervals", style="paper", width_inches=3.25, formats=["pdf", "svg"], out=folder)
    return root, folder


def test_what_is_published_is_drawn_unless_ones_own_is_asked_for(paper, tmp_path):
    root, _ = paper
    figure = json.loads((root / "chapters/results/figures/01-intervals.json").read_text())
    figure["rows"][0]["mean"] = 0.945
    made = root / "build/figures/01-intervals"
    made.mkdir(parents=True)
    (made / "figure.json").write_text(json.dumps(figure))
    for own, mean in ((False, "0.94"), (True, "0.945")):
        figures.redraw("01-intervals", formats=["svg"], out=tmp_path / "out", own=own)
        assert (tmp_path / "out/01-intervals.csv").read_text().splitlines()[1].split(",")[1] == mean
        assert set(figures.verify(tmp_path / "out").values()) == {"same"}


def test_a_paper_gets_a_table_and_the_references_of_the_chapter(paper):
    from pybtex.database import parse_string

    _, folder = paper
    known = parse_string((folder / "01-intervals.bib").read_text(), "bibtex").entries
    assert sorted(known) == ["ada1843notes", "bob2000other"]
    assert (folder / "01-intervals.tex").read_text().splitlines() == [
        r"\begin{tabular}{lrrrrlr}",
        r"\hline",
        r"label & mean & low & high & printed & run id & seed \\",
        r"\hline",
        r"network & 0.94 & 0.93 & 0.95 & 0.97 & b & 1 \\",
        r"logistic & 0.92 & 0.91 & 0.93 & 0.94 & a & 0 \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_what_latex_would_read_as_its_own_is_written_out():
    rows = [{"name_of": "5 % of a_b & c\\d", "value": -0.000012345, "none": None}]
    body = papers.as_latex(rows).splitlines()
    assert body[2] == r"name of & value & none \\"
    assert body[4] == r"5 \% of a\_b \& c\textbackslash{}d & $-1.234 \times 10^{-5}$ & -- \\"


def test_a_paper_is_verified_as_long_as_nothing_changed(paper):
    _, folder = paper
    endings = ("pdf", "svg", "csv", "tex", "bib")
    assert figures.verify(folder) == {f"01-intervals.{ending}": "same" for ending in endings}


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
    found = figures.verify(folder)
    assert found["01-intervals.pdf"] == found["01-intervals.csv"] == "stale, since its rows changed"
    assert found["01-intervals.tex"] == "changed by hand" and found["01-intervals.bib"] == "same"
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
    status = {"01-first": {"rows": row_hashes(["01-runs"])}}
    (root / "chapters/results/status.json").write_text(json.dumps(status))
    assert set(figures.verify(folder).values()) == {"same"}
    rows.write_text("{ }")
    found = figures.verify(folder)
    assert found.pop("01-intervals.bib") == "same"
    assert set(found.values()) == {"stale, since chapters/results/01-runs.jsonl changed"}


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


@pytest.mark.parametrize("kind", KINDS)
def test_paper_style_has_small_text(kind):
    from matplotlib.text import Text

    drawn = drawing.draw({"kind": kind, "rows": KINDS[kind][0], "options": KINDS[kind][1]}, "paper", 3.3)
    sizes = [text.get_fontsize() for text in drawn.findobj(Text) if text.get_text()]
    assert sizes and 7 <= min(sizes) <= max(sizes) <= 9


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_comes_from_the_rows(kind):
    rows, options = KINDS[kind]
    figure = {"kind": kind, "rows": rows, "options": options}
    axes = drawing.draw(figure, "screen", None).axes[0]
    lines = [line.get_xydata().tolist() for line in axes.lines]
    if kind == "intervals":
        assert [[0.93, 0.0], [0.95, 0.0]] in lines and [[0.94, 0.0]] in lines and [[0.97, 0.0]] in lines
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["network", "logistic"]
    elif kind == "curves":
        assert [[1, 2], [2, 4], [4, 8], [8, 16]] in lines
        assert {text.get_text() for text in axes.texts} == {"batch 1", "batch 2", "batch 3"}
    elif kind == "bars":
        widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
        assert widths == [[0.2, 0.8], [0.7, 0.3]]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["parameters", "MACs"]
    elif kind == "graph":
        ends = [patch.get_path().vertices[[0, -1], 1].tolist() for patch in axes.patches]
        outward = [float(patch.get_path().vertices[1, 0]) for patch in axes.patches]
        assert ends == [[0, 1], [1, 2], [0, 2], [2, 3], [0, 1], [1, 2]]  # what reads what, then coupled
        assert [out == 0 for out in outward] == [True, True, False, True, False, False]
        assert outward[2] < 0 < min(outward[4:])
        assert [[0, 0], [0, 1], [0, 2]] in lines and [[0, 3]] in lines
        assert "8 nodes" in {text.get_text() for text in axes.texts}
    else:
        ridge = 20.0  # 2e11 operations over 1e10 bytes per second
        assert [[0.5, 4.0]] in lines and [[60.0, 150.0]] in lines
        roof = lines[0]
        assert roof[1] == [ridge, 200.0] and roof[0][1] / roof[0][0] == pytest.approx(10.0)


def test_a_paper_has_room_for_many_intervals():
    rows = [{**INTERVALS[0], "label": f"row {number}"} for number in range(24)]
    figure = {"kind": "intervals", "rows": rows, "options": {"x_label": "accuracy"}}
    drawn = drawing.draw(figure, "paper", 3.25)
    drawn.canvas.draw()
    assert drawn.get_size_inches()[1] < 6
    boxes = sorted((t.get_window_extent() for t in drawn.axes[0].get_yticklabels()), key=lambda box: box.y0)
    assert all(low.y1 < high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_names_of_lines_that_end_together_do_not_overlap():
    rows = [{"x": x, "y": 1 + 0.001 * s, "s": f"line {s}"} for s in range(4) for x in (0, 1)]
    options = {"x": "x", "y": "y", "series": "s", "x_label": "x", "y_label": "y"}
    drawn = drawing.draw({"kind": "curves", "rows": rows, "options": options}, "screen", None)
    drawn.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in drawn.axes[0].texts), key=lambda box: box.y0)
    assert all(low.y0 + 0.8 * low.height <= high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_the_palette_is_told_apart_by_deficient_eyes():
    """Distances in CIELAB after simulating deuteranopia and protanopia (Machado et al. 2009, severity 1)."""
    import numpy as np
    from matplotlib.colors import to_rgb

    def linear(rgb):
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)

    def lab(rgb):
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    simulations = {
        "normal": np.eye(3),
        "deuteranopia": np.array(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
        ),
        "protanopia": np.array(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ]
        ),
    }
    for name, matrix in simulations.items():
        colors = [lab(matrix @ linear(np.array(to_rgb(color)))) for color in drawing.COLORS[:5]]
        closest = min(float(np.linalg.norm(a - b)) for i, a in enumerate(colors) for b in colors[:i])
        assert closest > 8, name  # about three and a half times a just noticeable difference of 2.3


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
            lambda: figures.save_figure("01-demo", ROOFLINE[1:], "roofline", alt="A."),
            "a roofline needs one row of kind 'roof'; received none.",
        ),
        (
            lambda: save("curves", y="second"),
            "the rows of figure 01-demo must have the field 'second'; received "
            "['high', 'low', 'seconds', 'series', 'width'].",
        ),
        (
            lambda: figures.save_figure("01-demo", CURVES, "curve", alt="A."),
            "kind must be one of intervals, curves, bars, roofline, graph; received 'curve'. Did you mean 'curves'?",
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


def test_labels_longer_than_their_axis_are_broken_rather_than_cut_off():
    rows, options = KINDS["intervals"]
    label = "points of test accuracy against the dense network, of ten seeds"
    figure = {"kind": "intervals", "rows": rows, "options": {**options, "x_label": label}}
    drawn = drawing.draw(figure, "paper", 3.25)
    drawn.draw_without_rendering()
    extent = drawn.axes[0].xaxis.get_label().get_window_extent()
    assert drawn.axes[0].get_xlabel().replace("\n", " ") == label
    assert extent.x0 >= 0 and extent.x1 <= 3.25 * drawn.dpi and extent.y0 >= 0


@pytest.mark.parametrize(("most", "plain"), [(40, True), (40_000, False)])
def test_logarithmic_axes_of_few_decades_have_plain_numbers(most, plain):
    rows = [{"width": width, "seconds": 1.0} for width in (1, 3, most)]
    options = {"x": "width", "y": "seconds", "x_label": "width", "y_label": "seconds", "x_log": True}
    drawn = drawing.draw({"kind": "curves", "rows": rows, "options": options}, "paper", 3.25)
    drawn.draw_without_rendering()
    texts = [tick.get_text() for tick in drawn.axes[0].get_xticklabels()]
    assert ("20" in texts) is plain and any("10^" in text for text in texts) is not plain
