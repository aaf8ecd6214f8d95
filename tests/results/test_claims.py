"""Claims and replays: printed, recorded, and resting on exactly the rows that they are given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.experiments.rows import Row
from nnopt_lib.measure import holm, interval
from nnopt_lib.results.claims import claim, replay, statement, verdicts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("NNOPT_HOME", str(tmp_path))
    file = tmp_path / "build" / "claims" / "00-demo.json"

    def read():
        return json.loads(file.read_text())

    read.file = file
    return read


def test_a_claim_is_printed_and_recorded(records, capsys):
    claim("00-demo", "more", "Two is more than one.", holds=True, rows=(), mean=2.0)
    assert capsys.readouterr().out == "✓ Two is more than one.\n"
    expected = {"chapter": "00-demo", "id": "more", "kind": "claim", "sentence": "Two is more than one."}
    (record,) = records()
    assert record == {**expected, "verdict": "holds", "numbers": {"mean": 2.0}, "rests_on": []}


def rows_of(experiment: str, count: int = 3) -> list[Row]:
    return [Row({"seed": seed}, experiment=experiment) for seed in range(count)]


def test_a_claim_rests_on_its_rows_and_on_no_others_that_were_read(records):
    first, second = rows_of("00-first"), rows_of("00-second")
    claim("00-demo", "one", "One.", holds=True, rows=first)
    claim("00-demo", "filtered", "Two.", holds=True, rows=[row for row in second if row["seed"] > 1])
    claim("00-demo", "joined", "Three.", holds=True, rows=(second, {"by name": first}.values()))
    claim("00-demo", "none", "Four.", holds=True, rows=())
    assert {record["id"]: record["rests_on"] for record in records()} == {
        "one": ["00-first"],
        "filtered": ["00-second"],
        "joined": ["00-second", "00-first"],
        "none": [],
    }


def test_a_replay_rests_on_its_rows(records):
    common = {"quantity": "accuracy, %", "published": 68.0, "mark": "V", "source": "x"}
    replay("00-demo", "r", measured=(68.0, 67.0, 69.0), rows=rows_of("00-first"), **common)
    assert records()[0]["rests_on"] == ["00-first"]


def test_rows_must_be_given(records):
    with pytest.raises(TypeError, match="rows"):
        claim("00-demo", "a", "A.", holds=True)
    with pytest.raises(TypeError, match="rows"):
        replay("00-demo", "r", quantity="q", published=1, measured=(1, 1, 1), mark="V", source="s")


# What was read by hand in the chapters' sources: from which experiments the numbers of a statement come.
READ_IN_THE_CHAPTERS = {
    # 01: the article's recipe is one experiment, both models trained well another.
    "01-source-article": {
        "as-printed": ["01-held-out"],
        "solved": ["01-held-out", "01-trained-well"],
        "trained-well": ["01-trained-well"],
    },
    # 02: accuracies of the MNIST-1D models and times of the machine that published are stored.
    "02-cost": {
        "parameters-do-not-order-accuracy": ["02-mnist1d-models"],
        "masks-save-no-time-1": ["02-times"],
        "small-networks-save-time": ["02-times"],
        "batches-share-costs-LeNet-5": ["02-times"],
    },
    # 05: each edge against its ablation in one experiment, cuts and permutations in others.
    "05-connectivity": {
        "dense": ["05-structures"],
        "random-wiring": ["05-structures"],
        "cuts": ["05-cuts"],
        "permuted-CNN": ["05-permuted"],
        "mnist1d-models/CNN-shuffled": ["05-shuffled"],
    },
    # 06: who may take part in the search is decided by counted and measured costs.
    "06-search": {"gain-time": ["06-pool", "06-latency"], "luck": ["06-pool"]},
    # 10: tickets are replayed on the published draw of the data, and compared with controls on ten draws.
    "10-lottery-tickets": {
        "mask-0.9375": ["10-tickets"],
        "mask-falling": ["10-falling"],
        "lenet-learns-faster": ["10-lth-lenet"],
        "mnist1d-tickets/ticket-0.92": ["10-faithful"],
        "mnist1d-tickets/random mask-0.92": ["10-replay-controls"],
    },
    # 11: sums of scores are compared with what chapter 06 has trained.
    "11-saliency": {
        "young-mnist-1d": ["11-young"],
        "early-digits": ["11-init-sanity"],
        "proxy-synflow": ["11-proxies", "06-pool"],
    },
    "14-nodes": {"slimming-from-scratch": ["14-slimming-mlp"], "rank-global": ["14-oracle"]},
    # 15: the staircase says what to round to, the latencies what that gave.
    "15-surgery": {"rounded": ["15-staircase", "15-latency"], "masked": ["15-latency"]},
    # 16: the same layers, timed among others and alone.
    "16-hardware": {"alone": ["16-times", "16-alone"], "two-four-here": ["16-networks"]},
}


def published_records(chapter: str) -> dict[str, dict]:
    text = (ROOT / "chapters" / "results" / "claims" / f"{chapter}.json").read_text(encoding="utf-8")
    return {record["id"]: record for record in json.loads(text)}


@pytest.mark.parametrize("chapter", READ_IN_THE_CHAPTERS)
def test_published_claims_rest_on_what_was_read_by_hand_in_their_chapter(chapter):
    claims = published_records(chapter)
    by_hand = READ_IN_THE_CHAPTERS[chapter]
    assert {id: claims[id]["rests_on"] for id in by_hand} == by_hand


def test_only_what_was_counted_rests_on_no_rows():
    files = sorted((ROOT / "chapters" / "results" / "claims").glob("*.json"))
    without_rows = {
        f"{file.stem}/{id}"
        for file in files
        for id, record in published_records(file.stem).items()
        if not record["rests_on"]
    }
    # Counted, not computed from rows; and a number that is quoted only.
    assert without_rows == {
        "09-magnitude/counts",
        "12-second-order/woodfisher-mlp/k-fac",
        "18-compression/ans",
        "18-compression/dynamic-int8/f1",
        "18-compression/dynamic-int8/size",
        "18-compression/dynamic-int8/time",
        "16-hardware/two-four",
    }


def test_a_fact_that_is_not_so_is_said_and_kept(records, capsys):
    claim("00-demo", "less", "Two is less than one.", holds=np.bool_(False), rows=())
    assert capsys.readouterr().out == "✗ does not hold here: Two is less than one.\n"
    assert records()[0]["verdict"] == "does not hold"


NARROW = [1.0, 1.1, 0.9, 1.05]  # mean 1.01, 95 % interval about 0.88 to 1.15
WIDE = [3.0, -1.0, 2.0, -2.0]


@pytest.mark.parametrize(
    ("sample", "bound", "verdict"),
    [
        (NARROW, {"above": 0}, "holds"),
        (NARROW, {"below": 0}, "holds the other way round"),
        (NARROW, {"above": 2}, "holds the other way round"),
        (NARROW, {"below": 2}, "holds"),
        (NARROW, {"above": 1}, "undecided"),  # the interval reaches over the border
        (WIDE, {"above": 0}, "undecided"),
        (WIDE, {"below": 0}, "undecided"),  # ignorance is no claim, whichever way it is asked
        (NARROW, {"within": 2}, "holds"),
        ([-v for v in NARROW], {"within": 2}, "holds"),
        (NARROW, {"within": 0.5}, "holds the other way round"),
        (NARROW, {"within": 1.1}, "undecided"),
        (WIDE, {"within": 1}, "undecided"),  # no difference was found, which is not "no difference"
        ([0.0] * 4, {"above": 0}, "undecided"),
        ([0.1] * 4, {"above": 0}, "holds"),
    ],
)
def test_a_sample_has_three_verdicts(records, sample, bound, verdict):
    claim("00-demo", "a", "It is so", sample=sample, rows=(), **bound)
    assert records()[0]["verdict"] == verdict


def test_a_claim_prints_its_interval_and_records_it(records, capsys):
    claim("00-demo", "a", "It gains", sample=NARROW, above=0, rows=(), unit="% of time", digits=1, seconds=3)
    mean, low, high = interval(NARROW)
    shown = f"It gains: +1.0 % of time (95 % interval {low:+.1f} to {high:+.1f}, n = 4)."
    assert capsys.readouterr().out == f"· {shown}\n"
    (record,) = records()
    assert record["sentence"] == shown and record["test"] == {"above": 0}
    assert record["numbers"] == {"mean": mean, "low": low, "high": high, "n": 4, "seconds": 3}
    assert statement(record) == f"holds: {shown}"


def test_a_family_of_claims_is_adjusted_for_its_size(records):
    """With p = 0.03 alone a claim holds; beside nineteen that say nothing it is undecided, the sure one stays."""
    random = np.random.default_rng(0)
    claim("00-demo", "sure", "A", sample=[1.0, 1.01, 0.99, 1.0], above=0, rows=())
    claim("00-demo", "weak", "B", sample=[0.4, 1.0, 1.6, 0.9], above=0, rows=())
    assert [record["verdict"] for record in records()] == ["holds", "holds"]
    for number in range(19):
        claim("00-demo", f"null-{number}", "C", sample=random.normal(size=5).tolist(), above=0, rows=())
    by_id = {record["id"]: record for record in records()}
    assert by_id["sure"]["verdict"] == "holds"
    assert by_id["weak"]["alone"] == "holds" and by_id["weak"]["verdict"] == "undecided"
    adjusted = holm([record["p"] for record in by_id.values()])
    assert [record["p_adjusted"] for record in by_id.values()] == adjusted


def test_facts_belong_to_no_family(records):
    claim("00-demo", "a", "It gains", sample=NARROW, above=0, rows=())
    for number in range(5):
        claim("00-demo", f"fact-{number}", "So it is.", holds=True, rows=())
    assert records()[0]["p_adjusted"] == records()[0]["p"]


def test_a_family_of_nothings_is_rarely_decided(records):
    """Among 40 families of ten claims about nothing, about 2 decide anything; by the single tests about 16 would."""
    random, families, alone = np.random.default_rng(1), 0, 0
    for family in range(40):
        for number in range(10):
            claim(
                f"{family:02}-f", f"c{number}", "C", sample=random.normal(size=10).tolist(), above=0, rows=()
            )
        path = records.file.parent / f"{family:02}-f.json"
        made = json.loads(path.read_text())
        families += any(record["verdict"] != "undecided" for record in made)
        alone += any(record["alone"] != "undecided" for record in made)
    assert families <= 6 < 9 <= alone


def test_verdicts_are_counted_beside_what_chance_would_give(records, capsys):
    claim("00-demo", "gain", "A", sample=[1.0, 1.01, 0.99, 1.0], above=0, rows=())
    claim("00-demo", "loss", "B", sample=[1.0, 1.01, 0.99, 1.0], below=0, rows=())
    claim("00-demo", "who-knows", "C", sample=WIDE, above=0, rows=())
    claim("00-demo", "weak", "D", sample=[0.4, 1.0, 1.6, 0.9], above=0, rows=())
    claim("00-demo", "fact", "E.", holds=True, rows=())
    capsys.readouterr()
    verdicts("00-demo")
    assert capsys.readouterr().out.splitlines() == [
        "4 claims were tested at 5 %; if nothing were true, chance alone would decide 0.2 of them. "
        "Decided one by one: 3; after Holm's adjustment: 2.",
        "holds: gain",
        "holds the other way round: loss",
        "undecided: who-knows, weak",
        "undecided only because there are so many: weak",
    ]


def test_the_same_id_replaces_and_others_stay(records):
    for mean in (1, 2):
        claim("00-demo", "a", "A.", holds=True, rows=(), mean=mean)
        claim("00-demo", "b", "B.", holds=True, rows=())
    assert [(record["id"], record["numbers"]) for record in records()] == [("a", {"mean": 2}), ("b", {})]


def test_a_damaged_file_is_written_anew(records, tmp_path):
    claim("00-demo", "a", "A.", holds=True, rows=())
    (tmp_path / "build" / "claims" / "00-demo.json").write_text("[{")
    claim("00-demo", "b", "B.", holds=True, rows=())
    assert [record["id"] for record in records()] == ["b"]


@pytest.mark.parametrize(
    ("measured", "half_width", "verdict"),
    [
        ((68.5, 67.9, 69.1), 2.0, "replayed, inside"),
        ((71.0, 70.0, 72.0), 2.0, "replayed, inside"),  # touching bands overlap, from above
        ((65.0, 64.0, 66.0), 2.0, "replayed, inside"),  # and from below
        ((68.0, 60.0, 80.0), 2.0, "replayed, inside"),  # one band within the other, either way
        ((68.5, 68.0, 69.0), 0.0, "replayed, inside"),
        ((67.5, 67.0, 68.0), 0.0, "replayed, inside"),
        ((69.0, 69.0, 75.0), 2.0, "replayed, inside"),  # a mean at an end of its own interval
        ((60.0, 59.0, 67.0), 2.0, "replayed, inside"),  # bands overlap though neither holds the other's mean
        ((76.0, 69.0, 77.0), 2.0, "replayed, inside"),
        ((71.5, 70.5, 72.5), 2.0, "replayed, differs, because other data"),
        ((65.0, 64.0, 65.9), 2.0, "replayed, differs, because other data"),
        ((68.5, 68.1, 69.1), 0.0, "replayed, differs, because other data"),
    ],
)
def test_a_replay_is_inside_when_bands_overlap(records, capsys, measured, half_width, verdict):
    common = {"quantity": "accuracy, %", "published": 68.0, "mark": "V", "source": "greydanus2024scaling"}
    replay("00-demo", "r", measured=measured, rows=(), half_width=half_width, because="other data", **common)
    assert records()[0]["verdict"] == verdict
    out = capsys.readouterr().out
    assert out.startswith("accuracy, %: published 68") and out.endswith(f"{verdict}\n")
    assert f"ours {measured[0]:g} [{measured[1]:g}, {measured[2]:g}]" in out


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ((0.5, 0.4, 0.6), "replayed, inside"),
        ((0.3, 0.2, 0.4), "replayed, inside"),
        ((0.25, 0.2, 0.3), "replayed, inside"),  # just reached
        ((0.2, 0.1, 0.4), "replayed, inside"),  # the interval reaches beyond, the mean does not
        ((0.2, 0.1, 0.29), "replayed, differs, because other data"),
    ],
)
def test_a_published_lower_bound_has_no_upper_end(records, capsys, measured, verdict):
    common = {"quantity": "gain, points", "published": 0.3, "mark": "V", "source": "greydanus2024scaling"}
    replay("00-demo", "r", measured=measured, rows=(), at_least=True, because="other data", **common)
    assert records()[0]["verdict"] == verdict
    assert capsys.readouterr().out.startswith("gain, points: published above 0.3 · ours ")


def test_a_difference_without_a_cause_says_so(records):
    common = {"quantity": "accuracy, %", "published": 68.0, "mark": "V", "source": "x"}
    replay("00-demo", "r", measured=(1.0, 1.0, 1.0), rows=(), **common)
    assert records()[0]["verdict"] == "replayed, differs, because cause unknown"


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"order": True, "measured": (9.0, 8.0, 10.0)}, "order replayed, because smaller data"),
        ({"order": False, "measured": (9.0, 8.0, 10.0)}, "order not replayed, because smaller data"),
        ({}, "quoted only, because smaller data"),
    ],
)
def test_what_cannot_be_compared_by_its_number_is_replayed_by_order_or_quoted(
    records, capsys, given, verdict
):
    common = {"quantity": "gain", "published": 0.3, "mark": "V", "source": "x", "because": "smaller data"}
    replay("00-demo", "r", rows=(), **common, **given)
    assert records()[0]["verdict"] == verdict
    ours = " · ours 9 [8, 10]" if given else ""
    assert capsys.readouterr().out == f"gain: published 0.3{ours} · {verdict}\n"
    assert ("mean" in records()[0]) is bool(given)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: claim("00-demo", "a", "A.", holds=1, rows=()),
            "holds must be True or False, computed from rows; received 1.",
        ),
        (
            lambda: claim("00-demo", "a", "A.", holds=True, sample=[1, 2, 3], above=0, rows=()),
            "a claim must have either holds or a sample with a bound; received holds and sample, above.",
        ),
        (
            lambda: claim("00-demo", "a", "A", sample=[1, 2, 3], rows=()),
            "a claim must have holds, or a sample and one of above, below, within; received a sample and no bound.",
        ),
        (
            lambda: claim("00-demo", "a", "A", sample=[1, 2, 3], above=0, within=1, rows=()),
            "a claim must have holds, or a sample and one of above, below, within; "
            "received a sample and above, within.",
        ),
        (
            lambda: claim("00-demo", "a", "A", rows=()),
            "a claim must have holds, or a sample and one of above, below, within; received no sample and no bound.",
        ),
        (
            lambda: claim("00-demo", "a", "A", sample=[1, 2, 3], within=0, rows=()),
            "within must be a finite number, above 0; received 0.",
        ),
        (
            lambda: claim("00-demo", "a", "A", sample=[1, 2], above=0, rows=()),
            "an interval needs at least three finite values; received [1.0, 2.0].",
        ),
        (
            lambda: replay("00-demo", "r", quantity="q", published=1, rows=(), mark="V", source="s"),
            "a replay of the order alone, or of nothing, must say what had to change; received no because.",
        ),
        (
            lambda: replay(
                "00-demo", "r", quantity="q", published=1, measured=(1, 1, 1), rows=(), mark="W", source="s"
            ),
            "mark must be one of V, V2, M; received 'W'.",
        ),
        (
            lambda: replay(
                "00-demo", "r", quantity="q", published=1, measured=(1, 2, 3), rows=(), mark="V", source="s"
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
                rows=(),
                mark="V",
                source="s",
            ),
            "half_width must be a finite number, at least 0; received -1.",
        ),
        (
            lambda: claim("00-demo", "a", "A.", holds=True, rows=(), number=object()),
            "the numbers of claim a must be made of numbers, strings, booleans, None, lists and dictionaries with "
            "string keys; received a value of type object. Convert it first, an array by .tolist().",
        ),
    ],
)
def test_bad_claims_are_refused_in_one_sentence(records, call, sentence):
    with pytest.raises(NnoptError) as error:
        call()
    assert str(error.value) == sentence


def test_chapters_that_show_the_same_network_and_setting_show_the_same_number():
    """Chapters 08 and 10 quote 09's networks: from its rows, so to the last digit, and never their own version."""
    folder = ROOT / "chapters" / "results" / "figures"
    stored = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}
    names = {"dense (09)": "dense", "magnitude (09)": "global"}
    own = {
        (row["network"], row["series"], row["sparsity"]): (row["mean"], row["low"], row["high"])
        for row in stored["09-fronts"]["rows"]
    }
    quoted = [row for row in stored["08-fronts"]["rows"] if row["series"] in names]
    assert {row["series"] for row in quoted} == set(names)
    for row in quoted:
        shown = own[row["network"], names[row["series"]], row["sparsity"]]
        assert (row["mean"], row["low"], row["high"]) == shown
    # Whoever rests on rows of another chapter quotes them; nobody trains the same networks under another name.
    quoting = {name for name, figure in stored.items() if "09-choices" in figure["rests_on"]} - {"09-fronts"}
    assert "08-fronts" in quoting
    assert not list((ROOT / "chapters" / "results").glob("08-*dense*.jsonl"))
