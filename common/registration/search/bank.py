"""A bank of templates of one body: every side and depth as a few numbers.

A template is a small DRR along one axis at one depth: local contrast, masked by the silhouette and
a rim. All are expressed in an eigenbasis (randomised SVD: Halko, Martinsson and Tropp, SIAM Review
2011), so that an image is correlated with it, not with every template. Turns in the image plane
are no part of a bank: the X-ray is turned instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from common import geometry
from common.geometry import Detector
from common.registration.pyramid import blur
from common.registration.scene import Body
from common.xray.outline import COMPARED_SHARE

AXIS_STEP_DEG = 8.0  # between neighbouring viewing directions
# benchmarks/README.md, 'Template bank': pixels of 4 mm put 17 of 24 right starts among the first 96
PIXEL_MM = 3.0  # at the detector
METAL_PIXEL_MM = 4.5  # silhouettes are found with less (benchmarks/README.md, 'Implants')
MOST_PIXELS = 91  # per side of a template; larger bodies have larger pixels
COMPONENTS, MASK_COMPONENTS = 64, 12
BASIS_SAMPLE = 800  # templates that a basis is made of
RANK_TOLERANCE = 1e-6  # of the largest eigenvalue
HIGHPASS_PX, RIM_PX, CUT_PX, SOFT_PX = 1.6, 2.0, 2.5, 0.7
LEAST_UNCUT = 0.5  # of a template: a bone seen end-on keeps its cut
FAINT = 0.3  # of the mean local spread: structures fainter than that count less
LEAST_ENERGY = 1e-3  # of a template, per pixel of its mask


@dataclass(frozen=True)
class Bank:
    """Templates of a body; N = D V of them for D depths and V viewing directions."""

    pixel_mm: float  # at the detector
    centre: np.ndarray  # (3,) of the body, mm
    depths: np.ndarray  # (D,) of the SDD
    rotations: np.ndarray  # (V, 3, 3) volume_from_camera
    pictures: np.ndarray  # (2, N, h, h) int16: contrast under the mask, and the mask
    units: np.ndarray  # (2,) float32, what 1 stands for in either
    own: np.ndarray  # (N,) energy of a template
    area: np.ndarray  # (N,) of its mask
    basis: np.ndarray  # (C, h h)
    weights: np.ndarray  # (N, C)
    mask_basis: np.ndarray  # (M, h h)
    mask_weights: np.ndarray  # (N, M)

    @property
    def half(self) -> int:
        return self.pictures.shape[2] // 2

    def arrays(self) -> dict[str, np.ndarray]:
        return {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Bank:
        values: dict[str, Any] = {each.name: arrays[each.name] for each in fields(cls)}
        values["pixel_mm"] = float(values["pixel_mm"])
        return cls(**values)

    def cameras(self, templates: np.ndarray, sdd_mm: float) -> np.ndarray:
        """(K, 4, 4) volume_from_camera of templates (K,), the body's centre on the axis."""
        depths, directions = np.divmod(templates, len(self.rotations))
        cameras = np.tile(np.eye(4), (len(templates), 1, 1))
        cameras[:, :3, :3] = self.rotations[directions]
        distances = (self.depths * sdd_mm)[depths]
        cameras[:, :3, 3] = self.centre - distances[:, None] * cameras[:, :3, 2]
        return cameras


def bank_settings() -> tuple[object, ...]:
    """Everything but the body that a bank depends on."""
    return (
        AXIS_STEP_DEG, PIXEL_MM, METAL_PIXEL_MM, MOST_PIXELS, COMPONENTS, MASK_COMPONENTS,
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


def make_bank(body: Body, rotations: np.ndarray, depths: Sequence[float], sdd_mm: float) -> Bank:
    """Return the templates of a body along ``rotations`` (V, 3, 3), see `viewing_rotations`.

    ``depths`` are those of its centre, as shares of the source-to-detector distance ``sdd_mm``.
    """
    radius, least = body.radius_mm, min(depths)
    pixel_mm = max(
        METAL_PIXEL_MM if body.metal else PIXEL_MM, 2 * radius / least / (MOST_PIXELS - 4)
    )
    half = int(np.ceil(radius / least / pixel_mm)) + 1
    side = 2 * half + 1
    square = Detector.centred(side, side, sdd_mm, (pixel_mm, pixel_mm))
    shown = [_templates_at(body, depth, rotations, square) for depth in depths]
    masks, templates = (
        np.concatenate(part).astype(np.float32) for part in zip(*shown, strict=True)
    )
    rows, mask_rows = (stack.reshape(len(stack), -1) for stack in (templates, masks))
    area = np.maximum(mask_rows.sum(axis=1), 1e-6)
    own = np.maximum(np.einsum("ij,ij->i", rows, rows), LEAST_ENERGY * area)
    normed = rows / np.sqrt(own)[:, None]
    with single_threaded_blas():
        basis, mask_basis = _eigenbasis(normed, COMPONENTS), _eigenbasis(mask_rows, MASK_COMPONENTS)
        weights, mask_weights = normed @ basis.T, mask_rows @ mask_basis.T
    pictures, units = _in_16_bits(np.stack([templates, masks]))
    return Bank(
        pixel_mm, body.centre_mm, np.array(depths), rotations, pictures, units, own, area,
        basis, weights, mask_basis, mask_weights,
    )  # fmt: skip


def _in_16_bits(stacks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return stacks (S, ...), which are overwritten, as int16, and what 1 stands for in each."""
    units = np.array([max(stack.max(), -stack.min(), 1e-9) for stack in stacks]) / 32767
    for stack, unit in zip(stacks, units, strict=True):
        np.rint(stack / np.float32(unit), out=stack)
    return stacks.astype(np.int16), units.astype(np.float32)


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


def single_threaded_blas() -> AbstractContextManager[object]:
    """BLAS without threads of its own: they wait busily and keep others from working."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def local_contrast(images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """High-pass (B, H, W) over its local spread: faint and strong structures count alike."""

    def average(stack: np.ndarray) -> np.ndarray:
        return blur(stack, (HIGHPASS_PX, HIGHPASS_PX))

    norm = 1 / (average(valid) + 1e-3)
    contrast = (images - average(images * valid) * norm) * valid
    spread = np.sqrt(np.clip(average(contrast**2) * norm, 0, None))
    mean = spread.sum((1, 2)) / np.maximum(valid.sum((1, 2)), 1.0)
    return contrast / (spread + FAINT * mean[:, None, None] + 1e-9) * valid


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
    """Orthonormal basis (C, P) that keeps most of rows (N, P), from a sample of them."""
    rng = np.random.default_rng(0)
    sample = rows[np.sort(rng.permutation(len(rows))[:BASIS_SAMPLE])]
    values, vectors = np.linalg.eigh(sample @ sample.T)
    kept = values > RANK_TOLERANCE * values[-1]
    values, vectors = values[kept][-components:], vectors[:, kept][:, -components:]
    return np.ascontiguousarray((vectors / np.sqrt(values)).T @ sample, np.float32)
