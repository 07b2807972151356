"""The camera of a C-arm X-ray from its positioner angles in the DICOM header."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common import geometry
from common.errors import InputError, reading
from common.files.functional_groups import spread_frame
from common.files.pydicom_quiet import quiet
from common.xray.dicom import ANATOMY, is_dicom, open_dataset
from common.xray.tags import FRAME_GROUPS, SOURCE_TO_PATIENT, number, numbers, source_to_patient

# cosine between the stated direction and the image columns above which they agree
OBLIQUE = 0.3
SAME_STEP = 0.5  # range of the steps of a turn, of their mean, up to which they are equal
INCREMENTS = ("PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement")


def positioner_camera(path: Path, frame: int | None = None) -> tuple[np.ndarray, bool]:
    """Return the camera of a C-arm, and whether its image is stored as seen from the detector.

    The camera is isocentre_from_camera (4, 4), RAS mm of a patient who lies as in the CT, for the
    image seen from the source. The angles place the image receptor (PS3.3 C.8.7.5): from 0 in
    front of the chest, the primary angle towards the patient's left, the secondary one towards the
    head; the source is opposite. Images are stored as seen towards the source (PS3.3 C.8.19.6.13),
    unless PatientOrientation states that columns run the other way. ``frame`` is that of a
    multi-frame file, in which the C-arm may turn by angle increments. Raises InputError if a tag is
    missing, or if the C-arm moved in a way that the header does not tell.
    """
    import pydicom

    tags = ("PositionerPrimaryAngle", "PositionerSecondaryAngle", SOURCE_TO_PATIENT[0])
    header = open_dataset(path) if is_dicom(path) else pydicom.Dataset()
    with (
        reading(
            path,
            "angles and a distance that are numbers",
            "correct the header, or set `init` to search",
        ),
        quiet(),
    ):
        spread_frame(header, frame, FRAME_GROUPS)
        primary, secondary = number(header, tags[0]), number(header, tags[1])
        distance, _ = source_to_patient(header)
        increments = [numbers(header, tag) for tag in INCREMENTS]
        frames = int(number(header, "NumberOfFrames") or 1)
    if primary is None or secondary is None or distance is None:
        values = zip(tags, (primary, secondary, distance), strict=True)
        missing = ", ".join(tag for tag, value in values if value is None)
        raise InputError(
            path,
            f"has no {missing} for `init` dicom",
            f"all of {', '.join(tags)}",
            "use `init` search",
        )
    turns = [_turn_at(each, frame or 0, frames) for each in increments]
    moved = header.get("PositionerMotion") == "DYNAMIC"
    if None in turns or (moved and not np.any(np.concatenate(increments))):
        said = f"angle increments {_shown(increments)}" if None in turns else "DYNAMIC"
        raise InputError(
            path,
            f"the C-arm moved during the run ({said}), for `init` dicom",
            "one pair of angles, or increments that are equal steps, or rise by equal steps from 0",
            "use `init` search",
        )
    primary, secondary = primary + (turns[0] or 0.0), secondary + (turns[1] or 0.0)
    camera = geometry.camera_from_pose(
        geometry.pose_from_angles([primary + 180, -secondary, 0], [0, distance, 0])
    )
    return camera, _seen_from_detector(header.get("PatientOrientation"), camera)


def _turn_at(increments: list[float], frame: int, frames: int) -> float | None:
    """Return the turn since the first frame, degrees, or None if the increments do not tell it.

    The standard leaves open whether an increment counts from the first frame or from the one
    before: values that rise by equal steps count from the first, equal values from the one before.
    Either way, the first frame has the stated angle.
    """
    if not np.any(increments):
        return 0.0
    values = np.array(increments)
    if len(values) == 1 and frames > 1:  # one step for all
        return float(values[0] * frame)
    if len(values) != frames or frames < 2:
        return None
    steps, later = np.diff(values), values[1:]
    if frames == 2 or _equal(steps):
        return float(values[frame] - values[0])
    return float(later[:frame].sum()) if _equal(later) else None


def _equal(values: np.ndarray) -> bool:
    """Return whether values are equal but for the noise of an encoder."""
    return bool(np.ptp(values) <= SAME_STEP * abs(values.mean()))


def _shown(increments: list[list[float]]) -> str:
    listed = ", ".join(f"{value:g}" for each in increments for value in each[:5])
    return listed + (" ..." if max(map(len, increments)) > 5 else "")


def _seen_from_detector(orientation: list[str] | None, camera: np.ndarray) -> bool:
    """Return whether columns are not stated to run as seen from the source."""
    letter = str(orientation[0])[:1] if orientation and len(orientation) == 2 else ""
    axis, sign = ANATOMY.get(letter, (0, 0))
    return sign * float(camera[axis, 0]) < OBLIQUE
