"""Start poses where nobody knows the pose: templates over rotations and depths, correlated with the small pictures of all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.registration.competition import distinct
from common.registration.pyramid import Body, View
from common.registration.search.grids import all_rotations, depth_grid, meeting_point, template_grid
from common.registration.search.templates import TEMPLATE_PX, Picture

FULL_STEP_DEG = 24.0
SPACE_MM, SPACE_STEP_MM = (
    120.0,
    5.0,
)  # points in space around the place where the cameras' axes meet
PLACES, PLACES_FULL, PLACES_MM = (
    1,
    4,
    12.0,
)  # for one rotation; with few rotations for many orientations: a shaft fits at several places along itself, and along a neighbour
BATCH = 64  # templates at a time
KEEP, KEEP_FULL = 24, 96


@dataclass(frozen=True)
class Near:
    """Where the body's centre may lie: beside a bone that has been found."""

    point: np.ndarray  # (3,) in the rig's frame, mm
    reach_mm: float


def search(
    views: Sequence[View],
    body: Body,
    ranges: PoseRange,
    full: bool = False,
    keep: int | None = None,
    near: Near | None = None,
) -> list[np.ndarray]:
    """The ``keep`` best poses (volume_from_rig), best first; nothing needs to be known.

    Orientations are those of ``ranges`` relative to the first view, or with ``full`` all. A template is a small rendering for one rotation and depth; masked
    normalised cross-correlation by FFT says how well it fits at each place of the picture. One view: a place and a depth of the range make a pose. Several
    views: a point in space is seen at one place in each, and the point with the largest mean over the views makes the pose of a rotation. With ``near``
    only points there count.
    """
    if full:
        rotations = all_rotations(FULL_STEP_DEG)
    else:
        rotations = np.array(
            [
                geometry.camera_from_pose(geometry.pose_from_angles(angles, np.zeros(3)))[:3, :3]
                for angles in template_grid(ranges)
            ]
        )
    found = (
        _in_space(views, body, rotations, ranges, full, near)
        if len(views) > 1
        else _in_picture(views[0], body, rotations, ranges, full, near)
    )
    found.sort(key=lambda entry: -entry[0])
    return distinct(
        [pose for _, pose in found],
        views[0].rig_from_camera,
        body,
        keep or (KEEP_FULL if full else KEEP),
    )


def _in_picture(
    view: View, body: Body, rotations: np.ndarray, ranges: PoseRange, full: bool, near: Near | None
) -> list[tuple[float, np.ndarray]]:
    """(value, volume_from_rig) of each rotation (volume_from_camera) and depth at its best places. A shift turns the camera about its source, which leaves the perspective right."""
    picture = Picture(view, body, depths := depth_grid(ranges))
    camera_from_rig = geometry.invert(view.rig_from_camera)
    found = []
    for depth in depths:
        x, y = picture.offsets_mm(depth)
        allowed = (
            _within(y, ranges.tz, TEMPLATE_PX)[:, None] & _within(x, ranges.tx, TEMPLATE_PX)[None]
        )
        if near:
            centre = geometry.apply(camera_from_rig, near.point)
            squared = (y - centre[1])[:, None] ** 2 + (x - centre[0])[None] ** 2
            allowed &= squared + (depth - centre[2]) ** 2 <= near.reach_mm**2
        if not allowed.any():
            continue
        for first in range(0, len(rotations), BATCH):
            cameras = picture.cameras(rotations[first : first + BATCH], depth)
            for camera, values in zip(
                cameras, np.where(allowed, picture.correlate(cameras), -1.0), strict=True
            ):
                for place in _peaks(
                    values,
                    PLACES_MM * picture.detector.sdd_mm / depth / TEMPLATE_PX,
                    PLACES_FULL if full else PLACES,
                ):
                    down, across = divmod(int(place), picture.size[1])
                    aimed = _aim(
                        camera, picture.detector, picture.columns[across], picture.rows[down]
                    )
                    found.append(
                        (float(values[down, across]), aimed @ geometry.invert(view.rig_from_camera))
                    )
    return found


def _in_space(
    views: Sequence[View],
    body: Body,
    rotations: np.ndarray,
    ranges: PoseRange,
    full: bool,
    near: Near | None,
) -> list[tuple[float, np.ndarray]]:
    """(value, volume_from_rig) of each rotation (volume_from_camera of the first view) with the body's centre at its best points in space."""
    middle, reach = (
        (near.point, near.reach_mm)
        if near
        else (meeting_point([view.rig_from_camera for view in views]), SPACE_MM)
    )
    depths = [
        float(geometry.apply(geometry.invert(view.rig_from_camera), middle)[2]) for view in views
    ]
    pictures = [Picture(view, body, [depth]) for view, depth in zip(views, depths, strict=True)]
    steps = np.arange(-reach, reach + 1, SPACE_STEP_MM)
    points = middle + np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    places = [
        picture.places(geometry.apply(geometry.invert(picture.view.rig_from_camera), points))
        for picture in pictures
    ]
    allowed = np.all([place >= 0 for place in places], axis=0)
    if near:
        allowed &= np.linalg.norm(points - middle, axis=-1) <= reach
    if not full:
        across, down, depth = np.moveaxis(
            geometry.apply(geometry.invert(views[0].rig_from_camera), points), -1, 0
        )
        allowed &= (
            _within(across, ranges.tx, SPACE_STEP_MM)
            & _within(down, ranges.tz, SPACE_STEP_MM)
            & _within(depth, ranges.ty, SPACE_STEP_MM)
        )
    found: list[tuple[float, np.ndarray]] = []
    if not allowed.any():
        return found
    relative = [
        geometry.invert(views[0].rig_from_camera)[:3, :3] @ view.rig_from_camera[:3, :3]
        for view in views
    ]
    for first in range(0, len(rotations), BATCH):
        batch = rotations[first : first + BATCH]
        maps = [
            picture.correlate(picture.cameras(batch @ turn, depth)).reshape(len(batch), -1)
            for picture, turn, depth in zip(pictures, relative, depths, strict=True)
        ]
        for number, rotation in enumerate(batch):
            values = np.where(
                allowed,
                sum(planes[number, place] for planes, place in zip(maps, places, strict=True))
                / len(views),
                -1.0,
            )
            for best in _peaks(values, PLACES_MM / SPACE_STEP_MM, PLACES_FULL if full else PLACES):
                pose = np.eye(4)
                pose[:3, :3] = rotation @ views[0].rig_from_camera[:3, :3].T
                pose[:3, 3] = body.renderer.centre_mm - pose[:3, :3] @ points.reshape(-1, 3)[best]
                found.append((float(values.flat[best]), pose))
    return found


def _peaks(values: np.ndarray, apart: float, count: int) -> np.ndarray:
    """Flat indices of the ``count`` highest local maxima above -1, that many samples apart or more."""
    from scipy.ndimage import maximum_filter

    if count == 1:
        best = values.argmax()
        return np.array([best] if values.flat[best] > -1 else [], dtype=int)
    tops = np.flatnonzero((values == maximum_filter(values, 2 * round(apart) + 1)) & (values > -1))
    return tops[np.argsort(-values.flat[tops])][:count]


def _within(values: np.ndarray, limits: tuple[float, float], slack: float) -> np.ndarray:
    return (values >= limits[0] - slack) & (values <= limits[1] + slack)


def _aim(camera: np.ndarray, detector: Detector, column: float, row: float) -> np.ndarray:
    """The camera turned about its source so that what lay on its axis is seen at (column, row)."""
    ray = np.array(
        [
            (column - detector.principal_px[0]) * detector.pixel_mm[0],
            (row - detector.principal_px[1]) * detector.pixel_mm[1],
            detector.sdd_mm,
        ]
    )
    ray /= np.linalg.norm(ray)
    axis = np.cross([0, 0, 1.0], ray)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return camera
    turned = camera.copy()
    turned[:3, :3] = camera[:3, :3] @ geometry.rotation_matrix(-axis / sine * np.arcsin(sine))
    return turned
