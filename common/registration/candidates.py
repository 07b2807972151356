"""Candidates of a competition: poses around a start pose, scored, without near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import geometry
from common.registration.pyramid import Level, LevelView, Pyramid
from common.registration.scene import Body, View

# largest distance of scattered candidates from the start pose
SCATTER_DEG, SCATTER_MM, SCATTER_DEPTH_MM = 8.0, 10.0, 30.0
# poses that are nearer than both are near-duplicates; depth separates less, because it hardly
# changes the image
SAME_DEG, SAME_MM = 6.0, 6.0
DEPTH_WEIGHT = 0.2
ZONE_MM = 12.0  # around the silhouettes in which candidates are scored, at the detector
BATCH = 64  # poses rendered at once


def scattered(
    pose: np.ndarray, rig_from_camera: np.ndarray, body: Body, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return ``count`` random poses around ``pose`` (volume_from_rig).

    Rotations about the body's centre and translations are uniform, with a wider interval along the
    depth of the camera.
    """
    depth_axis = (pose @ rig_from_camera)[:3, 2]
    poses = []
    for _ in range(count):
        turn = np.radians(rng.uniform(-1, 1, 3) * SCATTER_DEG)
        shift = rng.uniform(-1, 1, 3) * SCATTER_MM
        shift += depth_axis * rng.uniform(-1, 1) * (SCATTER_DEPTH_MM - SCATTER_MM)
        poses.append(geometry.twist(np.r_[turn, shift], body.centre_mm) @ pose)
    return poses


def score(
    views: Sequence[View],
    body: Body,
    poses: Sequence[np.ndarray],
    level: Level,
    zone_of: Sequence[np.ndarray],
) -> np.ndarray:
    """Return scores (N,) of poses (volume_from_rig): correlation of local contrast over all views.

    All poses are scored on the same pixels: the silhouettes at ``zone_of`` and `ZONE_MM` around
    them. The score is -inf if a body is outside that zone.
    """
    pyramid = Pyramid(views, [body] * len(zone_of), np.stack(zone_of)[None], level)
    scores = [_score_view(view, pyramid.bodies[0], poses, zone_of) for view in pyramid.views]
    return np.mean(scores, axis=0)


def _score_view(
    view: LevelView, body: Body, poses: Sequence[np.ndarray], zone_of: Sequence[np.ndarray]
) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    detector, features = view.detectors[0], view.features[0]
    covered = body.alone.render(np.stack(zone_of) @ view.rig_from_camera, detector) > 0
    reach = max(1, round(ZONE_MM / max(detector.pixel_mm)))
    zone = binary_dilation(covered.any(axis=0), iterations=reach) * view.valid[0]
    if not zone.any():
        return np.full(len(poses), -np.inf)
    weights = zone / zone.sum()
    target = features[0] - (weights * features[0]).sum()
    scores = np.empty(len(poses))
    for first in range(0, len(poses), BATCH):
        cameras = np.stack(poses[first : first + BATCH]) @ view.rig_from_camera
        rendered = body.renderer.render(cameras, detector)
        images = view.highpass(rendered[None])[0]
        images = images - (images * weights).sum((1, 2))[:, None, None]
        energy = (weights * images**2).sum((1, 2)) * (weights * target**2).sum()
        scores[first : first + BATCH] = np.where(
            energy > 1e-16,
            (weights * images * target).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-16)),
            -np.inf,
        )
    return scores


def distinct(
    poses: Sequence[np.ndarray], rig_from_camera: np.ndarray, body: Body, count: int
) -> list[np.ndarray]:
    """Return the first ``count`` poses (volume_from_rig) without near-duplicates of others."""
    if not len(poses):
        return []
    seen = geometry.invert(np.stack(poses) @ rig_from_camera)  # camera_from_volume
    chosen: list[int] = []
    for number in range(len(poses)):
        if not _same(seen[number], seen[chosen], body).any():
            chosen.append(number)
        if len(chosen) == count:
            break
    return [poses[number] for number in chosen]


def near_duplicates(
    one: np.ndarray, other: np.ndarray, rig_from_camera: np.ndarray, body: Body
) -> bool:
    """Return whether two poses (volume_from_rig) are nearly the same in the camera frame."""
    here, there = geometry.invert(one @ rig_from_camera), geometry.invert(other @ rig_from_camera)
    return bool(_same(here, there[None], body)[0])


def _same(one: np.ndarray, others: np.ndarray, body: Body) -> np.ndarray:
    """Return which of camera_from_volume (N, 4, 4) are nearly ``one`` (4, 4)."""
    apart = (others - one)[:, :3] @ np.r_[body.centre_mm, 1.0]
    cosine = (np.einsum("nij,ij->n", others[:, :3, :3], one[:3, :3]) - 1) / 2
    return (cosine > np.cos(np.radians(SAME_DEG))) & (
        np.linalg.norm(apart * [1, 1, DEPTH_WEIGHT], axis=1) < SAME_MM
    )
