"""Figures to play with: what they show is what is published, and complete without a script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib import NetSpec, Node, measure
from nnopt_lib.checks import NnoptError
from nnopt_lib.course.book import widgets as play
from nnopt_lib.experiments.records import read_published


def test_the_front_is_what_no_smaller_network_beats() -> None:
    searches = data_of(play.front_widget())["searches"]
    records = read_published("06-pool").values()
    networks = {record["settings"]["network"] for record in records}
    assert len(searches["the whole pool"]) == len(networks)
    assert all(point["parameters"] <= 2410 for point in searches["at most 2,410 parameters"])
    assert all(point["macs"] <= 2368 for point in searches["at most 2,368 MACs"])
    highest = max(np.mean([row["validation"] for row in record["rows"]]) for record in records)
    assert max(point["accuracy"][0] for point in searches["the whole pool"]) == pytest.approx(highest)
    for name, points in searches.items():
        for point in points:
            beaten = any(
                other["parameters"] <= point["parameters"] and other["accuracy"][0] > point["accuracy"][0]
                for other in points
            )
            assert not (point["front"] and beaten), (name, point["structure"])
        best = max(points, key=lambda point: point["accuracy"][0])
        assert any(point["front"] and point["accuracy"][0] == best["accuracy"][0] for point in points)


def test_a_structure_is_one_line() -> None:
    assert play.structure(nnopt.mlp((32, 16), inputs=64, outputs=10)) == "dense 32, 16, 10"
    joined = NetSpec(
        (4,),
        (
            Node("a", "dense", "input", {"units": 4}),
            Node("sum", "add", ("input", "a")),
            Node("out", "dense", "sum", {"units": 2}),
        ),
    )
    assert play.structure(joined) == "dense 4, 2; joined by 1 × add"


def test_a_widget_needs_published_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    with pytest.raises(NnoptError) as error:
        play.masks_widget()
    sentence = "the page to play with needs the published rows of 09-masks; received none."
    assert str(error.value) == f"{sentence} Run nnopt run 09 --save."


def data_of(widget: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', widget, re.S)[1])


def test_the_slider_shows_what_the_rows_say() -> None:
    stops = data_of(play.masks_widget())["stops"]
    assert [stop["sparsity"] for stop in stops] == [0.0, 0.5, 0.75, 0.875, 0.9375, 0.96875]
    weights = sum(
        np.prod(s) for n, s in nnopt.mnist1d_mlp().parameter_shapes().items() if n.endswith("kernel")
    )
    choices = read_published("09-choices").values()
    for stop in stops:
        assert stop["kept"] == weights - round(stop["sparsity"] * weights) == stop["bytes"] // 4
        wanted = {"network": "MLP", "method": "global", "sparsity": stop["sparsity"], "schedule": "cosine"}
        wanted |= {"training": 40, "retraining": 40}
        if stop["sparsity"]:
            (record,) = [r for r in choices if wanted.items() <= r["settings"].items()]
            tests = [row["test"] for row in record["rows"]]
            assert stop["accuracy"]["Magnitude, retrained"] == pytest.approx(list(measure.interval(tests)))
            at_once = measure.interval([row["at_once"] for row in record["rows"]])
            assert stop["accuracy"]["Magnitude, not retrained"] == pytest.approx(list(at_once))
        assert all(0 < bound < 100 for bounds in stop["accuracy"].values() for bound in bounds)
    cells = ["".join(stop["cells"]) for stop in stops]
    assert set(map(len, cells)) == {1000} and set(cells[0]) == {"1"}
    for one, other in zip(
        cells, cells[1:], strict=False
    ):  # at once: a higher sparsity keeps a part of the lower
        assert all(a == "1" for a, b in zip(one, other, strict=True) if b == "1") and other.count(
            "1"
        ) < one.count("1")
