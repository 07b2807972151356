"""Start poses of one body with nothing known: any side, any position, any depth.

The search goes in stages, from usual orientations to any. Each stage matches template banks with
the X-ray at several turns in its plane.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common import geometry
from common.registration.candidates import distinct
from common.registration.scene import Structure, View
from common.registration.search.bank import Bank, bank_settings, make_bank, viewing_rotations
from common.registration.search.bank_cache import cached, content_key
from common.registration.search.in_space import Alongside, starts_in_space
from common.registration.search.limits import NO_LIMITS, Limits
from common.registration.search.matching import Match, allowed_templates, match
from common.registration.search.several_views import agreeing

logger = logging.getLogger(__name__)

UPRIGHT_TILT_DEG, TILTED_DEG = (0.0, 30.0), (30.0, 90.1)
TURN_STEP_DEG = 8.0  # between the turns of an X-ray
UPRIGHT_TURNS = tuple(np.arange(-40.0, 41.0, TURN_STEP_DEG))
OTHER_TURNS = tuple(np.arange(48.0, 313.0, TURN_STEP_DEG))
ALL_TURNS = UPRIGHT_TURNS + OTHER_TURNS
# of these turns, every second one is tried for metal, whose silhouettes match farther
# (benchmarks/README.md, 'Implants')
METAL_TURNS = 2
# distances of the body's centre from the source, as shares of the SDD, 9 % apart
USUAL_DEPTHS = (0.60, 0.66, 0.72, 0.78, 0.85, 0.93)
CLOSE_DEPTHS = (0.36, 0.40, 0.44, 0.48, 0.53, 0.58)
# start poses of a stage: mostly one of the first is right (benchmarks/README.md, 'Template bank')
FIRST, MANY = 24, 96
MOST_BANKS = 8  # kept in memory, of up to 70 MB each
SDD_STEP_MM = 200.0  # banks of nearly equal distances are one: only their perspective differs


@dataclass(frozen=True)
class Stage:
    """Orientations and depths that are searched together."""

    words: str
    turns_deg: tuple[float, ...]  # of the image, anticlockwise
    tilts_deg: tuple[tuple[float, float], ...]
    depths: tuple[tuple[float, ...], ...] = (USUAL_DEPTHS,)
    ranks: tuple[int, int] = (0, FIRST)  # of its start poses, best first


STAGES = (
    Stage("upright, from any side", UPRIGHT_TURNS, (UPRIGHT_TILT_DEG,)),
    Stage("turned by a quarter or half a turn in the image", OTHER_TURNS, (UPRIGHT_TILT_DEG,)),
    Stage("seen along its axis", ALL_TURNS, (TILTED_DEG,)),
    Stage("close to the source", UPRIGHT_TURNS, (UPRIGHT_TILT_DEG,), (CLOSE_DEPTHS,)),
    Stage(
        "upright again, at less likely places",
        UPRIGHT_TURNS,
        (UPRIGHT_TILT_DEG,),
        ranks=(FIRST, MANY),
    ),
)
# beside a bone that is found
BESIDE = (
    Stage("next to it", ALL_TURNS, (UPRIGHT_TILT_DEG,), ranks=(0, MANY)),
    Stage("next to it, seen along its axis", ALL_TURNS, (TILTED_DEG,), ranks=(0, MANY)),
)
ALONGSIDE = Stage(
    "alongside it, in all views at once", ALL_TURNS, (UPRIGHT_TILT_DEG, TILTED_DEG), ranks=(0, MANY)
)
EVERYTHING = Stage("in any orientation", ALL_TURNS, (UPRIGHT_TILT_DEG, TILTED_DEG), ranks=(0, MANY))
# with a stated pose range, whose limits choose from all
STATED = Stage(
    "in the stated range",
    ALL_TURNS,
    (UPRIGHT_TILT_DEG, TILTED_DEG),
    (USUAL_DEPTHS, CLOSE_DEPTHS),
    (0, MANY),
)


@dataclass(frozen=True)
class Banks:
    """The template banks of one call; kept between calls unless ``keep`` is False."""

    keep: bool = True
    _made: dict[str, Bank] = field(default_factory=dict, repr=False)

    def of(
        self, structure: Structure, rotations: np.ndarray, depths: tuple[float, ...], sdd_mm: float
    ) -> Bank:
        """Return the bank of a structure for about this source-to-detector distance."""
        key = content_key(
            structure.whole.data, structure.whole.affine, structure.excess,
            structure.body.centre_mm, structure.body.points, structure.body.ends, rotations,
            depths, sdd_mm, bank_settings(),
        )  # fmt: skip
        if key in self._made:
            self._made[key] = self._made.pop(key)  # used last
        else:
            logger.info(f"{structure.ct.name}: template bank for the search")

            def make() -> Bank:
                return make_bank(structure.body, rotations, depths, sdd_mm)

            self._made[key] = cached(key, make) if self.keep else make()
            while len(self._made) > MOST_BANKS:
                del self._made[next(iter(self._made))]  # used longest ago
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
    limits: Limits = NO_LIMITS,
) -> list[np.ndarray]:
    """The start poses (volume_from_rig) of a stage, best first.

    ``limits`` restrict the pose, in the rig.
    """
    matches = []
    for number, view in enumerate(views):
        seen = limits.seen_by(geometry.invert(view.rig_from_camera), first=number == 0)
        matches.append(_matches(view, structure, stage, banks, seen))
    if len(views) == 1:
        from_rig = geometry.invert(views[0].rig_from_camera)
        poses = [each.camera @ from_rig for each in matches[0]]
    else:
        poses = agreeing(views, matches, structure.body.centre_mm)
    found = distinct(poses, views[0].rig_from_camera, structure.body, stage.ranks[1])
    return found[stage.ranks[0] :]


def alongside_starts(
    views: Sequence[View], structure: Structure, banks: Banks, alongside: Alongside
) -> list[np.ndarray]:
    """The start poses (volume_from_rig) beside a known bone that all views agree on, best first."""
    up = upright(structure)
    rotations = [viewing_rotations(up, tilt_deg) for tilt_deg in ALONGSIDE.tilts_deg]
    of_views = [
        [banks.of(structure, some, USUAL_DEPTHS, bank_sdd_mm(view)) for some in rotations]
        for view in views
    ]
    poses = starts_in_space(views, of_views, alongside)
    return distinct(poses, views[0].rig_from_camera, structure.body, ALONGSIDE.ranks[1])


def bank_sdd_mm(view: View) -> float:
    """The source-to-detector distance of the bank for a view."""
    return max(1.0, round(view.xray.detector.sdd_mm / SDD_STEP_MM)) * SDD_STEP_MM


def _matches(
    view: View, structure: Structure, stage: Stage, banks: Banks, limits: Limits
) -> list[Match]:
    """The matches of one view, best first."""
    matches = []
    sdd_mm = view.xray.detector.sdd_mm
    every = METAL_TURNS if structure.body.metal else 1
    for tilt_deg, depths in itertools.product(stage.tilts_deg, stage.depths):
        rotations = viewing_rotations(upright(structure), tilt_deg)
        turns_deg = [
            turn
            for turn in stage.turns_deg[::every]
            if allowed_templates(rotations, np.array(depths), sdd_mm, turn, limits).size
        ]
        if turns_deg:
            bank = banks.of(structure, rotations, depths, bank_sdd_mm(view))
            matches += match(bank, view.xray, turns_deg, limits, metal=structure.body.metal)
    return sorted(matches, key=lambda each: -each.score)
