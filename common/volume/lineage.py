"""The lineage of a volume: its steps since the original CT, in ``NAME.json`` next to the volume.

It contains ``scanner_from_volume``, the 4x4 transform (RAS mm) from the frame of the prepared file
to the frame of the original CT. Each step composes it from the lineage of its input. The
determinant is -1 for a mirrored volume.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, one_line
from common.geometry import MIRROR
from common.version import VERSION

logger = logging.getLogger(__name__)

SCHEMA = "ct-lineage/1"
ASSUMED = "assumed to be an original CT (scanner_from_volume = identity)"
# the step that every reader of a CT does, see `common.volume.bone_only`
FILLED_STEP = "fill_around_bone"
PACKAGES = ("numpy", "nibabel", "SimpleITK", "scipy")  # their versions are recorded


@dataclass(frozen=True)
class Lineage:
    """Relation of a volume to the original CT."""

    scanner_from_volume: np.ndarray = field(default_factory=lambda: np.eye(4))  # 4x4, RAS mm
    source: dict[str, str] = field(default_factory=dict)  # name and sha256 of the original file
    history: tuple[dict[str, Any], ...] = ()  # "step" and "settings" of each step, in order
    bone: str | None = None
    side: str | None = None  # "left" or "right": the patient's side, also of a mirrored bone
    label: int | None = None  # of the bone in the labelmap that it was cropped by

    @property
    def mirrored(self) -> bool:
        """Whether left and right are swapped relative to the original CT."""
        return bool(np.linalg.det(self.scanner_from_volume[:3, :3]) < 0)

    def then(
        self,
        step: str,
        settings: dict[str, Any],
        old_from_new: np.ndarray | None = None,
        **about: Any,
    ) -> Lineage:
        """Return the lineage after one more step.

        ``old_from_new`` (4x4, RAS mm) maps points of the new volume frame to the old one; the
        default is the identity. ``about`` are new values of bone, side or label.
        """
        moved = np.eye(4) if old_from_new is None else old_from_new
        return replace(
            self,
            scanner_from_volume=self.scanner_from_volume @ moved,
            history=(*self.history, {"step": step, "settings": settings}),
            **about,
        )


def sidecar(image: str | Path) -> Path:
    """Return the path of the lineage of an image file."""
    image = Path(image)
    return image.with_name(files.stem(image) + ".json")


def original(path: str | Path) -> Lineage:
    """Return the lineage of an original file, which no step of this suite has changed."""
    return Lineage(source={"name": Path(path).name, "sha256": files.sha256(path)})


def with_stated_side(path: str | Path, lineage: Lineage, side: str | None) -> Lineage:
    """Return the lineage of a volume whose side the user states.

    "right" means a right bone mirrored to a left one, as `crop_cts.py` writes it. A file without
    lineage is then assumed to be the mirror image of an unknown original. Raises InputError if the
    lineage contradicts ``side``.
    """
    name = Path(path).name
    if side is None:
        return lineage
    if lineage.side not in (None, side):
        raise InputError(
            name,
            f"is a {lineage.side} bone by its lineage, but `side` is {side}",
            "the side of both volume and X-ray",
            "leave `side` out or choose the other bone's volume",
        )
    if lineage.side == side:
        return lineage
    if lineage.mirrored == (side == "right"):
        return replace(lineage, side=side)
    if lineage.mirrored or any(entry["step"] != FILLED_STEP for entry in lineage.history):
        mirrored = "mirrored" if lineage.mirrored else "not mirrored"
        raise InputError(
            name,
            f"is {mirrored} by its lineage, but `side` is {side}",
            "right bones mirrored to left ones",
            "leave `side` out",
        )
    logger.info(
        f"{name}: assumed to be a right bone mirrored to a left one (`side` right); for an original"
        " CT leave `side` out"
    )
    stated = {"step": "stated by the user", "settings": {"side": side}}
    return Lineage(MIRROR, history=(stated,), side=side)


def read(path: str | Path, shape: tuple[int, ...], affine: np.ndarray) -> Lineage:
    """Return the lineage of an image file; without one, log that it is assumed to be original.

    Raises InputError if the lineage belongs to another image (hash, shape or affine differ), or is
    damaged.
    """
    name, beside = Path(path).name, sidecar(path)
    if not beside.exists():
        _log_missing(path)
        return original(path)
    content = files.read_json(beside, f"the lineage of {name}")
    if not {"schema", "scanner_from_volume"} & set(content):  # of a DICOM converter, for example
        logger.info(f"{name}: {beside.name} next to it is not a lineage; {ASSUMED}")
        return original(path)
    if content.get("schema") != SCHEMA:
        raise InputError(
            beside,
            f"schema is {content.get('schema')!r}",
            f"{SCHEMA!r}",
            "move it away if this suite did not write it",
        )
    try:
        lineage, image = _parsed(content), content["image"]
        fits = list(image["shape"]) == list(shape)
        fits &= np.allclose(image["affine"], affine, atol=1e-3)
        fits = fits and image["sha256"] == files.sha256(path)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            beside,
            f"incomplete lineage ({one_line(error)})",
            "the fields that steps 1 to 4 write",
            "run the step again",
        ) from None
    _check(beside, lineage)
    if not fits:
        raise InputError(
            beside,
            f"does not belong to {name} (shape, affine or SHA-256 differ)",
            "the lineage of this file",
            "run the step again, or move the JSON away to treat the CT as original",
        )
    return lineage


def _log_missing(path: str | Path) -> None:
    name = Path(path).name
    if files.stem(path).endswith("_mirrored"):
        logger.warning(
            f"{name}: no lineage next to it; {ASSUMED}, not a mirrored bone; copy"
            f" {sidecar(path).name} along with it, or set `side` to right in registration.py"
        )
    else:
        logger.info(f"{name}: no lineage next to it; {ASSUMED}")


def _parsed(content: dict[str, Any]) -> Lineage:
    """Return the lineage in a JSON object; a missing or malformed field raises as it comes."""
    return Lineage(
        np.array(content["scanner_from_volume"], float),
        dict(content["source"]),
        tuple(content["history"]),
        content["bone"],
        content["side"],
        content["label"],
    )


def _check(beside: Path, lineage: Lineage) -> None:
    """Raise InputError if history, bone, side or transform of a lineage file is invalid."""
    named = all(
        isinstance(entry, dict) and isinstance(entry.get("step"), str) for entry in lineage.history
    )
    sided = lineage.side in (None, "left", "right")
    # the bone's name becomes part of file names
    plain = lineage.bone is None or (
        isinstance(lineage.bone, str) and files.is_plain_name(lineage.bone)
    )
    if not (named and sided and plain):
        raise InputError(
            beside,
            "history, bone or side is invalid",
            "named steps, left or right, and a bone's name that can be part of a file name",
            "run the step again",
        )
    if not geometry.is_rigid(lineage.scanner_from_volume, atol=1e-4):
        raise InputError(
            beside,
            "scanner_from_volume is not rigid",
            "a 4x4 rotation or mirror with a translation",
            "run the step again",
        )


def write(
    path: str | Path, lineage: Lineage, shape: tuple[int, ...], affine: np.ndarray, sha256: str
) -> None:
    """Write the lineage of an image file whose bytes have the hash ``sha256``."""
    content = {
        "schema": SCHEMA,
        "step": lineage.history[-1]["step"] if lineage.history else "original",
        "scanner_from_volume": lineage.scanner_from_volume.tolist(),
        "frame": "RAS millimetres",
        "mirrored": lineage.mirrored,
        "bone": lineage.bone,
        "side": lineage.side,
        "label": lineage.label,
        "source": lineage.source,
        "history": list(lineage.history),
        "image": {
            "name": Path(path).name,
            "sha256": sha256,
            "shape": list(map(int, shape)),
            "affine": np.asarray(affine, float).tolist(),
        },
        "versions": {"suite": VERSION, **files.versions(*PACKAGES)},
    }
    files.write_json(sidecar(path), content)
