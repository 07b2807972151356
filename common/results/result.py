"""What a registration found, as types: `Verdict`, `ScannerView`, `Result`. Frames: `common.geometry`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.volume.volume import Volume

logger = logging.getLogger(__name__)

TRAJECTORY_COLUMNS = ("r1", "r2", "r3", "tx", "ty", "tz", "similarity", "seconds", "scale")
PIXEL_FRAME = (
    "RAS millimetres of the original CT; pixels (column, row) of the picture on disk, from 0, "
    "integers at pixel centres"
)

VerdictCode = Literal["ok", "suspect", "failed"]


@dataclass(frozen=True)
class Rival:
    """Another fit: its distance from the final pose, and its similarity."""

    in_plane_mm: float
    rotation_deg: float
    similarity: float


@dataclass(frozen=True)
class Verdict:
    """How far a pose can be trusted.

    Standard deviations are those of the body in the first camera's frame: in plane (rms of two axes), in depth, and in
    rotation (rms of three axes).
    """

    code: VerdictCode
    reasons: tuple[str, ...]
    in_plane_sd_mm: float
    depth_sd_mm: float
    rotation_sd_deg: float
    in_view: float  # share of the structure inside the image, smallest over the views
    similarity: float
    agreement: float  # share of the start poses that ended at this pose
    rival: Rival | None

    def entries(self) -> dict[str, Any]:
        """The verdict as stored in ``parameters.pt``."""
        numbers = {name: getattr(self, name) for name in _VERDICT_NUMBERS}
        rival = asdict(self.rival) if self.rival else None
        return {
            "verdict": self.code,
            "reasons": list(self.reasons),
            **numbers,
            "other_start": rival,
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Verdict:
        """Inverse of `entries`. Raises KeyError, TypeError or ValueError for anything else."""
        if entries["verdict"] not in ("ok", "suspect", "failed"):
            raise ValueError(f"verdict {entries['verdict']!r}")
        other = entries["other_start"]
        numbers = {name: float(entries[name]) for name in _VERDICT_NUMBERS}
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


@dataclass(frozen=True)
class BoneMotion:
    """One bone of a view.

    A view's camera is that of its reference bone, as if that bone had not moved since the CT, so its motion is the identity. The
    motion of any other bone is relative to it (`bone_motion`).
    """

    name: str
    side: str | None
    motion: np.ndarray  # (4, 4), RAS mm: from a point of the bone in the original CT to its place at the time of the X-ray
    scanner_from_volume: np.ndarray  # (4, 4): places the bone's registered file in the original CT

    def entries(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "side": self.side,
            "motion": as_tensor(self.motion),
            "scanner_from_volume": as_tensor(self.scanner_from_volume),
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> BoneMotion:
        return cls(
            entries["name"],
            entries["side"],
            as_matrix(entries["motion"]),
            as_matrix(entries["scanner_from_volume"]),
        )


@dataclass(frozen=True)
class ScannerView:
    """One view in the world of the original CT (RAS mm), for the X-ray as stored on disk.

    Undoing the mirror of the volume and the flip of the X-ray together leaves a proper camera. Pixels are (column, row) from 0,
    integers at pixel centres.
    """

    projection: np.ndarray  # (3, 4): homogeneous scanner millimetres to homogeneous pixels
    camera: np.ndarray  # (4, 4) scanner_from_camera at the final pose
    camera_init: np.ndarray  # (4, 4) the same at the start pose
    source_mm: list[float]
    detector_corners_mm: list[list[float]]
    sdd_mm: float
    principal_point_px: list[float]
    pixel_spacing_mm: list[float]  # width, height
    size_px: list[int]  # width, height
    bones: tuple[BoneMotion, ...] = ()  # the reference bone first
    xray: str | None = None  # path of the X-ray

    @classmethod
    def of(
        cls,
        detector: Detector,
        volume_from_camera: np.ndarray,
        init: np.ndarray,
        scanner_from_volume: np.ndarray,
        flipped: bool,
        bones: Sequence[BoneMotion] = (),
        xray: str | None = None,
    ) -> ScannerView:
        """The view of a final and a start camera (volume_from_camera) with the detector of the X-ray as registered."""
        on_disk = detector.flipped() if flipped else detector
        turn = geometry.MIRROR if flipped else np.eye(4)
        camera = scanner_from_volume @ volume_from_camera @ turn
        corners = np.array(
            [(c, r) for r in (0, on_disk.height - 1) for c in (0, on_disk.width - 1)], float
        )
        rays = np.c_[
            (corners - on_disk.principal_px) * on_disk.pixel_mm, np.full(4, on_disk.sdd_mm)
        ]
        return cls(
            projection=geometry.projection_matrix(on_disk, camera),
            camera=camera,
            camera_init=scanner_from_volume @ init @ turn,
            source_mm=camera[:3, 3].tolist(),
            detector_corners_mm=geometry.apply(camera, rays).tolist(),
            sdd_mm=on_disk.sdd_mm,
            principal_point_px=list(map(float, on_disk.principal_px)),
            pixel_spacing_mm=list(map(float, on_disk.pixel_mm)),
            size_px=[on_disk.width, on_disk.height],
            bones=tuple(bones),
            xray=xray,
        )

    @property
    def detector(self) -> Detector:
        """Detector of the X-ray as stored on disk."""
        width, height = self.size_px
        return Detector(
            height, width, self.sdd_mm, (self.pixel_spacing_mm[0], self.pixel_spacing_mm[1]),
            (self.principal_point_px[0], self.principal_point_px[1]),
        )  # fmt: skip

    def entries(self) -> dict[str, Any]:
        """The view as stored in ``scanner_pose`` of ``parameters.pt``."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        matrices = {name: as_tensor(plain[name]) for name in _MATRICES}
        xray = {"xray": self.xray} if self.xray is not None else {}
        kept = {
            name: value
            for name, value in plain.items()
            if name not in (*_MATRICES, "bones", "xray")
        }
        return {
            "frame": PIXEL_FRAME,
            **matrices,
            **kept,
            "bones": [bone.entries() for bone in self.bones],
            **xray,
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> ScannerView:
        """Inverse of `entries`. Raises KeyError, TypeError, AttributeError or ValueError for anything else."""
        names = [
            each.name for each in fields(cls) if each.name not in (*_MATRICES, "bones", "xray")
        ]
        values: dict[str, Any] = {name: as_matrix(entries[name]) for name in _MATRICES}
        values |= {name: entries[name] for name in names}
        bones = tuple(BoneMotion.from_entries(bone) for bone in entries.get("bones", ()))
        return cls(**values, bones=bones, xray=entries.get("xray"))


_MATRICES = ("projection", "camera", "camera_init")


@dataclass(frozen=True)
class Result:
    """A registration of one volume to one X-ray.

    Poses are DiffDRR's extrinsics, canonical_from_carm, (4, 4): the canonical frame is the volume's world moved so that
    ``drr["isocentre_mm"]`` is the origin. The picture is the X-ray after the flip that ``xray["flipped"]`` states.
    """

    drr: dict[
        str, Any
    ]  # volume, mask, labels, isocentre_mm and DiffDRR's arguments: `detector_entries`
    xray: dict[str, Any]  # file, sha256, flipped, how it was read, and the image as uint8
    init_pose: np.ndarray
    final_pose: np.ndarray
    trajectory: dict[str, list[float]]
    verdict: Verdict
    metrics: dict[str, float]
    scanner_pose: list[ScannerView]
    runtime_s: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]

    @property
    def detector(self) -> Detector:
        keys = ("sdd", "height", "width", "delx", "dely", "x0", "y0")
        arguments: dict[str, Any] = {key: self.drr[key] for key in keys}
        return Detector.from_diffdrr_arguments(**arguments)

    @property
    def picture(self) -> np.ndarray:
        """(H, W) uint8: the X-ray that was registered, bone bright."""
        return np.asarray(self.xray["image"])

    @property
    def points_mm(self) -> np.ndarray:
        """(N, 3) points of the registered structure in the volume's world, RAS mm."""
        return np.array(self.drr.get("points_mm") or [self.drr["isocentre_mm"]])

    def volume_from_camera(self, pose: np.ndarray | None = None) -> np.ndarray:
        """Camera of a pose (the final one by default) in the volume's world, RAS millimetres."""
        extrinsic = self.final_pose if pose is None else pose
        camera = geometry.camera_from_pose(
            extrinsic, self.drr["orientation"], self.drr["reverse_x_axis"]
        )
        return geometry.translation(np.array(self.drr["isocentre_mm"])) @ camera

    @property
    def bone_depth_mm(self) -> float:
        """Distance from the source to the middle of the registered structure, along the principal ray."""
        return float(
            geometry.apply(geometry.invert(self.volume_from_camera()), self.points_mm)[:, 2].mean()
        )

    def trajectory_poses(self) -> np.ndarray:
        """(N, 4, 4) poses of the trajectory."""
        columns = np.array([self.trajectory[name] for name in TRAJECTORY_COLUMNS[:6]]).T
        return np.array([geometry.pose_from_angles(row[:3], row[3:]) for row in columns]).reshape(
            -1, 4, 4
        )


def detector_entries(detector: Detector, isocentre_mm: np.ndarray) -> dict[str, Any]:
    """The part of ``drr`` that fixes the geometry of the image."""
    return {
        **detector.diffdrr_arguments(),
        "orientation": "AP",
        "reverse_x_axis": True,
        "isocentre_mm": [float(x) for x in isocentre_mm],
    }


def bone_motion(reference_camera: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """(4, 4) motion of a bone since the CT, RAS mm, from the cameras (scanner_from_camera) of the reference bone and of the bone."""
    return reference_camera @ geometry.invert(camera)


def world_from_registered(result: Result, volume: Volume) -> np.ndarray:
    """(4, 4) transform from the world of the registered volume to that of ``volume``, RAS millimetres.

    The camera of a pose in ``volume`` is this times `Result.volume_from_camera`. ``volume`` is assumed to share the frame of the
    registered one, unless its lineage gives its place in the scanner: it was written by a step of this suite, or it is the original CT (by its
    hash). Raises InputError if fewer than half of the registered points lie inside it.
    """
    moved = np.eye(4)
    original = volume.lineage.source.get("sha256", "none") == result.drr.get("source", {}).get(
        "sha256"
    )
    if (volume.lineage.history or original) and "scanner_from_volume" in result.drr:
        moved = geometry.invert(volume.lineage.scanner_from_volume) @ np.array(
            result.drr["scanner_from_volume"]
        )
        if not np.allclose(moved, np.eye(4), atol=1e-3):
            logger.info(
                f"{volume.name}: lies in another frame than the registered volume; the pose was"
                " transferred by their lineages"
            )
    index = geometry.apply(geometry.invert(volume.affine) @ moved, result.points_mm)
    inside = ((index > -0.5) & (index < np.array(volume.shape) - 0.5)).all(axis=1).mean()
    if inside < 0.5:
        raise InputError(
            volume.name,
            f"holds {100 * inside:.0f} % of the registered structure",
            f"a CT in the frame of {Path(str(result.drr['volume'])).name}",
            "give that file, or one made from the same CT with its lineage beside it",
        )
    return moved


def as_tensor(array: np.ndarray) -> Any:
    """A float64 tensor, as matrices are stored."""
    import torch

    return torch.as_tensor(np.asarray(array), dtype=torch.float64)


def as_matrix(tensor: Any) -> np.ndarray:
    """A stored matrix as a float64 array."""
    return np.array(tensor.tolist(), dtype=np.float64)
