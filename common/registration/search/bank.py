"""A bank of templates of one body: every side, depth and turn in the image as a few numbers.

A template is a small DRR along one axis at one depth, turned in its plane: local contrast, masked
by the silhouette and a rim. All are expressed in an eigenbasis (randomised SVD: Halko, Martinsson
and Tropp, SIAM Review 2011), so that an image is correlated with it, not with every template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration.pyramid import blur
from common.registration.scene import Body
from common.xray.outline import COMPARED_SHARE

AXIS_STEP_DEG = 8.0  # between neighbouring viewing directions
ROLLS_DEG = np.arange(-40.0, 41.0, 8.0)  # in plane; with quarter turns of the image, nearly all
DEPTHS = (0.60, 0.66, 0.72, 0.78, 0.85, 0.93)  # of the SDD, 9 % apart
# benchmarks/README.md, 'Template bank': pixels of 4 mm put 17 of 24 right starts among the first 96
PIXEL_MM = 3.2  # at the detector
MOST_PIXELS = 91  # per side of a template; larger bodies have larger pixels
COMPONENTS, MASK_COMPONENTS = 256, 48
BASIS_SAMPLE = 3000  # templates that the basis is made of
HIGHPASS_PX, RIM_PX, CUT_PX, SOFT_PX = 1.6, 2.0, 2.5, 0.7
LEAST_UNCUT = 0.5  # of a template: a bone seen end-on keeps its cut
STEP = 32  # images at a time
LEAST_ENERGY = 1e-3  # of a template, per pixel of its mask


@dataclass(frozen=True)
class Bank:
    """Templates of a body; N = D V A of them for D depths, V viewing directions and A turns."""

    pixel_mm: float  # at the detector
    centre: np.ndarray  # (3,) of the body, mm
    depths: np.ndarray  # (D,) of the SDD
    rotations: np.ndarray  # (V, 3, 3) volume_from_camera
    angles: np.ndarray  # (A,) radians
    templates: np.ndarray  # (D V, h, h) contrast under the mask
    masks: np.ndarray  # (D V, h, h)
    own: np.ndarray  # (N,) energy of a template
    area: np.ndarray  # (N,) of its mask
    basis: np.ndarray  # (C, h h)
    weights: np.ndarray  # (N, C)
    mask_basis: np.ndarray  # (M, h h)
    mask_weights: np.ndarray  # (N, M)

    @property
    def half(self) -> int:
        return self.templates.shape[1] // 2

    @property
    def depth_of(self) -> np.ndarray:
        """(N,) index of the depth of each template."""
        return np.repeat(np.arange(len(self.depths)), len(self.rotations) * len(self.angles))

    def arrays(self) -> dict[str, np.ndarray]:
        return {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Bank:
        values: dict[str, Any] = {each.name: arrays[each.name] for each in fields(cls)}
        values["pixel_mm"] = float(values["pixel_mm"])
        return cls(**values)

    def cameras(self, templates: np.ndarray, sdd_mm: float) -> np.ndarray:
        """(K, 4, 4) volume_from_camera of templates (K,), the body's centre on the axis."""
        places, rolls = np.divmod(templates, len(self.angles))
        depths, directions = np.divmod(places, len(self.rotations))
        turns = np.array([geometry.rotation_matrix((0, 0, -angle)) for angle in self.angles])
        cameras = np.tile(np.eye(4), (len(templates), 1, 1))
        cameras[:, :3, :3] = self.rotations[directions] @ turns[rolls]
        distances = (self.depths * sdd_mm)[depths]
        cameras[:, :3, 3] = self.centre - distances[:, None] * cameras[:, :3, 2]
        return cameras


def bank_settings() -> tuple[object, ...]:
    """Everything but the body that a bank depends on."""
    return (
        AXIS_STEP_DEG, tuple(ROLLS_DEG), DEPTHS, PIXEL_MM, MOST_PIXELS, COMPONENTS, MASK_COMPONENTS,
        BASIS_SAMPLE, HIGHPASS_PX, RIM_PX, CUT_PX, SOFT_PX, COMPARED_SHARE, LEAST_UNCUT,
    )  # fmt: skip


def viewing_rotations(up: np.ndarray, tilt_deg: tuple[float, float]) -> np.ndarray:
    """(V, 3, 3) volume_from_camera: axes spread over the sphere, ``up`` shown upright.

    ``tilt_deg`` is the least and largest angle between the axis and the plane across ``up``.
    """
    count = round(4 * np.pi / np.radians(AXIS_STEP_DEG) ** 2)
    z = 1 - 2 * (np.arange(count) + 0.5) / count
    turn = np.pi * (1 + 5**0.5) * (np.arange(count) + 0.5)
    ring = np.sqrt(1 - z * z)
    axes = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)
    tilt = np.degrees(np.arcsin(np.abs(axes @ up)))
    rotations = []
    for axis in axes[(tilt >= tilt_deg[0]) & (tilt < tilt_deg[1])]:
        down = -(up - (up @ axis) * axis)
        down /= np.linalg.norm(down)
        rotations.append(np.stack([np.cross(down, axis), down, axis], 1))
    return np.array(rotations)


def make_bank(
    body: Body, up: np.ndarray, sdd_mm: float, tilt_deg: tuple[float, float] = (0.0, 30.0)
) -> Bank:
    """Return the templates of a body; ``up`` (unit vector in the volume) is upright in them."""
    centre = body.centre_mm
    radius = body.radius_mm
    least = DEPTHS[0]
    pixel_mm = max(PIXEL_MM, 2 * radius / least / (MOST_PIXELS - 4))
    half = int(np.ceil(radius / least / pixel_mm)) + 1
    side = 2 * half + 1
    square = Detector.centred(side, side, sdd_mm, (pixel_mm, pixel_mm))
    rotations = viewing_rotations(up, tilt_deg)
    shown = [_templates_at(body, depth, rotations, square) for depth in DEPTHS]
    masks, templates = (
        np.concatenate(part).astype(np.float32) for part in zip(*shown, strict=True)
    )
    angles = np.radians(ROLLS_DEG)
    mask_rows, rows = _Turned(masks, angles), _Turned(templates, angles)
    mask_sample, sample = mask_rows.sample(), rows.sample()
    mask_basis = _eigenbasis(mask_sample, MASK_COMPONENTS)
    energy = np.maximum(_energy_of(sample), LEAST_ENERGY * mask_sample.sum(axis=1) + 1e-12)
    basis = _eigenbasis(sample / np.sqrt(energy)[:, None], COMPONENTS)
    area, mask_weights = mask_rows.reduced(lambda some: some.sum(axis=1), mask_basis)
    own, weights = rows.reduced(_energy_of, basis)
    area = np.maximum(area, 1e-6)
    own = np.maximum(own, LEAST_ENERGY * area)
    weights /= np.sqrt(own)[:, None]
    return Bank(
        pixel_mm, centre, np.array(DEPTHS), rotations, angles, templates, masks, own, area,
        basis, weights, mask_basis, mask_weights,
    )  # fmt: skip


class _Turned:
    """Images (K, h, h) turned by every angle, as rows (K A, h h).

    A few at a time: all of them would need too much memory.
    """

    def __init__(self, images: np.ndarray, angles: np.ndarray):
        self._images, self._angles = images, angles
        self._buffer = np.empty(0, np.float32)
        self.count = len(images) * len(angles)

    def reduced(
        self, function: Callable[[np.ndarray], np.ndarray], basis: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """``function`` (N,) of all rows, and their weights (N, C) in a basis (C, h h)."""
        values = np.empty(self.count, np.float32)
        weights = np.empty((self.count, len(basis)), np.float32)
        for first in range(0, len(self._images), STEP):
            rows = self._rows(self._images[first : first + STEP])
            some = slice(first * len(self._angles), first * len(self._angles) + len(rows))
            values[some], weights[some] = function(rows), rows @ basis.T
        return values, weights

    def sample(self) -> np.ndarray:
        """Random rows that stand for all, the same numbers for images of the same count."""
        rng = np.random.default_rng(0)
        chosen = rng.choice(self.count, min(self.count, BASIS_SAMPLE), replace=False)
        image, angle = np.divmod(chosen, len(self._angles))
        rows = np.empty((len(chosen), self._images[0].size), np.float32)
        for number in range(len(self._angles)):
            these = angle == number
            rows[these] = self._rows(self._images[image[these]], self._angles[number : number + 1])
        return rows

    def _rows(self, images: np.ndarray, angles: np.ndarray | None = None) -> np.ndarray:
        from common.registration.search.kernels import turn

        angles = self._angles if angles is None else angles
        count, side = len(images) * len(angles), images.shape[1]
        if self._buffer.size < count * side * side:  # reused: fresh memory costs more than turning
            self._buffer = np.empty(count * side * side, np.float32)
        turned = self._buffer[: count * side * side].reshape(count, side, side)
        turn(np.ascontiguousarray(images), angles, turned)
        return turned.reshape(count, -1)


def _energy_of(rows: np.ndarray) -> np.ndarray:
    """(N,) sum of squares of each row."""
    return np.einsum("ij,ij->i", rows, rows)


def _templates_at(
    body: Body, depth: float, rotations: np.ndarray, square: Detector
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and templates (V, h, h) of all viewing directions at one depth (share of the SDD)."""
    renderer = body.alone.coarser(square.pixel_mm[0] * depth)
    cameras = np.tile(np.eye(4), (len(rotations), 1, 1))
    cameras[:, :3, :3] = rotations
    cameras[:, :3, 3] = body.centre_mm - depth * square.sdd_mm * rotations[:, :, 2]
    return masked_templates(renderer.render(cameras, square), _cuts(body, cameras, square))


def masked_templates(images: np.ndarray, cuts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return masks (B, h, h) of silhouette and rim without ``cuts``, and templates."""
    from scipy.ndimage import maximum_filter

    covered = images > COMPARED_SHARE * np.maximum(images.max((1, 2)), 1e-9)[:, None, None]
    shape = maximum_filter(covered, (1, *window(RIM_PX)))
    if cuts is not None:
        uncut = shape & ~cuts
        enough = uncut.sum((1, 2)) > LEAST_UNCUT * shape.sum((1, 2))
        shape = np.where(enough[:, None, None], uncut, shape)
    masks = blur(shape.astype(np.float32), (SOFT_PX, SOFT_PX))
    contrast = local_contrast(images, np.ones_like(images))
    mean = (contrast * masks).sum((1, 2)) / np.maximum(masks.sum((1, 2)), 1e-6)
    return masks, (contrast - mean[:, None, None]) * masks


def local_contrast(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """High-pass (B, H, W) over its local spread: faint and strong structures count alike."""

    def average(stack: np.ndarray) -> np.ndarray:
        return blur(stack, (HIGHPASS_PX, HIGHPASS_PX))

    norm = 1 / (average(valid) + 1e-3)
    contrast = (images - average(images * valid) * norm) * valid
    spread = np.sqrt(np.clip(average(contrast**2) * norm, 0, None))
    return contrast / (spread + 0.3 * spread.mean((1, 2), keepdims=True) + 1e-9) * valid


def window(reach_px: float) -> tuple[int, int]:
    """Rows and columns of a window that reaches that far to each side."""
    return 2 * round(reach_px) + 1, 2 * round(reach_px) + 1


def _cuts(body: Body, cameras: np.ndarray, square: Detector) -> np.ndarray | None:
    """(B, h, h) bool: around the body's cut ends; None for a body without."""
    from scipy.ndimage import maximum_filter

    if body.ends is None:
        return None
    cuts = np.zeros((len(cameras), square.height, square.width), np.uint8)
    for cut, camera in zip(cuts, cameras, strict=True):
        at = np.round(geometry.project(body.ends, square, camera)).astype(int)
        at = at[((at >= 0) & (at < square.width)).all(axis=1)]
        cut[at[:, 1], at[:, 0]] = 1
    return maximum_filter(cuts, (1, *window(CUT_PX))) > 0


def _eigenbasis(rows: np.ndarray, components: int) -> np.ndarray:
    """Orthonormal basis (C, P) that keeps most of rows (N, P)."""
    components = min(components, *rows.shape)
    rng = np.random.default_rng(0)
    guess = rng.standard_normal((rows.shape[1], min(components + 20, *rows.shape)))
    guess = guess.astype(np.float32)
    for _ in range(2):
        guess, _ = np.linalg.qr(rows.T @ (rows @ guess))
    right = np.linalg.svd(rows @ guess, full_matrices=False)[2]
    return np.ascontiguousarray((guess @ right.T)[:, :components].T, np.float32)
