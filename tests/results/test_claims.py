import dataclasses
import json

import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.run import run_experiment
from nnopt_lib.results.claims import claim, replay


@dataclasses.dataclass(frozen=True)
class Nothing:
    seed: int = 0


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    file = tmp_path / "build" / "claims" / "00-demo.json"
    return lambda: json.loads(file.read_text())


def test_a_claim_is_printed_and_recorded(records, capsys):
    claim("00-demo", "more", "Two is more than one.", holds=True, mean=2.0)
    assert capsys.readouterr().out == "✓ Two is more than one.\n"
    expected = {"chapter": "00-demo", "id": "more", "kind": "claim", "sentence": "Two is more than one."}
    (record,) = records()
    assert record == {**expected, "holds": True, "numbers": {"mean": 2.0}, "rests_on": record["rests_on"]}


def test_a_claim_names_the_experiments_that_were_read_before_it(records, tmp_path):
    run_experiment("00-before", [Nothing()], lambda setting: {"y": 1})
    claim("00-demo", "first", "One.", holds=True)
    run_experiment("00-after", [Nothing()], lambda setting: {"y": 1})
    claim("00-demo", "second", "Two.", holds=True)
    first, second = (one["rests_on"] for one in records())
    assert "00-before" in first and "00-after" not in first and first + ["00-after"] == second


def test_a_claim_that_does_not_hold_is_said_and_kept(records, capsys):
    import numpy as np

    claim("00-demo", "less", "Two is less than one.", holds=np.bool_(False))
    assert capsys.readouterr().out == "✗ does not hold here: Two is less than one.\n"
    assert records()[0]["holds"] is False


def test_the_same_id_replaces_and_others_stay(records):
    for mean in (1, 2):
        claim("00-demo", "a", "A.", holds=True, mean=mean)
        claim("00-demo", "b", "B.", holds=True)
    assert [(one["id"], one["numbers"]) for one in records()] == [("a", {"mean": 2}), ("b", {})]


def test_a_damaged_file_is_written_anew(records, tmp_path):
    claim("00-demo", "a", "A.", holds=True)
    (tmp_path / "build" / "claims" / "00-demo.json").write_text("[{")
    claim("00-demo", "b", "B.", holds=True)
    assert [one["id"] for one in records()] == ["b"]


@pytest.mark.parametrize(
    ("measured", "half_width", "verdict"),
    [
        ((68.5, 67.9, 69.1), 2.0, "replayed, inside"),
        ((71.0, 70.0, 72.0), 2.0, "replayed, inside"),  # touching bands overlap
        ((71.5, 70.5, 72.5), 2.0, "replayed, differs, because other data"),
        ((65.0, 64.0, 65.9), 2.0, "replayed, differs, because other data"),
        ((68.5, 68.1, 69.1), 0.0, "replayed, differs, because other data"),
    ],
)
def test_a_replay_is_inside_when_bands_overlap(records, capsys, measured, half_width, verdict):
    common = {"quantity": "accuracy, %", "published": 68.0, "mark": "V", "source": "greydanus2024scaling"}
    replay("00-demo", "r", measured=measured, half_width=half_width, because="other data", **common)
    assert records()[0]["verdict"] == verdict
    out = capsys.readouterr().out
    assert out.startswith("accuracy, %: published 68") and out.endswith(f"{verdict}\n")
    assert f"ours {measured[0]:g} [{measured[1]:g}, {measured[2]:g}]" in out


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ((0.5, 0.4, 0.6), "replayed, inside"),
        ((0.3, 0.2, 0.4), "replayed, inside"),
        ((0.2, 0.1, 0.29), "replayed, differs, because other data"),
    ],
)
def test_a_published_lower_bound_has_no_upper_end(records, capsys, measured, verdict):
    common = {"quantity": "gain, points", "published": 0.3, "mark": "V", "source": "greydanus2024scaling"}
    replay("00-demo", "r", measured=measured, at_least=True, because="other data", **common)
    assert records()[0]["verdict"] == verdict
    assert capsys.readouterr().out.startswith("gain, points: published above 0.3 · ours ")


def test_a_difference_without_a_cause_says_so(records):
    common = {"quantity": "accuracy, %", "published": 68.0, "mark": "V", "source": "x"}
    replay("00-demo", "r", measured=(1.0, 1.0, 1.0), **common)
    assert records()[0]["verdict"] == "replayed, differs, because cause unknown"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: claim("00-demo", "a", "A.", holds=1),
            "holds must be True or False, computed from rows; received 1.",
        ),
        (
            lambda: replay(
                "00-demo", "r", quantity="q", published=1, measured=(1, 1, 1), mark="W", source="s"
            ),
            "mark must be one of V, V2, M; received 'W'.",
        ),
        (
            lambda: replay(
                "00-demo", "r", quantity="q", published=1, measured=(1, 2, 3), mark="V", source="s"
            ),
            "measured must be (mean, low, high) in this order; received (1, 2, 3).",
        ),
        (
            lambda: replay(
                "00-demo",
                "r",
                quantity="q",
                published=1,
                half_width=-1,
                measured=(1, 1, 1),
                mark="V",
                source="s",
            ),
            "half_width must be a finite number, at least 0; received -1.",
        ),
        (
            lambda: claim("00-demo", "a", "A.", holds=True, rows=object()),
            "the numbers of claim a must be made of numbers, strings, booleans, None, lists and dictionaries with "
            "string keys; received a value of type object. Convert it first, an array by .tolist().",
        ),
    ],
)
def test_bad_claims_are_refused_in_one_sentence(records, call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence
