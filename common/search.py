"""Start poses where nobody knows the pose: templates over rotations and depths, correlated with the small pictures of all views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import geometry
from common.geometry import Detector
from common.poserange import PoseRange
from common.refinement import Body, View
from common.start import distinct
from common.xrays import Xray

# the search, on 28 bones in knee X-rays: right candidate among the first four for 89 % with these, 50 % with 6 mm, 16 mm and no rim
TEMPLATE_PX = 4.0  # mm at the detector
TEMPLATE_HIGHPASS_MM = 10.0
TEMPLATE_RIM_MM = 6.0  # around the silhouette: the outer side of the bone's edge belongs to the template
MIN_OVERLAP = 0.35  # share of a template inside the valid field
TEMPLATE_STEP_DEG = 8.0
TEMPLATE_STEP_DEPTH = 0.09  # relative: neighbours differ by half of that in size
FULL_STEP_DEG = 16.0
SPACE_MM, SPACE_STEP_MM = 120.0, 5.0  # points in space around the place where the cameras' axes meet
BATCH = 64  # templates at a time
KEEP = 24


def search(views: Sequence[View], body: Body, ranges: PoseRange, full: bool = False, keep: int = KEEP) -> list[np.ndarray]:
    """The ``keep`` best poses (volume_from_rig), best first; nothing needs to be known.

    Orientations are those of ``ranges`` relative to the first view, or with ``full`` all. A template is a small rendering for one rotation and depth; masked
    normalised cross-correlation by FFT says how well it fits at each place of the picture. One view: a place and a depth of the range make a pose. Several
    views: a point in space is seen at one place in each, and the point with the largest mean over the views makes the pose of a rotation.
    """
    if full:
        rotations = all_rotations(FULL_STEP_DEG)
    else:
        rotations = np.array([geometry.camera_from_pose(geometry.pose_from_angles(angles, np.zeros(3)))[:3, :3] for angles in template_grid(ranges)])
    found = _in_space(views, body, rotations, ranges, full) if len(views) > 1 else _in_picture(views[0], body, rotations, ranges)
    found.sort(key=lambda entry: -entry[0])
    return distinct([pose for _, pose in found], views[0].rig_from_camera, body, keep)


def _in_picture(view: View, body: Body, rotations: np.ndarray, ranges: PoseRange) -> list[tuple[float, np.ndarray]]:
    """(value, volume_from_rig) of each rotation (volume_from_camera) and depth at its best place. A shift turns the camera about its source, which leaves the perspective right."""
    picture = _Picture(view, body, depths := depth_grid(ranges))
    found = []
    for depth in depths:
        x, y = picture.offsets_mm(depth)
        allowed = _within(y, ranges.tz, TEMPLATE_PX)[:, None] & _within(x, ranges.tx, TEMPLATE_PX)[None]
        for first in range(0, len(rotations), BATCH):
            cameras = picture.cameras(rotations[first : first + BATCH], depth)
            values = np.where(allowed, picture.correlate(cameras), -2.0).reshape(len(cameras), -1)
            for camera, row, place in zip(cameras, values, values.argmax(1), strict=True):
                down, across = divmod(int(place), picture.size[1])
                aimed = _aim(camera, picture.detector, picture.columns[across], picture.rows[down])
                found.append((float(row[place]), aimed @ geometry.invert(view.rig_from_camera)))
    return found


def _in_space(views: Sequence[View], body: Body, rotations: np.ndarray, ranges: PoseRange, full: bool) -> list[tuple[float, np.ndarray]]:
    """(value, volume_from_rig) of each rotation (volume_from_camera of the first view) with the body's centre at its best point in space."""
    middle = meeting_point([view.rig_from_camera for view in views])
    depths = [float(geometry.apply(geometry.invert(view.rig_from_camera), middle)[2]) for view in views]
    pictures = [_Picture(view, body, [depth]) for view, depth in zip(views, depths, strict=True)]
    steps = np.arange(-SPACE_MM, SPACE_MM + 1, SPACE_STEP_MM)
    points = middle + np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    if not full:
        across, down, depth = geometry.apply(geometry.invert(views[0].rig_from_camera), points).T
        points = points[_within(across, ranges.tx, SPACE_STEP_MM) & _within(down, ranges.tz, SPACE_STEP_MM) & _within(depth, ranges.ty, SPACE_STEP_MM)]
    places = [picture.places(geometry.apply(geometry.invert(picture.view.rig_from_camera), points)) for picture in pictures]
    seen = np.all([place >= 0 for place in places], axis=0)
    points, places = points[seen], [place[seen] for place in places]
    found: list[tuple[float, np.ndarray]] = []
    if not len(points):
        return found
    relative = [geometry.invert(views[0].rig_from_camera)[:3, :3] @ view.rig_from_camera[:3, :3] for view in views]
    for first in range(0, len(rotations), BATCH):
        batch = rotations[first : first + BATCH]
        maps = [picture.correlate(picture.cameras(batch @ turn, depth)).reshape(len(batch), -1) for picture, turn, depth in zip(pictures, relative, depths, strict=True)]
        for number, rotation in enumerate(batch):
            values = sum(planes[number, place] for planes, place in zip(maps, places, strict=True)) / len(views)
            best = int(values.argmax())
            pose = np.eye(4)
            pose[:3, :3] = rotation @ views[0].rig_from_camera[:3, :3].T
            pose[:3, 3] = body.renderer.centre_mm - pose[:3, :3] @ points[best]
            found.append((float(values[best]), pose))
    return found


class _Picture:
    """One view made small, ready to be correlated with templates of the body."""

    def __init__(self, view: View, body: Body, depths: Sequence[float]):
        from scipy.fft import rfft2

        self.view, self.centre = view, body.renderer.centre_mm
        picture, valid, self.detector = _small_picture(view.xray)
        self.size = 2 * self.detector.height, 2 * self.detector.width
        self._spectra = [rfft2(channel, self.size, workers=-1) for channel in (picture, picture**2, valid)]
        self._renderer = (body.outline or body.renderer).coarser(TEMPLATE_PX * min(depths) / self.detector.sdd_mm)
        self._square = _template_detector(body, self.detector, depths)
        # a shift of zero puts the template's corner on the picture's corner, its middle at the square's principal point
        self.columns = self._square.principal_px[0] + np.fft.fftfreq(self.size[1], 1 / self.size[1])
        self.rows = self._square.principal_px[1] + np.fft.fftfreq(self.size[0], 1 / self.size[0])

    def cameras(self, rotations: np.ndarray, depth: float) -> np.ndarray:
        """Cameras (B, 4, 4) of rotations (B, 3, 3) that see the body's centre on their axis at ``depth`` mm."""
        cameras = np.tile(np.eye(4), (len(rotations), 1, 1))
        cameras[:, :3, :3] = rotations
        cameras[:, :3, 3] = self.centre - depth * rotations[:, :, 2]
        return cameras

    def offsets_mm(self, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """What each column and each row of the correlation is in mm from the axis, at ``depth``."""
        scale = depth / self.detector.sdd_mm
        (column, row), (dx, dy) = self.detector.principal_px, self.detector.pixel_mm
        return (self.columns - column) * dx * scale, (self.rows - row) * dy * scale

    def places(self, points: np.ndarray) -> np.ndarray:
        """(N,) index into a flat correlation of points (N, 3) of the camera's frame; -1 outside the picture."""
        pixels = geometry.project(points, self.detector, np.eye(4))
        inside = (points[:, 2] > 0) & ((pixels > -0.5) & (pixels < np.array([self.detector.width, self.detector.height]) - 0.5)).all(axis=1)
        shift = np.round(np.where(inside[:, None], pixels, 0) - self._square.principal_px).astype(int) % self.size[::-1]
        return np.where(inside, shift[:, 1] * self.size[1] + shift[:, 0], -1)

    def correlate(self, cameras: np.ndarray) -> np.ndarray:
        """(B, 2 H, 2 W) normalised cross-correlation of each camera's template with the picture under the template's mask, -1 where too little of it is in the field."""
        from scipy.fft import irfft2, rfft2

        masks, templates = _masked_templates(self._renderer.render(cameras, self._square), self._square)
        area = np.maximum(masks.sum((1, 2)), 1e-6)[:, None, None]
        picture, squared, valid = self._spectra
        template_f, mask_f = (np.conj(rfft2(stack, self.size, workers=-1)) for stack in (templates, masks))
        overlap = irfft2(valid * mask_f, self.size, workers=-1) / area
        total = irfft2(picture * mask_f, self.size, workers=-1)
        spread = irfft2(squared * mask_f, self.size, workers=-1) - total**2 / (area * np.maximum(overlap, 1e-3))
        energy = np.maximum(spread, 1e-3 * area) * np.maximum((templates**2).sum((1, 2)), 1e-9)[:, None, None]
        value = irfft2(picture * template_f, self.size, workers=-1) / np.sqrt(energy)
        return np.where(overlap > MIN_OVERLAP, value * np.sqrt(np.clip(overlap, 0, 1)), -1)


def template_grid(ranges: PoseRange) -> np.ndarray:
    """(N, 3) angles in degrees that cover the range."""

    def steps(low: float, high: float) -> np.ndarray:
        return np.linspace(low, high, max(1, int(np.ceil((high - low) / TEMPLATE_STEP_DEG)) + 1)) if high > low else np.array([low])

    return np.stack(np.meshgrid(steps(*ranges.r1), steps(*ranges.r2), steps(*ranges.r3), indexing="ij"), -1).reshape(-1, 3)


def depth_grid(ranges: PoseRange) -> np.ndarray:
    """(D,) source-to-isocentre distances in mm that cover the range in equal steps of size."""
    low, high = ranges.ty
    count = max(1, int(np.ceil(np.log(high / low) / TEMPLATE_STEP_DEPTH)))
    return low * (high / low) ** ((np.arange(count) + 0.5) / count)


def all_rotations(step_deg: float) -> np.ndarray:
    """(N, 3, 3) rotations spread evenly over all, neighbours about ``step_deg`` apart: super-Fibonacci spirals (M. Alexa, CVPR 2022)."""
    from scipy.spatial.transform import Rotation

    count = int(np.ceil(8 * np.pi**2 / np.radians(step_deg) ** 3))
    s = np.arange(count) + 0.5
    inner, outer = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / 1.533751168755204288118041
    return Rotation.from_quat(np.stack([inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], 1)).as_matrix()


def meeting_point(cameras: Sequence[np.ndarray]) -> np.ndarray:
    """(3,) the point nearest to all optical axes of cameras (frame_from_camera, 4x4), least squares. Parallel axes meet at the mean of their sources."""
    across = [np.eye(3) - np.outer(camera[:3, 2], camera[:3, 2]) for camera in cameras]
    return np.linalg.lstsq(sum(across), sum(a @ camera[:3, 3] for a, camera in zip(across, cameras, strict=True)), rcond=1e-6)[0]


def _small_picture(xray: Xray) -> tuple[np.ndarray, np.ndarray, Detector]:
    """Locally normalised picture, valid field and detector at about `TEMPLATE_PX`."""
    small = xray.binned(max(1, round(TEMPLATE_PX / max(xray.detector.pixel_mm))))
    valid = small.valid.astype(np.float32)
    return _local_contrast(small.image[None], valid[None], small.detector)[0], valid, small.detector


def _template_detector(body: Body, detector: Detector, depths: Sequence[float]) -> Detector:
    """A square detector, principal point in its middle, that holds the whole body at any rotation (or the picture's size, if less)."""
    radius = float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max()) + TEMPLATE_PX
    half = int(np.ceil(radius * detector.sdd_mm / min(depths) / min(detector.pixel_mm)))
    half = min(half, max(detector.height, detector.width) // 2)
    return Detector.centred(2 * half, 2 * half, detector.sdd_mm, detector.pixel_mm)


def _masked_templates(images: np.ndarray, square: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Masks (B, H, W) of silhouette and rim, and the local contrast under them with mean zero."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    covered = images > 0.03 * np.maximum(images.max((1, 2)), 1e-9)[:, None, None]
    rows, columns = (2 * round(TEMPLATE_RIM_MM / mm) + 1 for mm in square.pixel_mm[::-1])
    masks = gaussian_filter(maximum_filter(covered, (1, rows, columns)).astype(np.float32), (0, 0.7, 0.7))
    contrast = _local_contrast(images, np.ones_like(images), square)
    mean = (contrast * masks).sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1e-6)
    return masks, (contrast - mean[:, None, None]) * masks


def _within(values: np.ndarray, limits: tuple[float, float], slack: float) -> np.ndarray:
    return (values >= limits[0] - slack) & (values <= limits[1] + slack)


def _aim(camera: np.ndarray, detector: Detector, column: float, row: float) -> np.ndarray:
    """The camera turned about its source so that what lay on its axis is seen at (column, row)."""
    ray = np.array([(column - detector.principal_px[0]) * detector.pixel_mm[0], (row - detector.principal_px[1]) * detector.pixel_mm[1], detector.sdd_mm])
    ray /= np.linalg.norm(ray)
    axis = np.cross([0, 0, 1.0], ray)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return camera
    turned = camera.copy()
    turned[:3, :3] = camera[:3, :3] @ geometry.rotation_matrix(-axis / sine * np.arcsin(sine))
    return turned


def _local_contrast(images: np.ndarray, valid: np.ndarray, detector: Detector) -> np.ndarray:
    """(B, H, W) high-pass over its own local spread, so that faint and strong structures count alike."""
    from scipy.ndimage import gaussian_filter

    sigma = (0, *(TEMPLATE_HIGHPASS_MM / mm for mm in detector.pixel_mm[::-1]))

    def blur(stack):
        return gaussian_filter(stack, sigma, mode="constant", truncate=3.0)

    norm = 1 / (blur(valid) + 1e-3)
    contrast = (images - blur(images * valid) * norm) * valid
    spread = np.sqrt(np.clip(blur(contrast**2) * norm, 0, None))
    return contrast / (spread + 0.3 * spread.mean((1, 2), keepdims=True) + 1e-9) * valid
