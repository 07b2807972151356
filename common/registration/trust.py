"""How far a pose can be trusted: 95 % bounds of its error, and the chance that it is wrong.

The numbers of the model are in ``trust.json``. They are made from fits in X-rays whose truth is
known, by ``python benchmarks/calibrate.py`` (benchmarks/README.md, 'The verdict put to the test').
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from common import geometry
from common.registration.competition import Solution
from common.registration.cues import Cues
from common.registration.scene import Structure, View
from common.results.result import Verdict

FILE = "trust.json"
# a pose is wrong if its error is larger; in depth only if several views determine it
WRONG_IN_PLANE_MM, WRONG_ROTATION_DEG, WRONG_DEPTH_MM = 2.0, 3.0, 5.0

# 95 % quantiles of the length of normal vectors of 1, 2 and 3 components of unit variance
CHI_95 = {1: 1.960, 2: 2.448, 3: 2.795}
LEAST_SD = 1e-9  # mm or degrees
# a fit to the flipped X-ray that is worse by more than this says no more for a pose: wrong bones,
# partly in view, are up to 0.65 worse (benchmarks/README.md, 'The verdict put to the test')
CLEARLY_FLIPPED = 0.15
# share of noise in the X-ray's contrast: more than the first is allowed for, up to the second. Less
# is not told from what phantoms lack: of right poses of another renderer's X-rays with hardly any
# noise, 75 instead of 88 % were `ok` if all of it was (benchmarks/README.md, 'The verdict put to
# the test')
USUAL_NOISE, MOST_NOISE = 0.1, 0.6
LEAST_COST = 0.02  # unexplained fraction without noise

Kind = Literal["bone", "bone_several", "whole", "metal", "metal_several"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Directions(NamedTuple):
    """One number for each direction of an error, in the frame of the first camera."""

    in_plane: float  # mm
    depth: float  # mm
    rotation: float  # degrees


EXACT = Directions(0, 0, 0)


@dataclass(frozen=True)
class Model:
    """The numbers of ``trust.json``."""

    # how far the surface of a bone is off, in half voxels: the error that no curvature knows
    surface: Directions
    factors: Mapping[Kind, Directions]  # 95 % bound of an error over its standard deviation
    weights: np.ndarray  # (F,) of `features`
    usual: np.ndarray  # (F,) medians of right poses in one view
    intercept: float

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Model:
        """Return the model of the content of ``trust.json``."""
        bounds, wrong = entries["bounds"], entries["wrong"]
        return cls(
            Directions(**bounds["surface"]),
            {kind: Directions(**bounds[kind]) for kind in KINDS},
            np.array([wrong["weights"][name] for name in FEATURES]),
            np.array([wrong["usual"][name] for name in FEATURES]),
            float(wrong["intercept"]),
        )

    def bounds(
        self,
        curvature: Directions,
        half_voxel: Directions,
        kind: Kind,
        detector: Directions = EXACT,
    ) -> Directions:
        """Return the 95 % bounds of an error.

        ``curvature`` are its standard deviations from noise (`deviations`), ``half_voxel`` the
        errors if the surface is off by half a voxel (`surface_errors`), ``detector`` the standard
        deviations from a geometry that is not known exactly (`detector_errors`).
        """
        return Directions(
            *(
                float(np.hypot(factor * np.hypot(noise, share * error), CHI_95[1] * geometry_sd))
                for factor, noise, share, error, geometry_sd in zip(
                    self.factors[kind], curvature, self.surface, half_voxel, detector, strict=True
                )
            )
        )

    def wrong(self, cues: Cues, views: int) -> float:
        """Return the chance that a pose is wrong."""
        score = self.intercept + float(self.weights @ features(cues, views))
        return float(1 / (1 + np.exp(-score)))

    def against(self, cues: Cues) -> np.ndarray:
        """Return how much each feature (F,) adds to the log-odds, over a usual right pose."""
        return self.weights * (features(cues, 1) - self.usual)


@functools.cache
def model() -> Model:
    """Return the model that the suite comes with."""
    text = resources.files("common.registration").joinpath(FILE).read_text("utf-8")
    return Model.from_entries(json.loads(text))


# similarity, agreement, share in view and contrast that is not shown add nothing to these
# (benchmarks/README.md, 'The verdict put to the test')
FEATURES = ("least rise", "moved", "flipped", "rival", "several")
DOUBTS = {
    "least rise": "poses around it fit nearly as well",
    "moved": "parts of the bone fit better if each is moved by itself, as if its shape differed",
    "flipped": "the bone fits the X-ray about as well if it is flipped left to right",
    "rival": "another pose fits nearly as well",
}


def features(cues: Cues, views: int) -> np.ndarray:
    """Return what the chance depends on, (F,) as named in `FEATURES`.

    Noise lowers what the X-ray can explain of the DRR by its share of the X-ray's contrast; the
    cues are taken as they would be with the usual noise.
    """
    signal = signal_share(cues)
    return np.array(
        [
            np.log(max(cues.least_rise / signal, 1e-3)),
            np.log(max(cues.moved / signal, 1e-3)),
            np.clip(_flipped(cues, signal), -CLEARLY_FLIPPED, 1),
            min(cues.rival_gap / np.sqrt(signal), 0.1),
            float(views > 1),
        ]
    )


def signal_share(cues: Cues) -> float:
    """Return the share of the X-ray's local contrast that is not noise, over the usual share; 1 if
    there is less noise than usual.
    """
    return min(1.0, (1 - min(cues.noise, MOST_NOISE)) / (1 - USUAL_NOISE))


def _flipped(cues: Cues, signal: float) -> float:
    """Return the cue of the flipped X-ray with the usual noise; 0 in several views."""
    if cues.flipped is None:
        return 0.0
    cost = 1 - cues.similarity**2
    own, flipped = (
        max(1 - (1 - c) / signal, LEAST_COST) for c in (cost, cost / np.exp(cues.flipped))
    )
    return float(np.log(own / flipped))


def leading_doubt(cues: Cues) -> str:
    """Return in words what speaks most against a pose, in comparison with usual right ones."""
    against = dict(zip(FEATURES, model().against(cues), strict=True))
    tried = [name for name in DOUBTS if name != "flipped" or cues.flipped is not None]
    return DOUBTS[max(tried, key=against.__getitem__)]


def kind_of(structure: Structure, views: Sequence[View]) -> Kind:
    """Return what the bounds of a pose depend on: what is registered, and in how many views."""
    if structure.body.complete:
        return "whole"
    if structure.body.metal:
        return "metal" if len(views) == 1 else "metal_several"
    return "bone" if len(views) == 1 else "bone_several"


def deviations(solution: Solution, views: Sequence[View], structure: Structure) -> Directions:
    """Return the standard deviations that the curvature of the cost gives.

    In plane it is the rms of two axes, in rotation that of three. The depth of a single view also
    follows from the size of the bone, and so from the place of its surface: one that is displaced
    makes the bone larger, and its depth wrong in proportion.
    """
    body, covariance = structure.body, solution.fit.covariance
    camera = solution.fit.poses[0] @ views[0].rig_from_camera
    shift = camera[:3, :3].T @ covariance[3:6, 3:6] @ camera[:3, :3]
    depth = shift[2, 2]
    if len(views) == 1:
        depth += (body.surface_sd_mm * _depth_per_mm(solution, views, structure)) ** 2
    return Directions(
        float(np.sqrt((shift[0, 0] + shift[1, 1]) / 2)),
        float(np.sqrt(depth)),
        float(np.degrees(np.sqrt(np.trace(covariance[:3, :3]) / 3))),
    )


def surface_errors(solution: Solution, views: Sequence[View], structure: Structure) -> Directions:
    """Return the error in each direction if the surface of the bone is off by half a voxel.

    A surface that is off everywhere by as much makes the bone larger, which a single view takes for
    depth; one that is off on one side moves the bone or turns it.
    """
    half_mm = float(np.mean(structure.ct.spacing_mm)) / 2
    per_mm = _depth_per_mm(solution, views, structure) if len(views) == 1 else 1.0
    turn_deg = float(np.degrees(half_mm / _half_width_mm(structure)))
    return Directions(half_mm, half_mm * per_mm, turn_deg)


def _depth_per_mm(solution: Solution, views: Sequence[View], structure: Structure) -> float:
    """Return the depth in mm that a single view takes one mm of a bone's half width for."""
    return _depth_mm(solution, views, structure) / _half_width_mm(structure)


def _depth_mm(solution: Solution, views: Sequence[View], structure: Structure) -> float:
    """Return the depth of a bone's centre in the first camera."""
    camera = solution.fit.poses[0] @ views[0].rig_from_camera
    return float(geometry.apply(geometry.invert(camera), structure.body.centre_mm)[2])


def _half_width_mm(structure: Structure) -> float:
    return max(structure.body.half_width_mm, 1.0)


def detector_errors(solution: Solution, views: Sequence[View], structure: Structure) -> Directions:
    """Return the standard deviation in each direction from an SDD that is not known exactly.

    A single view takes an SDD that is too long by one percent for a depth that is one percent too
    large. Several views have a calibration, which fixes depth.
    """
    if len(views) > 1:
        return EXACT
    percent = views[0].xray.reading.get("sdd_sd_percent", 0.0)
    return Directions(0, _depth_mm(solution, views, structure) * percent / 100, 0)


def widening(verdict: Verdict, volume_from_camera: np.ndarray) -> np.ndarray:
    """Return S (6, 6) with which S C S has the standard deviations that the 95 % bounds imply.

    C is the covariance of left twists (radians, mm) in the volume frame, and ``volume_from_camera``
    (4, 4) the first camera, along whose axes the bounds are. S is symmetric, and the identity if
    the verdict states no bounds.
    """
    bounds = verdict.bounds_95
    if not bounds:
        return np.eye(6)
    axes = volume_from_camera[:3, :3]
    across = bounds["in_plane_mm"] / (CHI_95[2] * max(verdict.in_plane_sd_mm, LEAST_SD))
    along = bounds["depth_mm"] / (CHI_95[1] * max(verdict.depth_sd_mm, LEAST_SD))
    turn = bounds["rotation_deg"] / (CHI_95[3] * max(verdict.rotation_sd_deg, LEAST_SD))
    widened = np.zeros((6, 6))
    widened[:3, :3] = turn * np.eye(3)
    widened[3:, 3:] = axes @ np.diag([across, across, along]) @ axes.T
    return widened


def is_wrong(in_plane_mm: float, depth_mm: float, rotation_deg: float, views: int) -> bool:
    """Return whether a pose with these errors is wrong."""
    return (
        in_plane_mm > WRONG_IN_PLANE_MM
        or rotation_deg > WRONG_ROTATION_DEG
        or (views > 1 and depth_mm > WRONG_DEPTH_MM)
    )
