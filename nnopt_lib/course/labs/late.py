"""Late work: what it costs is one line of nbgrader_config.py, and holds for nbgrader's own commands too.

Nothing of ours is imported that reads a class's folder: nbgrader loads this module from its configuration.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import zoneinfo
from typing import Any, NoReturn

from nbgrader.plugins import LateSubmissionPlugin
from traitlets import Unicode

from nnopt_lib.checks import NnoptError, refuse

EXAMPLE = "grace 15 min, 10 % a day, at most 50 %"
SECONDS = {"min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "week": 604800}
NUMBER = r"(\d+(?:\.\d+)?)"
PARTS = {
    "grace": re.compile(rf"grace (?:of )?{NUMBER} ?(min|minute|h|hour|d|day)s?"),
    "rate": re.compile(rf"{NUMBER} ?% (?:an?|per|each) (hour|day|week)"),
    "most": re.compile(rf"at most {NUMBER} ?%"),
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """What late work costs: nothing within `grace` seconds, then `rate` of its points a `period` begun.

    `rate` and `most` are fractions. Periods count from the due date, not from the end of the grace.
    """

    grace: float = 0.0
    rate: float = 0.0
    period: float = 86400.0
    most: float = 1.0

    def penalty(self, points: float, seconds_late: float) -> float:
        """The points that go, to hundredths.

        Example:
            >>> policy = read_policy("grace 15 min, 10 % a day, at most 50 %")
            >>> [policy.penalty(5, minutes * 60) for minutes in (15, 16, 24 * 60 + 1, 9 * 24 * 60)]
            [0.0, 0.5, 1.0, 2.5]
        """
        if seconds_late <= self.grace:
            return 0.0
        return round(points * min(self.most, self.rate * math.ceil(seconds_late / self.period)), 2)


def read_policy(text: Any) -> Policy:
    """A policy from its line in the configuration; empty for none. Refuses what cannot be read."""
    values: dict[str, float] = {}
    words = " ".join(text.casefold().split()) if isinstance(text, str) else None
    if words in ("", "none"):
        return Policy()
    for part in (words or "?").split(", "):
        name, match = next(
            ((name, found) for name, form in PARTS.items() if (found := form.fullmatch(part))), ("", None)
        )
        if match is None or name in values:
            _refuse(text)
        values[name] = float(match[1])
        if name == "grace":
            values[name] *= SECONDS[match[2]]
        elif values[name] > 100:
            _refuse(text)
        else:
            values[name] /= 100
        if name == "rate":
            values["period"] = SECONDS[match[2]]
    if "rate" not in values:
        _refuse(text)
    return Policy(**values)


def _refuse(text: Any) -> NoReturn:
    rule = f"c.LateWork.policy must read as {EXAMPLE!r}: what it costs, and if need be a grace and a cap"
    refuse(rule, repr(text), "For no penalty, leave it empty.")


class LateWork(LateSubmissionPlugin):
    """nbgrader's late penalty, by the course's policy."""

    policy = Unicode("", help=f"what late work costs, as {EXAMPLE!r}; empty for nothing").tag(config=True)

    def late_submission_penalty(
        self, student_id: str, score: float, total_seconds_late: float
    ) -> float | None:
        """The points that go from `score`; None where nothing does."""
        return read_policy(self.policy).penalty(score, total_seconds_late) or None


def read_due(text: str) -> datetime.datetime | None:
    """When a lab is due, with its time zone: this machine's unless `text` names one; None for "none".

    Example:
        >>> read_due("2027-03-01 23:59 Europe/Berlin").astimezone(datetime.UTC).isoformat()
        '2027-03-01T22:59:00+00:00'
    """
    if text.strip().casefold() == "none":
        return None
    moment, _, zone = text.strip().rpartition(" ")
    try:
        if not re.fullmatch(r"[A-Za-z]\S*", zone):
            moment, zone = text.strip(), ""
        if not re.match(r"\S+[ T]\d\d?:\d\d", moment):
            raise ValueError  # a day alone says neither its first moment nor its last
        due = datetime.datetime.fromisoformat(moment)
        if zone:
            if due.tzinfo is not None:
                raise ValueError
            return due.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        return due if due.tzinfo is not None else due.astimezone()
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        rule = "--due must be a day and a time, with a time zone unless it is this machine's"
        remedy = (
            'As --due "2027-03-01 23:59" or --due "2027-03-01 23:59 Europe/Berlin"; --due none for no date.'
        )
        raise NnoptError(f"{rule}; received {text!r}. {remedy}") from None


def say_due(due: datetime.datetime) -> str:
    """A due date in words: in its own time zone, and in UTC where that is another."""
    there = f"{due:%Y-%m-%d %H:%M} {due.tzname()}"
    utc = due.astimezone(datetime.UTC)
    return there if due.utcoffset() == utc.utcoffset() else f"{there} ({utc:%Y-%m-%d %H:%M} UTC)"
