"""Decisions of people on registered poses: ``review_NAME.jsonl`` in the folder of a result.

One file per reviewer, one line of JSON per decision, only ever appended. A decision holds for the
``parameters.pt`` that it names by its hash: a pose that is registered again has no decision. Those
of all reviewers together replace the verdict (`judged`). Standard library and numpy only.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from common import files
from common.errors import InputError, reading
from common.results import names
from common.results.result import Result, Verdict, VerdictCode

SCHEMA = "review/1"
PREFIX, ENDING = "review_", ".jsonl"
WHAT = "decisions of pipeline/review.py, one JSON object per line"
LONGEST_NOTE = 2000  # characters

Choice: TypeAlias = Literal["accept", "reject", "second look"]
# what the standing decision makes of a verdict, the most cautious first
EFFECT: dict[Choice, VerdictCode] = {"reject": "failed", "second look": "suspect", "accept": "ok"}
WORDS: dict[Choice, str] = {
    "reject": "rejected by",
    "second look": "to be looked at again, says",
    "accept": "accepted by",
}


@dataclass(frozen=True)
class Decision:
    """What one person decided on one pose."""

    reviewer: str
    choice: Choice
    note: str
    when: str  # ISO 8601, UTC
    parameters_sha256: str  # of the parameters.pt that it is about
    camera: list[list[float]]  # (4, 4) scanner_from_camera of the first view, RAS mm
    set_by: Literal["solver", "person"]  # who set the pose, or the start that it was refined from

    @property
    def words(self) -> str:
        """Who decided what, as a sentence."""
        note = f" ({self.note})" if self.note else ""
        return f"{WORDS[self.choice]} {self.reviewer}{note}"


def check_reviewer(name: str) -> str:
    """Return a reviewer's name. Raises InputError unless it can be part of a file name."""
    if not files.is_plain_name(name) or len(name) > 60:
        raise InputError(
            "`reviewer`",
            f"is {name!r}",
            "a name of at most 60 characters that can be part of a file name",
            "choose another name, such as initials",
        )
    return name


def now() -> str:
    """Return the time, UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def append(folder: Path, decision: Decision) -> Path:
    """Append a decision to the file of its reviewer, on the disk when this returns.

    Raises InputError if the folder cannot be written.
    """
    path = folder / f"{PREFIX}{check_reviewer(decision.reviewer)}{ENDING}"
    files.add_line(path, {"schema": SCHEMA, **asdict(decision)})
    return path


def read(folder: Path) -> list[Decision]:
    """Return all decisions in the folder of a result, each reviewer's in their order.

    A last line without its end, left by a crash, is skipped. Raises InputError for other damage.
    """
    found = []
    for path in sorted(folder.glob(f"{PREFIX}*{ENDING}")):
        for number, content in files.read_lines(path, WHAT):
            with reading(path, WHAT, f"correct line {number}", "incomplete"):
                found.append(_parsed(content))
    return found


def _parsed(content: dict[str, Any]) -> Decision:
    if content["schema"] != SCHEMA or content["choice"] not in get_args(Choice):
        raise ValueError(f"schema {content['schema']!r}, choice {content['choice']!r}")
    return Decision(
        str(content["reviewer"]),
        content["choice"],
        str(content["note"]),
        str(content["when"]),
        str(content["parameters_sha256"]),
        [[float(number) for number in row] for row in content["camera"]],
        "person" if content["set_by"] == "person" else "solver",
    )


def latest(decisions: Sequence[Decision], hashes: Collection[str]) -> list[Decision]:
    """Return the last decision of each reviewer on one pose, the most cautious first.

    ``hashes`` are those of the parameters.pt that hold it.
    """
    last = {one.reviewer: one for one in decisions if one.parameters_sha256 in hashes}
    return sorted(last.values(), key=lambda one: list(EFFECT).index(one.choice))


def standing(folder: Path, result: Result) -> list[Decision]:
    """Return the last decision of each reviewer on the result in a folder, as `latest`."""
    decisions = read(folder)
    if not decisions:
        return []
    return latest(decisions, [files.sha256(folder / names.PARAMETERS), *result.same_pose_as])


def judged(verdict: Verdict, decisions: Sequence[Decision]) -> Verdict:
    """Return a verdict as people decided: ``failed`` if one rejects, ``suspect`` if one wants a
    second look, else ``ok`` if one accepts. Without a decision, the verdict itself.
    """
    if not decisions:
        return verdict
    said = tuple(one.words for one in decisions)
    return replace(verdict, code=EFFECT[decisions[0].choice], reasons=(*said, *verdict.reasons))


def as_judged(folder: Path, result: Result) -> Result:
    """Return the result in a folder with the verdict as people decided."""
    return replace(result, verdict=judged(result.verdict, standing(folder, result)))
