"""How far the poses that reviewers accepted are apart: inter- and intra-observer differences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common import geometry
from common.errors import InputError
from common.results import decisions, names, parameters_file
from common.results.decisions import Decision
from common.results.folders import find_results
from common.results.result import Result

NUMBERS = ("in_plane_mm", "depth_mm", "rotation_deg", "mtre_mm")


@dataclass(frozen=True)
class Disagreement:
    """Two accepted poses of one bone, in the camera frame of its first view."""

    result: str  # folder below that of the review
    kind: Literal["inter", "intra"]  # two reviewers, or one reviewer twice
    first: str
    second: str
    in_plane_mm: float
    depth_mm: float
    rotation_deg: float
    mtre_mm: float

    def entries(self) -> dict[str, Any]:
        """Return it in plain types."""
        return asdict(self)


def table(root: Path) -> tuple[list[Disagreement], list[str]]:
    """Return the disagreements in all results below a folder, and what was wrong with others.

    Of each reviewer, the last accepted pose is compared with those of the others, and with the
    accepted pose before it.
    """
    rows: list[Disagreement] = []
    problems: list[str] = []
    for folder in find_results(root):
        try:
            made = [one for one in decisions.read(folder) if one.choice == "accept"]
            if len(made) > 1:
                result = parameters_file.load(folder / names.PARAMETERS)
                name = folder.relative_to(root).as_posix()
                rows += [_row(name, result, *pair) for pair in _pairs(made)]
        except InputError as error:
            problems.append(str(error))
    return rows, problems


def _pairs(made: Sequence[Decision]) -> Iterator[tuple[Decision, Decision]]:
    by_reviewer: dict[str, list[Decision]] = {}
    for one in made:
        by_reviewer.setdefault(one.reviewer, []).append(one)
    for one, other in itertools.combinations(sorted(by_reviewer), 2):
        yield by_reviewer[one][-1], by_reviewer[other][-1]
    for own in by_reviewer.values():
        if len(own) > 1:
            yield own[-2], own[-1]


def _row(name: str, result: Result, one: Decision, other: Decision) -> Disagreement:
    placed = np.array(result.drr.get("scanner_from_volume", np.eye(4)))
    error = geometry.pose_error(
        np.array(other.camera),
        np.array(one.camera),
        geometry.apply(placed, result.points_mm),
        result.scanner_pose[0].detector,
    )
    kind = "intra" if one.reviewer == other.reviewer else "inter"
    numbers = {key: getattr(error, key) for key in NUMBERS}
    return Disagreement(name, kind, one.reviewer, other.reviewer, **numbers)


def summary(rows: Sequence[Disagreement]) -> list[dict[str, Any]]:
    """Return count, mean, standard deviation and largest of each number, by pair of reviewers."""
    found = []
    keys = sorted({(row.kind, row.first, row.second) for row in rows})
    for kind, first, second in keys:
        own = [row for row in rows if (row.kind, row.first, row.second) == (kind, first, second)]
        numbers = {}
        for key in NUMBERS:
            values = np.array([getattr(row, key) for row in own])
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            numbers[key] = {
                "mean": float(values.mean()),
                "sd": spread,
                "largest": float(values.max()),
            }
        pair = {"kind": kind, "first": first, "second": second, "count": len(own)}
        found.append({**pair, **numbers})
    return found
