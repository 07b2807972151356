"""A registered view in the scanner frame of the original CT, and the motion of its bones.

Frames are those of `common.geometry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from common import geometry
from common.geometry import Detector

PIXEL_FRAME = (
    "RAS millimetres of the original CT; pixels (column, row) of the picture on disk, from 0, "
    "integers at pixel centres"
)
_MATRICES = ("projection", "camera", "camera_init")
_OTHERS = ("bones", "xray")


@dataclass(frozen=True)
class BoneMotion:
    """One bone of a view.

    The camera of a view is that of its reference bone, as if that bone had not moved since the CT,
    so its motion is the identity. The motion of any other bone is relative to it (`bone_motion`).
    """

    name: str
    side: str | None
    # (4, 4) RAS mm: from a point of the bone in the original CT to its position in the X-ray
    motion: np.ndarray
    scanner_from_volume: np.ndarray  # (4, 4) of the registered file

    def entries(self) -> dict[str, Any]:
        """Return the bone as stored in ``parameters.pt``."""
        return {
            "name": self.name,
            "side": self.side,
            "motion": self.motion,
            "scanner_from_volume": self.scanner_from_volume,
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> BoneMotion:
        """Return the bone of `entries`."""
        return cls(
            entries["name"],
            entries["side"],
            np.array(entries["motion"], float),
            np.array(entries["scanner_from_volume"], float),
        )


@dataclass(frozen=True)
class ScannerView:
    """One view in the scanner frame (RAS mm), for the X-ray as stored on disk.

    The mirror of a volume and the flip of its X-ray are both undone, which leaves a proper camera.
    Pixels are (column, row) from 0, integers at pixel centres.
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
        """Return the view of a registered X-ray.

        ``volume_from_camera`` and ``init`` are the cameras (4, 4) at the final and the start pose,
        ``detector`` is that of the X-ray as registered, ``flipped`` whether it was flipped.
        """
        on_disk = detector.flipped() if flipped else detector
        flip = geometry.MIRROR if flipped else np.eye(4)
        camera = scanner_from_volume @ volume_from_camera @ flip
        corners = np.array(
            [(c, r) for r in (0, on_disk.height - 1) for c in (0, on_disk.width - 1)], float
        )
        rays = np.c_[
            (corners - on_disk.principal_px) * on_disk.pixel_mm, np.full(4, on_disk.sdd_mm)
        ]
        return cls(
            projection=geometry.projection_matrix(on_disk, camera),
            camera=camera,
            camera_init=scanner_from_volume @ init @ flip,
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
        spacing, principal = self.pixel_spacing_mm, self.principal_point_px
        return Detector(
            height, width, self.sdd_mm, (spacing[0], spacing[1]), (principal[0], principal[1])
        )

    def entries(self) -> dict[str, Any]:
        """Return the view as stored in ``scanner_pose`` of ``parameters.pt``."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        matrices = {name: np.asarray(plain[name], float) for name in _MATRICES}
        kept = {name: plain[name] for name in plain if name not in (*_MATRICES, *_OTHERS)}
        xray = {"xray": self.xray} if self.xray is not None else {}
        bones = [bone.entries() for bone in self.bones]
        return {"frame": PIXEL_FRAME, **matrices, **kept, "bones": bones, **xray}

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> ScannerView:
        """Return the view of `entries`.

        Raises KeyError, TypeError, AttributeError or ValueError if an entry is missing or invalid.
        """
        names = [each.name for each in fields(cls) if each.name not in (*_MATRICES, *_OTHERS)]
        values: dict[str, Any] = {name: np.array(entries[name], float) for name in _MATRICES}
        values |= {name: entries[name] for name in names}
        bones = tuple(BoneMotion.from_entries(bone) for bone in entries.get("bones", ()))
        return cls(**values, bones=bones, xray=entries.get("xray"))


def bone_motion(reference_camera: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return the motion (4, 4) of a bone since the CT, RAS mm.

    The arguments are scanner_from_camera (4, 4) of the reference bone and of the bone.
    """
    return reference_camera @ geometry.invert(camera)
