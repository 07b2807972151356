"""Templates of a body, correlated with a small X-ray at every place: the search's ruler.

The picture and the templates are made small and locally normalised, so that faint and strong structures count alike. Masked normalised cross-correlation by FFT
(Padfield 2012) compares each template with the picture under the template's own silhouette and a rim around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration.pyramid import Body, View
from common.xray.xray import Xray

# the search, on 28 bones in knee X-rays: right candidate among the first four for 89 % with these, 50 % with 6 mm, 16 mm and no rim
TEMPLATE_PX = 4.0  # mm at the detector
TEMPLATE_HIGHPASS_MM = 10.0
TEMPLATE_RIM_MM = (
    6.0  # around the silhouette: the outer side of the bone's edge belongs to the template
)
TEMPLATE_CUT_MM = 8.0  # around a cut end: no edge of the X-ray
LEAST_UNCUT = 0.5  # of a template: a bone seen end-on keeps its cut
MIN_OVERLAP = 0.35  # share of a template inside the valid field
LEAST_CONTRAST = (
    0.2  # of the template's: where the picture shows less, as in empty air, likeness counts less
)


class Picture:
    """One view made small, ready to be correlated with templates of the body."""

    def __init__(self, view: View, body: Body, depths: Sequence[float] | np.ndarray):
        from scipy.fft import rfft2

        self.view, self.centre, self._ends = view, body.renderer.centre_mm, body.ends
        picture, valid, self.detector = _small_picture(view.xray)
        self.size = 2 * self.detector.height, 2 * self.detector.width
        self._spectra = [
            rfft2(channel, self.size, workers=-1) for channel in (picture, picture**2, valid)
        ]
        self._renderer = (body.outline or body.renderer).coarser(
            TEMPLATE_PX * min(depths) / self.detector.sdd_mm
        )
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
        """(...) index into a flat correlation of points (..., 3) of the camera's frame; -1 outside the picture."""
        pixels = geometry.project(points, self.detector, np.eye(4))
        inside = (points[..., 2] > 0) & (
            (pixels > -0.5) & (pixels < np.array([self.detector.width, self.detector.height]) - 0.5)
        ).all(axis=-1)
        shift = (
            np.round(np.where(inside[..., None], pixels, 0) - self._square.principal_px).astype(int)
            % self.size[::-1]
        )
        return np.where(inside, shift[..., 1] * self.size[1] + shift[..., 0], -1)

    def correlate(self, cameras: np.ndarray) -> np.ndarray:
        """(B, 2 H, 2 W) normalised cross-correlation of each camera's template with the picture under the template's mask, -1 where too little of it is in the field."""
        from scipy.fft import irfft2, rfft2

        masks, templates = _masked_templates(
            self._renderer.render(cameras, self._square), self._cuts(cameras), self._square
        )
        area = np.maximum(masks.sum((1, 2)), 1e-6)[:, None, None]
        picture, squared, valid = self._spectra
        template_f, mask_f = (
            np.conj(rfft2(stack, self.size, workers=-1)) for stack in (templates, masks)
        )
        overlap = irfft2(valid * mask_f, self.size, workers=-1) / area
        total = irfft2(picture * mask_f, self.size, workers=-1)
        spread = irfft2(squared * mask_f, self.size, workers=-1) - total**2 / (
            area * np.maximum(overlap, 1e-3)
        )
        own = np.maximum((templates**2).sum((1, 2)), 1e-3 * area[:, 0, 0])[:, None, None]
        energy = np.maximum(spread, LEAST_CONTRAST * own) * own
        value = irfft2(picture * template_f, self.size, workers=-1) / np.sqrt(energy)
        return np.where(overlap > MIN_OVERLAP, value * np.sqrt(np.clip(overlap, 0, 1)), -1)

    def _cuts(self, cameras: np.ndarray) -> np.ndarray | None:
        """(B, H, W) bool: around the body's cut ends on the square; None for a body without."""
        from scipy.ndimage import maximum_filter

        if self._ends is None:
            return None
        cuts = np.zeros((len(cameras), self._square.height, self._square.width), np.uint8)
        for cut, camera in zip(cuts, cameras, strict=True):
            column, row = np.round(geometry.project(self._ends, self._square, camera)).astype(int).T
            inside = (
                (column >= 0)
                & (row >= 0)
                & (column < self._square.width)
                & (row < self._square.height)
            )
            cut[row[inside], column[inside]] = 1
        return maximum_filter(cuts, (1, *_sizes(TEMPLATE_CUT_MM, self._square))) > 0


def _small_picture(xray: Xray) -> tuple[np.ndarray, np.ndarray, Detector]:
    """Locally normalised picture, valid field and detector at about `TEMPLATE_PX`."""
    small = xray.coarser(TEMPLATE_PX)
    valid = small.valid.astype(np.float32)
    return _local_contrast(small.image[None], valid[None], small.detector)[0], valid, small.detector


def _template_detector(
    body: Body, detector: Detector, depths: Sequence[float] | np.ndarray
) -> Detector:
    """A square detector, principal point in its middle, that holds the whole body at any rotation (or the picture's size, if less)."""
    radius = (
        float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max()) + TEMPLATE_PX
    )
    half = int(np.ceil(radius * detector.sdd_mm / min(depths) / min(detector.pixel_mm)))
    half = min(half, max(detector.height, detector.width) // 2)
    return Detector.centred(2 * half, 2 * half, detector.sdd_mm, detector.pixel_mm)


def _masked_templates(
    images: np.ndarray, cuts: np.ndarray | None, square: Detector
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (B, H, W) of silhouette and rim without ``cuts``, and the local contrast under them with mean zero."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    covered = images > 0.03 * np.maximum(images.max((1, 2)), 1e-9)[:, None, None]
    shape = maximum_filter(covered, (1, *_sizes(TEMPLATE_RIM_MM, square)))
    if cuts is not None:
        uncut = shape & ~cuts
        enough = uncut.sum((1, 2)) > LEAST_UNCUT * shape.sum((1, 2))
        shape = np.where(enough[:, None, None], uncut, shape)
    masks = gaussian_filter(shape.astype(np.float32), (0, 0.7, 0.7))
    contrast = _local_contrast(images, np.ones_like(images), square)
    mean = (contrast * masks).sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1e-6)
    return masks, (contrast - mean[:, None, None]) * masks


def _sizes(reach_mm: float, detector: Detector) -> list[int]:
    """Rows and columns of a window that reaches that far to each side."""
    return [2 * round(reach_mm / mm) + 1 for mm in detector.pixel_mm[::-1]]


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
