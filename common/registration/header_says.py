"""What the header of an X-ray says of how it lies, and what a pose then says: contradictions.

PatientOrientation, ImageLaterality and ViewPosition state directions in the patient; a pose states
them too. The check of a start pose and the verdict on the final one compare both.
"""

from __future__ import annotations

import numpy as np

from common.geometry import MIRROR
from common.volume.lineage import Lineage
from common.xray.dicom import ANATOMY
from common.xray.xray import Xray

# cosine between two directions below which they are opposite
OPPOSITE = -0.7
# direction of the beam in the patient, RAS: axis and sign
BEAMS = {"AP": (1, -1), "PA": (1, 1)}


def contradictions(xray: Xray, camera: np.ndarray, lineage: Lineage) -> list[tuple[str, str]]:
    """Return what is contradictory, each with what to change.

    ``camera`` is volume_from_camera (4, 4) of the X-ray as registered.
    """
    flip = MIRROR if xray.flipped else np.eye(4)
    patient = (lineage.scanner_from_volume @ camera @ flip)[:3, :3]
    found = [*_orientation(xray, patient), *_view_position(xray, patient)]
    side, stated = lineage.side, xray.reading.get("laterality")
    if side and stated and side != stated:
        found.append(
            (
                f"the header states the {stated} side (ImageLaterality), the bone is a {side} one",
                "choose the volume of the other side, or correct the header",
            )
        )
    return found


def flip_tags(xray: Xray, camera: np.ndarray, lineage: Lineage) -> list[str]:
    """Return the tags that state that an X-ray which was found flipped was stored so.

    ``camera`` as in `contradictions`.
    """
    stated = xray.reading.get("patient_orientation")
    tags = []
    if stated and not contradictions(xray, camera, lineage):
        tags.append(f"PatientOrientation {'/'.join(stated)}")
    if xray.reading.get("flipped_after_detector"):
        tags.append("FieldOfViewHorizontalFlip YES")
    return tags


def _orientation(xray: Xray, patient: np.ndarray) -> list[tuple[str, str]]:
    """Return a contradiction with PatientOrientation; ``patient`` has the image axes, RAS."""
    stated = xray.reading.get("patient_orientation")
    opposite = []
    for letters, direction, what in zip(
        stated or (), patient[:, :2].T, ("columns", "rows"), strict=False
    ):
        axis, sign = ANATOMY.get(letters[:1], (0, 0))
        if sign * direction[axis] < OPPOSITE:
            opposite.append((what, letters[0]))
    if not opposite:
        return []
    directions = " and ".join(f"{what} run towards {letter}" for what, letter in opposite)
    if len(opposite) == 2:
        change = "the X-ray lies turned by 180 degrees: rotate the file, with its principal point"
    elif opposite[0][0] == "columns":
        change = "check `flip`: the X-ray may lie mirrored, or the view may be one from behind"
    else:
        change = "the X-ray may lie upside down and mirrored: check the file"
    return [(f"by PatientOrientation, {directions}; at this pose the opposite", change)]


def _view_position(xray: Xray, patient: np.ndarray) -> list[tuple[str, str]]:
    """Return a contradiction with ViewPosition AP or PA."""
    stated = xray.reading.get("view_position")
    axis, sign = BEAMS.get(stated or "", (0, 0))
    if sign * patient[axis, 2] >= OPPOSITE:
        return []
    return [
        (
            f"by ViewPosition the beam runs {stated}; at this pose it runs the opposite way",
            "check `flip`: the X-ray may be seen from behind",
        )
    ]
