"""Start poses: where refinement begins when nobody knows the pose, and how several starts compete.

`search` renders templates over rotations and depths and finds their place in the picture by FFT. `compete` spreads
candidates around starts, scores all of them on the same pixels, refines the best and says how far the finalists agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.geometry import Detector
from common.poserange import PoseRange
from common.refinement import LEVELS, Body, Fit, Level, LevelView, Pyramid, Trace, View, refine
from common.xrays import Xray

COARSE, MIDDLE, FINE = LEVELS[:2], LEVELS[2:3], LEVELS[3:]
SCATTER_DEG, SCATTER_MM, SCATTER_DEPTH_MM = 8.0, 10.0, 30.0  # radius of the candidates around a start
SCATTER_COUNT = 200
KEEP = 12  # candidates refined coarsely
FINALISTS = 3  # that go on to the level at which similarities are compared
VALLEY_STEPS_DEG = (-14.0, -7.0, 7.0, 14.0)
VALLEY_WALKS = 4
VALLEY_GAIN = 2e-3  # of similarity: less is the same hollow
# the search, on 28 bones in knee X-rays: right candidate among the first four for 89 % with these, 50 % with 6 mm, 16 mm and no rim
TEMPLATE_PX = 4.0  # mm at the detector
TEMPLATE_HIGHPASS_MM = 10.0
TEMPLATE_RIM_MM = 6.0  # around the silhouette: the outer side of the bone's edge belongs to the template
MIN_OVERLAP = 0.35  # share of a template inside the valid field
TEMPLATE_STEP_DEG = 8.0
TEMPLATE_STEP_DEPTH = 0.09  # relative: neighbours differ by half of that in size
SAME_DEG, SAME_MM = 6.0, 6.0  # candidates nearer than both are one


@dataclass(frozen=True)
class Winner:
    """The best of several refined starts."""

    start: np.ndarray  # volume_from_rig it came from
    fit: Fit
    trace: Trace
    runner_up: Fit | None  # the best fit that ended elsewhere on the way, None where all ended together
    candidates: int
    agreement: float  # share of the coarsely refined candidates that ended where the winner did


def compete(views: Sequence[View], body: Body, starts: Sequence[np.ndarray], scatter: int = SCATTER_COUNT, keep: int = KEEP, seed: int = 0) -> Winner | None:
    """Refine the most promising of ``starts`` (volume_from_rig) and of poses scattered around the first of them; the fit that explains most wins.

    Returns None where no candidate shows the body inside the pictures.
    """
    coarse, candidates = explore(views, body, starts, scatter, keep, seed)
    if not coarse:
        return None
    rig_from_camera = views[0].rig_from_camera
    poses = distinct([run.pose for run in coarse], rig_from_camera, body, FINALISTS)
    finalists = [next(run for run in coarse if run.pose is pose) for pose in poses]
    finalists[0] = walk_valley(views, body, finalists[0])
    finals = best_first([further for run in finalists if (further := run.further(views, body, MIDDLE))])
    if not finals:
        return None
    best = finals[0].further(views, body, FINE)
    if best is None:
        return None
    together = sum(len(distinct([best.pose, run.pose], rig_from_camera, body, 2)) == 1 for run in coarse)
    return Winner(best.start, best.fit, best.trace, finals[1].fit if len(finals) > 1 else None, candidates, together / len(coarse))


def explore(views: Sequence[View], body: Body, starts: Sequence[np.ndarray], scatter: int, keep: int, seed: int) -> tuple[list[Run], int]:
    """Coarse fits of the ``keep`` most promising candidates, best first, and how many candidates there were."""
    candidates = [*starts, *scattered(starts[0], views[0].rig_from_camera, body, scatter, np.random.default_rng(seed))]
    scores = score(views, body, candidates, COARSE[0], candidates[: len(starts)])
    order = [i for i in np.argsort(-scores) if np.isfinite(scores[i])]
    chosen = distinct([candidates[i] for i in order], views[0].rig_from_camera, body, keep)
    return best_first([run for pose in chosen if (run := Run.from_start(views, body, pose, COARSE))]), len(candidates)


@dataclass(frozen=True)
class Run:
    """One start on its way through the levels."""

    start: np.ndarray  # volume_from_rig
    fit: Fit
    trace: Trace

    @property
    def pose(self) -> np.ndarray:
        return self.fit.poses[0]

    @classmethod
    def from_start(cls, views: Sequence[View], body: Body, start: np.ndarray, levels: Sequence[Level]) -> Run | None:
        """Refined from ``start``; None where the body lies outside all pictures."""
        trace = Trace()
        fit = refine(views, [body], [start], levels, trace)
        return fit and cls(start, fit, trace)

    def further(self, views: Sequence[View], body: Body, levels: Sequence[Level]) -> Run | None:
        """The same run after further levels."""
        fit = refine(views, [body], self.fit.poses, levels, self.trace)
        return fit and replace(self, fit=fit)


def best_first(runs: Sequence[Run]) -> list[Run]:
    """Runs that ended at one level, the one that explains most of the pictures first."""
    return sorted(runs, key=lambda run: -run.fit.similarity)


def walk_valley(views: Sequence[View], body: Body, run: Run) -> Run:
    """The best of a run and of fits started along the direction in which the pictures determine the pose least.

    A tibia seen from the side may turn by 10 degrees about its shaft, shift and depth following, and lose little: the cost is a long valley with several
    hollows. From each hollow the next are tried on both sides until none is deeper.
    """
    for _ in range(VALLEY_WALKS):
        covariance = run.fit.covariance
        turn = np.linalg.eigh(covariance[:3, :3])[1][:, -1]
        along = np.r_[turn, covariance[3:6, :3] @ np.linalg.pinv(covariance[:3, :3]) @ turn]  # what translation goes with the turn
        starts = [geometry.twist(np.radians(angle) * along, body.renderer.centre_mm) @ run.pose for angle in VALLEY_STEPS_DEG]
        tried = best_first([other for start in starts if (other := Run.from_start(views, body, start, COARSE[-1:]))])
        if not tried or tried[0].fit.similarity <= run.fit.similarity + VALLEY_GAIN:
            return run
        run = replace(tried[0], start=run.start, trace=Trace(run.trace.started, run.trace.rows + tried[0].trace.rows))
    return run


def scattered(pose: np.ndarray, rig_from_camera: np.ndarray, body: Body, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Poses around ``pose`` (volume_from_rig): uniform in rotation about the body's centre, in plane and, further, along the camera's depth."""
    depth_axis = (pose @ rig_from_camera)[:3, 2]
    poses = []
    for _ in range(count):
        turn = np.radians(rng.uniform(-1, 1, 3) * SCATTER_DEG)
        shift = rng.uniform(-1, 1, 3) * SCATTER_MM
        shift += depth_axis * rng.uniform(-1, 1) * (SCATTER_DEPTH_MM - SCATTER_MM)
        poses.append(geometry.twist(np.r_[turn, shift], body.renderer.centre_mm) @ pose)
    return poses


def score(views: Sequence[View], body: Body, poses: Sequence[np.ndarray], level: Level, zone_of: Sequence[np.ndarray]) -> np.ndarray:
    """Weighted correlation of local contrast for each pose (volume_from_rig), mean over the views, all on one zone a view:
    the silhouettes of ``zone_of`` and 12 mm around them. -inf where a pose shows nothing inside a zone.
    """
    pyramid = Pyramid(views, [body] * len(zone_of), zone_of, level)
    return np.mean([_score_view(frame, pyramid.bodies[0], poses, zone_of) for frame in pyramid.views], axis=0)


def _score_view(frame: LevelView, body: Body, poses: Sequence[np.ndarray], zone_of: Sequence[np.ndarray]) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    renderer = body.renderer
    covered = ((body.outline or renderer).render(np.stack(zone_of) @ frame.rig_from_camera, frame.detector) > 0).any(axis=0)
    zone = binary_dilation(covered, iterations=max(1, round(12.0 / max(frame.detector.pixel_mm)))) * frame.valid
    if not zone.any():
        return np.full(len(poses), -np.inf)
    weights = zone / zone.sum()
    target = frame.features[0] - (weights * frame.features[0]).sum()
    scores = np.empty(len(poses))
    for first in range(0, len(poses), 64):
        images = frame.highpass(renderer.render(np.stack(poses[first : first + 64]) @ frame.rig_from_camera, frame.detector))
        images = images - (images * weights).sum((1, 2))[:, None, None]
        energy = (weights * images**2).sum((1, 2)) * (weights * target**2).sum()
        scores[first : first + 64] = np.where(energy > 1e-16, (weights * images * target).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-16)), -np.inf)
    return scores


def distinct(poses: Sequence[np.ndarray], rig_from_camera: np.ndarray, body: Body, count: int) -> list[np.ndarray]:
    """The first ``count`` poses (volume_from_rig) that are not near-duplicates of one before them, as the camera sees them."""
    chosen: list[np.ndarray] = []
    for pose in poses:
        here = geometry.invert(pose @ rig_from_camera)
        for other in chosen:
            there = geometry.invert(other @ rig_from_camera)
            apart = geometry.apply(here, body.renderer.centre_mm) - geometry.apply(there, body.renderer.centre_mm)
            # depth hardly changes the picture, so it separates less
            if geometry.rotation_angle_deg(here[:3, :3] @ there[:3, :3].T) < SAME_DEG and np.linalg.norm(apart * [1, 1, 0.2]) < SAME_MM:
                break
        else:
            chosen.append(pose)
        if len(chosen) == count:
            break
    return chosen


# ------------------------------------------------------------------------------------------------- search


def search(views: Sequence[View], body: Body, ranges: PoseRange, full: bool = False, keep: int = 16) -> list[np.ndarray]:
    """The ``keep`` best poses (volume_from_rig) over a range of poses relative to one view, best first; nothing needs to be known.

    A template is a small rendering for one rotation and depth; its place in the picture comes from masked normalised
    cross-correlation by FFT. A shift turns the camera about its source, which leaves the perspective of the template right.
    """
    view = views[0]
    picture, valid, detector = _small_picture(view.xray)
    rotations, depths = template_grid(ranges)
    coarse = (body.outline or body.renderer).coarser(TEMPLATE_PX * min(depths) / detector.sdd_mm)
    centre = body.renderer.centre_mm
    size = 2 * detector.height, 2 * detector.width
    spectra = [np.fft.rfft2(channel, size) for channel in (picture, picture**2, valid)]
    square = _template_detector(body, detector, depths)
    found = []
    for first in range(0, len(rotations), 64):
        for depth in depths:
            poses = np.array([geometry.pose_from_angles(angles, [0, depth, 0]) for angles in rotations[first : first + 64]])
            cameras = np.array([geometry.translation(centre) @ geometry.camera_from_pose(pose) for pose in poses])
            maps = _correlate(coarse.render(cameras, square), square, spectra, size, ranges, detector, depth)
            for camera, (value, column, row) in zip(cameras, maps, strict=True):
                found.append((value, _aim(camera, detector, column, row)))
    found.sort(key=lambda entry: -entry[0])
    chosen = distinct([camera for _, camera in found], np.eye(4), body, keep)
    return [camera @ geometry.invert(view.rig_from_camera) for camera in chosen]


def template_grid(ranges: PoseRange) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) angles in degrees and (D,) source-to-isocentre distances in mm that cover the range."""

    def steps(low: float, high: float) -> np.ndarray:
        return np.linspace(low, high, max(1, int(np.ceil((high - low) / TEMPLATE_STEP_DEG)) + 1)) if high > low else np.array([low])

    angles = np.stack(np.meshgrid(steps(*ranges.r1), steps(*ranges.r2), steps(*ranges.r3), indexing="ij"), -1).reshape(-1, 3)
    low, high = ranges.ty
    count = max(1, int(np.ceil(np.log(high / low) / TEMPLATE_STEP_DEPTH)))
    return angles, low * (high / low) ** ((np.arange(count) + 0.5) / count)


def _small_picture(xray: Xray) -> tuple[np.ndarray, np.ndarray, Detector]:
    """Locally normalised picture, valid field and detector at about `TEMPLATE_PX`."""
    small = xray.binned(max(1, round(TEMPLATE_PX / max(xray.detector.pixel_mm))))
    valid = small.valid.astype(np.float32)
    return _local_contrast(small.image[None], valid[None], small.detector)[0], valid, small.detector


def _template_detector(body: Body, detector: Detector, depths: np.ndarray) -> Detector:
    """A square detector, principal point in its middle, that holds the whole body at any rotation (or the picture's size, if less)."""
    radius = float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max()) + TEMPLATE_PX
    half = int(np.ceil(radius * detector.sdd_mm / min(depths) / min(detector.pixel_mm)))
    half = min(half, max(detector.height, detector.width) // 2)
    return Detector.centred(2 * half, 2 * half, detector.sdd_mm, detector.pixel_mm)


def _correlate(
    images: np.ndarray, square: Detector, spectra: list[np.ndarray], size: tuple[int, int], ranges: PoseRange, detector: Detector, depth: float
) -> list[tuple[float, float, float]]:
    """Best value and place (column, row of the isocentre) of each template in the picture: normalised cross-correlation under the template's mask."""
    from scipy.fft import irfft2, rfft2

    masks, templates = _masked_templates(images, square)
    area = np.maximum(masks.sum((1, 2)), 1e-6)[:, None, None]
    picture, squared, valid = spectra
    template_f, mask_f = np.conj(rfft2(templates, size, workers=-1)), np.conj(rfft2(masks, size, workers=-1))
    overlap = irfft2(valid * mask_f, size, workers=-1) / area
    total = irfft2(picture * mask_f, size, workers=-1)
    spread = irfft2(squared * mask_f, size, workers=-1) - total**2 / (area * np.maximum(overlap, 1e-3))
    energy = np.maximum(spread, 1e-3 * area) * np.maximum((templates**2).sum((1, 2)), 1e-9)[:, None, None]
    value = irfft2(picture * template_f, size, workers=-1) / np.sqrt(energy)
    value = np.where(overlap > MIN_OVERLAP, value * np.sqrt(np.clip(overlap, 0, 1)), -1)
    # a shift of zero puts the template's corner on the picture's corner, its middle at square.principal_px
    columns = square.principal_px[0] + np.fft.fftfreq(size[1], 1 / size[1])
    rows = square.principal_px[1] + np.fft.fftfreq(size[0], 1 / size[0])
    scale = detector.sdd_mm / depth
    x = (columns - detector.principal_px[0]) * detector.pixel_mm[0] / scale
    z = (rows - detector.principal_px[1]) * detector.pixel_mm[1] / scale
    allowed = _within(z, ranges.tz, TEMPLATE_PX)[:, None] & _within(x, ranges.tx, TEMPLATE_PX)[None]
    best = np.where(allowed, value, -2).reshape(len(images), -1)
    places = best.argmax(1)
    return [(float(best[i, p]), float(columns[p % size[1]]), float(rows[p // size[1]])) for i, p in enumerate(places)]


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
