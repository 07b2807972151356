"""What a registration is asked to do, as values that can be stored with its result and run again.

A `Request` names the files and settings of the X-rays of one instant and of the structures in them. `Request.entries` turns it into plain
types for ``parameters.pt``; `Request.from_entries` reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.errors import InputError
from common.geometry.pose_range import PoseRange

StartMethod = Literal["model", "search", "fixed", "dicom"]
SearchExtent = Literal["range", "full"]
Optimizer = Literal["gauss-newton", "adam"]
AttenuationMode = Literal["auto", "whole", "excess"]
Polarity = Literal["auto", "bright", "dark"]
Flip = Literal["auto", "yes", "no"]
Side = Literal["left", "right"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class XrayRequest:
    """One X-ray and the geometry stated for it; None where the file is to say."""

    path: Path
    frame: int | None = None  # of a multi-frame file
    calibration: Path | None = None
    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height
    principal_px: tuple[float, float] | None = None  # column, row

    @property
    def name(self) -> str:
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame}"


@dataclass(frozen=True)
class StructureRequest:
    """One structure: a CT and, with a labelmap, the labels in it."""

    volume: Path
    mask: Path | None = None
    labels: tuple[int, ...] | None = None
    start_camera: np.ndarray | None = (
        None  # (4, 4) scanner_from_camera of the first X-ray as stored on disk
    )


@dataclass(frozen=True)
class Followed:
    """One structure in a sequence so far."""

    pose: np.ndarray  # (4, 4) volume_from_rig in the last frame that did not fail
    evidence: float  # the highest of all frames: a lower one reveals a pose that drifts while its similarity stays high


@dataclass(frozen=True)
class Request:
    """A registration of one or several structures in the X-rays of one instant."""

    xrays: tuple[XrayRequest, ...]
    structures: tuple[StructureRequest, ...]
    checkpoint: Path | None = None
    context: Path | None = None  # whole CT rendered along with the structures
    init: StartMethod = "search"
    pose_range: PoseRange = field(default_factory=PoseRange)
    search: SearchExtent = "range"
    optimizer: Optimizer = "gauss-newton"
    attenuation: AttenuationMode = "auto"
    bone: Polarity = "auto"
    flip: Flip = "auto"
    side: Side | None = None
    seed: int = 0
    device: Device = "auto"
    sequence: bool = False
    previous: tuple[Followed, ...] | None = None  # in a sequence, what the frames before have left

    @property
    def together(self) -> bool:
        """Whether several views explain one pose."""
        return len(self.xrays) > 1

    def entries(self) -> dict[str, Any]:
        """The request in plain types: texts, numbers, lists and dictionaries; paths absolute."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Request:
        """Inverse of `entries`. Raises InputError for anything else."""
        try:
            known = {each.name for each in fields(cls)}
            values = {name: value for name, value in entries.items() if name in known}
            values["xrays"] = tuple(XrayRequest(**_xray_values(xray)) for xray in entries["xrays"])
            values["structures"] = tuple(
                StructureRequest(**_structure_values(each)) for each in entries["structures"]
            )
            values["pose_range"] = PoseRange(
                **{name: tuple(ends) for name, ends in entries["pose_range"].items()}
            )
            for name in ("checkpoint", "context"):
                values[name] = Path(entries[name]) if entries[name] else None
            previous = entries["previous"]
            values["previous"] = previous and tuple(
                Followed(np.array(one["pose"]), one["evidence"]) for one in previous
            )
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "the stored request",
                f"is incomplete ({type(error).__name__}: {error})",
                "all settings of a registration",
                "register again with the command line that made it",
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
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value.absolute()) if isinstance(value, Path) else value
