"""Findings about the orientation of an X-ray: flipped, rotated or inverted images are tried."""

from __future__ import annotations

from collections.abc import Callable

from common.progress import track
from common.registration.preflight.report import Finding
from common.registration.verdict import SUSPECT_SIMILARITY
from common.xray.xray import Xray, inverted, turned

# similarity above which no other orientation is tried: above that of a mirrored femur
SURE_SIMILARITY = 0.8
# times as much contrast is unexplained (1 - similarity^2) by the X-ray as given: above the ratio
# for a correctly oriented tibia that the search missed, below that for a mirrored femur
CLEARLY = 2.0
AS_IT_IS = "as it is"
QUARTER_TURNS = {
    "by 90 degrees anticlockwise": 1,
    "by 180 degrees": 2,
    "by 90 degrees clockwise": 3,
}


def orientation_fits(xray: Xray, fit: Callable[[Xray], float]) -> dict[str, float]:
    """Return the similarity of a quick registration for each orientation of an X-ray.

    Other orientations are tried only if the X-ray as given is not sure to fit, and until one is.
    ``fit`` registers an X-ray and returns the similarity, -1 if it failed.
    """
    fits = {AS_IT_IS: fit(xray)}
    if fits[AS_IT_IS] >= SURE_SIMILARITY:
        return fits
    others = {
        "inverted": inverted(xray),
        "mirrored": xray.flip(),
        "mirrored and inverted": inverted(xray.flip()),
    }
    for name, quarters in QUARTER_TURNS.items():
        others |= {
            f"rotated {name}": turned(xray, quarters),
            f"mirrored and rotated {name}": turned(xray.flip(), quarters),
        }
    for name, other in track(
        list(others.items()), what="orientations of the X-ray", unit="orientation"
    ):
        fits[name] = fit(other)
        if fits[name] >= SURE_SIMILARITY:
            break
    return fits


def orientation_findings(fits: dict[str, float], flipped: bool) -> list[Finding]:
    """Return a finding if another orientation fits clearly better, or none fits.

    ``flipped`` states whether the X-ray was flipped after reading.
    """
    best = max(fits, key=lambda name: fits[name])
    unexplained = {name: 1 - max(similarity, 0) ** 2 for name, similarity in fits.items()}
    if fits[best] >= SUSPECT_SIMILARITY and unexplained[AS_IT_IS] >= CLEARLY * unexplained[best]:
        return [
            Finding(
                "likely",
                f"the X-ray fits when {best} (similarity {fits[best]:.2f}) but not as it is"
                f" ({fits[AS_IT_IS]:.2f})",
                "; ".join(_changes(best, flipped)),
            )
        ]
    if fits[AS_IT_IS] < SUSPECT_SIMILARITY:
        return [
            Finding(
                "note",
                f"the DRR matches the X-ray poorly (similarity {fits[AS_IT_IS]:.2f}) in every"
                " orientation",
                "check the bone and mask, pixel spacing, SDD and pose range (`r1` ... `tz`); see"
                " check.png",
            )
        ]
    return []


def _changes(orientation: str, flipped: bool) -> list[str]:
    """Return what to change so that the X-ray has this orientation."""
    changes = []
    if "inverted" in orientation:
        changes.append("give `bone` with the other value")
    if "mirrored" in orientation:
        changes.append(f"set `flip` to {'no' if flipped else 'yes'}, or check `side`")
    if "rotated" in orientation:
        changes.append(
            f"rotate the file {orientation.partition('rotated ')[2]}, with its principal point; no"
            " setting does"
        )
    return changes
