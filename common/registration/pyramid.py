"""The pyramid: X-rays at one level, cropped to the bodies, and the bodies rendered into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration.contrast import TONE_BASIS, Residual, robust_weights, unexplained
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
    """The X-rays of all views at one level, cropped to where the bodies can be."""

    def __init__(
        self,
        views: Sequence[View],
        bodies: Sequence[Body],
        poses: Sequence[np.ndarray],
        level: Level,
    ):
        scales = [
            relative_depth(views, body, pose) for body, pose in zip(bodies, poses, strict=True)
        ]
        self.bodies = [
            _coarser(body, scale * level.pixel_mm)
            for body, scale in zip(bodies, scales, strict=True)
        ]
        voxel_mm = max(
            body.renderer.voxel_mm / scale for body, scale in zip(bodies, scales, strict=True)
        )
        pixel_mm = max(max(view.xray.detector.pixel_mm) for view in views)
        highpass_mm = max(
            level.highpass_mm, LEAST_HIGHPASS_PX * pixel_mm, LEAST_HIGHPASS_VOXELS * voxel_mm
        )
        self.level = replace(level, highpass_mm=highpass_mm)
        self.views = [LevelView(view, bodies, poses, self.level) for view in views]

    def evaluate(self, poses: Sequence[np.ndarray]) -> list[Rendered]:
        """Render all bodies into all views, with derivatives."""
        return [view.render(self.bodies, poses) for view in self.views]


class LevelView:
    """One X-ray at one level, cropped, with its local contrast.

    ``image`` (H, W) is scaled so that its 99th percentile is 1, ``valid`` (H, W) float32 is 1
    where pixels are compared, and ``features`` (F, H, W) is the local contrast of each function in
    `TONE_BASIS` of the image.
    """

    def __init__(
        self, view: View, bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
    ):
        xray = view.xray.coarser(level.pixel_mm)
        self.rig_from_camera = view.rig_from_camera
        self.sigma = [level.highpass_mm / mm for mm in xray.detector.pixel_mm[::-1]]
        self.rim = [RIM_MM / mm for mm in xray.detector.pixel_mm[::-1]]
        top, left, height, width = self._window(xray.detector, bodies, poses, level)
        self.detector = xray.detector.cropped(top, left, height, width)
        window = (slice(top, top + height), slice(left, left + width))
        self.image = np.clip(
            xray.image[window] / max(float(np.percentile(xray.image[xray.valid], 99)), 1e-6), 0, 2
        )
        self._restrict(xray.valid[window])
        self._restrict((self.valid > 0) & ~self._metal())
        self.features = self.highpass(
            np.stack([function(self.image) for function, _ in TONE_BASIS])
        )

    def _restrict(self, valid: np.ndarray) -> None:
        self.valid = valid.astype(np.float32)
        self._norm = 1 / np.maximum(_blur(self.valid, self.sigma), 1e-6)

    def _metal(self) -> np.ndarray:
        """Return a mask (H, W) of pixels with more contrast than bone, and their neighbours."""
        from scipy.ndimage import binary_dilation

        contrast = np.abs(self.highpass(self.image[None])[0])
        inside = contrast[self.valid > 0]
        if not inside.size:
            return np.zeros(contrast.shape, bool)
        return binary_dilation(contrast > METAL * np.percentile(inside, 90), iterations=1)

    def _window(
        self, detector: Detector, bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
    ) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop with room for high-pass and motion."""
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
        return low[1], low[0], high[1] - low[1], high[0] - low[0]

    def highpass(self, stack: np.ndarray) -> np.ndarray:
        """Return (C, H, W) minus its Gaussian average over the valid field; 0 outside of it."""
        return self.valid * (stack - _blur(self.valid * stack, self.sigma) * self._norm)

    def render(self, bodies: Sequence[Body], poses: Sequence[np.ndarray]) -> Rendered:
        """Render the bodies at their poses (volume_from_rig); attenuations add along rays."""
        total = np.zeros(self.image.shape, np.float32)
        shape = np.zeros(self.image.shape, np.float32)
        cut = np.zeros(self.image.shape, bool)
        jacobians = []
        for body, pose in zip(bodies, poses, strict=True):
            camera = pose @ self.rig_from_camera
            if body.ends is not None:
                cut |= self._around(geometry.project(body.ends, self.detector, camera))
            image, jacobian = body.renderer.render_with_jacobian(camera, self.detector)
            total = total + image
            if body.outline is None:
                shape = shape + image
            else:
                shape = shape + body.outline.render(camera[None], self.detector)[0]
            jacobians.append(jacobian)
        filtered = self.highpass(np.concatenate([total[None], *jacobians]))
        return Rendered(self, shape, cut, filtered[0], filtered[1:])

    def _around(self, pixels: np.ndarray) -> np.ndarray:
        """Return a mask (H, W) of what an edge at points (N, 2) changes in local contrast."""
        from scipy.ndimage import maximum_filter

        reach = [max(1, round(END_REACH * s)) for s in self.sigma]
        near = np.zeros(np.add(self.image.shape, np.multiply(2, reach)), np.uint8)
        at = np.round(pixels[:, ::-1]).astype(int) + reach
        at = at[((at >= 0) & (at < near.shape)).all(axis=1)]
        near[at[:, 0], at[:, 1]] = 1
        grown = maximum_filter(near, [2 * r + 1 for r in reach])
        return grown[reach[0] : -reach[0], reach[1] : -reach[1]] > 0

    def zone(self, image: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """Return weights (H, W): silhouette of a DRR with a soft rim, without ``cut``."""
        from scipy.ndimage import binary_dilation

        covered = silhouette(image, COMPARED_SHARE)
        grown = binary_dilation(covered, iterations=max(1, round(max(self.rim))))
        rim = [max(0.5, r / 2) for r in self.rim]
        return _blur(grown.astype(np.float32), rim) * self.valid * ~cut


@dataclass(frozen=True)
class Rendered:
    """The bodies rendered into one view at one level."""

    view: LevelView
    shape: np.ndarray  # (H, W) line integrals of the structures without their surroundings
    cut: np.ndarray  # (H, W) bool: around the cut ends of the bodies
    contrast: np.ndarray  # (H, W) local contrast of all that is rendered
    jacobian: np.ndarray  # (6 M, H, W) its derivative by the twists of M bodies

    def residual(self, weights: np.ndarray) -> Residual | None:
        """Return the residuals for weights (H, W), or None if the bodies are out of view."""
        return unexplained(
            self.contrast, self.jacobian, self.view.features, self.view.image, weights
        )

    def weights(self) -> np.ndarray:
        """Return weights (H, W) of the comparison: the zone, robust against other structures."""
        zone = self.view.zone(self.shape, self.cut)
        return robust_weights(zone, self.residual(zone))


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


def _blur(stack: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Return the Gaussian average over the last two axes, with zeros beyond the border."""
    from scipy.ndimage import gaussian_filter

    axes = (0.0,) * (stack.ndim - 2)
    return gaussian_filter(stack, (*axes, *sigma), mode="constant", truncate=3.0)
