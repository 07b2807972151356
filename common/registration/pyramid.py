"""The X-rays of one instant at one scale, cut to where the bodies can be, and the bodies rendered into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common import geometry
from common.drr.renderer import Renderer
from common.geometry import Detector
from common.registration.contrast import TONE_BASIS, Residual, robust_weights, unexplained
from common.xray.xray import Xray

# a high-pass narrower than this many X-ray pixels, or voxels as the detector sees them, leaves noise and interpolation to compare
LEAST_HIGHPASS_PX, LEAST_HIGHPASS_VOXELS = 3.0, 1.3
METAL = 4.0  # X-ray contrast beyond this many times the 90th percentile around the bodies is no bone: wires, beads, markers
SILHOUETTE = 0.03  # of the rendering's maximum: what counts as covered by a body
RIM_MM = 3.0  # at the detector: the bone's edge needs both of its sides
END_REACH = 1.5  # standard deviations of the high-pass around a bone's cut end that are left out


@dataclass(frozen=True)
class Level:
    """One scale of the pyramid."""

    pixel_mm: float  # at the detector
    highpass_mm: float  # standard deviation of the Gaussian that local contrast is measured against
    steps: int


# a narrow high-pass at the end: bone edges and trabeculae stay, tissue, scatter and the tone curve's error go. With 3.5 mm at 0.75 mm as the last level, 28 bones in
# knee X-rays ended 0.10 mm in plane, 1.4 mm in depth and 0.25 degrees off (medians), with these 0.06 mm, 0.7 mm and 0.17 degrees
LEVELS = (
    Level(6.0, 16.0, 10),
    Level(3.0, 8.0, 10),
    Level(1.5, 5.0, 10),
    Level(0.75, 2.5, 30),
    Level(0.375, 1.4, 30),
)
# before those, where all that the X-ray shows is rendered: 20 of 20 starts 10 degrees and 20, 40, 20 mm off came back (8 without); for a bone, whose surroundings have such contrasts too, 6 of 56 (35 without)
WIDE = Level(12.0, 32.0, 10)
JUDGED = LEVELS[
    2
]  # where similarities are compared: finer pictures show more noise and explain less at the same pose


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
    outline: Renderer | None = (
        None  # what the comparison is confined to, where the renderer shows more than the body (its surroundings)
    )
    complete: bool = False  # a whole CT: what the X-ray shows is all in it
    ends: np.ndarray | None = (
        None  # (K, 3) points where the CT ends inside the body: edges there are none of the X-ray's
    )


class Pyramid:
    """The X-rays of all views at one level, cut to where the bodies can be."""

    def __init__(
        self,
        views: Sequence[View],
        bodies: Sequence[Body],
        poses: Sequence[np.ndarray],
        level: Level,
    ):
        distances = [
            view_distance(views, body, pose) for body, pose in zip(bodies, poses, strict=True)
        ]
        self.bodies = [
            _coarser(body, distance * level.pixel_mm)
            for body, distance in zip(bodies, distances, strict=True)
        ]
        voxel_mm = max(
            body.renderer.voxel_mm / distance
            for body, distance in zip(bodies, distances, strict=True)
        )
        pixel_mm = max(max(view.xray.detector.pixel_mm) for view in views)
        level = replace(
            level,
            highpass_mm=max(
                level.highpass_mm, LEAST_HIGHPASS_PX * pixel_mm, LEAST_HIGHPASS_VOXELS * voxel_mm
            ),
        )
        self.level = level
        self.views = [LevelView(view, bodies, poses, level) for view in views]

    def evaluate(self, poses: Sequence[np.ndarray]) -> list[Rendered]:
        """Render all bodies into all views, with derivatives."""
        return [view.render(self.bodies, poses) for view in self.views]


class LevelView:
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
        """Pixels whose contrast no bone has, and their neighbours."""
        from scipy.ndimage import binary_dilation

        contrast = np.abs(self.highpass(self.image[None])[0])
        inside = contrast[self.valid > 0]
        if not inside.size:
            return np.zeros(contrast.shape, bool)
        return binary_dilation(contrast > METAL * np.percentile(inside, 90), iterations=1)

    def _window(
        self, detector: Detector, bodies: Sequence[Body], poses: Sequence[np.ndarray], level: Level
    ) -> tuple[int, int, int, int]:
        """Rectangle of the picture around the bodies' points, with room for the high-pass and for a step."""
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
        """(C, H, W) minus its Gaussian average over the valid field; 0 outside the field."""
        return self.valid * (stack - _blur(self.valid * stack, self.sigma) * self._norm)

    def render(self, bodies: Sequence[Body], poses: Sequence[np.ndarray]) -> Rendered:
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
            shape = shape + (
                image
                if body.outline is None
                else body.outline.render(camera[None], self.detector)[0]
            )
            jacobians.append(jacobian)
        filtered = self.highpass(np.concatenate([total[None], *jacobians]))
        return Rendered(self, shape, cut, filtered[0], filtered[1:])

    def _around(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (H, W) so near to points (N, 2) that an edge there shows in the local contrast."""
        from scipy.ndimage import maximum_filter

        reach = [max(1, round(END_REACH * s)) for s in self.sigma]
        near = np.zeros(np.add(self.image.shape, np.multiply(2, reach)), np.uint8)
        at = np.round(pixels[:, ::-1]).astype(int) + reach
        at = at[((at >= 0) & (at < near.shape)).all(axis=1)]
        near[at[:, 0], at[:, 1]] = 1
        return (
            maximum_filter(near, [2 * r + 1 for r in reach])[
                reach[0] : -reach[0], reach[1] : -reach[1]
            ]
            > 0
        )

    def zone(self, image: np.ndarray, cut: np.ndarray) -> np.ndarray:
        """Weights (H, W): the rendering's silhouette with a soft rim, inside the valid field, without what is ``cut``."""
        from scipy.ndimage import binary_dilation

        covered = image > SILHOUETTE * image.max()
        grown = binary_dilation(covered, iterations=max(1, round(max(self.rim))))
        return (
            _blur(grown.astype(np.float32), [max(0.5, r / 2) for r in self.rim]) * self.valid * ~cut
        )


@dataclass(frozen=True)
class Rendered:
    """The bodies rendered into one view at one level."""

    view: LevelView
    shape: np.ndarray  # (H, W) line integrals of what the comparison is confined to
    cut: np.ndarray  # (H, W) bool: around the bodies' ends
    contrast: np.ndarray  # (H, W) its high-pass
    jacobian: np.ndarray  # (6 M, H, W) high-passed

    def residual(self, weights: np.ndarray) -> Residual | None:
        """Contrast that the X-ray does not explain; None where nothing is in view."""
        return unexplained(
            self.contrast, self.jacobian, self.view.features, self.view.image, weights
        )

    def weights(self) -> np.ndarray:
        """(H, W) weights of the comparison: the zone around the bodies, robust against other structures."""
        zone = self.view.zone(self.shape, self.cut)
        return robust_weights(zone, self.residual(zone))


def view_distance(views: Sequence[View], body: Body, pose: np.ndarray) -> float:
    """Magnification-free scale: isocentre's distance from the source over SDD, smallest over the views."""
    ratios = []
    for view in views:
        depth = geometry.apply(
            geometry.invert(pose @ view.rig_from_camera), body.renderer.centre_mm
        )[2]
        ratios.append(depth / view.xray.detector.sdd_mm)
    return float(np.clip(min(ratios), 0.1, 1.0))


def _coarser(body: Body, voxel_mm: float) -> Body:
    return replace(
        body,
        renderer=body.renderer.coarser(voxel_mm),
        outline=body.outline and body.outline.coarser(voxel_mm),
    )


def _blur(stack: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Gaussian over the last two axes, zeros beyond the border."""
    from scipy.ndimage import gaussian_filter

    axes = (0.0,) * (stack.ndim - 2)
    return gaussian_filter(stack, (*axes, *sigma), mode="constant", truncate=3.0)
