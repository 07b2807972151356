"""Where a volume came from: the sidecar ``NAME.json`` beside ``NAME.nii.gz``.

It holds ``scanner_from_volume``, the 4x4 transform (RAS millimetres) from the world of the preprocessed file to the
world of the original CT; a mirrored volume has determinant -1. Every step composes it from its input's own lineage.
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

logger = logging.getLogger(__name__)


SCHEMA = "ct-lineage/1"


@dataclass(frozen=True)
class Lineage:
    """How a volume relates to the CT as it left the scanner."""

    scanner_from_volume: np.ndarray = field(default_factory=lambda: np.eye(4))
    source: dict[str, str] = field(default_factory=dict)  # name and sha256 of the original file
    history: tuple[dict[str, Any], ...] = ()  # one entry a step, with its settings
    bone: str | None = None
    side: str | None = None  # "left" or "right": the patient's side, also of a mirrored bone
    label: int | None = None

    @property
    def mirrored(self) -> bool:
        return bool(np.linalg.det(self.scanner_from_volume[:3, :3]) < 0)

    def then(
        self,
        step: str,
        settings: dict[str, Any],
        old_from_new: np.ndarray | None = None,
        **about: Any,
    ) -> Lineage:
        """The lineage after one more step that moved the volume; ``old_from_new`` is the identity where it stayed."""
        moved = np.eye(4) if old_from_new is None else old_from_new
        return replace(
            self,
            scanner_from_volume=self.scanner_from_volume @ moved,
            history=(*self.history, {"step": step, "settings": settings}),
            **about,
        )


def sidecar(image: str | Path) -> Path:
    image = Path(image)
    return image.with_name(files.stem(image) + ".json")


def with_stated_side(path: str | Path, lineage: Lineage, side: str | None) -> Lineage:
    """The lineage of a volume whose side the user states: "right" for one that is mirrored to a left bone, as crop_cts.py leaves it.

    A file without any record is then taken as the mirror image (x to -x) of an original that nobody has named. Raises InputError where the
    lineage says otherwise.
    """
    name = Path(path).name
    if side is None:
        return lineage
    if lineage.side not in (None, side):
        raise InputError(
            name,
            f"is a {lineage.side} bone by its lineage, but `side` is {side}",
            "the side of both volume and picture",
            "leave `side` out or choose the other bone's volume",
        )
    if lineage.side == side:
        return lineage
    if lineage.mirrored == (side == "right"):
        return replace(lineage, side=side)
    if lineage.history or lineage.mirrored:
        raise InputError(
            name,
            f"is {('mirrored' if lineage.mirrored else 'not mirrored')} by its lineage, but `side`"
            f" is {side}",
            "right bones mirrored to left ones",
            "leave `side` out",
        )
    logger.info(
        f"{name}: taken as a right bone mirrored to a left one (`side` right); for a CT as it left"
        " the scanner leave `side` out"
    )
    return Lineage(
        MIRROR, history=({"step": "stated by the user", "settings": {"side": side}},), side=side
    )


def original(path: str | Path) -> Lineage:
    """Lineage of a file that no step of this suite has touched."""
    return Lineage(source={"name": Path(path).name, "sha256": files.sha256(path)})


def read(path: str | Path, shape: tuple[int, ...], affine: np.ndarray) -> Lineage:
    """Lineage of an image file. Without a sidecar it counts as original, and that is said.

    Raises InputError where the sidecar belongs to another image (hash, shape or affine differ) or cannot be read.
    """
    beside = sidecar(path)
    if not beside.exists():
        taken = (
            f"{Path(path).name}: no lineage beside it; taken as an original CT (scanner_from_volume"
            " = identity)"
        )
        if files.stem(path).endswith("_mirrored"):
            logger.warning(
                f"{taken}, not as a mirrored bone; copy {beside.name} along with it, or say `side`"
                " right to registration.py"
            )
        else:
            logger.info(taken)
        return original(path)
    content = files.read_json(beside, "the lineage of " + Path(path).name)
    if not {"schema", "scanner_from_volume"} & set(
        content
    ):  # such as what a DICOM converter leaves beside its NIfTI
        logger.info(
            f"{Path(path).name}: {beside.name} beside it holds no lineage; taken as an original CT"
            " (scanner_from_volume = identity)"
        )
        return original(path)
    if content.get("schema") != SCHEMA:
        raise InputError(
            beside,
            f"schema is {content.get('schema')!r}",
            f"{SCHEMA!r}",
            "move it away if it is not this suite's",
        )
    try:
        image = content["image"]
        matrix = np.array(content["scanner_from_volume"], float)
        fits = list(image["shape"]) == list(shape) and np.allclose(
            image["affine"], affine, atol=1e-3
        )
        lineage = Lineage(
            matrix,
            dict(content["source"]),
            tuple(content["history"]),
            content["bone"],
            content["side"],
            content["label"],
        )
        named = all(
            isinstance(entry, dict) and isinstance(entry.get("step"), str)
            for entry in lineage.history
        )
        # the bone's name goes into file names
        named &= lineage.side in (None, "left", "right") and (
            lineage.bone is None
            or (isinstance(lineage.bone, str) and files.is_plain_name(lineage.bone))
        )
        rigid = geometry.is_rigid(matrix, atol=1e-4)
        recorded = image["sha256"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            beside,
            f"incomplete lineage ({one_line(error)})",
            "what step 1 to 4 write",
            "run the step again",
        ) from None
    if not named:
        raise InputError(
            beside,
            "its history, bone or side is none",
            "named steps, left or right, and a bone's name that can stand in a file name",
            "run the step again",
        )
    if not rigid:
        raise InputError(
            beside,
            "scanner_from_volume is not rigid",
            "a 4x4 rotation or mirror with a translation",
            "run the step again",
        )
    if not fits or recorded != files.sha256(path):
        raise InputError(
            beside,
            f"does not belong to {Path(path).name} (shape, affine or SHA-256 differ)",
            "the lineage of this very file",
            "run the step again, or move the JSON away to take the CT as original",
        )
    return lineage


def write(
    path: str | Path, lineage: Lineage, shape: tuple[int, ...], affine: np.ndarray, sha256: str
) -> None:
    """Write the sidecar of an image whose bytes have the hash ``sha256``."""
    files.write_json(sidecar(path), {
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
        "image": {"name": Path(path).name, "sha256": sha256, "shape": list(map(int, shape)), "affine": np.asarray(affine, float).tolist()},
        "versions": files.versions("numpy", "nibabel", "SimpleITK", "scipy"),
    })  # fmt: skip
