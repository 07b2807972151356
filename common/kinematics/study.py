"""A movement studied: coordinates with bands, and what is asked for beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.kinematics.contact import Contact, Mesh, Plateau, contact
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.functional_alignment import MOST_DEG, Alignment, align
from common.kinematics.movement import Coordinates, JointPose, Movement, movement
from common.kinematics.movement_inputs import Found
from common.kinematics.normal_band import Placed
from common.kinematics.smoother import OUTLIER, Smoothed, smooth

logger = logging.getLogger(__name__)

SHOWN = 8  # frames that a warning names


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a movement is studied from, read and checked."""

    name: str
    frames: tuple[AnatomicalFrame, AnatomicalFrame]
    stated_frames: Sequence[dict[str, Any]]  # what kinematics.json says of them
    results: tuple[Sequence[Found], Sequence[Found]]
    joints: Sequence[JointPose]
    times: np.ndarray | None  # (N,) seconds
    quantities: tuple[str, ...]
    coordinates: Coordinates
    settings: dict[str, Any]
    meshes: tuple[Mesh, Plateau] | None = None  # for the distances of the bones
    normal: Placed | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """A movement, and all that its files state."""

    inputs: Inputs
    found: Movement
    smoothed: Smoothed | None
    alignment: Alignment | None
    aligned: tuple[Movement, Smoothed | None] | None  # in the frames of the alignment
    distances: Contact | None

    @property
    def best(self) -> np.ndarray:
        """Coordinates (N, 6), smoothed if they were."""
        return self.found.values if self.smoothed is None else self.smoothed.values

    @property
    def settings(self) -> dict[str, Any]:
        """Settings as stored in ``kinematics.json``."""
        if self.smoothed is None:
            return self.inputs.settings
        strength = list(self.smoothed.strength)
        return {**self.inputs.settings, "smoothing_rad2_per_s3_mm2_per_s3": strength}


def study_movement(
    inputs: Inputs, smoothing: bool, cutoff_hz: float | None, aligning: bool
) -> Study:
    """Return the coordinates of a movement, smoothed and aligned by choice.

    Raises InputError where a choice is not possible; warns of frames that may be wrong.
    """
    joints, frames = inputs.joints, inputs.frames
    found = movement(joints, frames, inputs.coordinates)
    alignment = _alignment(joints, found, frames) if aligning else None
    _warn_of_suspect(joints)

    def smoothed(each: Movement) -> Smoothed | None:
        if not smoothing or inputs.times is None:
            return None
        return _smoothed(each, inputs.times, inputs.coordinates, cutoff_hz)

    first = smoothed(found)
    aligned = None
    if alignment is not None:
        again = movement(joints, alignment.aligned(frames), inputs.coordinates)
        aligned = again, smoothed(again)
    distances = None if inputs.meshes is None else _distances(found, inputs.meshes)
    return Study(inputs, found, first, alignment, aligned, distances)


def _alignment(
    joints: Sequence[JointPose],
    found: Movement,
    frames: tuple[AnatomicalFrame, AnatomicalFrame],
) -> Alignment:
    """Return the corrections of both frames, from frames whose poses are ok."""
    sure = np.array([all(bone.verdict == "ok" for bone in joint.bones) for joint in joints])
    poses = np.where(sure[:, None, None], found.proximal_from_distal, np.nan)
    alignment = align(poses, frames[0].side)
    if alignment.most_deg > MOST_DEG:
        logger.warning(
            f"`align` turns a frame by {alignment.most_deg:.0f} degrees: check both frames"
        )
    logger.info(
        f"aligned: varus {alignment.before_deg[0]:.1f} to {alignment.after_deg[0]:.1f}, internal"
        f" rotation {alignment.before_deg[1]:.1f} to {alignment.after_deg[1]:.1f} degrees (rms)"
    )
    return alignment


def _smoothed(
    found: Movement, times: np.ndarray, coordinates: Coordinates, cutoff_hz: float | None
) -> Smoothed:
    """Return the smoothed movement; frames that count little are named."""
    smoothed = smooth(found, times, coordinates, cutoff_hz)
    apart = [found.names[number] for number in np.flatnonzero(smoothed.weights < OUTLIER)]
    if apart:
        logger.warning(
            f"{len(apart)} of {len(found.names)} frames do not fit their neighbours and hardly"
            f" count: {_listed(apart)}"
        )
    return smoothed


def _warn_of_suspect(joints: Sequence[JointPose]) -> None:
    """Name the frames whose numbers rest on a suspect pose."""
    suspect = [each.name for each in joints if "suspect" in [b.verdict for b in each.bones]]
    if suspect:
        logger.warning(
            f"{len(suspect)} of {len(joints)} frames rest on a suspect pose and may be wrong by any"
            f" amount: {_listed(suspect)}; see the columns of the verdicts"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _distances(found: Movement, meshes: tuple[Mesh, Plateau]) -> Contact:
    """Return the distances of the bones; an overlap is named."""
    distances = contact(found, *meshes)
    least = np.nanmin(distances.least, axis=0)
    logger.info(
        f"bones as near as {least[0]:.1f} mm medially and {least[1]:.1f} mm laterally, without"
        " their cartilage, which a CT does not show"
    )
    inside = found.known[distances.least[found.known].min(axis=1) < 0]
    if len(inside):
        logger.warning(
            f"the bones overlap in {len(inside)} of {len(found.known)} frames, by up to"
            f" {-least.min():.1f} mm: an error of poses or labelmaps"
        )
    return distances
