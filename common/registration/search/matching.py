"""Template matching with a bank: one matrix product for all, exact scores for the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.geometry import Detector
from common.registration.search.bank import Bank, local_contrast
from common.xray.xray import Xray

SHORTLIST = 3000  # templates that are scored exactly
STEP = 512  # templates at a time


@dataclass(frozen=True)
class Near:
    """Where the body's centre may lie: at a distance from a point."""

    point: np.ndarray  # (3,) mm, in the rig or the camera's frame
    least_mm: float
    most_mm: float


@dataclass(frozen=True)
class Match:
    """A template at its best place."""

    score: float  # masked normalised correlation
    camera: np.ndarray  # (4, 4) volume_from_camera

    def turned(self, camera_from_camera: np.ndarray) -> Match:
        """The match in a turned image: its camera times ``camera_from_camera``."""
        return Match(self.score, self.camera @ camera_from_camera)


@dataclass(frozen=True)
class SmallImage:
    """An X-ray at the bank's pixels."""

    contrast: np.ndarray  # (H, W)
    valid: np.ndarray  # (H, W) 0..1
    detector: Detector


def small_image(xray: Xray, pixel_mm: float) -> SmallImage:
    """Return local contrast, valid field and detector at square pixels of ``pixel_mm``."""
    from scipy.ndimage import affine_transform

    binned = xray.coarser(0.7 * pixel_mm)
    seen = binned.detector
    step = pixel_mm / np.array(seen.pixel_mm[::-1])  # rows, columns of one new pixel
    shape = tuple(max(1, int(n / s)) for n, s in zip((seen.height, seen.width), step, strict=True))
    offset = (step - 1) / 2

    def resampled(image: np.ndarray) -> np.ndarray:
        single = image.astype(np.float32)
        return affine_transform(single, step, offset, shape, order=1, mode="nearest")

    valid = resampled(binned.valid)
    image = resampled(np.where(binned.valid, binned.image, 0)) / np.maximum(valid, 1e-3)
    inside = (valid > 0.5).astype(np.float32)
    principal = ((np.array(seen.principal_px[::-1]) - offset) / step)[::-1]
    detector = Detector(
        shape[0], shape[1], seen.sdd_mm, (pixel_mm, pixel_mm), (principal[0], principal[1])
    )
    contrast = local_contrast((image * inside)[None], inside[None])[0]
    return SmallImage(contrast.astype(np.float32), inside, detector)


def match(
    bank: Bank, image: SmallImage, near: Near | None = None, shortlist: int = SHORTLIST
) -> list[Match]:
    """The best templates at their best places, best first."""
    from common.registration.search.kernels import best_places, exact_scores

    width = image.contrast.shape[1]
    likeness = _correlate(image.contrast, bank.basis, bank.half)
    energy = _correlate(image.contrast**2, bank.mask_basis, bank.half)
    field = _correlate(image.valid, bank.mask_basis, bank.half)
    allowed = _allowed(bank, image.detector, near)
    columns = np.flatnonzero(allowed.any(axis=0))  # places that count at any depth
    if not columns.size:
        return []
    if len(columns) < allowed.shape[1]:
        allowed = np.ascontiguousarray(allowed[:, columns])
        likeness, energy, field = (
            np.ascontiguousarray(maps[:, columns]) for maps in (likeness, energy, field)
        )
    values = np.empty(len(bank.own), np.float32)
    places = np.empty(len(bank.own), np.int64)
    depth_of = bank.depth_of
    for first in range(0, len(bank.own), STEP):
        some = slice(first, first + STEP)
        best_places(
            bank.weights[some] @ likeness,
            bank.mask_weights[some] @ energy,
            bank.mask_weights[some] @ field,
            bank.own[some].astype(np.float32),
            bank.area[some].astype(np.float32),
            allowed,
            depth_of[some],
            values[some],
            places[some],
        )
    order = np.argsort(-values)[:shortlist]
    order = order[values[order] > -1]
    places = columns[places]
    which, roll = np.divmod(order, len(bank.angles))
    scores = np.empty(len(order), np.float32)
    exact_scores(
        bank.templates, bank.masks, which, bank.angles[roll], places[order], image.contrast,
        image.valid, scores,
    )  # fmt: skip
    best = np.argsort(-scores)
    best = best[scores[best] > -1]
    rows, columns = np.divmod(places[order[best]], width)
    cameras = aim(bank.cameras(order[best], image.detector.sdd_mm), image.detector, columns, rows)
    return [Match(float(s), camera) for s, camera in zip(scores[best], cameras, strict=True)]


def _allowed(bank: Bank, detector: Detector, near: Near | None) -> np.ndarray:
    """(D, P) bool: places that count at each depth."""
    if near is None:
        return np.ones((len(bank.depths), detector.height * detector.width), np.bool_)
    x = (np.arange(detector.width) - detector.principal_px[0]) * detector.pixel_mm[0]
    y = (np.arange(detector.height) - detector.principal_px[1]) * detector.pixel_mm[1]
    rays = np.stack(np.broadcast_arrays(x[None], y[:, None], detector.sdd_mm), -1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    # a template keeps its distance from the source when it is aimed
    centres = (bank.depths * detector.sdd_mm)[:, None, None] * rays
    distance = np.linalg.norm(centres - near.point, axis=2)
    return (distance >= near.least_mm) & (distance <= near.most_mm)


def _correlate(image: np.ndarray, basis: np.ndarray, half: int) -> np.ndarray:
    """(C, P) correlation of an image (H, W) with basis images (C, h h) centred at every pixel."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    side = 2 * half + 1
    height, width = image.shape
    size = tuple(next_fast_len(n + side, True) for n in (height, width))
    spectra = rfft2(basis.reshape(-1, side, side), size, workers=-1)
    maps = irfft2(rfft2(image, size) * np.conj(spectra), size, workers=-1)
    rolled = np.roll(maps, (half, half), (1, 2))[:, :height, :width]
    return np.ascontiguousarray(rolled.reshape(len(basis), -1), dtype=np.float32)


def aim(
    cameras: np.ndarray, detector: Detector, columns: npt.ArrayLike, rows: npt.ArrayLike
) -> np.ndarray:
    """Turn cameras (N, 4, 4) about their sources.

    What lay on the axis of each is then seen at its (column, row).
    """
    rays = np.empty((len(cameras), 3))
    rays[:, 0] = (np.asarray(columns) - detector.principal_px[0]) * detector.pixel_mm[0]
    rays[:, 1] = (np.asarray(rows) - detector.principal_px[1]) * detector.pixel_mm[1]
    rays[:, 2] = detector.sdd_mm
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # the shortest rotation from the axis z to a ray r: I + [a] + [a]^2 / (1 + z r), a = z x r
    x, y, along = rays.T
    skew = np.zeros((len(cameras), 3, 3))
    skew[:, 0, 2] = x
    skew[:, 2, 0] = -x
    skew[:, 1, 2] = y
    skew[:, 2, 1] = -y
    to_ray = np.eye(3) + skew + skew @ skew / (1 + along)[:, None, None]
    turned = cameras.copy()
    turned[:, :3, :3] = cameras[:, :3, :3] @ to_ray.transpose(0, 2, 1)
    return turned


def joined(matches: Sequence[Sequence[Match]]) -> list[Match]:
    """Several lists in one, best first."""
    return sorted((each for some in matches for each in some), key=lambda each: -each.score)
