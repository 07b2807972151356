"""Start poses of one body with nothing known: any side, any position, any depth.

The search goes in stages, from usual orientations to any. Each stage is a template bank and quarter
turns of the image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common import geometry
from common.registration.candidates import distinct
from common.registration.scene import Structure, View
from common.registration.search.bank import Bank, bank_settings, make_bank
from common.registration.search.bank_cache import cached, content_key
from common.registration.search.matching import Match, Near, joined, match, small_image
from common.registration.search.several_views import agreeing
from common.xray.xray import turned

logger = logging.getLogger(__name__)

UPRIGHT_TILT_DEG, TILTED_DEG = (0.0, 30.0), (30.0, 90.1)
KEEP = 96  # start poses of a stage
SDD_STEP_MM = 200.0  # banks of nearly equal distances are one: only their perspective differs
# camera of the image turned anticlockwise by a quarter, from that of the image as it is
QUARTER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Stage:
    """Orientations that are searched together."""

    words: str
    quarters: tuple[int, ...]  # turns of the image, anticlockwise
    tilts_deg: tuple[tuple[float, float], ...]


STAGES = (
    Stage("upright, from any side", (0,), (UPRIGHT_TILT_DEG,)),
    Stage("turned by a quarter or half a turn in the image", (1, 2, 3), (UPRIGHT_TILT_DEG,)),
    Stage("seen along its axis", (0, 1, 2, 3), (TILTED_DEG,)),
)
# beside a bone that is found
BESIDE = (
    Stage("next to it", (0, 1, 2, 3), (UPRIGHT_TILT_DEG,)),
    Stage("next to it, seen along its axis", (0, 1, 2, 3), (TILTED_DEG,)),
)
EVERYTHING = Stage("in any orientation", (0, 1, 2, 3), (UPRIGHT_TILT_DEG, TILTED_DEG))


@dataclass(frozen=True)
class Banks:
    """The template banks of one call; kept between calls unless ``keep`` is False."""

    keep: bool = True
    _made: dict[str, Bank] = field(default_factory=dict, repr=False)

    def of(self, structure: Structure, sdd_mm: float, tilt_deg: tuple[float, float]) -> Bank:
        """Return the bank of a structure for about this source-to-detector distance."""
        sdd_mm = max(1.0, round(sdd_mm / SDD_STEP_MM)) * SDD_STEP_MM
        up = upright(structure)
        key = content_key(
            structure.whole.data, structure.whole.affine, structure.excess,
            structure.body.centre_mm, structure.body.points, structure.body.ends, up, sdd_mm,
            tilt_deg, bank_settings(),
        )  # fmt: skip
        if key not in self._made:
            logger.info(f"{structure.ct.name}: template bank for the search")

            def make() -> Bank:
                return make_bank(structure.body, up, sdd_mm, tilt_deg)

            self._made[key] = cached(key, make) if self.keep else make()
        return self._made[key]


def upright(structure: Structure) -> np.ndarray:
    """(3,) unit vector towards the head of the patient, in the volume."""
    up = geometry.invert(structure.ct.lineage.scanner_from_volume)[:3, 2]
    return up / np.linalg.norm(up)


def stage_starts(
    views: Sequence[View],
    structure: Structure,
    stage: Stage,
    banks: Banks,
    near: Near | None = None,
    keep: int = KEEP,
) -> list[np.ndarray]:
    """The ``keep`` best start poses (volume_from_rig) of a stage, best first.

    ``near`` restricts the centre of the body, in the rig.
    """
    matches = [_matches(view, structure, stage, banks, near) for view in views]
    if len(views) == 1:
        from_rig = geometry.invert(views[0].rig_from_camera)
        poses = [each.camera @ from_rig for each in matches[0]]
    else:
        poses = agreeing(views, matches, structure.body.centre_mm)
    return distinct(poses, views[0].rig_from_camera, structure.body, keep)


def _matches(
    view: View, structure: Structure, stage: Stage, banks: Banks, near: Near | None
) -> list[Match]:
    """The matches of one view, best first."""
    matches = []
    for quarters in stage.quarters:
        xray = turned(view.xray, quarters)
        turned_from_camera = geometry.invert(np.linalg.matrix_power(QUARTER, quarters))
        turned_from_rig = turned_from_camera @ geometry.invert(view.rig_from_camera)
        place = near and replace(near, point=geometry.apply(turned_from_rig, near.point))
        for tilt_deg in stage.tilts_deg:
            bank = banks.of(structure, xray.detector.sdd_mm, tilt_deg)
            found = match(bank, small_image(xray, bank.pixel_mm), place)
            matches.append([each.turned(turned_from_camera) for each in found])
    return joined(matches)
