"""Template matching with a bank: one matrix product for all, exact scores for the best."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common import geometry
from common.geometry import Detector
from common.registration.search.bank import Bank, local_contrast, single_threaded_blas
from common.registration.search.limits import Limits
from common.xray.xray import Xray

SHORTLIST = 3000  # templates that are scored exactly
STEP = 512  # templates at a time
DENSE = 0.75  # of the 99th percentile of attenuation: metal takes more of the beam
RIM_MM = 15.0  # at the detector, from the border of the valid field
MARGIN = 0.35  # of a template's half width: by which the body's centre may be outside the image


@dataclass(frozen=True)
class Match:
    """A template at its best place."""

    score: float  # masked normalised correlation
    camera: np.ndarray  # (4, 4) volume_from_camera


@dataclass(frozen=True)
class SmallImage:
    """An X-ray at the bank's pixels, turned about its principal point."""

    contrast: np.ndarray  # (H, W)
    valid: np.ndarray  # (H, W) 0..1
    covered: np.ndarray  # (H, W) bool: where the body may be seen, in the X-ray and dense enough
    dense: np.ndarray  # (H, W) bool: as dense as metal in this X-ray
    detector: Detector
    camera_from_turned: np.ndarray  # (4, 4) the X-ray's camera from that of the turned image

    def places(self, margin_px: float) -> np.ndarray:
        """(P, 2) rows and columns, of a chessboard, no farther than a margin outside the X-ray."""
        from scipy.ndimage import maximum_filter

        reach = int(margin_px)
        framed = np.pad(self.covered, reach)
        framed = maximum_filter(framed, 2 * reach + 1)
        places = np.argwhere(framed) - reach
        return places[places.sum(axis=1) % 2 == 0]

    def where_dense(self, half: int) -> SmallImage:
        """Return the part of the image that templates reach, centred near what may be metal.

        ``half`` is half a template's side, pixels.
        """
        from scipy.ndimage import maximum_filter

        dense = self.covered & self.dense
        reach = int(MARGIN * half)
        near = maximum_filter(dense, 2 * reach + 1) & self.covered
        if not near.any():
            return self
        box = tuple(
            slice(max(0, int(lines[0]) - half), int(lines[-1]) + half + 1)
            for lines in (np.flatnonzero(near.any(axis=1 - axis)) for axis in (0, 1))
        )
        contrast = self.contrast[box]
        return replace(
            self,
            contrast=contrast,
            valid=self.valid[box],
            covered=near[box],
            dense=self.dense[box],
            detector=self.detector.cropped(box[0].start, box[1].start, *contrast.shape),
        )

    def rays(self, places: np.ndarray) -> np.ndarray:
        """(P, 3) unit vectors through places (P, 2), in the frame of the X-ray's camera."""
        seen = self.detector
        across = (places[:, ::-1] - np.array(seen.principal_px)) * seen.pixel_mm
        rays = np.column_stack([across, np.full(len(places), seen.sdd_mm)])
        rays /= np.linalg.norm(rays, axis=1)[:, None]
        return rays @ self.camera_from_turned[:3, :3].T


def camera_from_turned(turn_deg: float) -> np.ndarray:
    """(4, 4): an X-ray's camera from that of the X-ray turned anticlockwise."""
    turn = np.eye(4)
    turn[:3, :3] = geometry.rotation_matrix((0, 0, np.radians(turn_deg)))
    return turn


def small_image(xray: Xray, pixel_mm: float, turn_deg: float = 0.0) -> SmallImage:
    """Return local contrast and valid field at square pixels of ``pixel_mm``.

    The X-ray is turned anticlockwise by ``turn_deg``, about its principal point.
    """
    from scipy.ndimage import affine_transform, distance_transform_edt

    binned = xray.coarser(0.7 * pixel_mm)
    seen = binned.detector
    turned = camera_from_turned(turn_deg)
    to_turned = turned[:2, :2].T
    # corners of the X-ray, in mm from the principal point
    size = np.array([seen.width, seen.height])
    low = (-0.5 - np.array(seen.principal_px)) * seen.pixel_mm
    high = (size - 0.5 - np.array(seen.principal_px)) * seen.pixel_mm
    corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])]) @ to_turned.T
    width, height = np.ceil(np.ptp(corners, axis=0) / pixel_mm).astype(int)
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    first = middle - (np.array([width, height]) - 1) / 2 * pixel_mm  # centre of the first pixel
    detector = Detector(
        int(height), int(width), seen.sdd_mm, (pixel_mm, pixel_mm), tuple(-first / pixel_mm)
    )
    # rows and columns of the binned X-ray from those of the small image
    x, y = (np.eye(2) * pixel_mm) @ to_turned  # one step along its columns and rows, in mm
    step = np.array([[y[1] / seen.pixel_mm[1], x[1] / seen.pixel_mm[1]],
                     [y[0] / seen.pixel_mm[0], x[0] / seen.pixel_mm[0]]])  # fmt: skip
    offset = (first @ to_turned / seen.pixel_mm + seen.principal_px)[::-1]

    def resampled(image: np.ndarray) -> np.ndarray:
        single = image.astype(np.float32)
        return affine_transform(single, step, offset, (height, width), order=1, cval=0.0)

    valid = resampled(binned.valid)
    image = resampled(np.where(binned.valid, binned.image, 0)) / np.maximum(valid, 1e-3)
    inside = (valid > 0.5).astype(np.float32)
    contrast = local_contrast((image * inside)[None], inside[None])[0]
    covered = resampled(np.ones(binned.valid.shape)) > 0.5
    # not in the blackened rim of an image intensifier
    inner = distance_transform_edt(np.pad(binned.valid, 1))[1:-1, 1:-1] * max(seen.pixel_mm)
    limit = DENSE * np.percentile(binned.image[inner > RIM_MM], 99) if inner.max() > RIM_MM else 0
    dense = image * (resampled(inner > RIM_MM) > 0.5) > limit
    return SmallImage(contrast.astype(np.float32), inside, covered, dense, detector, turned)


def match(
    bank: Bank,
    xray: Xray,
    turns_deg: Sequence[float],
    limits: Limits,
    shortlist: int = SHORTLIST,
    metal: bool = False,
) -> list[Match]:
    """The best templates at their best places in the X-ray turned by each angle, best first.

    ``limits`` are in the frame of the X-ray's camera. The templates of ``metal`` are tried where
    the X-ray is dense.
    """
    correlation = Correlation(bank)

    def first_pass(turn_deg: float) -> tuple[SmallImage, _Placed]:
        image = small_image(xray, bank.pixel_mm, turn_deg)
        if metal:
            image = image.where_dense(bank.half)
        chosen = allowed_templates(
            bank.rotations, bank.depths, xray.detector.sdd_mm, turn_deg, limits
        )
        return image, correlation.best(image, chosen, limits)

    def second_pass(found: tuple[SmallImage, _Placed]) -> list[Match]:
        image, placed = found
        return _scored(bank, image, placed.better_than(least))

    with single_threaded_blas(), ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(first_pass, turns_deg))
        values = np.concatenate([placed.values for _, placed in found])
        least = np.partition(values, -shortlist)[-shortlist] if len(values) > shortlist else -1.0
        matches = [each for some in pool.map(second_pass, found) for each in some]
    return sorted(matches, key=lambda each: -each.score)


@dataclass(frozen=True)
class _Placed:
    """Templates at their best places in one image."""

    values: np.ndarray  # (K,) correlation in the eigenbasis
    templates: np.ndarray  # (K,)
    places: np.ndarray  # (K, 2) rows and columns

    def better_than(self, least: float) -> _Placed:
        kept = self.values > least
        return _Placed(self.values[kept], self.templates[kept], self.places[kept])


def _scored(bank: Bank, image: SmallImage, placed: _Placed) -> list[Match]:
    """Matches with exact scores."""
    from common.registration.search.kernels import exact_scores

    scores = np.empty(len(placed.values), np.float32)
    exact_scores(
        bank.pictures, bank.units, placed.templates, placed.places, image.contrast, image.valid,
        scores,
    )  # fmt: skip
    straight = bank.cameras(placed.templates, image.detector.sdd_mm)
    cameras = aim(straight, image.detector, placed.places[:, 1], placed.places[:, 0])
    cameras = cameras @ geometry.invert(image.camera_from_turned)
    return [
        Match(float(score), camera)
        for score, camera in zip(scores, cameras, strict=True)
        if score > -1
    ]


def allowed_templates(
    rotations: np.ndarray,
    depths: np.ndarray,
    sdd_mm: float,
    turn_deg: float,
    limits: Limits,
) -> np.ndarray:
    """Indices of the templates of a bank that count in an image turned by ``turn_deg``."""
    seen = rotations @ camera_from_turned(turn_deg)[:3, :3].T
    allowed = limits.depths(depths * sdd_mm)[:, None] & limits.orientations(seen)[None]
    return np.flatnonzero(allowed)


class Correlation:
    """Correlates images with the templates of a bank."""

    def __init__(self, bank: Bank):
        self._bank = bank
        self._spectra: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def best(self, image: SmallImage, chosen: np.ndarray, limits: Limits) -> _Placed:
        """The ``chosen`` templates at their best places, without those that have none."""
        from common.registration.search.kernels import best_places

        bank = self._bank
        values, places = np.full(len(chosen), -1, np.float32), np.zeros(len(chosen), np.int64)
        at = image.places(MARGIN * bank.half)
        # a template keeps its distance from the source when it is aimed
        centres = (bank.depths * image.detector.sdd_mm)[:, None, None] * image.rays(at)
        allowed = limits.centres(centres)
        some_depth = allowed.any(axis=0)
        if not some_depth.any():
            return _Placed(values[:0], chosen[:0], at[:0])
        at, allowed = at[some_depth], np.ascontiguousarray(allowed[:, some_depth])
        likeness = self._maps(image.contrast, "basis", at)
        energy = self._maps(image.contrast**2, "mask_basis", at)
        overlap = self._maps(image.valid, "mask_basis", at)
        depth_of = chosen // len(bank.rotations)
        for first in range(0, len(chosen), STEP):
            these = chosen[first : first + STEP]
            some = slice(first, first + STEP)
            best_places(
                bank.weights[these] @ likeness,
                bank.mask_weights[these] @ energy,
                bank.mask_weights[these] @ overlap,
                bank.own[these].astype(np.float32),
                bank.area[these].astype(np.float32),
                allowed,
                depth_of[some],
                values[some],
                places[some],
            )
        return _Placed(values, chosen, at[places]).better_than(-1.0)

    def scores(self, image: SmallImage, chosen: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(K, P) masked correlation of templates ``chosen`` (K,) at places ``at`` (P, 2).

        It is -1 where too little of a template is inside the valid field.
        """
        from common.registration.search.kernels import LEAST_CONTRAST, MIN_OVERLAP

        bank = self._bank
        area, own = (values[chosen][:, None] for values in (bank.area, bank.own))
        energy = bank.mask_weights[chosen] @ self._maps(image.contrast**2, "mask_basis", at)
        share = bank.mask_weights[chosen] @ self._maps(image.valid, "mask_basis", at) / area
        likeness = bank.weights[chosen] @ self._maps(image.contrast, "basis", at)
        values = likeness * np.sqrt(np.clip(share, 0, 1) / np.maximum(energy, LEAST_CONTRAST * own))
        return np.where(share >= MIN_OVERLAP, values, -1.0)

    def _maps(self, image: np.ndarray, basis: str, at: np.ndarray) -> np.ndarray:
        """(C, P) correlation of an image (H, W) with a basis of the bank at places (P, 2)."""
        from scipy.fft import irfft2, next_fast_len, rfft2

        half = self._bank.half
        side = 2 * half + 1
        size = tuple(next_fast_len(n + side, True) for n in image.shape)
        key = (basis, size)
        if key not in self._spectra:
            images = getattr(self._bank, basis).reshape(-1, side, side)
            self._spectra[key] = np.conj(rfft2(images, size))
        maps = irfft2(rfft2(image, size) * self._spectra[key], size)
        # a shift of the correlation puts the template's upper left corner at a pixel
        rows, columns = ((at - half) % size).T
        flat = rows * size[1] + columns
        return np.take(maps.reshape(len(maps), -1), flat, axis=1).astype(np.float32, copy=False)


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
    turned = cameras.copy()
    turned[:, :3, :3] = cameras[:, :3, :3] @ axis_to(rays).transpose(0, 2, 1)
    return turned


def axis_to(rays: np.ndarray) -> np.ndarray:
    """(N, 3, 3) shortest rotations from the axis z to rays (N, 3), unit vectors.

    They are I + [a] + [a]^2 / (1 + z r) with a = z x r.
    """
    x, y, along = rays.T
    skew = np.zeros((len(rays), 3, 3))
    skew[:, 0, 2] = x
    skew[:, 2, 0] = -x
    skew[:, 1, 2] = y
    skew[:, 2, 1] = -y
    return np.eye(3) + skew + skew @ skew / (1 + along)[:, None, None]
