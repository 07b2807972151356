"""Gauss-Newton refinement of poses: any number of views of one instant, any number of bodies.

The bodies' attenuation adds along each ray. The solver compares the local contrast (a high-pass) of the rendering with
the local contrast of the X-ray after a smooth monotone tone curve, which is a linear least-squares problem of its own and solved
anew at every step (variable projection: Golub and Pereyra 1973, Kaufman 1975). The cost is the share of the rendering's
contrast that the X-ray does not explain, 1 - R^2, over the bodies' silhouettes and a rim around them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common import geometry
from common.geometry import Detector
from common.rendering import Renderer
from common.xrays import Xray

# the tone curve is a sum of these functions of the X-ray's attenuation (0..1), each with its slope
TONE_BASIS = (
    (lambda g: g, np.ones_like),
    (lambda g: np.sqrt(np.maximum(g, 0) + 0.05), lambda g: 0.5 / np.sqrt(np.maximum(g, 0) + 0.05)),
    (lambda g: g**2, lambda g: 2 * g),
    (lambda g: g**3, lambda g: 3 * g**2),
)
# a high-pass narrower than this many X-ray pixels, or voxels as the detector sees them, leaves noise and interpolation to compare
LEAST_HIGHPASS_PX, LEAST_HIGHPASS_VOXELS = 3.0, 1.3
TONE_STIFFNESS = 16.0  # ridge on all but the straight line, times (unexplained / explained contrast)^2: a poor fit cannot tell a tone curve from missing structures
METAL = 4.0  # X-ray contrast beyond this many times the 90th percentile around the bodies is no bone: wires, beads, markers
SILHOUETTE = 0.03  # of the rendering's maximum: what counts as covered by a body
RIM_MM = 3.0  # at the detector: the bone's edge needs both of its sides
END_REACH = 1.5  # standard deviations of the high-pass around a bone's cut end that are left out
CAUCHY = 2.5  # residuals beyond this many robust standard deviations lose weight
MAX_STEP_DEG, MAX_STEP_MM, MAX_STEP_DEPTH_MM = 6.0, 12.0, 40.0  # trust region of one step
MIN_ZONE_PX = 20
PLATEAU = 1e-4  # relative gain of a step below which a level is finished
PROMISE = 1e-5  # relative gain below which a step is not rendered


@dataclass(frozen=True)
class Level:
    """One scale of the pyramid."""

    pixel_mm: float  # at the detector
    highpass_mm: float  # standard deviation of the Gaussian that local contrast is measured against
    steps: int


# a narrow high-pass at the end: bone edges and trabeculae stay, tissue, scatter and the tone curve's error go. With 3.5 mm at 0.75 mm as the last level, 28 bones in
# knee X-rays ended 0.10 mm in plane, 1.4 mm in depth and 0.25 degrees off (medians), with these 0.06 mm, 0.7 mm and 0.17 degrees
LEVELS = (Level(6.0, 16.0, 10), Level(3.0, 8.0, 10), Level(1.5, 5.0, 10), Level(0.75, 2.5, 8), Level(0.375, 1.4, 6))
# before those, where all that the X-ray shows is rendered: 20 of 20 starts 10 degrees and 20, 40, 20 mm off came back (8 without); for a bone, whose surroundings have such contrasts too, 6 of 56 (35 without)
WIDE = Level(12.0, 32.0, 10)
JUDGED = LEVELS[2]  # where similarities are compared: finer pictures show more noise and explain less at the same pose


@dataclass(frozen=True)
class View:
    """One X-ray of the instant and where its camera stands in the rig (the identity for a single view)."""

    xray: Xray
    rig_from_camera: np.ndarray = field(default_factory=lambda: np.eye(4))


@dataclass(frozen=True)
class Body:
    """One rigid object: its renderer, and some of its points in the volume's world (N, 3), mm."""

    renderer: Renderer
    points: np.ndarray
    outline: Renderer | None = None  # what the comparison is confined to, where the renderer shows more than the body (its surroundings)
    complete: bool = False  # a whole CT: what the X-ray shows is all in it
    ends: np.ndarray | None = None  # (K, 3) points where the CT ends inside the body: edges there are none of the X-ray's


@dataclass
class Trace:
    """Every pose that a refinement evaluated, in order: volume_from_rig of each body, similarity, seconds since the start, pixel size."""

    started: float = field(default_factory=time.perf_counter)
    rows: list[tuple[list[np.ndarray], float, float, float]] = field(default_factory=list)

    def add(self, poses: Sequence[np.ndarray], similarity: float, pixel_mm: float) -> None:
        self.rows.append((list(poses), similarity, time.perf_counter() - self.started, pixel_mm))


@dataclass(frozen=True)
class Fit:
    """Where a refinement ended."""

    poses: list[np.ndarray]  # volume_from_rig of each body
    similarity: float  # multiple correlation of rendering and X-ray in the zone, 0..1, at the last level or `JUDGED`, whichever is coarser
    covariance: np.ndarray  # (6 M, 6 M) of the left twists: radians and mm, see `_covariance`


class Pyramid:
    """The X-rays of all views at one level, cut to where the bodies can be."""

    def __init__(self, views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level):
        distances = [view_distance(views, body, pose) for body, pose in zip(bodies, poses, strict=True)]
        self.bodies = [_coarser(body, distance * level.pixel_mm) for body, distance in zip(bodies, distances, strict=True)]
        voxel_mm = max(body.renderer.voxel_mm / distance for body, distance in zip(bodies, distances, strict=True))
        pixel_mm = max(max(view.xray.detector.pixel_mm) for view in views)
        level = replace(level, highpass_mm=max(level.highpass_mm, LEAST_HIGHPASS_PX * pixel_mm, LEAST_HIGHPASS_VOXELS * voxel_mm))
        self.level = level
        self.views = [LevelView(view, bodies, poses, level) for view in views]

    def evaluate(self, poses: Sequence[np.ndarray]) -> list[_Rendered]:
        """Render all bodies into all views, with derivatives."""
        return [view.render(self.bodies, poses) for view in self.views]


class LevelView:
    def __init__(self, view: View, bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level):
        xray = view.xray.coarser(level.pixel_mm)
        self.rig_from_camera = view.rig_from_camera
        self.sigma = [level.highpass_mm / mm for mm in xray.detector.pixel_mm[::-1]]
        self.rim = [RIM_MM / mm for mm in xray.detector.pixel_mm[::-1]]
        top, left, height, width = self._window(xray.detector, bodies, poses, level)
        self.detector = xray.detector.cropped(top, left, height, width)
        window = (slice(top, top + height), slice(left, left + width))
        self.image = np.clip(xray.image[window] / max(float(np.percentile(xray.image[xray.valid], 99)), 1e-6), 0, 2)
        self._restrict(xray.valid[window])
        self._restrict((self.valid > 0) & ~self._metal())
        self.features = self.highpass(np.stack([function(self.image) for function, _ in TONE_BASIS]))

    def _restrict(self, valid: np.ndarray) -> None:
        self.valid = valid.astype(np.float32)
        self._norm = 1 / np.maximum(_blur(self.valid, self.sigma), 1e-6)

    def _metal(self) -> np.ndarray:
        """Pixels whose contrast no bone has, and their neighbours."""
        from scipy.ndimage import binary_dilation

        contrast = np.abs(self.highpass(self.image[None])[0])
        inside = contrast[self.valid > 0]
        if not inside.size:
            return np.zeros(contrast.shape, bool)
        return binary_dilation(contrast > METAL * np.percentile(inside, 90), iterations=1)

    def _window(self, detector: Detector, bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level) -> tuple[int, int, int, int]:
        """Rectangle of the picture around the bodies' points, with room for the high-pass and for a step."""
        pixels = np.concatenate([geometry.project(b.points, detector, pose @ self.rig_from_camera) for b, pose in zip(bodies, poses, strict=True)])
        margin = (2 * level.highpass_mm + 2 * RIM_MM) / np.array(detector.pixel_mm)
        size = np.array([detector.width, detector.height])
        low = np.clip(np.floor(pixels.min(0) - margin), 0, size - 8).astype(int)
        high = np.clip(np.ceil(pixels.max(0) + margin) + 1, low + 8, size).astype(int)
        return low[1], low[0], high[1] - low[1], high[0] - low[0]

    def highpass(self, stack: np.ndarray) -> np.ndarray:
        """(C, H, W) minus its Gaussian average over the valid field; 0 outside the field."""
        return self.valid * (stack - _blur(self.valid * stack, self.sigma) * self._norm)

    def render(self, bodies: Sequence[Body], poses: Sequence[np.ndarray]) -> _Rendered:
        total, shape, jacobians, cut = 0.0, 0.0, [], np.zeros(self.image.shape, bool)
        for body, pose in zip(bodies, poses, strict=True):
            camera = pose @ self.rig_from_camera
            if body.ends is not None:
                cut |= self._around(geometry.project(body.ends, self.detector, camera))
            image, jacobian = body.renderer.render_with_jacobian(camera, self.detector)
            total = total + image
            shape = shape + (image if body.outline is None else body.outline.render(camera[None], self.detector)[0])
            jacobians.append(jacobian)
        filtered = self.highpass(np.concatenate([total[None], *jacobians]))
        return _Rendered(self, shape, cut, filtered[0], filtered[1:])

    def _around(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (H, W) so near to points (N, 2) that an edge there shows in the local contrast."""
        from scipy.ndimage import maximum_filter

        reach = [max(1, round(END_REACH * s)) for s in self.sigma]
        near = np.zeros(np.add(self.image.shape, np.multiply(2, reach)), np.uint8)
        at = np.round(pixels[:, ::-1]).astype(int) + reach
        at = at[((at >= 0) & (at < near.shape)).all(axis=1)]
        near[at[:, 0], at[:, 1]] = 1
        return maximum_filter(near, [2 * r + 1 for r in reach])[reach[0] : -reach[0], reach[1] : -reach[1]] > 0

    def zone(self, image: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """Weights (H, W): the rendering's silhouette with a soft rim, inside the valid field, without what is ``cut``."""
        from scipy.ndimage import binary_dilation

        covered = image > SILHOUETTE * image.max()
        grown = binary_dilation(covered, iterations=max(1, round(max(self.rim))))
        return _blur(grown.astype(np.float32), [max(0.5, r / 2) for r in self.rim]) * self.valid * ~cut


@dataclass(frozen=True)
class _Rendered:
    view: LevelView
    shape: np.ndarray  # (H, W) line integrals of what the comparison is confined to
    cut: np.ndarray  # (H, W) bool: around the bodies' ends
    contrast: np.ndarray  # its high-pass
    jacobian: np.ndarray  # (6 M, H, W) high-passed

    def residual(self, weights: np.ndarray) -> _Residual | None:
        """Contrast that the X-ray does not explain, in units of the rendering's own; None where nothing is in view."""
        inside = weights.ravel() > 0
        w = weights.ravel()[inside]
        if w.size < MIN_ZONE_PX:
            return None
        w = w / w.sum()

        def centred(stack):
            rows = stack.reshape(len(stack), -1)[:, inside]
            return rows - (rows @ w)[:, None]

        z = centred(self.contrast[None])[0]
        energy = float(np.sqrt(w @ (z * z)))
        if energy < 1e-9:
            return None
        z = z / energy
        jacobian = centred(self.jacobian) / energy
        jacobian -= (jacobian @ (w * z))[:, None] * z
        features = centred(self.view.features)
        tone, gram = _fit_tone(features, w, z, self.view.image.ravel()[inside])
        used = features[: len(tone)]
        r = z - tone @ used
        if len(tone):
            jacobian = jacobian - np.linalg.solve(gram, (used * w) @ jacobian.T).T @ used
        full = np.zeros(weights.size, np.float32)
        full[inside] = r
        return _Residual(r, jacobian, w, float(w @ (r * r)), full.reshape(weights.shape))

    def robust_weights(self, zone: np.ndarray) -> np.ndarray:
        """``zone`` times Cauchy weights of the residuals: pixels that other structures disturb count less."""
        first = self.residual(zone)
        if first is None:
            return zone
        spread = 1.4826 * np.median(np.abs(first.r)) + 1e-6
        return zone / (1 + (first.picture / (CAUCHY * spread)) ** 2)


@dataclass(frozen=True)
class _Residual:
    r: np.ndarray  # (P,)
    jacobian: np.ndarray  # (6 M, P)
    w: np.ndarray  # (P,), sum 1
    cost: float
    picture: np.ndarray  # (H, W) residual


def _fit_tone(features: np.ndarray, w: np.ndarray, z: np.ndarray, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least-squares coefficients of the tone curve's functions, and their Gram matrix.

    The ridge follows from the fit's own quality (empirical Bayes). A curve that falls anywhere in the picture's range is no tone
    curve: then fewer functions are used, and none where even a straight line falls (bone dark where the rendering is bright explains nothing).
    """
    low, high = np.percentile(grey, [1, 99])
    at = np.linspace(low, high, 9)
    gram = (features * w) @ features.T
    right = features @ (w * z)
    if gram[0, 0] < 1e-14 or right[0] <= 0:
        return np.zeros(0), np.zeros((0, 0))
    explained = right[0] ** 2 / gram[0, 0]
    for count in range(len(features), 1, -1):
        block = gram[:count, :count].copy()
        for _ in range(3):
            np.fill_diagonal(block[1:, 1:], np.diag(gram)[1:count] * (1 + TONE_STIFFNESS * ((1 - explained) / explained) ** 2 + 1e-6))
            tone = np.linalg.solve(block, right[:count])
            explained = float(np.clip(2 * tone @ right[:count] - tone @ gram[:count, :count] @ tone, explained, 1 - 1e-6))
        slope = sum(share * derivative(at) for share, (_, derivative) in zip(tone, TONE_BASIS, strict=False))
        if (slope > 0).all():
            return tone, block
    return right[:1] / gram[0, 0], gram[:1, :1]


def refine(views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], levels: Sequence[Level] = LEVELS, trace: Trace | None = None) -> Fit | None:
    """Levenberg-Marquardt through the levels from ``poses`` (volume_from_rig of each body).

    Returns None where the bodies lie outside all pictures.
    """
    trace = trace if trace is not None else Trace()
    poses, fit = list(poses), None
    for level in without_repeats(views, levels):
        fit = _refine_level(Pyramid(views, bodies, poses, level), poses, trace)
        if fit is None:
            return None
        poses = fit.poses
    if fit is not None and levels[-1].pixel_mm < JUDGED.pixel_mm:
        judged = assess(views, bodies, poses, JUDGED)
        fit = replace(fit, similarity=judged.similarity if judged else 0.0)
    return fit


def without_repeats(views: Sequence[View], levels: Sequence[Level]) -> list[Level]:
    """The levels but for those whose pictures are the next one's pixel by pixel: X-rays coarser than a level are taken as they are."""
    factors = [[view.xray.binning(level.pixel_mm) for view in views] for level in levels]
    return [level for level, own, following in zip(levels, factors, [*factors[1:], None], strict=True) if own != following]


def assess(views: Sequence[View], bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level) -> Fit | None:
    """Similarity and covariance at ``poses`` (volume_from_rig) as they are. None where nothing of the bodies is in view."""
    rendered = Pyramid(views, bodies, poses, level).evaluate(poses)
    residuals = _residuals(rendered, [r.robust_weights(r.view.zone(r.shape, r.cut)) for r in rendered])
    return Fit(list(poses), _similarity(_mean_cost(residuals)), _covariance(residuals)) if residuals else None


def _refine_level(pyramid: Pyramid, poses: list[np.ndarray], trace: Trace) -> Fit | None:
    rendered = pyramid.evaluate(poses)
    damping, residuals = 1e-2, None
    pixel = pyramid.level.pixel_mm
    for step in range(pyramid.level.steps):
        weights = [r.robust_weights(r.view.zone(r.shape, r.cut)) for r in rendered]
        residuals = _residuals(rendered, weights)
        if not residuals:
            return None
        cost = _mean_cost(residuals)
        if step == 0:
            trace.add(poses, _similarity(cost), pixel)
        normal = sum((r.jacobian * r.w) @ r.jacobian.T for r in residuals)
        right = sum(r.jacobian @ (r.w * r.r) for r in residuals)
        gain = 0.0
        for _ in range(5):
            delta = _trusted(-np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), right), pyramid, poses)
            if -delta @ (2 * right + normal @ delta) < PROMISE * cost * len(residuals):
                break  # the step promises nothing: no rendering for it
            moved = _move(pyramid, poses, delta)
            candidate = pyramid.evaluate(moved)
            judged = _residuals(candidate, weights)
            new_cost = _mean_cost(judged) if len(judged) == len(residuals) else np.inf
            trace.add(moved, _similarity(new_cost), pixel)
            if new_cost < cost:
                gain = (cost - new_cost) / cost
                poses, rendered, residuals = moved, candidate, judged
                damping = max(damping / 5, 1e-6)
                break
            damping *= 5
        if gain < PLATEAU:
            break
    return Fit(poses, _similarity(_mean_cost(residuals)), _covariance(residuals))


def _residuals(rendered: Sequence[_Rendered], weights: Sequence[np.ndarray]) -> list[_Residual]:
    return [r for r in (view.residual(w) for view, w in zip(rendered, weights, strict=True)) if r is not None]


def _mean_cost(residuals: Sequence[_Residual]) -> float:
    return float(np.mean([r.cost for r in residuals])) if residuals else np.inf


def _similarity(cost: float) -> float:
    return float(np.sqrt(max(0.0, 1 - cost))) if np.isfinite(cost) else 0.0


def _trusted(delta: np.ndarray, pyramid: Pyramid, poses: Sequence[np.ndarray]) -> np.ndarray:
    """The step, shortened to the trust region: depth is the direction from source to body in the first view."""
    scale = 1.0
    for index, pose in enumerate(poses):
        part = delta[6 * index : 6 * index + 6]
        axis = (pose @ pyramid.views[0].rig_from_camera)[:3, 2]
        depth = float(part[3:] @ axis)
        across = np.linalg.norm(part[3:] - depth * axis)
        scale = min(scale, np.radians(MAX_STEP_DEG) / max(np.linalg.norm(part[:3]), 1e-9), MAX_STEP_MM / max(across, 1e-9), MAX_STEP_DEPTH_MM / max(abs(depth), 1e-9))
    return delta * scale


def _move(pyramid: Pyramid, poses: Sequence[np.ndarray], delta: np.ndarray) -> list[np.ndarray]:
    return [geometry.twist(delta[6 * i : 6 * i + 6], body.renderer.centre_mm) @ pose for i, (body, pose) in enumerate(zip(pyramid.bodies, poses, strict=True))]


def _covariance(residuals: Sequence[_Residual]) -> np.ndarray:
    """Covariance of the twists from the curvature at the optimum.

    Neighbouring residuals are not independent: structures that the model lacks are as wide as the high-pass. Their number is taken as the
    number of pixels divided by the area over which the residuals correlate.
    """
    normal = sum((r.jacobian * r.w) @ r.jacobian.T for r in residuals)
    cost = _mean_cost(residuals)
    independent = sum(1 / float((r.w**2).sum()) / _correlated_pixels(r.picture) for r in residuals)
    return np.linalg.pinv(normal / len(residuals)) * cost / max(independent, 1.0)


def _correlated_pixels(picture: np.ndarray) -> float:
    """Area in pixels over which a residual picture correlates with itself, from its lag-1 correlations (AR(1) on each axis)."""
    area = 1.0
    for axis in (0, 1):
        a, b = (np.take(picture, range(picture.shape[axis] - 1), axis), np.take(picture, range(1, picture.shape[axis]), axis))
        both = (a != 0) & (b != 0)
        if both.sum() < MIN_ZONE_PX:
            continue
        rho = float((a[both] * b[both]).sum() / np.sqrt((a[both] ** 2).sum() * (b[both] ** 2).sum() + 1e-20))
        rho = min(max(rho, 0.0), 0.99)
        area *= (1 + rho) / (1 - rho)
    return area


def view_distance(views: Sequence[View], body: Body, pose: np.ndarray) -> float:
    """Magnification-free scale: isocentre's distance from the source over SDD, smallest over the views."""
    ratios = []
    for view in views:
        depth = geometry.apply(geometry.invert(pose @ view.rig_from_camera), body.renderer.centre_mm)[2]
        ratios.append(depth / view.xray.detector.sdd_mm)
    return float(np.clip(min(ratios), 0.1, 1.0))


def _coarser(body: Body, voxel_mm: float) -> Body:
    return replace(body, renderer=body.renderer.coarser(voxel_mm), outline=body.outline and body.outline.coarser(voxel_mm))


def _blur(stack: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Gaussian over the last two axes, zeros beyond the border."""
    from scipy.ndimage import gaussian_filter

    axes = (0.0,) * (stack.ndim - 2)
    return gaussian_filter(stack, (*axes, *sigma), mode="constant", truncate=3.0)
