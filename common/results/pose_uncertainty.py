"""Covariance of a pose as stored in ``parameters.pt``, with that of the bones solved with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FRAME = (
    "RAS millimetres of the original CT: left twists of scanner_from_camera, a rotation vector "
    "(radians) about the centre of each bone, then a translation (mm)"
)
MOST_BONES = 100


@dataclass(frozen=True, eq=False)
class PoseUncertainty:
    """Covariance of the poses of M bones from one solve, the bone of the result first.

    The true pose of bone m is `geometry.twist` (t, centre) @ scanner_from_camera, where t (6,) has
    mean zero and the covariance of block m. A rotation is in radians, a translation in mm, both
    along the axes of the scanner frame (RAS of the original CT).
    """

    covariance: np.ndarray  # (6 M, 6 M)
    centres_mm: np.ndarray  # (M, 3) points about which the bones turn, in the scanner frame
    bones: tuple[str, ...]  # names as in `ScannerView.bones`

    @classmethod
    def in_scanner(
        cls,
        covariance: np.ndarray,
        centres_mm: np.ndarray,
        scanner_from_volume: np.ndarray,
        bones: tuple[str, ...],
    ) -> PoseUncertainty:
        """Return the covariance of left twists in the volume frames, brought to the scanner frame.

        ``covariance`` is (6 M, 6 M), ``centres_mm`` (M, 3) and ``scanner_from_volume`` (M, 4, 4).
        A rotation vector is an axial vector: a mirror reverses it besides reflecting it.
        """
        carry = np.zeros_like(covariance)
        for number, matrix in enumerate(scanner_from_volume):
            turned = matrix[:3, :3]
            first = 6 * number
            carry[first : first + 3, first : first + 3] = np.linalg.det(turned) * turned
            carry[first + 3 : first + 6, first + 3 : first + 6] = turned
        moved = np.einsum("mij,mj->mi", scanner_from_volume[:, :3, :3], centres_mm)
        return cls(
            carry @ covariance @ carry.T, moved + scanner_from_volume[:, :3, 3], tuple(bones)
        )

    def without(self, bone: str) -> PoseUncertainty:
        """Return the covariance of the other bones, if a bone was placed anew; never the first."""
        kept = [n for n, name in enumerate(self.bones) if n == 0 or name != bone]
        index = np.concatenate([np.arange(6 * n, 6 * n + 6) for n in kept])
        return PoseUncertainty(
            self.covariance[np.ix_(index, index)],
            self.centres_mm[kept],
            tuple(self.bones[n] for n in kept),
        )

    @property
    def own(self) -> np.ndarray:
        """Covariance (6, 6) of the bone of the result."""
        return self.covariance[:6, :6]

    def entries(self) -> dict[str, Any]:
        """Return the covariance as stored in ``parameters.pt``."""
        return {
            "frame": FRAME,
            "bones": list(self.bones),
            "centres_mm": np.asarray(self.centres_mm, float),
            "covariance": np.asarray(self.covariance, float),
        }

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> PoseUncertainty:
        """Return the covariance of `entries`.

        Raises KeyError, TypeError, AttributeError or ValueError if an entry is missing or invalid.
        """
        bones = tuple(map(str, entries["bones"]))
        if not 0 < len(bones) <= MOST_BONES:
            raise ValueError(f"covariance of {len(bones)} bones")
        covariance = np.array(entries["covariance"], float)
        centres = np.array(entries["centres_mm"], float)
        size = 6 * len(bones)
        if covariance.shape != (size, size) or centres.shape != (len(bones), 3):
            raise ValueError(f"covariance of shape {covariance.shape} for {len(bones)} bones")
        if not (np.isfinite(covariance).all() and np.isfinite(centres).all()):
            raise ValueError("covariance with numbers that are not finite")
        return cls(covariance, centres, bones)
