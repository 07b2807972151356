"""Search for start poses: templates over rotations and depths, correlated with small X-rays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common import geometry
from common.geometry.pose_range import PoseRange
from common.registration.candidates import distinct
from common.registration.scene import Body, View
from common.registration.search.grids import all_rotations, depth_grid, meeting_point, template_grid
from common.registration.search.matching import aim
from common.registration.search.templates import TEMPLATE_PX, SmallXray

# between orientations if all are searched (benchmarks/README.md, 'Starts from nothing')
FULL_STEP_DEG = 24.0
# grid of points around the point where the principal rays of several views meet
SPACE_MM, SPACE_STEP_MM = 120.0, 5.0
# best positions for one rotation, and the least distance between them. All orientations have a
# coarse grid, and a shaft fits at several positions along itself and along a neighbour
PLACES, PLACES_FULL, PLACES_MM = 1, 4, 12.0
BATCH = 64  # templates at a time
KEEP, KEEP_FULL = 24, 96

Scored = tuple[float, np.ndarray]  # correlation, and pose (volume_from_rig)


@dataclass(frozen=True)
class Near:
    """A sphere that contains the centre of the body, next to a bone whose pose is known."""

    point: np.ndarray  # (3,) in the frame of the rig, mm
    reach_mm: float


@dataclass(frozen=True)
class _Task:
    """What is searched for, and where."""

    body: Body
    rotations: np.ndarray  # (N, 3, 3) volume_from_camera of the first view
    ranges: PoseRange
    full: bool
    near: Near | None

    @property
    def places(self) -> int:
        return PLACES_FULL if self.full else PLACES


def search(
    views: Sequence[View],
    body: Body,
    ranges: PoseRange,
    full: bool = False,
    keep: int | None = None,
    near: Near | None = None,
) -> list[np.ndarray]:
    """Return the ``keep`` best poses (volume_from_rig), best first, without a start pose.

    Orientations are those of ``ranges`` relative to the first view or, with ``full``, all. A
    template is a small DRR at one rotation and depth. Masked normalised cross-correlation by FFT
    gives its score at each position in the X-ray. From one view, a position and a depth of the
    range are a pose. From several views, a point in space has one position in each, and the point
    with the highest mean correlation is the pose of a rotation. With ``near``, only poses with the
    centre of the body in that sphere are searched.
    """
    rotations = all_rotations(FULL_STEP_DEG) if full else _rotations_of(ranges)
    task = _Task(body, rotations, ranges, full, near)
    found = list(_in_space(views, task) if len(views) > 1 else _in_image(views[0], task))
    found.sort(key=lambda scored: -scored[0])
    count = keep or (KEEP_FULL if full else KEEP)
    return distinct([pose for _, pose in found], views[0].rig_from_camera, body, count)


def _rotations_of(ranges: PoseRange) -> np.ndarray:
    """Return rotations (N, 3, 3), volume_from_camera, that cover the angles of the range."""
    poses = [geometry.pose_from_angles(angles, np.zeros(3)) for angles in template_grid(ranges)]
    return np.array([geometry.camera_from_pose(pose)[:3, :3] for pose in poses])


def _in_image(view: View, task: _Task) -> Iterator[Scored]:
    """Yield each rotation and depth at its best positions in one view.

    A position in the image is reached by rotating the camera about its source, which does not
    change the perspective.
    """
    depths = depth_grid(task.ranges)
    small = SmallXray(view, task.body, depths)
    camera_from_rig = geometry.invert(view.rig_from_camera)
    for depth in depths:
        allowed = _allowed_offsets(small, float(depth), task, camera_from_rig)
        if not allowed.any():
            continue
        apart = PLACES_MM * small.detector.sdd_mm / depth / TEMPLATE_PX
        for first in range(0, len(task.rotations), BATCH):
            cameras = small.cameras(task.rotations[first : first + BATCH], depth)
            maps = np.where(allowed, small.correlate(cameras), -1.0)
            for camera, values in zip(cameras, maps, strict=True):
                for place in _peaks(values, apart, task.places):
                    down, across = divmod(int(place), small.size[1])
                    column, row = small.columns[across], small.rows[down]
                    aimed = aim(camera[None], small.detector, column, row)[0]
                    yield float(values[down, across]), aimed @ camera_from_rig


def _allowed_offsets(
    small: SmallXray, depth: float, task: _Task, camera_from_rig: np.ndarray
) -> np.ndarray:
    """Return a mask (2 H, 2 W): offsets of a correlation that the range and ``near`` allow."""
    x, y = small.offsets_mm(depth)
    ranges, near = task.ranges, task.near
    allowed = _within(y, ranges.tz, TEMPLATE_PX)[:, None] & _within(x, ranges.tx, TEMPLATE_PX)[None]
    if near:
        centre = geometry.apply(camera_from_rig, near.point)
        squared = (y - centre[1])[:, None] ** 2 + (x - centre[0])[None] ** 2
        allowed &= squared + (depth - centre[2]) ** 2 <= near.reach_mm**2
    return allowed


def _in_space(views: Sequence[View], task: _Task) -> Iterator[Scored]:
    """Yield each rotation with the centre of the body at its best points in space."""
    cameras_from_rig = [geometry.invert(view.rig_from_camera) for view in views]
    if task.near:
        middle, reach = task.near.point, task.near.reach_mm
    else:
        middle, reach = meeting_point([view.rig_from_camera for view in views]), SPACE_MM
    depths = [float(geometry.apply(inverse, middle)[2]) for inverse in cameras_from_rig]
    smalls = [
        SmallXray(view, task.body, [depth]) for view, depth in zip(views, depths, strict=True)
    ]
    steps = np.arange(-reach, reach + 1, SPACE_STEP_MM)
    points = middle + np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    places = [
        small.places(geometry.apply(inverse, points))
        for small, inverse in zip(smalls, cameras_from_rig, strict=True)
    ]
    allowed = np.all([place >= 0 for place in places], axis=0)
    allowed &= _allowed_points(points, middle, task, cameras_from_rig[0])
    if not allowed.any():
        return
    first_from_others = [
        cameras_from_rig[0][:3, :3] @ view.rig_from_camera[:3, :3] for view in views
    ]
    for first in range(0, len(task.rotations), BATCH):
        batch = task.rotations[first : first + BATCH]
        maps = [
            small.correlate(small.cameras(batch @ turn, depth)).reshape(len(batch), -1)
            for small, turn, depth in zip(smalls, first_from_others, depths, strict=True)
        ]
        for number, rotation in enumerate(batch):
            total = sum(planes[number, place] for planes, place in zip(maps, places, strict=True))
            values = np.where(allowed, total / len(views), -1.0)
            for best in _peaks(values, PLACES_MM / SPACE_STEP_MM, task.places):
                pose = np.eye(4)
                pose[:3, :3] = rotation @ views[0].rig_from_camera[:3, :3].T
                pose[:3, 3] = task.body.centre_mm - pose[:3, :3] @ points.reshape(-1, 3)[best]
                yield float(values.flat[best]), pose


def _allowed_points(
    points: np.ndarray, middle: np.ndarray, task: _Task, camera_from_rig: np.ndarray
) -> np.ndarray:
    """Return a mask (...): points (..., 3) of the rig that the range and ``near`` allow."""
    allowed = np.ones(points.shape[:-1], bool)
    if task.near:
        allowed &= np.linalg.norm(points - middle, axis=-1) <= task.near.reach_mm
    if not task.full:
        in_camera = geometry.apply(camera_from_rig, points)
        for axis, limits in enumerate((task.ranges.tx, task.ranges.tz, task.ranges.ty)):
            allowed &= _within(in_camera[..., axis], limits, SPACE_STEP_MM)
    return allowed


def _peaks(values: np.ndarray, apart: float, count: int) -> np.ndarray:
    """Return flat indices of the ``count`` highest local maxima above -1.

    They are at least ``apart`` samples apart.
    """
    from scipy.ndimage import maximum_filter

    if count == 1:
        best = values.argmax()
        return np.array([best] if values.flat[best] > -1 else [], dtype=int)
    tops = np.flatnonzero((values == maximum_filter(values, 2 * round(apart) + 1)) & (values > -1))
    return tops[np.argsort(-values.flat[tops])][:count]


def _within(values: np.ndarray, limits: tuple[float, float], slack: float) -> np.ndarray:
    return (values >= limits[0] - slack) & (values <= limits[1] + slack)
