"""What the book's pages show of the records: runs, claims and replays, figures to play with.

A page marks the place with a comment, such as ``<!-- nnopt:ledger -->``, replaced when the book is built.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_lib.checks import nearest, refuse
from nnopt_lib.course.book.coverage import coverage_table
from nnopt_lib.course.book.graded import graded_tables
from nnopt_lib.course.book.tried import tried_tables
from nnopt_lib.course.book.widgets import front_widget, masks_widget
from nnopt_lib.data.page import overview
from nnopt_lib.results.claims import family_size, published_band
from nnopt_lib.results.staleness import read_machines

Records = Mapping[str, Sequence[Mapping[str, Any]]]


def fill(
    page: Path, titles: Mapping[str, str], runs: Mapping[str, Mapping[str, Any]], claims: Records
) -> str:
    """The text of a page with its marks replaced; a mark that nothing answers to is refused by name.

    ``nnopt:claim 04-width/descent-up`` becomes the claim's sentence, with its verdict, or the replay's.
    """
    makers = {
        "status": lambda: status_tables(titles, runs),
        "ledger": lambda: ledger_tables(titles, claims),
        "machines": lambda: machines_table(titles, read_machines()),
        "data": overview,
        "coverage": coverage_table,
        "tried": tried_tables,
        "graded": graded_tables,
        "play-masks": masks_widget,
        "play-front": front_widget,
    }

    def replaced(mark: re.Match[str]) -> str:
        what, name = mark[1], mark[2]
        if what == "claim":
            return _sentence(page, name, claims)
        if what not in makers:
            refuse(f"book/{page.name} has a mark that nothing answers to", what, nearest(what, makers))
        return makers[what]()

    # Links last, since the sentences of claims and the tables hold links to chapters as well.
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- nnopt:([\w-]+)(?: ([^>]+?))? -->", replaced, text)
    return _chapter_links(text, titles)


def _chapter_links(text: str, titles: Mapping[str, str]) -> str:
    """Links to chapters as the book has them, written with .md or .ipynb; words where one is absent."""

    def link(match: re.Match[str]) -> str:
        words, stem = match[1], match[2]
        return f"[{words}](../chapters/{stem}.ipynb)" if stem in titles else words

    return re.sub(r"\[([^\]]+)\]\(\.\./chapters/([\w-]+)\.(?:md|ipynb)\)", link, text)


def _sentence(page: Path, name: str, claims: Records) -> str:
    known = {f"{stem}/{record['id']}": record for stem, records in claims.items() for record in records}
    if name not in known:
        rule = f"book/{page.name} tells a claim that no chapter has recorded"
        refuse(rule, repr(name), nearest(name, known) if known else "Run the chapters first.")
    record, chapter = known[name], name.partition("/")[0]
    verdict, sentence = _verdict(record), record.get("sentence", "")
    if record["kind"] == "replay":
        row = _replay_row(record)
        sentence = f"{row[0]}: published {row[1]}, measured {row[4]}."
    return f"{sentence} *({verdict}; [chapter {chapter[:2]}](../chapters/{chapter}.ipynb))*"


def status_tables(titles: Mapping[str, str], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown tables of when, how long and on what each chapter was executed, from the runner's records."""
    times, machines = [], []
    for stem, title in sorted(titles.items()):
        chapter, run = f"[{stem[:2]} · {title}](../chapters/{stem}.ipynb)", runs.get(stem)
        if not run:
            times.append([chapter, "no record", *[""] * 6])
            continue
        origin = {"versions": {}, "hardware": {}, "commit": None} | run.get("provenance", {})
        packages = ("python", "numpy", "torch", "tensorflow", "keras")
        versions = [origin["versions"].get(name) or "–" for name in packages]
        finished = str(run["finished_at"])[:16].replace("T", " ")
        times.append([chapter, f"{run['duration_seconds']:.1f}", finished, *versions])
        if hardware := origin["hardware"]:
            memory = f"{hardware['memory_bytes'] / 2**30:.1f}"
            commit = origin["commit"] or "not under version control"
            commit = f"`{commit[:10]}{'+changes' if commit.endswith('+changes') else ''}`"
            accelerator = hardware.get("accelerator") or "none"
            machines.append([chapter, hardware["cpu"], hardware["cores"], memory, accelerator, commit])
    heads = ["Chapter", "Seconds", "Finished (UTC)", "Python", "NumPy", "PyTorch", "TensorFlow", "Keras"]
    text = _table(heads, times)
    if machines:
        heads = ["Chapter", "Processor", "Cores", "Memory (GiB)", "Accelerator", "Commit"]
        text += "\n\n" + _table(heads, machines)
    return text


def ledger_tables(titles: Mapping[str, str], records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown tables of the claims and replays that the chapters recorded, one section per chapter."""
    sections = [_head([record for stem in titles for record in records[stem]])]
    for stem, title in sorted(titles.items()):
        section = [f"## {stem[:2]} · {title}"]
        replays = [record for record in records[stem] if record["kind"] == "replay"]
        claims = [record for record in records[stem] if record["kind"] == "claim"]
        if replays:
            heads = ["Quantity", "Published", "Mark", "Source", "Measured here", "Verdict"]
            section.append(_table(heads, [_replay_row(record) for record in replays]))
        if claims:
            section.append(family_size(family) if (family := [one for one in claims if "p" in one]) else "")
            lines = [[_verdict(one), one["sentence"], _p_values(one)] for one in claims]
            section.append(_table(["Verdict", "Claim", "p, and by Holm"], lines))
        if not records[stem]:
            section.append("No claim was recorded.")
        sections.append("\n\n".join(section))
    return "\n\n".join(sections) if titles else "No chapter has been executed yet."


def _head(records: Sequence[Mapping[str, Any]]) -> str:
    """How many claims and replays there are in all, and how many claims chance alone would give."""
    family = [one for one in records if "p" in one]
    facts = sum(one["kind"] == "claim" for one in records) - len(family)
    replays = Counter(one["verdict"].partition(", because")[0] for one in records if one["kind"] == "replay")
    return (
        f"{family_size(family)} Each chapter is a family of its own. {facts} further claims are counts or "
        f"equalities, without a test. Replays: "
        + (", ".join(f"{number} {verdict}" for verdict, number in sorted(replays.items())) or "none")
        + "."
    )


def _verdict(record: Mapping[str, Any]) -> str:
    """The verdict, in bold where the sentence, as it stands, is not borne out."""
    plain = record["kind"] == "replay" or record["verdict"] == "holds"
    return record["verdict"] if plain else f"**{record['verdict']}**"


def _p_values(record: Mapping[str, Any]) -> str:
    return "{p:.2g}, {p_adjusted:.2g}".format(**record) if "p" in record else ""


def _replay_row(record: Mapping[str, Any]) -> list[str]:
    measured = "{mean:#.4g} [{low:#.4g}, {high:#.4g}]".format(**record) if "mean" in record else "–"
    source = f"{{cite:t}}`{record['source']}`"
    return [record["quantity"], published_band(record), record["mark"], source, measured, record["verdict"]]


def machines_table(titles: Mapping[str, str], machines: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of what other machines computed, by chapter: the published profile, else the quick."""
    lines = []
    for machine in machines:
        for stem, by_profile in machine["chapters"].items():
            seen = by_profile.get("published") or by_profile["quick"]
            chapter = (
                f"[{stem[:2]} · {titles[stem]}](../chapters/{stem}.ipynb)" if stem in titles else stem[:2]
            )
            where = f"{machine['cpu']}, {seen['date']}; published on {', '.join(seen['published_on'])}"
            lines.append([where, chapter, *_differences(seen), _conclusions(seen)])
    if not lines:
        return "Nobody has compared another machine yet."
    heads = ["Machine", "Chapter", "Runs compared", "Runs that differ", "Largest difference"]
    return _table([*heads, "Conclusions that would move"], lines)


def _differences(seen: Mapping[str, Any]) -> list[object]:
    beyond, worst = f"{seen['differing']} by more than {seen['tolerance']:g}", seen["worst"]
    differ = f"{seen['unequal']}, {beyond}" if seen["unequal"] else "none"
    if seen["absent"]:
        differ += f"; {seen['absent']} more are not asked for there"
    if worst is None:
        return [seen["runs"], differ, "–"]
    values = [
        f"{one:.6g}" if isinstance(one, float) else str(one)
        for one in (worst["published"], worst["computed"])
    ]
    return [
        seen["runs"],
        differ,
        f"{worst['field']} of `{worst['experiment']}`: {values[0]} published, {values[1]} there",
    ]


def _conclusions(seen: Mapping[str, Any]) -> str:
    """Every conclusion whose verdict is another one there, with both sentences; how many were compared."""
    if seen["claims"] is None:
        return "not compared (quick profile)"
    moved = [claim for claim in seen["changed"] if claim["moved"]]
    changes = [f"`{claim['id']}`: “{claim['published']}” becomes “{claim['computed']}”" for claim in moved]
    reworded = len(seen["changed"]) - len(moved)
    tail = f"{reworded} read otherwise in a digit" if reworded else ""
    return "; ".join([*(changes or [f"none of {seen['claims']}"]), *filter(None, [tail])])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [[str(cell).replace("|", r"\|") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
