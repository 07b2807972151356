"""``evaluation.json`` and ``evaluation.csv`` of evaluation.py: one schema, one writer, one reader.

Images are keyed ``initial``, ``final`` and ``high_quality``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import files
from common.errors import reading
from common.results import names

# pose error: name in the figure and in tables
POSE_ERRORS = {
    "in_plane_mm": "in-plane",
    "depth_mm": "depth",
    "rotation_deg": "rotation",
    "mtre_mm": "mTRE",
    "projection_mm": "projection",
}
# bytes at the beginning of a file that contain the schema
SCHEMA_WITHIN = 100


@dataclass(frozen=True)
class DrrScores:
    """One DRR compared with the X-ray."""

    file: str
    similarity: dict[str, float]
    pose_error: dict[str, float] = field(default_factory=dict)  # `POSE_ERRORS`, if known


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one run of evaluation.py."""

    images: dict[str, DrrScores]
    xray: str | None = None
    field_fraction: float | None = None  # of the X-ray's pixels, in the valid field
    truth: str | None = None
    label: int | None = None
    points: str | None = None  # origin of the points that pose errors are averaged over
    better: dict[str, str] = field(default_factory=dict)  # metric: lower or higher
    bounds_95: dict[str, float] = field(default_factory=dict)  # of the final pose, if stated
    verdict: str | None = None  # on the final pose, as people decided
    review: tuple[str, ...] = ()  # who decided what

    def within(self) -> dict[str, bool]:
        """Return whether each known error of the final pose is below its stated 95 % bound."""
        errors = self.pose_error("final")
        return {key: errors[key] <= bound for key, bound in self.bounds_95.items() if key in errors}

    def pose_error(self, key: str) -> dict[str, float]:
        """Return the pose errors of one image; empty if unknown."""
        return self.images[key].pose_error if key in self.images else {}


def save_json(path: str | Path, evaluation: Evaluation) -> None:
    """Write the evaluation as JSON."""
    files.write_json(
        path,
        {
            "schema": names.EVALUATION_SCHEMA,
            "xray": evaluation.xray,
            "field_fraction": evaluation.field_fraction,
            "truth": evaluation.truth,
            "label": evaluation.label,
            "points": evaluation.points,
            "better": evaluation.better,
            "bounds_95": evaluation.bounds_95,
            "within_95": evaluation.within(),
            "verdict": evaluation.verdict,
            "review": list(evaluation.review),
            "pictures": {key: _entries(scores) for key, scores in evaluation.images.items()},
        },
    )


def _entries(scores: DrrScores) -> dict[str, Any]:
    known = {"pose_error": scores.pose_error} if scores.pose_error else {}
    return {"file": scores.file, **known, "similarity": scores.similarity}


def save_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write one row per DRR; pose errors, if known, come first."""
    every = evaluation.images.values()
    known = any(scores.pose_error for scores in every)
    metrics = next(iter(every)).similarity
    reviewed = {"verdict": evaluation.verdict} if evaluation.review else {}
    columns = ["picture", "file", *(POSE_ERRORS if known else ()), *metrics, *reviewed]
    rows = [
        {
            "picture": key,
            "file": scores.file,
            **scores.pose_error,
            **scores.similarity,
            **(reviewed if key != "initial" else {}),
        }
        for key, scores in evaluation.images.items()
    ]
    files.write_text(path, files.as_csv(rows, columns))


def load(path: str | Path) -> Evaluation:
    """Read the JSON of evaluation.py. Raises InputError for any other content."""
    what = "the numbers of evaluation.py"
    content = files.read_json(path, what)
    with reading(path, what, "run evaluation.py again", "incomplete"):
        images = {key: _scores(entry) for key, entry in content["pictures"].items()}
        about = {
            name: content.get(name)
            for name in ("xray", "field_fraction", "truth", "label", "points", "verdict")
        }
        bounds = {name: float(value) for name, value in content.get("bounds_95", {}).items()}
        better, review = dict(content.get("better", {})), tuple(content.get("review", ()))
        return Evaluation(images, **about, better=better, bounds_95=bounds, review=review)


def _scores(entry: Mapping[str, Any]) -> DrrScores:
    return DrrScores(
        str(entry.get("file", "")),
        {name: float(value) for name, value in entry["similarity"].items()},
        {name: float(value) for name, value in entry.get("pose_error", {}).items()},
    )


def find_evaluations(folder: Path) -> list[tuple[Path, Evaluation]]:
    """Return the evaluations in a results folder under any name, `names.EVALUATION` first.

    Raises InputError for a file that cannot be read.
    """
    every = sorted(
        folder.glob("*.json"), key=lambda path: (path.name != names.EVALUATION, path.name)
    )
    return [
        (path, load(path)) for path in every if path.name == names.EVALUATION or _has_schema(path)
    ]


def _has_schema(path: Path) -> bool:
    with open(path, "rb") as stream:
        return f'"{names.EVALUATION_SCHEMA}"'.encode() in stream.read(SCHEMA_WITHIN)
