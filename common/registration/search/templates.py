"""Template matching: small DRRs of a body, correlated with a small X-ray at every position.

X-ray and templates are normalised locally, so that weak and strong structures weigh the same.
Masked normalised cross-correlation by FFT (Padfield 2012) compares each template with the X-ray
under the template's silhouette and a rim around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration.scene import Body, View
from common.xray.outline import COMPARED_SHARE
from common.xray.xray import Xray

# of templates, in mm at the detector (benchmarks/README.md, 'Starts from nothing')
TEMPLATE_PX = 4.0  # pixel spacing
TEMPLATE_HIGHPASS_MM = 10.0
TEMPLATE_RIM_MM = 6.0  # around the silhouette: the outer side of the bone's edge
TEMPLATE_CUT_MM = 8.0  # around a cut end, where the X-ray has no edge
LEAST_UNCUT = 0.5  # fraction of a template; a bone seen end-on keeps its cut
MIN_OVERLAP = 0.35  # fraction of a template inside the valid field
# of the template's contrast: where the X-ray has less, as in empty air, the score is lowered
# (benchmarks/README.md, 'Starts from nothing')
LEAST_CONTRAST = 0.2


class SmallXray:
    """One view with coarse pixels, for correlation with templates of a body.

    ``detector`` is that of the small X-ray, ``size`` (rows, columns) that of a correlation. Each
    row and column of a correlation is an offset of the template: ``rows`` and ``columns`` are the
    pixels at which the centre of the body is then seen.
    """

    def __init__(self, view: View, body: Body, depths: Sequence[float] | np.ndarray):
        from scipy.fft import rfft2

        self._centre, self._ends = body.centre_mm, body.ends
        image, valid, self.detector = _small_image(view.xray)
        self.size = 2 * self.detector.height, 2 * self.detector.width
        self._spectra = [
            rfft2(channel, self.size, workers=-1) for channel in (image, image**2, valid)
        ]
        self._renderer = body.alone.coarser(TEMPLATE_PX * min(depths) / self.detector.sdd_mm)
        self._square = _template_detector(body, self.detector, depths)
        # an offset of zero aligns the upper left corners of template and image
        self.columns = self._square.principal_px[0] + np.fft.fftfreq(self.size[1], 1 / self.size[1])
        self.rows = self._square.principal_px[1] + np.fft.fftfreq(self.size[0], 1 / self.size[0])

    def cameras(self, rotations: np.ndarray, depth: float) -> np.ndarray:
        """Return cameras (B, 4, 4), volume_from_camera, of ``rotations`` (B, 3, 3).

        They have the centre of the body on their principal ray, at ``depth`` mm.
        """
        cameras = np.tile(np.eye(4), (len(rotations), 1, 1))
        cameras[:, :3, :3] = rotations
        cameras[:, :3, 3] = self._centre - depth * rotations[:, :, 2]
        return cameras

    def offsets_mm(self, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns and the rows of a correlation, in mm from the principal ray."""
        scale = depth / self.detector.sdd_mm
        (column, row), (dx, dy) = self.detector.principal_px, self.detector.pixel_mm
        return (self.columns - column) * dx * scale, (self.rows - row) * dy * scale

    def places(self, points: np.ndarray) -> np.ndarray:
        """Return indices (...) into a flat correlation of points (..., 3) of the camera frame.

        The index is -1 outside the image.
        """
        pixels = geometry.project(points, self.detector, np.eye(4))
        inside = (points[..., 2] > 0) & (
            (pixels > -0.5) & (pixels < np.array([self.detector.width, self.detector.height]) - 0.5)
        ).all(axis=-1)
        offset = np.where(inside[..., None], pixels, 0) - self._square.principal_px
        shift = np.round(offset).astype(int) % self.size[::-1]
        return np.where(inside, shift[..., 1] * self.size[1] + shift[..., 0], -1)

    def correlate(self, cameras: np.ndarray) -> np.ndarray:
        """Return the normalised cross-correlations (B, 2 H, 2 W) of the cameras' templates.

        They are -1 where too little of a template is inside the valid field.
        """
        from scipy.fft import irfft2, rfft2

        masks, templates = _masked_templates(
            self._renderer.render(cameras, self._square), self._cuts(cameras), self._square
        )
        area = np.maximum(masks.sum((1, 2)), 1e-6)[:, None, None]
        image, squared, valid = self._spectra
        template_f, mask_f = (
            np.conj(rfft2(stack, self.size, workers=-1)) for stack in (templates, masks)
        )
        overlap = irfft2(valid * mask_f, self.size, workers=-1) / area
        total = irfft2(image * mask_f, self.size, workers=-1)
        spread = irfft2(squared * mask_f, self.size, workers=-1) - total**2 / (
            area * np.maximum(overlap, 1e-3)
        )
        own = np.maximum((templates**2).sum((1, 2)), 1e-3 * area[:, 0, 0])[:, None, None]
        energy = np.maximum(spread, LEAST_CONTRAST * own) * own
        value = irfft2(image * template_f, self.size, workers=-1) / np.sqrt(energy)
        return np.where(overlap > MIN_OVERLAP, value * np.sqrt(np.clip(overlap, 0, 1)), -1)

    def _cuts(self, cameras: np.ndarray) -> np.ndarray | None:
        """Return masks (B, H, W) around the cut ends of the body, or None if it has none."""
        from scipy.ndimage import maximum_filter

        if self._ends is None:
            return None
        height, width = self._square.height, self._square.width
        cuts = np.zeros((len(cameras), height, width), np.uint8)
        for cut, camera in zip(cuts, cameras, strict=True):
            column, row = np.round(geometry.project(self._ends, self._square, camera)).astype(int).T
            inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
            cut[row[inside], column[inside]] = 1
        return maximum_filter(cuts, (1, *_window(TEMPLATE_CUT_MM, self._square))) > 0


def _small_image(xray: Xray) -> tuple[np.ndarray, np.ndarray, Detector]:
    """Return local contrast and valid field (H, W), and the detector, at about `TEMPLATE_PX`."""
    small = xray.coarser(TEMPLATE_PX)
    valid = small.valid.astype(np.float32)
    return _local_contrast(small.image[None], valid[None], small.detector)[0], valid, small.detector


def _template_detector(
    body: Body, detector: Detector, depths: Sequence[float] | np.ndarray
) -> Detector:
    """Return a square, centred detector that shows the whole body at any rotation.

    It is at most as large as the longer side of ``detector``.
    """
    radius = body.radius_mm + TEMPLATE_PX
    half = int(np.ceil(radius * detector.sdd_mm / min(depths) / min(detector.pixel_mm)))
    half = min(half, max(detector.height, detector.width) // 2)
    return Detector.centred(2 * half, 2 * half, detector.sdd_mm, detector.pixel_mm)


def _masked_templates(
    images: np.ndarray, cuts: np.ndarray | None, square: Detector
) -> tuple[np.ndarray, np.ndarray]:
    """Return masks (B, H, W) of silhouette and rim without ``cuts``, and the contrast in them.

    The contrast has a mean of zero.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    covered = images > COMPARED_SHARE * np.maximum(images.max((1, 2)), 1e-9)[:, None, None]
    shape = maximum_filter(covered, (1, *_window(TEMPLATE_RIM_MM, square)))
    if cuts is not None:
        uncut = shape & ~cuts
        enough = uncut.sum((1, 2)) > LEAST_UNCUT * shape.sum((1, 2))
        shape = np.where(enough[:, None, None], uncut, shape)
    masks = gaussian_filter(shape.astype(np.float32), (0, 0.7, 0.7))
    contrast = _local_contrast(images, np.ones_like(images), square)
    mean = (contrast * masks).sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1e-6)
    return masks, (contrast - mean[:, None, None]) * masks


def _window(reach_mm: float, detector: Detector) -> list[int]:
    """Return rows and columns of a window that reaches ``reach_mm`` to each side."""
    return [2 * round(reach_mm / mm) + 1 for mm in detector.pixel_mm[::-1]]


def _local_contrast(images: np.ndarray, valid: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the high-pass of images (B, H, W), divided by its local standard deviation."""
    from scipy.ndimage import gaussian_filter

    sigma = (0, *(TEMPLATE_HIGHPASS_MM / mm for mm in detector.pixel_mm[::-1]))

    def blur(stack: np.ndarray) -> np.ndarray:
        return gaussian_filter(stack, sigma, mode="constant", truncate=3.0)

    norm = 1 / (blur(valid) + 1e-3)
    contrast = (images - blur(images * valid) * norm) * valid
    spread = np.sqrt(np.clip(blur(contrast**2) * norm, 0, None))
    return contrast / (spread + 0.3 * spread.mean((1, 2), keepdims=True) + 1e-9) * valid
