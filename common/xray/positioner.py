"""X-rays in DICOM (XA, RF, DX, CR, enhanced XA and XRF): pixels of one frame, and what the header says about geometry and grey values.

Tags that contradict each other are reported, never averaged: the one that counts is named.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import geometry
from common.errors import InputError, reading
from common.xray.dicom import (
    ANATOMY,
    SOURCE_TO_PATIENT,
    number,
    open_dataset,
    quiet,
    source_to_patient,
    spread_frame,
)

OBLIQUE = 0.3  # cosine below which a direction's letter says nothing


def positioner_camera(path: Path, frame: int | None = None) -> tuple[np.ndarray, bool]:
    """Where the C-arm's tags put the camera, for a frame of several, and whether the picture is seen from the detector's side.

    The camera is isocentre_from_camera (4, 4): RAS millimetres of a patient who lies as in the CT, for the picture seen from the source. The angles place the image receptor (PS3.3
    C.8.7.5): from 0 in front of the chest, the primary one towards the patient's left, the secondary one towards the head; the source is opposite. Pictures are looked at towards the
    source (PS3.3 C.8.19.6.13) unless PatientOrientation says that columns run the other way. Raises InputError where a tag is absent or the C-arm moved.
    """
    import pydicom

    tags = ("PositionerPrimaryAngle", "PositionerSecondaryAngle", SOURCE_TO_PATIENT[0])
    header = open_dataset(path) if pydicom.misc.is_dicom(path) else pydicom.Dataset()
    with (
        reading(
            path,
            "angles and a distance that are numbers",
            "correct the header, or use --init search",
        ),
        quiet(),
    ):
        spread_frame(header, frame)
        values = [*(number(header, tag) for tag in tags[:2]), source_to_patient(header)[0]]
    absent = [tag for tag, value in zip(tags, values, strict=True) if value is None]
    if absent:
        raise InputError(
            path,
            f"`init` dicom, but no {', '.join(absent)} in the file",
            f"all of {', '.join(tags)}",
            "use `init` search",
        )
    if header.get("PositionerMotion") == "DYNAMIC":
        raise InputError(
            path,
            "`init` dicom, but the C-arm moved during the run (PositionerMotion DYNAMIC)",
            "one pair of angles",
            "use `init` search",
        )
    primary, secondary, distance = values
    camera = geometry.camera_from_pose(
        geometry.pose_from_angles([primary + 180, -secondary, 0], [0, distance, 0])
    )
    orientation = header.get("PatientOrientation")
    letter = str(orientation[0])[:1] if orientation and len(orientation) == 2 else ""
    axis, sign = ANATOMY.get(letter, (0, 0))
    along = sign * float(camera[axis, 0])
    return (
        camera,
        along < OBLIQUE,
    )  # columns of the picture seen from the source run along the stated direction only if it is seen so
