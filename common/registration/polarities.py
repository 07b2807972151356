"""Registration of an X-ray whose polarity was guessed: both are tried unless a pose is ok."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.registration.inputs import with_polarity
from common.registration.register import Registration, register
from common.registration.request import Followed
from common.registration.scene import Structure, View
from common.registration.starts import Starter
from common.registration.verdict import is_clear, is_found
from common.xray.grey_values import GUESS, Polarity

logger = logging.getLogger(__name__)

BOTH_TRIED = "both polarities tried"  # in `Reading`, instead of the guess
OTHER: dict[str, Polarity] = {"bright": "dark", "dark": "bright"}


def register_either(
    views: Sequence[View],
    structures: Sequence[Structure],
    starter: Starter,
    seed: int = 0,
    last: Sequence[Followed] | None = None,
) -> list[Registration]:
    """Register structures in the views of one instant; arguments as in `register`.

    If bone was guessed to be bright or dark, and no structure is certain, the X-rays are read the
    other way too, and the way that fits better is kept. Raises as `register`.
    """
    found = register(views, structures, starter, seed, last)
    guessed = [view for view in views if _is_guessed(view)]
    if last or not guessed or any(_settled(each) for each in found):
        return found
    other = OTHER[guessed[0].xray.reading["bone_shown"]]
    name = guessed[0].xray.path.name
    logger.info(
        f"{name}: whether bone is bright was guessed, and the pose is not certain; trying"
        f" bone {other}"
    )
    again = [_tried(view, other) if _is_guessed(view) else view for view in views]
    second = register(again, structures, starter, seed, last)
    before, after = _similarity(found), _similarity(second)
    if after <= before:
        return found
    logger.warning(
        f"{name}: read with bone {other} as a viewer shows it, against the guess from its grey"
        f" values: the DRR fits better (similarity {after:.2f}, {before:.2f}); `bone` {other}"
        " states it"
    )
    return second


def _settled(found: Registration) -> bool:
    """Return whether another polarity need not be tried: the pose is ok, clear, or found metal."""
    at = found.solution, found.views, found.structure
    return (
        found.verdict.code == "ok"
        or is_clear(*at)
        or (found.structure.body.metal and is_found(*at))
    )


def _is_guessed(view: View) -> bool:
    """Return whether the polarity of an X-ray was guessed, and it can be read the other way."""
    return view.request is not None and view.xray.reading.get("decided_by") == GUESS


def _tried(view: View, bone: Polarity) -> View:
    read = with_polarity(view, bone)
    reading = {**read.xray.reading, "decided_by": BOTH_TRIED}
    return replace(read, xray=replace(read.xray, reading=reading))


def _similarity(found: Sequence[Registration]) -> float:
    return float(np.mean([each.solution.fit.similarity for each in found]))
