"""Numbers in the tags of a pydicom dataset, and the groups of tags of an enhanced X-ray."""

from __future__ import annotations

from typing import Any

import numpy as np

# both distances end at the isocentre; the second is the tag of an enhanced object
SOURCE_TO_PATIENT = ("DistanceSourceToPatient", "DistanceSourceToIsocenter")
FRAME_GROUPS = (
    "XRayGeometrySequence",
    "FramePixelDataPropertiesSequence",
    "FieldOfViewSequence",
    "PositionerPositionSequence",
    "PatientOrientationInFrameSequence",
)


def numbers(dataset: Any, name: str) -> list[float]:
    """Return the values of a tag; empty if the tag is missing or empty.

    Raises ValueError, without the value, if one is not a finite number.
    """
    try:
        value = dataset.get(name)
        if value is None or value == "":
            values = []
        else:
            values = [float(value)] if np.ndim(value) == 0 else [float(v) for v in value]
    except Exception:  # pydicom converts on access
        values = [np.nan]
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not a number")
    return values


def number(dataset: Any, name: str) -> float | None:
    """Return the first value of a tag, or None. Raises ValueError as `numbers`."""
    values = numbers(dataset, name)
    return values[0] if values else None


def pair(dataset: Any, name: str) -> tuple[float, float] | None:
    """Return the two values of a tag in the order (column, row); DICOM stores the row's first.

    A single value is used for both. Returns None for any other number of values.
    """
    values = numbers(dataset, name)
    return (values[-1], values[0]) if len(values) in (1, 2) else None


def source_to_patient(dataset: Any) -> tuple[float | None, str]:
    """Return the distance from source to isocentre in mm, and the tag that states it.

    If none does: None and the name of the tag that usually does.
    """
    stated = [
        (value, tag) for tag in SOURCE_TO_PATIENT if (value := number(dataset, tag)) is not None
    ]
    return stated[0] if stated else (None, SOURCE_TO_PATIENT[0])
