"""Tables of the networks that were tried."""

import json

import pytest

from nnopt_lib.course.book import tried


def test_numbers_have_three_digits_that_count() -> None:
    written = {"25.6 M": 25_557_032, "138 M": 138_357_544, "1.00 M": 999_600, "999 k": 999_400, "85": 85}
    assert {text: tried._short(number) for text, number in written.items()} == {
        text: text for text in written
    }


def test_a_row_says_what_is_left_and_a_network_that_kept_all_why(tmp_path, monkeypatch) -> None:
    row = {"framework": "torch", "network": "a", "granularity": "node", "input": [3, 8, 8]}
    row |= {"parameters": 2000, "parameters_left": 500, "macs": 10**6, "macs_left": 250_000}
    why = "a model needs heads; received none ('x': one; 'y.qkv': 'reshape' in Y cannot do with fewer channels (bad))."
    none = {"framework": "torch", "network": "b", "granularity": "head", "refused": why}
    (tmp_path / "book").mkdir()
    file = tmp_path / "book" / "networks-tried.json"
    file.write_text(json.dumps([row | {"layers_pruned": 3, "layers_whole": 1}, none]), encoding="utf-8")
    monkeypatch.setattr(tried, "project_root", lambda: tmp_path)
    lines = tried.tried_tables().splitlines()
    cells = next(
        [cell.strip() for cell in line.split("|")][1:-1] for line in lines if line.startswith("| a ")
    )
    assert cells == ["a", "3×8×8", "2.00 k", "500 (25 %)", "1.00 M", "250 k (25 %)", "3", "1"]
    told = "- b: nothing leaves `y.qkv` or its like, since 'reshape' in Y cannot do with fewer channels."
    assert told in lines


def test_the_page_shows_every_network_of_the_file() -> None:
    text = tried.tried_tables()
    rows = json.loads((tried.project_root() / tried._FILE).read_text(encoding="utf-8"))
    assert len(rows) > 40
    assert all(row["network"] in text for row in rows)


@pytest.mark.parametrize("key", ["parameters", "macs"])
def test_every_network_became_smaller(key) -> None:
    rows = json.loads((tried.project_root() / tried._FILE).read_text(encoding="utf-8"))
    assert all("refused" in row or row[f"{key}_left"] < row[key] for row in rows)
