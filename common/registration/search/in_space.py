"""Start poses of a body beside a known one, scored in all views at once at places in space.

Matching each view by itself places a slender bone along whatever is as slender. Where a
neighbouring bone is known, few enough places are left to score each of them in all views.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.registration.scene import View
from common.registration.search.bank import Bank, single_threaded_blas
from common.registration.search.matching import Correlation, axis_to, small_image

PLACE_STEP_MM = 6.0
TILT_STEP_DEG = TURN_STEP_DEG = 8.0  # as a bank's viewing directions and turns
AGAIN_STEP_DEG = 10.0  # of turns about the long axis from a place that was found


@dataclass(frozen=True)
class Alongside:
    """A bone that lies as it did in its scan, but for a turn about its long axis and a tilt."""

    rotation: np.ndarray  # (3, 3) volume_from_rig as in the scan
    axis: np.ndarray  # (3,) unit vector along the body, in its volume
    centre: np.ndarray  # (3,) of where it may be, in the rig
    reach_mm: float
    tilt_deg: float

    def places(self) -> np.ndarray:
        """(P, 3) places of the body's centre in the rig."""
        steps = np.arange(-self.reach_mm, self.reach_mm + 1, PLACE_STEP_MM)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
        return self.centre + grid[np.linalg.norm(grid, axis=1) <= self.reach_mm]

    def turned(self, pose: np.ndarray, centre: np.ndarray) -> list[np.ndarray]:
        """Return ``pose`` (volume_from_rig) turned about the long axis through ``centre``."""
        return [
            geometry.twist(np.r_[np.radians(turn) * self.axis, 0, 0, 0], centre) @ pose
            for turn in np.arange(0.0, 360.0, AGAIN_STEP_DEG)
        ]

    def rotations(self) -> np.ndarray:
        """(R, 3, 3) volume_from_rig."""
        across = np.linalg.svd(self.axis[None])[2][1:]  # two directions across the axis
        tilts = [np.zeros(3)]
        for tilt in np.arange(TILT_STEP_DEG, self.tilt_deg + 1e-6, TILT_STEP_DEG):
            count = round(2 * np.pi * tilt / TILT_STEP_DEG)
            for angle in 2 * np.pi * np.arange(count) / count:
                tilts.append(np.radians(tilt) * (across.T @ (np.cos(angle), np.sin(angle))))
        turns = np.radians(np.arange(0.0, 360.0, TURN_STEP_DEG))
        return (
            np.array(
                [
                    geometry.rotation_matrix(tilt) @ geometry.rotation_matrix(turn * self.axis)
                    for tilt in tilts
                    for turn in turns
                ]
            )
            @ self.rotation
        )


def starts_in_space(
    views: Sequence[View], banks: Sequence[Sequence[Bank]], alongside: Alongside
) -> list[np.ndarray]:
    """Return poses (volume_from_rig), best first: each orientation at its best place.

    ``banks`` are those of each view. A pose counts where every view sees enough of the body.
    """
    rotations, places = alongside.rotations(), alongside.places()
    scores = np.sum(
        [_scores(view, own, rotations, places) for view, own in zip(views, banks, strict=True)],
        axis=0,
    )
    best = scores.argmax(axis=1)
    order = np.argsort(-scores.max(axis=1))
    centre = banks[0][0].centre
    poses = np.tile(np.eye(4), (len(order), 1, 1))
    poses[:, :3, :3] = rotations[order]
    poses[:, :3, 3] = centre - np.einsum("nij,nj->ni", rotations[order], places[best[order]])
    return list(poses)


def _scores(
    view: View, banks: Sequence[Bank], rotations: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """(R, P) scores of each orientation at each place in one view."""
    seen = geometry.apply(geometry.invert(view.rig_from_camera), places)  # (P, 3)
    ray = seen.mean(axis=0) / np.linalg.norm(seen.mean(axis=0))
    bank_of, directions, turns = _nearest(banks, rotations @ view.rig_from_camera[:3, :3], ray)
    scores = np.full((len(rotations), len(places)), -1.0, np.float32)
    correlations = [Correlation(bank) for bank in banks]

    def fill(group: tuple[int, int]) -> None:
        number, turn = group
        bank = banks[number]
        members = np.flatnonzero((bank_of == number) & (turns == turn))
        image = small_image(view.xray, bank.pixel_mm, turn * TURN_STEP_DEG)
        turned = seen @ image.camera_from_turned[:3, :3]
        detector = image.detector
        at = turned[:, :2] / turned[:, 2:] * detector.sdd_mm / detector.pixel_mm
        at = np.round(at + detector.principal_px).astype(int)[:, ::-1]  # rows and columns
        inside = ((at >= -bank.half) & (at < np.array(image.valid.shape) + bank.half)).all(axis=1)
        shares = np.linalg.norm(turned, axis=1) / detector.sdd_mm
        depth = np.abs(np.log(bank.depths[:, None] / shares)).argmin(axis=0)
        for each in np.unique(depth[inside]):
            here = np.flatnonzero(inside & (depth == each))
            templates = each * len(bank.rotations) + directions[members]
            scores[np.ix_(members, here)] = correlations[number].scores(image, templates, at[here])

    groups = sorted(set(zip(bank_of.tolist(), turns.tolist(), strict=True)))
    with single_threaded_blas(), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, groups))
    return scores


def _nearest(
    banks: Sequence[Bank], cameras: np.ndarray, ray: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bank (R,), its viewing direction (R,) and the turn of the image (R,), in steps, of cameras.

    ``cameras`` (R, 3, 3) are volume_from_camera with the body's centre on ``ray`` (3,). That of a
    template is R T^-1 A^-1 for its rotation R, a turn T of the image, and the rotation A from the
    axis to the ray (`matching.aim`).
    """
    counts = [len(bank.rotations) for bank in banks]
    rotations = np.concatenate([bank.rotations for bank in banks])
    nearest = (cameras @ ray @ rotations[:, :, 2].T).argmax(axis=1)
    bank_of = np.repeat(np.arange(len(banks)), counts)[nearest]
    direction = np.concatenate([np.arange(count) for count in counts])[nearest]
    back = rotations[nearest].transpose(0, 2, 1) @ cameras @ axis_to(ray[None])[0]
    turn = -np.arctan2(back[:, 1, 0] - back[:, 0, 1], back[:, 0, 0] + back[:, 1, 1])
    return bank_of, direction, np.round(np.degrees(turn) / TURN_STEP_DEG).astype(int)
