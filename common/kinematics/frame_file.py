"""``FRAME.json``, the anatomical frame of a bone: one schema, one writer, one reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, reading
from common.kinematics.joint_coordinates import Side
from common.version import VERSION

SCHEMA = "anatomical-frame/1"
WHAT = "an anatomical frame of anatomical_frame.py (JSON)"
AXES = "right-handed, mm: X anterior, Y proximal, Z to the subject's right"


@dataclass(frozen=True, eq=False)
class Repeat:
    """A frame found again after a change, relative to the frame, along its axes."""

    change: str
    rotation_deg: np.ndarray  # (3,) rotation vector
    translation_mm: np.ndarray  # (3,)

    @classmethod
    def between(cls, change: str, frame: np.ndarray, again: np.ndarray) -> Repeat:
        """Return the difference of two frames (4, 4), scanner_from_frame."""
        from scipy.spatial.transform import Rotation

        moved = geometry.invert(frame) @ again
        turn = Rotation.from_matrix(moved[:3, :3]).as_rotvec(degrees=True)
        return cls(change, turn, moved[:3, 3])

    def entries(self) -> dict[str, Any]:
        """Return the repeat as stored."""
        return {
            "change": self.change,
            "rotation_deg": self.rotation_deg.round(4).tolist(),
            "translation_mm": self.translation_mm.round(4).tolist(),
        }


@dataclass(frozen=True, eq=False)
class AnatomicalFrame:
    """The anatomical frame of a bone (`AXES`), also of a mirrored one, in the scanner frame."""

    bone: str
    side: Side
    method: str
    scanner_from_frame: np.ndarray  # (4, 4), a rotation and a translation, RAS mm
    scanner_from_volume: np.ndarray  # (4, 4) of the file that it was found in
    # of the twist in the frame's own axes, rotation (radians) about its origin, then translation
    # (mm): how much the frame changes when the bone is cropped, smoothed or sampled otherwise
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((6, 6)))
    repeats: tuple[Repeat, ...] = ()
    other_methods: tuple[Repeat, ...] = ()  # frames that other methods find
    fit: dict[str, Any] = field(default_factory=dict)  # radii, residuals, widths
    volume: str = ""
    source: dict[str, str] = field(default_factory=dict)  # of the original CT: name, sha256

    @property
    def volume_from_frame(self) -> np.ndarray:
        """(4, 4); its determinant is -1 for a mirrored volume, whose anatomy is left-handed."""
        return geometry.invert(self.scanner_from_volume) @ self.scanner_from_frame

    @property
    def rotation_sd_deg(self) -> np.ndarray:
        """Standard deviations (3,) about X, Y, Z."""
        return np.degrees(np.sqrt(np.diag(self.covariance)[:3]))

    @property
    def translation_sd_mm(self) -> np.ndarray:
        """Standard deviations (3,) along X, Y, Z."""
        return np.sqrt(np.diag(self.covariance)[3:])


def covariance_of_repeats(repeats: tuple[Repeat, ...]) -> np.ndarray:
    """Return the mean square (6, 6) of repeats, radians and mm, about the frame itself."""
    twists = np.array([[*np.radians(r.rotation_deg), *r.translation_mm] for r in repeats])
    return twists.T @ twists / max(len(repeats), 1) if len(repeats) else np.zeros((6, 6))


def save(path: str | Path, frame: AnatomicalFrame) -> None:
    """Write ``FRAME.json``. Raises as `files.atomic`."""
    content = {
        "schema": SCHEMA,
        "bone": frame.bone,
        "side": frame.side,
        "axes": AXES,
        "method": frame.method,
        "scanner_from_frame": frame.scanner_from_frame.tolist(),
        "volume_from_frame": frame.volume_from_frame.tolist(),
        "scanner_from_volume": frame.scanner_from_volume.tolist(),
        "frames_of": "RAS millimetres; scanner: of the original CT, volume: of the file below",
        "uncertainty": {
            "meaning": "twist along the frame's axes: rotation (rad) about its origin, then mm",
            "rotation_sd_deg": frame.rotation_sd_deg.round(4).tolist(),
            "translation_sd_mm": frame.translation_sd_mm.round(4).tolist(),
            "covariance": frame.covariance.tolist(),
            "repeats": [each.entries() for each in frame.repeats],
        },
        "other_methods": [each.entries() for each in frame.other_methods],
        "fit": frame.fit,
        "volume": frame.volume,
        "source": frame.source,
        "versions": {"suite": VERSION, **files.versions("numpy", "scipy", "scikit-image")},
    }
    files.write_json(path, content)


def load(path: str | Path) -> AnatomicalFrame:
    """Read ``FRAME.json``.

    Raises InputError if the file has another schema, or if an entry is missing or invalid.
    """
    content = files.read_json(path, WHAT)
    if content.get("schema") != SCHEMA:
        raise InputError(
            path, f"schema is {content.get('schema')!r}", f"{SCHEMA!r}", "choose another file"
        )
    with reading(path, f"the entries of {SCHEMA!r}", "make it again", "incomplete"):
        frame = _parsed(content)
    proper = all(
        geometry.is_rigid(matrix)
        for matrix in (frame.scanner_from_frame, frame.scanner_from_volume)
    )
    if not proper or np.linalg.det(frame.scanner_from_frame[:3, :3]) < 0:
        raise InputError(
            path,
            "scanner_from_frame is not a right-handed rigid transform",
            "a 4x4 rotation with a translation",
            "make it again",
        )
    if frame.side not in ("left", "right"):
        raise InputError(path, f"side is {frame.side!r}", "left or right", "make it again")
    return frame


def _parsed(content: Mapping[str, Any]) -> AnatomicalFrame:
    """Return the frame of a file's content; a missing or malformed entry raises as it comes."""
    uncertainty = content["uncertainty"]
    covariance = np.array(uncertainty["covariance"], float)
    if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
        raise ValueError(f"covariance of shape {covariance.shape}")
    return AnatomicalFrame(
        str(content["bone"]),
        content["side"],
        str(content["method"]),
        np.array(content["scanner_from_frame"], float),
        np.array(content["scanner_from_volume"], float),
        covariance,
        tuple(map(_repeat, uncertainty["repeats"])),
        tuple(map(_repeat, content["other_methods"])),
        dict(content["fit"]),
        str(content["volume"]),
        dict(content["source"]),
    )


def _repeat(entries: Mapping[str, Any]) -> Repeat:
    return Repeat(
        str(entries["change"]),
        np.array(entries["rotation_deg"], float).reshape(3),
        np.array(entries["translation_mm"], float).reshape(3),
    )
