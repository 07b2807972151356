"""Numbers in the tags of a pydicom dataset, and the tags of one frame of an enhanced object."""

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


def spread_frame(dataset: Any, frame: int | None) -> None:
    """Copy the functional groups of a frame of an enhanced object to the dataset, in place.

    The groups (PS3.3 C.7.6.16) are those of the frame, then those of all frames. Tags that the
    dataset has itself are kept: the standard leaves them empty, and add_dicom_data.py writes them.
    """
    for sequence, index in (
        ("PerFrameFunctionalGroupsSequence", frame or 0),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        for group in (dataset.get(sequence) or [])[index : index + 1]:
            said = [
                element
                for name in FRAME_GROUPS
                for item in (group.get(name) or [])[:1]
                for element in item
            ]
            dataset.update(
                {
                    element.tag: element
                    for element in said
                    if element.tag not in dataset or dataset[element.tag].is_empty
                }
            )
