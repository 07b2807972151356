"""The pyramid: X-rays at one level, cropped to the bodies, and the bodies rendered into them.

Many trials, which are poses of the same bodies, are rendered and compared side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration import contrast_kernel
from common.registration.contrast import TONE_BASIS, Compared, compare, robust_weights
from common.registration.scene import Body, View
from common.xray.outline import COMPARED_SHARE, silhouette

# the high-pass is at least as wide as this, in X-ray pixels and in voxels projected to the
# detector (benchmarks/README.md, 'What was tried for the refinement, and what it gave')
LEAST_HIGHPASS_PX, LEAST_HIGHPASS_VOXELS = 3.0, 1.3
# contrast of pixels that are not bone (wires, beads, markers), in multiples of the 90th percentile
METAL = 4.0
RIM_MM = 3.0  # around the silhouette, at the detector: the outer side of the bone's edge
# excluded around a cut end of a bone, in standard deviations of the high-pass
END_REACH = 1.5
CLEAR_WEIGHT = 0.3  # of the largest: pixels that the noise is taken from
CROSS = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)  # neighbours within an image


@dataclass(frozen=True)
class Level:
    """One scale of the pyramid."""

    pixel_mm: float  # pixel spacing at the detector
    highpass_mm: float  # standard deviation of the Gaussian average in the high-pass
    iterations: int  # at most


# bone edges and trabeculae pass the narrow high-pass of the last levels, tissue and scatter do not
# (benchmarks/README.md, 'What was tried for the refinement, and what it gave')
LEVELS = (
    Level(6.0, 16.0, 10),
    Level(3.0, 8.0, 10),
    Level(1.5, 5.0, 10),
    Level(0.75, 2.5, 30),
    Level(0.375, 1.4, 30),
)
# precedes those for a whole CT; the surroundings of a bone have contrasts of this width
# (benchmarks/README.md, 'Against xvr's Register')
WIDE = Level(12.0, 32.0, 10)
# similarities are compared at this level: finer levels have more noise
JUDGED = LEVELS[2]


class Pyramid:
    """The X-rays of all views at one level, cropped to where the bodies of each trial can be.

    A trial is one pose (volume_from_rig) of each body; ``trials`` (B, M, 4, 4) are refined side by
    side. `grouped` says which can be in one pyramid.
    """

    def __init__(
        self, views: Sequence[View], bodies: Sequence[Body], trials: np.ndarray, level: Level
    ):
        settings = [_settings(views, bodies, poses, level) for poses in trials]
        self.level = replace(level, highpass_mm=settings[0].highpass_mm)
        self.bodies = settings[0].bodies
        self.views = [LevelView(view, bodies, trials, self.level) for view in views]

    def evaluate(self, which: np.ndarray, trials: np.ndarray) -> list[Rendered]:
        """Render trials ``which`` (N,) at poses (N, M, 4, 4) into all views, with derivatives."""
        return [view.render(self.bodies, which, trials) for view in self.views]


def grouped(
    views: Sequence[View], bodies: Sequence[Body], trials: np.ndarray, level: Level
) -> list[np.ndarray]:
    """Return the numbers of trials (B, M, 4, 4) with the same voxels and high-pass, per group."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, poses in enumerate(trials):
        chosen = _settings(views, bodies, poses, level)
        key = (chosen.highpass_mm, *(id(body.renderer) for body in chosen.bodies))
        groups.setdefault(key, []).append(number)
    return [np.array(numbers) for numbers in groups.values()]


@dataclass(frozen=True)
class _Settings:
    """What a level takes from the poses of a trial: voxels and high-pass."""

    bodies: list[Body]
    highpass_mm: float


def _settings(
    views: Sequence[View], bodies: Sequence[Body], poses: np.ndarray, level: Level
) -> _Settings:
    scales = [relative_depth(views, body, pose) for body, pose in zip(bodies, poses, strict=True)]
    coarser = [
        _coarser(body, scale * level.pixel_mm) for body, scale in zip(bodies, scales, strict=True)
    ]
    voxel_mm = max(
        body.renderer.voxel_mm / scale for body, scale in zip(coarser, scales, strict=True)
    )
    pixel_mm = max(max(view.xray.detector.pixel_mm) for view in views)
    return _Settings(
        coarser,
        max(level.highpass_mm, LEAST_HIGHPASS_PX * pixel_mm, LEAST_HIGHPASS_VOXELS * voxel_mm),
    )


class LevelView:
    """One X-ray at one level, in a window per trial, with its local contrast.

    All windows are of one size (H, W). ``image`` (B, H, W) is scaled so that its 99th percentile is
    1, ``valid`` (B, H, W) float32 is 1 where pixels are compared, and ``features`` (B, F, H, W) is
    the local contrast of each function in `TONE_BASIS` of the image.
    """

    def __init__(self, view: View, bodies: Sequence[Body], trials: np.ndarray, level: Level):
        xray = view.xray.coarser(level.pixel_mm)
        self.rig_from_camera = view.rig_from_camera
        self._sigma = [level.highpass_mm / mm for mm in xray.detector.pixel_mm[::-1]]
        self._rim = [RIM_MM / mm for mm in xray.detector.pixel_mm[::-1]]
        own = [self._window(xray.detector, bodies, poses, level) for poses in trials]
        height, width = max(w.height for w in own), max(w.width for w in own)
        self._xray, self._whole = view.xray, xray
        self.scale = max(float(np.percentile(xray.image[xray.valid], 99)), 1e-6)
        shape = (len(trials), height, width)
        self.image, valid = np.empty(shape, np.float32), np.zeros(shape, bool)
        self._own = np.zeros(shape, bool)  # windows as if each trial were alone
        self.detectors = []
        for number, window in enumerate(own):
            top = min(window.top, xray.detector.height - height)
            left = min(window.left, xray.detector.width - width)
            at = (slice(top, top + height), slice(left, left + width))
            self.image[number] = np.clip(xray.image[at] / self.scale, 0, 2)
            self._own[number][window.inside(top, left)] = True
            valid[number] = xray.valid[at] & self._own[number]
            self.detectors.append(xray.detector.cropped(top, left, height, width))
        self._restrict(valid)
        if not any(body.metal for body in bodies):
            self._restrict(valid & ~self._metal())
        self.features = self.highpass(
            np.stack([function(self.image) for function in TONE_BASIS], axis=1)
        )

    def _restrict(self, valid: np.ndarray) -> None:
        self.valid = valid.astype(np.float32)
        self._norm = 1 / np.maximum(blur(self.valid, self._sigma), 1e-6)

    def _metal(self) -> np.ndarray:
        """Return a mask (B, H, W) of pixels with more contrast than bone, and their neighbours."""
        from scipy.ndimage import binary_dilation

        contrast = np.abs(self.highpass(self.image[:, None])[:, 0])
        metal = np.zeros(contrast.shape, bool)
        for one, found, valid in zip(contrast, metal, self.valid, strict=True):
            inside = one[valid > 0]
            if inside.size:
                found[:] = one > METAL * np.percentile(inside, 90)
        return binary_dilation(metal, CROSS, iterations=1)

    def _window(
        self, detector: Detector, bodies: Sequence[Body], poses: np.ndarray, level: Level
    ) -> _Window:
        """Return a window with room for high-pass and motion."""
        pixels = np.concatenate(
            [
                geometry.project(b.points, detector, pose @ self.rig_from_camera)
                for b, pose in zip(bodies, poses, strict=True)
            ]
        )
        margin = (2 * level.highpass_mm + 2 * RIM_MM) / np.array(detector.pixel_mm)
        size = np.array([detector.width, detector.height])
        low = np.clip(np.floor(pixels.min(0) - margin), 0, size - 8).astype(int)
        high = np.clip(np.ceil(pixels.max(0) + margin) + 1, low + 8, size).astype(int)
        return _Window(*(int(n) for n in (low[1], low[0], high[1] - low[1], high[0] - low[0])))

    def highpass(self, images: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        """Return images (N, C, H, W) of trials ``which``, by default all, without their average.

        The average is Gaussian, over the valid field; 0 outside of it.
        """
        which = np.arange(len(images)) if which is None else which
        out = np.empty(images.shape, np.float32)
        contrast_kernel.highpass(
            np.ascontiguousarray(images, np.float32),
            which,
            self.valid,
            self._norm,
            *map(_gaussian, self._sigma),
            out,
        )
        return out

    def render(self, bodies: Sequence[Body], which: np.ndarray, trials: np.ndarray) -> Rendered:
        """Render the bodies at (N, M, 4, 4) volume_from_rig.

        Attenuations add along rays. The image of metal, which saturates, is the share of the beam
        that is taken: each part takes its own of what the others let pass.
        """
        detectors = [self.detectors[number] for number in which]
        shape = (len(which), *self.image.shape[1:])
        images = np.zeros((len(which), 1 + 6 * len(bodies), *shape[1:]), np.float32)
        silhouettes = np.zeros(shape, np.float32)
        each = []
        for number, body in enumerate(bodies):
            cameras = trials[:, number] @ self.rig_from_camera
            image, jacobian = body.renderer.render_with_jacobian(cameras, detectors)
            each.append(image)
            images[:, 1 + 6 * number : 7 + 6 * number] = jacobian
            if body.outline is None:
                silhouettes += image
            else:
                silhouettes += body.outline.render(cameras, detectors)
        if bodies[0].metal and len(bodies) > 1:
            _combine(images, np.array(each))
        else:
            images[:, 0] = sum(each)
        return Rendered(self, bodies, which, trials, silhouettes, self.highpass(images, which))

    def noise(self, number: int, weights: np.ndarray) -> float:
        """Return the share of noise in the variance of a trial's local contrast, 0..1.

        ``weights`` (H, W) are those of its comparison.
        """
        total = float(weights.sum())
        if total <= 0:
            return 0.0
        inside = np.zeros(self._whole.image.shape, bool)
        shift = np.subtract(self._whole.detector.principal_px, self.detectors[number].principal_px)
        left, top = (round(float(pixels)) for pixels in shift)
        height, width = weights.shape
        inside[top : top + height, left : left + width] = weights > CLEAR_WEIGHT * weights.max()
        factor = round(self._whole.detector.pixel_mm[0] / self._xray.detector.pixel_mm[0])
        deviation = self._xray.noise_sd(inside, factor) / self.scale
        contrast = self.features[number, 0]
        mean = float((weights * contrast).sum()) / total
        variance = float((weights * (contrast - mean) ** 2).sum()) / total
        return min(deviation**2 / max(variance, 1e-12), 1.0)

    def zone(self, rendered: Rendered) -> np.ndarray:
        """Return weights (N, H, W): silhouettes with a soft rim, without the cut ends of bodies."""
        from scipy.ndimage import binary_dilation

        own = self._own[rendered.which]
        drrs = rendered.silhouettes * own
        covered = np.stack([silhouette(drr, COMPARED_SHARE) for drr in drrs])
        grown = binary_dilation(covered, CROSS, iterations=max(1, round(max(self._rim))))
        weights = blur((grown & own).astype(np.float32), [max(0.5, r / 2) for r in self._rim])
        weights *= self.valid[rendered.which]
        for number, body in enumerate(rendered.bodies):
            if body.ends is not None:
                cameras = rendered.trials[:, number] @ self.rig_from_camera
                weights *= ~self._around(body.ends, cameras, rendered.which)
        return weights

    def _around(self, points: np.ndarray, cameras: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Return a mask (N, H, W) of what an edge at points (K, 3) changes in local contrast."""
        from scipy.ndimage import maximum_filter

        reach = [max(1, round(END_REACH * s)) for s in self._sigma]
        height, width = np.add(self.image.shape[1:], np.multiply(2, reach))
        near = np.zeros((len(which), height, width), np.uint8)
        for one, camera, number in zip(near, cameras, which, strict=True):
            pixels = geometry.project(points, self.detectors[number], camera)
            at = np.round(pixels[:, ::-1]).astype(int) + reach
            at = at[((at >= 0) & (at < one.shape)).all(axis=1)]
            one[at[:, 0], at[:, 1]] = 1
        grown = maximum_filter(near, (1, *(2 * r + 1 for r in reach)))
        return grown[:, reach[0] : -reach[0], reach[1] : -reach[1]] > 0


def _combine(images: np.ndarray, taken: np.ndarray) -> None:
    """Put together what bodies take of the beam, where each hides what is behind it.

    ``taken`` (M, N, H, W) are their shares; the derivatives in ``images`` (N, 1 + 6 M, H, W) are
    those of each body by itself, and become those of the sum, which is written too.
    """
    passed = 1 - taken
    for number in range(len(taken)):
        others = np.delete(passed, number, axis=0).prod(axis=0)
        images[:, 1 + 6 * number : 7 + 6 * number] *= others[:, None]
    images[:, 0] = 1 - passed.prod(axis=0)


@dataclass(frozen=True)
class _Window:
    """A rectangle of an X-ray, pixels."""

    top: int
    left: int
    height: int
    width: int

    def inside(self, top: int, left: int) -> tuple[slice, slice]:
        """Return where it is in a rectangle that begins at (top, left)."""
        down, across = self.top - top, self.left - left
        return slice(down, down + self.height), slice(across, across + self.width)


@dataclass(frozen=True)
class Rendered:
    """N trials rendered into one view at one level."""

    view: LevelView
    bodies: Sequence[Body]
    which: np.ndarray  # (N,) among the trials of the view
    trials: np.ndarray  # (N, M, 4, 4) volume_from_rig
    silhouettes: np.ndarray  # (N, H, W) line integrals of the structures alone
    contrast: np.ndarray  # (N, 1 + 6 M, H, W) local contrast, and its derivative by the twists

    def of(self, indices: list[int]) -> Rendered:
        """Return some of the trials."""
        return replace(
            self,
            which=self.which[indices],
            trials=self.trials[indices],
            silhouettes=self.silhouettes[indices],
            contrast=self.contrast[indices],
        )

    def weigh(self) -> Weights:
        """Return the weights of the comparison: the zone, robust against other structures."""
        view, zone = self.view, self.view.zone(self)
        grey = np.zeros((len(zone), 2))
        contrast_kernel.grey_ranges(view.image, self.which, zone, grey)
        drr = np.ascontiguousarray(self.contrast[:, 0])
        weights = robust_weights(drr, view.features, self.which, zone, grey)
        return Weights(weights, grey)

    def compare(self, weights: Weights) -> Compared:
        """Compare with the X-ray."""
        return compare(
            self.contrast, self.view.features, self.which, weights.pixels, weights.grey_ranges
        )


@dataclass(frozen=True)
class Weights:
    """Weights of N trials in one view."""

    pixels: np.ndarray  # (N, H, W)
    grey_ranges: np.ndarray  # (N, 2) of the X-ray where they are positive

    def of(self, which: np.ndarray | list[int]) -> Weights:
        """Return those of some trials."""
        return Weights(self.pixels[which], self.grey_ranges[which])

    def put(self, which: np.ndarray, others: Weights) -> None:
        """Replace those of some trials."""
        self.pixels[which], self.grey_ranges[which] = others.pixels, others.grey_ranges


def relative_depth(views: Sequence[View], body: Body, pose: np.ndarray) -> float:
    """Return the depth of the body's centre over the SDD, smallest over the views, in 0.1..1."""
    ratios = []
    for view in views:
        centre = geometry.apply(geometry.invert(pose @ view.rig_from_camera), body.centre_mm)
        ratios.append(centre[2] / view.xray.detector.sdd_mm)
    return float(np.clip(min(ratios), 0.1, 1.0))


def _coarser(body: Body, voxel_mm: float) -> Body:
    return replace(
        body,
        renderer=body.renderer.coarser(voxel_mm),
        outline=body.outline and body.outline.coarser(voxel_mm),
    )


def blur(images: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Return the Gaussian average of images (N, H, W), with zeros beyond the border."""
    out = np.empty(images.shape, np.float32)
    contrast_kernel.blur(np.ascontiguousarray(images, np.float32), *map(_gaussian, sigma), out)
    return out


def _gaussian(sigma: float) -> np.ndarray:
    """Return the weights of a Gaussian to three standard deviations, (2 R + 1,) float32."""
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)
