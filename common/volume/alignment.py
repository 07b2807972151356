"""Rigid alignment of two scans of the same kind of bone (3D/3D), by the shape of the bone. Millimetres, RAS.

A shape is the signed distance to the bone's surface: unlike grey values it is smooth, so that a distant start still finds its way, and a larger or
denser bone is centred on a smaller one instead of being caught at its cortex.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from common.errors import InputError
from common.geometry import (
    RAS_FROM_LPS,
    apply,
    invert,
    rotation_angle_deg,
    rotation_matrix,
    translation,
)
from common.volume import itk, resampling
from common.volume.volume import Volume

MIN_CORRELATION = 0.8
MIN_OVERLAP = 0.5
MAX_SURFACE_MM = 5.0
LEVELS_MM = (
    4.0,
    2.0,
)  # voxel sizes of the refinement; the last level is that of the coarser scan, or 1 mm
FINEST_MM = 1.0
STARTS = 5  # best candidates of the search that are refined at the coarsest level
SAMPLES = 15_000  # voxels compared at each step of the refinement
SEED = 1  # ITK jitters the samples; 0 would mean the clock
BONE_HU = 200  # taken as bone where there are no labelmaps
SHAPE_MM = 15.0  # distances to the surface are cut off there
MOST_VOXELS = (
    20_000_000  # of a shape; a cropped bone has fewer, a whole body at 0.8 mm twenty times as many
)
MARGIN_MM = 6.0  # what is compared: the bone and its surroundings up to this distance


@dataclass(frozen=True)
class Alignment:
    """How a scan lies on the reference, and how good the fit is."""

    moving_from_reference: np.ndarray  # 4x4, RAS millimetres
    shift_mm: float  # how far the reference bone's centre moves
    correlation: float  # of the distances to the surface, near the reference's bone and inside the moving scan
    overlap: float  # part of the reference's bone and surroundings that lies inside the moving scan
    surface_mm: float  # mean distance between the bones' surfaces inside the moving scan

    @property
    def converged(self) -> bool:
        return (
            self.correlation >= MIN_CORRELATION
            and self.overlap >= MIN_OVERLAP
            and self.surface_mm <= MAX_SURFACE_MM
        )

    def quality(self) -> dict[str, float | bool]:
        rotation = rotation_angle_deg(self.moving_from_reference[:3, :3])
        numbers = {
            "correlation": self.correlation,
            "overlap": self.overlap,
            "surface_mm": self.surface_mm,
            "rotation_deg": rotation,
            "shift_mm": self.shift_mm,
        }
        return {
            **{name: round(number, 4) for name, number in numbers.items()},
            "converged": self.converged,
        }


@dataclass(frozen=True)
class Level:
    """A bone's shape at one resolution: signed distance to its surface (mm, positive inside), and which voxels are compared."""

    distance: Volume
    near: np.ndarray

    @cached_property
    def points_mm(self) -> np.ndarray:
        """(N, 3) positions of the voxels compared, RAS millimetres."""
        return apply(self.distance.affine, np.argwhere(self.near))

    @cached_property
    def values(self) -> np.ndarray:
        return self.distance.data[self.near]


class Bone:
    """A scan prepared for alignment: its bone's shape, centre and principal axes (RAS millimetres)."""

    def __init__(self, ct: Volume, labelmap: Volume | None):
        from scipy import ndimage

        inside, affine = thinned(
            labelmap.data > 0 if labelmap is not None else ct.data > BONE_HU, ct.affine
        )
        if not inside.any() or inside.all():
            by = "by its labelmap" if labelmap is not None else f"by its voxels above {BONE_HU} HU"
            raise InputError(
                ct.path,
                f"is {('all' if inside.any() else 'no')} bone {by}",
                "a bone and its surroundings",
                "take the scan out of the folder",
            )
        ct = replace(ct, data=inside, affine=affine)
        depth, height = (
            ndimage.distance_transform_edt(part, sampling=ct.spacing_mm).astype(np.float32)
            for part in (inside, ~inside)
        )
        half_voxel = np.float32(
            ct.spacing_mm.mean() / 2
        )  # the surface lies between two voxel centres
        self.distance = replace(
            ct,
            data=np.clip(
                np.where(inside, depth - half_voxel, half_voxel - height), -SHAPE_MM, SHAPE_MM
            ),
        )
        self.near = replace(ct, data=(height <= MARGIN_MM).astype(np.uint8))
        self.centre_mm = self._moments(inside, ct.affine)
        self.surface = inside & ~ndimage.binary_erosion(inside, border_value=1)

    def _moments(self, inside: np.ndarray, affine: np.ndarray) -> np.ndarray:
        index = np.argwhere(inside)
        points = apply(affine, index[:: 1 + len(index) // 20_000])
        axes = np.linalg.eigh(np.cov(points.T))[1][:, ::-1]
        self.principal_axes = axes * [
            1,
            1,
            np.linalg.det(axes),
        ]  # columns, widest first, right-handed
        return points.mean(0)

    def at(self, spacing_mm: float) -> Level:
        """The shape at about ``spacing_mm``; never finer than the scan. Distances are smooth, so no filter is needed."""
        fine, spacing = self.distance.spacing_mm, np.maximum(self.distance.spacing_mm, spacing_mm)
        shape = np.maximum(
            1 + np.floor((np.array(self.distance.shape) - 1) * fine / spacing), 2
        ).astype(int)
        affine = self.distance.affine @ np.diag([*(spacing / fine), 1])
        distance = resampling.resample(self.distance, tuple(shape), affine, outside=-SHAPE_MM)
        return Level(
            distance, resampling.resample(self.near, tuple(shape), affine, nearest=True).data > 0
        )


def thinned(inside: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mask and its affine with blocks of voxels as one, by majority, where there are more than `MOST_VOXELS`: distances take some 50 bytes a voxel."""
    factor = int(np.ceil((inside.size / MOST_VOXELS) ** (1 / 3)))
    if factor == 1:
        return inside, affine
    shape = [n // factor for n in inside.shape]
    part = inside[tuple(slice(n * factor) for n in shape)]
    majority = (
        part.reshape([m for n in shape for m in (n, factor)]).mean(axis=(1, 3, 5), dtype=np.float32)
        >= 0.5
    )
    coarse = np.diag([factor] * 3 + [1.0])
    coarse[:3, 3] = (factor - 1) / 2
    return majority, affine @ coarse


def align(reference: Bone, moving: Bone) -> Alignment:
    """Rigid transform that lays ``moving`` on ``reference``: search of the start, then refinement in up to three resolutions.

    Deterministic: a fixed seed, and one thread, so that sums have one order.
    """
    finest = max(FINEST_MM, reference.distance.spacing_mm.min(), moving.distance.spacing_mm.min())
    sizes = [mm for mm in LEVELS_MM if mm > finest] or LEVELS_MM[:1]
    levels = [(reference.at(mm), moving.at(mm)) for mm in (*sizes, finest)]
    starts = [
        refine(start, *levels[0], reference.centre_mm)
        for start in search_starts(reference, moving, *levels[0])
    ]
    best = max(starts, key=lambda transform: _score(transform, *levels[0]))
    for level in levels[1:]:
        best = refine(best, *level, reference.centre_mm)
    shift = float(np.linalg.norm(apply(best, reference.centre_mm) - reference.centre_mm))
    return Alignment(
        best,
        shift,
        *measure_fit(best, *levels[-1]),
        measure_surface_distance(best, reference, moving),
    )


def search_starts(reference: Bone, moving: Bone, fixed: Level, other: Level) -> list[np.ndarray]:
    """The `STARTS` best of some thousand candidates moving_from_reference, best first.

    Rotations: up to 30 degrees either way about each axis from the scans' own orientation, and the 24 ways to lay one bone's principal axes on the
    other's. Translations: centre on centre, then shifted along the bone's long axis, since scans end at different heights of the shaft.
    """
    angles = np.radians([-30, -15, 0, 15, 30])
    rotations = [
        rotation_matrix([0, 0, c]) @ rotation_matrix([0, b, 0]) @ rotation_matrix([a, 0, 0])
        for a, b, c in itertools.product(angles, repeat=3)
    ]
    rotations += [
        moving.principal_axes @ cube @ reference.principal_axes.T for cube in _cube_rotations()
    ]
    candidates = []
    for rotation, step in itertools.product(rotations, (0, -45, -30, -15, 15, 30, 45)):
        turn = np.eye(4)
        turn[:3, :3] = rotation
        candidates.append(
            translation(moving.centre_mm + step * moving.principal_axes[:, 0])
            @ turn
            @ translation(-reference.centre_mm)
        )
    every = 1 + len(fixed.points_mm) // 1000
    candidates.sort(key=lambda candidate: -_score(candidate, fixed, other, every))
    chosen: list[np.ndarray] = []
    for candidate in candidates:
        if all(_apart(candidate, earlier, reference.centre_mm) for earlier in chosen):
            chosen.append(candidate)
        if len(chosen) == STARTS:
            break
    return chosen


def _cube_rotations() -> list[np.ndarray]:
    """The 24 proper rotations that map the coordinate axes onto each other."""
    signed = [
        np.eye(3)[list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return [matrix for matrix in signed if np.linalg.det(matrix) > 0]


def _apart(a: np.ndarray, b: np.ndarray, centre_mm: np.ndarray) -> bool:
    """Whether two candidates differ enough for both to be refined."""
    return (
        rotation_angle_deg(a[:3, :3].T @ b[:3, :3]) > 25
        or np.linalg.norm(apply(a, centre_mm) - apply(b, centre_mm)) > 20
    )


def measure_fit(
    moving_from_reference: np.ndarray, fixed: Level, other: Level, every: int = 1
) -> tuple[float, float]:
    """Correlation over the reference's voxels near the bone that land inside the moving scan, and their share; a share below a tenth counts as no correlation."""
    from scipy import ndimage

    index = apply(invert(other.distance.affine) @ moving_from_reference, fixed.points_mm[::every])
    inside = ((index >= 0) & (index <= np.array(other.distance.shape) - 1)).all(1)
    share = float(inside.mean())
    if share < 0.1:
        return 0.0, share
    here = fixed.values[::every][inside]
    there = ndimage.map_coordinates(other.distance.data, index[inside].T, order=1, mode="nearest")
    here, there = here - here.mean(), there - there.mean()
    return float(here @ there / np.sqrt(max((here @ here) * (there @ there), 1e-6))), share


def _score(moving_from_reference: np.ndarray, fixed: Level, other: Level, every: int = 1) -> float:
    """What candidates are compared by: correlation, less for those that leave the scan."""
    correlation, share = measure_fit(moving_from_reference, fixed, other, every)
    return correlation * np.sqrt(share)


def refine(
    moving_from_reference: np.ndarray, fixed: Level, other: Level, centre_mm: np.ndarray
) -> np.ndarray:
    """The transform improved by gradient descent on the correlation at one resolution (SimpleITK)."""
    import SimpleITK as sitk

    start = RAS_FROM_LPS @ moving_from_reference @ RAS_FROM_LPS
    transform = sitk.Euler3DTransform()
    transform.SetCenter((RAS_FROM_LPS[:3, :3] @ centre_mm).tolist())
    transform.SetMatrix(start[:3, :3].ravel().tolist(), 1e-6)
    moved = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    transform.SetTranslation((start[:3, 3] - moved).tolist())

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(
        itk.to_sitk(replace(fixed.distance, data=fixed.near.astype(np.uint8)))
    )
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, SAMPLES / fixed.near.sum()), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    # 1 mm of translation weighs as much as the rotation that moves a point 40 mm off the centre by 1 mm
    method.SetOptimizerScales([40.0**2] * 3 + [1.0] * 3)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=float(fixed.distance.spacing_mm.max()),
        minStep=0.002,
        numberOfIterations=100,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-9,
    )
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(itk.to_sitk(fixed.distance), itk.to_sitk(other.distance))

    lps = np.eye(4)
    lps[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return RAS_FROM_LPS @ lps @ RAS_FROM_LPS


def measure_surface_distance(
    moving_from_reference: np.ndarray, reference: Bone, moving: Bone
) -> float:
    """Mean distance (mm) from the reference's bone surface, where it lies inside the moving scan, to the moving bone's; infinite where none does.

    Distances are compared voxel for voxel, so that a bone is 0 away from itself; they end at `SHAPE_MM`.
    """
    from scipy import ndimage

    voxels = np.argwhere(reference.surface)
    index = apply(
        invert(moving.distance.affine) @ moving_from_reference @ reference.distance.affine, voxels
    )
    inside = ((index >= 0) & (index <= np.array(moving.distance.shape) - 1)).all(1)
    if not inside.any():
        return float("inf")
    there = ndimage.map_coordinates(moving.distance.data, index[inside].T, order=1, mode="nearest")
    return float(np.abs(there - reference.distance.data[reference.surface][inside]).mean())
