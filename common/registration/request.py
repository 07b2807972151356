"""What a registration is asked to do, as values that can be stored with its result and repeated.

A `Request` names the files and settings for the X-rays of one instant and the structures in them.
`Request.entries` turns it into plain types for ``parameters.pt``, `Request.from_entries` reads them
back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from common.errors import InputError
from common.geometry.pose_range import PoseRange
from common.volume.materials import Material
from common.xray.grey_values import Polarity

StartMethod: TypeAlias = Literal["model", "search", "fixed", "dicom"]
SearchExtent: TypeAlias = Literal["range", "full"]
Optimizer: TypeAlias = Literal["gauss-newton", "adam"]
AttenuationMode: TypeAlias = Literal["auto", "whole", "excess"]
Flip: TypeAlias = Literal["auto", "yes", "no"]
Side: TypeAlias = Literal["left", "right"]
DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class XrayRequest:
    """One X-ray and its stated geometry; values that are None come from the file."""

    path: Path
    frame: int | None = None  # of a multi-frame file
    calibration: Path | None = None
    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # pixel spacing: width, height
    principal_px: tuple[float, float] | None = None  # (column, row)

    @property
    def name(self) -> str:
        """File name and frame, for messages."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame}"


@dataclass(frozen=True)
class StructureRequest:
    """One structure: a CT and, with a labelmap, the labels in it."""

    volume: Path
    mask: Path | None = None
    labels: tuple[int, ...] | None = None
    # (4, 4) scanner_from_camera of the first X-ray as stored on disk
    start_camera: np.ndarray | None = None
    material: Material | None = None  # of a surface


@dataclass(frozen=True)
class Followed:
    """State of one structure after a frame of a sequence."""

    pose: np.ndarray  # (4, 4) volume_from_rig in the last frame that did not fail
    # the highest of all frames: a drifting pose loses evidence while its similarity stays high
    evidence: float
    # (4, 4) by which the rig moved in the volume since the frame before: rig_from_rig
    motion: np.ndarray = field(default_factory=lambda: np.eye(4))
    # in the last frame in which candidates around competed; 0: that of all frames
    confirmed: float = 0.0

    @property
    def expected(self) -> np.ndarray:
        """(4, 4) volume_from_rig in the next frame, if the motion stays the same."""
        return self.pose @ self.motion

    def without_motion(self) -> Followed:
        """Return the state where frames are missing after it."""
        return replace(self, motion=np.eye(4))


@dataclass(frozen=True)
class Request:
    """A registration of one or several structures in the X-rays of one instant."""

    xrays: tuple[XrayRequest, ...]
    structures: tuple[StructureRequest, ...]
    checkpoint: Path | None = None
    context: Path | None = None  # whole CT that is rendered with the structures
    init: StartMethod = "search"
    pose_range: PoseRange | None = None  # None: everywhere
    search: SearchExtent = "range"
    optimizer: Optimizer = "gauss-newton"
    attenuation: AttenuationMode = "auto"
    bone: Polarity = "auto"
    flip: Flip = "auto"
    side: Side | None = None
    seed: int = 0
    device: DeviceChoice = "auto"
    sequence: bool = False
    cache: bool = True  # keep template banks between calls
    previous: tuple[Followed, ...] | None = None  # after the previous frame of a sequence

    @property
    def together(self) -> bool:
        """Whether one pose is found from several views."""
        return len(self.xrays) > 1

    def entries(self) -> dict[str, Any]:
        """Return the request in plain types: text, numbers, lists and dictionaries.

        Paths are absolute.
        """
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Request:
        """Return the request of `entries`. Raises InputError if one is missing or invalid."""
        try:
            known = {each.name for each in fields(cls)}
            values = {name: value for name, value in entries.items() if name in known}
            values["xrays"] = tuple(XrayRequest(**_xray_values(xray)) for xray in entries["xrays"])
            values["structures"] = tuple(
                StructureRequest(**_structure_values(each)) for each in entries["structures"]
            )
            stated = entries["pose_range"]
            values["pose_range"] = stated and PoseRange(
                **{name: tuple(ends) for name, ends in stated.items()}
            )
            for name in ("checkpoint", "context"):
                values[name] = Path(entries[name]) if entries[name] else None
            previous = entries["previous"]
            values["previous"] = previous and tuple(
                Followed(
                    np.array(one["pose"]),
                    one["evidence"],
                    np.array(one.get("motion", np.eye(4))),
                    one.get("confirmed", 0.0),
                )
                for one in previous
            )
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "the stored request",
                f"is incomplete ({type(error).__name__}: {error})",
                "all settings of a registration",
                "register again with the original command",
            ) from error


def _xray_values(entries: Mapping[str, Any]) -> dict[str, Any]:
    values = {**entries, "path": Path(entries["path"])}
    values["calibration"] = Path(entries["calibration"]) if entries["calibration"] else None
    for name in ("pixel_mm", "principal_px"):
        values[name] = tuple(entries[name]) if entries[name] else None
    return values


def _structure_values(entries: Mapping[str, Any]) -> dict[str, Any]:
    camera, labels = entries["start_camera"], entries["labels"]
    return {
        "volume": Path(entries["volume"]),
        "mask": Path(entries["mask"]) if entries["mask"] else None,
        "labels": tuple(labels) if labels else None,
        "start_camera": None if camera is None else np.array(camera, float),
        "material": entries.get("material"),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value.absolute()) if isinstance(value, Path) else value
