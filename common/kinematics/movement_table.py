"""``kinematics.csv`` and ``kinematics.json``: the joint coordinates of a movement with bands."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.helical_axis import helical_axes
from common.kinematics.movement import JointPose, Movement
from common.kinematics.movement_summary import summary_of
from common.version import VERSION

SCHEMA = "kinematics/1"
CSV, JSON = "kinematics.csv", "kinematics.json"
DIGITS = 6
ENDINGS = ("", "_low", "_high")
SMOOTH_ENDINGS = ("_smooth", "_smooth_low", "_smooth_high")


def columns_of(quantities: Sequence[str], bones: Sequence[str], smoothed: bool) -> list[str]:
    """Return the columns of the table, in order."""
    banded = [f"{name}{end}" for name in quantities for end in ENDINGS]
    smooth = [f"{name}{end}" for name in quantities for end in SMOOTH_ENDINGS] if smoothed else []
    verdicts = [f"{bone}_verdict" for bone in bones]
    return ["frame", "time_s", *banded, *verdicts, *smooth]


def as_table(
    joints: Sequence[JointPose],
    found: Movement,
    times: np.ndarray | None,
    quantities: Sequence[str],
    bones: Sequence[str],
    smooth: tuple[np.ndarray, np.ndarray] | None = None,
) -> str:
    """Return the CSV table, a row per frame; numbers of a frame without a pose are empty.

    ``times`` (N,) are seconds, ``smooth`` the smoothed values (N, 6) and half their bands (N, 6).
    """
    half = found.band()
    rows = []
    for number, joint in enumerate(joints):
        row: dict[str, Any] = {"frame": joint.name}
        row["time_s"] = "" if times is None else _text(times[number])
        row |= _banded(quantities, found.values[number], half[number], ENDINGS)
        for bone, pose in zip(bones, joint.bones, strict=True):
            row[f"{bone}_verdict"] = pose.verdict
        if smooth is not None:
            row |= _banded(quantities, smooth[0][number], smooth[1][number], SMOOTH_ENDINGS)
        rows.append(row)
    return files.as_csv(rows, columns_of(quantities, bones, smooth is not None))


def _banded(
    quantities: Sequence[str], values: np.ndarray, half: np.ndarray, endings: Sequence[str]
) -> dict[str, str]:
    cells = {}
    for name, value, width in zip(quantities, values, half, strict=True):
        numbers = (value, value - width, value + width)
        cells |= {f"{name}{end}": _text(x) for end, x in zip(endings, numbers, strict=True)}
    return cells


def _text(value: float) -> str:
    return f"{value:.{DIGITS}f}" if np.isfinite(value) else ""


def frame_entries(path: Path, frame: AnatomicalFrame) -> dict[str, Any]:
    """Return what ``kinematics.json`` states of an anatomical frame."""
    return {
        "file": path.name,
        "sha256": files.sha256(path),
        "bone": frame.bone,
        "side": frame.side,
        "method": frame.method,
    }


@dataclass(frozen=True, eq=False)
class Table:
    """A movement read from ``kinematics.csv`` and ``.json``; gaps are NaN."""

    name: str  # of its folder
    names: tuple[str, ...]  # of the frames
    times: np.ndarray | None  # (N,) seconds
    quantities: tuple[str, ...]
    values: np.ndarray  # (N, 6)
    half: np.ndarray  # (N, 6) half the width of their 95 % bands
    systematic: np.ndarray  # (6,) half the width of the band of the anatomical frames
    side: str
    frames: tuple[str, ...]  # hash of each FRAME.json; empty in files of earlier versions


WHAT = "kinematics.csv of kinematics.py, with kinematics.json beside it"


def load(folder: Path, smoothed: bool = False) -> Table:
    """Read the movement in a folder, or its ``smoothed`` numbers.

    Raises InputError if a file or a column is missing.
    """
    content = files.read_json(folder / JSON, WHAT)
    if content.get("schema") != SCHEMA:
        raise InputError(
            folder / JSON, f"schema is {content.get('schema')!r}", f"{SCHEMA!r}", "choose another"
        )
    path = folder / CSV
    rows = list(csv.DictReader(files.read_text(path, WHAT).splitlines()))
    endings = SMOOTH_ENDINGS if smoothed else ENDINGS
    with reading(path, WHAT, "run kinematics.py again", "incomplete"):
        quantities = tuple(map(str, content["columns"]))
        if smoothed and rows and f"{quantities[0]}{SMOOTH_ENDINGS[0]}" not in rows[0]:
            raise InputError(
                path, "has no smoothed columns", "those of `smooth`", "run kinematics.py with it"
            )
        numbers = np.array(
            [
                [[float(row[name + end] or "nan") for end in endings] for name in quantities]
                for row in rows
            ]
        ).reshape(len(rows), len(quantities), len(endings))
        times = [row["time_s"] for row in rows]
        systematic = [content["systematic_band"][name] for name in quantities]
        stated = content["anatomical_frames"]
        return Table(
            folder.resolve().name,
            tuple(row["frame"] for row in rows),
            np.array(times, float) if all(times) and times else None,
            quantities,
            numbers[..., 0],
            (numbers[..., 2] - numbers[..., 1]) / 2,
            np.array([0.0 if width is None else float(width) for width in systematic]),
            str(stated[0]["side"]),
            tuple(each["sha256"] for each in stated if "sha256" in each),
        )


def as_content(
    found: Movement,
    quantities: Sequence[str],
    frames: Sequence[dict[str, Any]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return what goes beside the table: the systematic band, helical axes, frames, settings."""
    systematic = found.frame_band()
    largest = systematic[found.known].max(axis=0) if len(found.known) else np.full(6, np.nan)
    return {
        "schema": SCHEMA,
        "columns": list(quantities),
        "summary": summary_of(found.values, quantities),
        "frames_without_a_pose": [
            name for number, name in enumerate(found.names) if number not in found.known
        ],
        "systematic_band": {
            "meaning": "half the width of the 95 % band from the anatomical frames: one error in"
            " all frames of the movement; the largest of the movement",
            **{
                name: round(float(width), 4) if np.isfinite(width) else None
                for name, width in zip(quantities, largest, strict=True)
            },
        },
        "helical_axes": [
            {
                "first": found.names[axis.first],
                "last": found.names[axis.last],
                "direction": axis.direction.round(6).tolist(),
                "point_mm": axis.point_mm.round(4).tolist(),
                "angle_deg": round(axis.angle_deg, 4),
                "shift_mm": round(axis.shift_mm, 4),
            }
            for axis in helical_axes(found.proximal_from_distal)
        ],
        "anatomical_frames": list(frames),
        "settings": settings,
        "versions": {"suite": VERSION},
    }
