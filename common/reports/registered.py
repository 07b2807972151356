"""A finished registration, read from its results folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import geometry
from common.reports.evaluation_file import Evaluation, find_evaluations
from common.results import decisions, names, parameters_file
from common.results.result import Result, VerdictCode

logger = logging.getLogger(__name__)


class Quantity(NamedTuple):
    """A number of a registration as tables and charts name it."""

    title: str
    unit: str


NUMBERS = {
    "in_plane_95_mm": Quantity("in plane, 95 %", "mm"),
    "depth_95_mm": Quantity("depth, 95 %", "mm"),
    "rotation_95_deg": Quantity("rotation, 95 %", "°"),
    "wrong_probability": Quantity("chance that it is wrong", ""),
    "similarity": Quantity("similarity", ""),
    "in_plane_mm": Quantity("in plane, error", "mm"),
    "depth_mm": Quantity("depth, error", "mm"),
    "rotation_deg": Quantity("rotation, error", "°"),
    "mtre_mm": Quantity("mTRE", "mm"),
}
# of the points of a structure, one is used for the distances of a trajectory
EVERY_POINT = 10


@dataclass(frozen=True)
class Registered:
    """A result and, if evaluation.py ran, its evaluation."""

    folder: Path
    result: Result
    evaluation: Evaluation | None

    @property
    def verdict(self) -> VerdictCode:
        return self.result.verdict.code

    @property
    def numbers(self) -> dict[str, float]:
        """The known `NUMBERS`: 95 % bounds and, with ground truth, errors."""
        errors = self.evaluation.pose_error("final") if self.evaluation else {}
        known = {**self.result.verdict.entries(), **errors}
        return {key: float(known[key]) for key in NUMBERS if key in known}

    @property
    def volume_path(self) -> Path:
        return Path(str(self.result.drr["volume"]))


def load_registered(folder: Path) -> Registered:
    """Read a results folder, with the verdict as people decided.

    Raises InputError for files that this suite did not write.
    """
    evaluations = find_evaluations(folder)
    if len(evaluations) > 1:
        used = evaluations[0][0].name
        logger.info(f"{folder}: {len(evaluations)} evaluations; {used} is used")
    result = parameters_file.load(folder / names.PARAMETERS)
    reviewed = decisions.as_judged(folder, result)
    return Registered(folder, reviewed, evaluations[0][1] if evaluations else None)


@dataclass(frozen=True)
class Convergence:
    """Distance of each pose of a trajectory from the final pose, and its similarity; all (N,)."""

    in_plane_mm: np.ndarray
    depth_mm: np.ndarray
    rotation_deg: np.ndarray
    similarity: np.ndarray
    scale_mm: np.ndarray  # pixel spacing of the level, 0 at the start pose


def convergence(result: Result) -> Convergence:
    """Return how the trajectory of a registration approached its final pose."""
    final = result.volume_from_camera()
    points = result.points_mm[::EVERY_POINT]
    errors = [
        geometry.pose_error(result.volume_from_camera(pose), final, points, result.detector)
        for pose in result.trajectory_poses()
    ]
    return Convergence(
        np.array([error.in_plane_mm for error in errors]),
        np.array([error.depth_mm for error in errors]),
        np.array([error.rotation_deg for error in errors]),
        np.array(result.trajectory["similarity"], float),
        np.array(result.trajectory["scale"], float),
    )
