"""Rigid alignment of two CTs of the same kind of bone (3D/3D), by the shape of the bone. RAS mm.

A start is searched over many rotations and translations, and refined in up to three resolutions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from common.geometry import (
    RAS_FROM_LPS,
    apply,
    invert,
    rotation_angle_deg,
    rotation_matrix,
    translation,
)
from common.volume import itk
from common.volume.bone_shape import BoneShape, ShapeLevel

MIN_CORRELATION = 0.8
MIN_OVERLAP = 0.5
MAX_SURFACE_MM = 5.0
# voxel spacing of the first levels; the last level has that of the coarser CT, or `FINEST_MM`
LEVELS_MM = (4.0, 2.0)
FINEST_MM = 1.0

# the search: rotations about each axis, translations along the bone, candidates that are refined
SEARCH_DEG = (-30, -15, 0, 15, 30)
SEARCH_MM = (0, -45, -30, -15, 15, 30, 45)
STARTS = 5
# two candidates that differ by less are one
APART_DEG, APART_MM = 25, 20
LEAST_OVERLAP = 0.1  # below this fraction of the reference inside the moving CT, no correlation
SEARCH_POINTS = 1000  # voxels compared per candidate

# the refinement
SAMPLES = 15_000  # voxels compared per iteration
SEED = 1  # of ITK's jitter of the samples; 0 would mean the clock
ARM_MM = 40.0  # 1 mm of translation weighs as much as the rotation that moves a point here by 1 mm


@dataclass(frozen=True)
class Alignment:
    """Transform from the reference to the moving CT, with its quality measures."""

    moving_from_reference: np.ndarray  # 4x4, RAS mm
    shift_mm: float  # displacement of the centre of the reference bone
    # of the distances to the surface, near the reference bone and inside the moving CT
    correlation: float
    overlap: float  # fraction of the reference bone and its surroundings inside the moving CT
    surface_mm: float  # mean distance between the surfaces of the bones inside the moving CT

    @property
    def converged(self) -> bool:
        """Whether all quality measures are good enough."""
        return (
            self.correlation >= MIN_CORRELATION
            and self.overlap >= MIN_OVERLAP
            and self.surface_mm <= MAX_SURFACE_MM
        )

    def quality(self) -> dict[str, float | bool]:
        """Return the quality measures for the table and the lineage, rounded."""
        rotation = rotation_angle_deg(self.moving_from_reference[:3, :3])
        return {
            "correlation": round(self.correlation, 4),
            "overlap": round(self.overlap, 4),
            "surface_mm": round(self.surface_mm, 4),
            "rotation_deg": round(rotation, 4),
            "shift_mm": round(self.shift_mm, 4),
            "converged": self.converged,
        }


def align(reference: BoneShape, moving: BoneShape) -> Alignment:
    """Return the rigid transform that aligns ``moving`` with ``reference``.

    Deterministic: the seed is fixed, and one thread adds up in one order.
    """
    finest = max(FINEST_MM, reference.distance.spacing_mm.min(), moving.distance.spacing_mm.min())
    spacings = [mm for mm in LEVELS_MM if mm > finest] or LEVELS_MM[:1]
    levels = [(reference.at(mm), moving.at(mm)) for mm in (*spacings, finest)]
    refined = [
        refine_alignment(start, *levels[0], reference.centre_mm)
        for start in search_starts(reference, moving, *levels[0])
    ]
    best = max(refined, key=lambda transform: _score(transform, *levels[0]))
    for level in levels[1:]:
        best = refine_alignment(best, *level, reference.centre_mm)
    shift = float(np.linalg.norm(apply(best, reference.centre_mm) - reference.centre_mm))
    correlation, overlap = measure_fit(best, *levels[-1])
    surface_mm = measure_surface_distance(best, reference, moving)
    return Alignment(best, shift, correlation, overlap, surface_mm)


def search_starts(
    reference: BoneShape, moving: BoneShape, fixed: ShapeLevel, other: ShapeLevel
) -> list[np.ndarray]:
    """Return the `STARTS` best of about a thousand candidates moving_from_reference, best first.

    ``fixed`` and ``other`` are the levels of reference and moving CT at which they are compared.
    """
    every = 1 + len(fixed.points_mm) // SEARCH_POINTS
    candidates = sorted(
        _candidates(reference, moving),
        key=lambda candidate: -_score(candidate, fixed, other, every),
    )
    chosen: list[np.ndarray] = []
    for candidate in candidates:
        if all(_apart(candidate, earlier, reference.centre_mm) for earlier in chosen):
            chosen.append(candidate)
        if len(chosen) == STARTS:
            break
    return chosen


def _candidates(reference: BoneShape, moving: BoneShape) -> list[np.ndarray]:
    """Return all candidates moving_from_reference of the search.

    Rotations: up to 30 degrees in both directions about each axis, relative to the orientation of
    the CTs, and the 24 ways to match the principal axes of the bones. Translations: centre to
    centre, then along the bone's long axis, since CTs end at different heights of the shaft.
    """
    rotations = [
        rotation_matrix(np.array([0, 0, c]))
        @ rotation_matrix(np.array([0, b, 0]))
        @ rotation_matrix(np.array([a, 0, 0]))
        for a, b, c in itertools.product(np.radians(SEARCH_DEG), repeat=3)
    ]
    rotations += [
        moving.principal_axes @ cube @ reference.principal_axes.T for cube in cube_rotations()
    ]
    candidates = []
    for rotation, along in itertools.product(rotations, SEARCH_MM):
        rotated = np.eye(4)
        rotated[:3, :3] = rotation
        candidates.append(
            translation(moving.centre_mm + along * moving.principal_axes[:, 0])
            @ rotated
            @ translation(-reference.centre_mm)
        )
    return candidates


def cube_rotations() -> list[np.ndarray]:
    """Return the 24 rotations (3x3) that map the coordinate axes onto each other."""
    signed = [
        np.eye(3)[list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return [matrix for matrix in signed if np.linalg.det(matrix) > 0]


def _apart(a: np.ndarray, b: np.ndarray, centre_mm: np.ndarray) -> bool:
    """Return whether two candidates differ enough for both to be refined."""
    moved_mm = np.linalg.norm(apply(a, centre_mm) - apply(b, centre_mm))
    return bool(rotation_angle_deg(a[:3, :3].T @ b[:3, :3]) > APART_DEG or moved_mm > APART_MM)


def measure_fit(
    moving_from_reference: np.ndarray, fixed: ShapeLevel, other: ShapeLevel, every: int = 1
) -> tuple[float, float]:
    """Return correlation and fraction of the reference's voxels inside the moving CT.

    Every ``every``-th voxel near the reference bone is compared. The correlation is 0 if the
    fraction is below `LEAST_OVERLAP`.
    """
    from scipy import ndimage

    index = apply(invert(other.distance.affine) @ moving_from_reference, fixed.points_mm[::every])
    inside = ((index >= 0) & (index <= np.array(other.distance.shape) - 1)).all(1)
    overlap = float(inside.mean())
    if overlap < LEAST_OVERLAP:
        return 0.0, overlap
    here = fixed.values[::every][inside]
    there = ndimage.map_coordinates(other.distance.data, index[inside].T, order=1, mode="nearest")
    here, there = here - here.mean(), there - there.mean()
    return float(here @ there / np.sqrt(max((here @ here) * (there @ there), 1e-6))), overlap


def _score(
    moving_from_reference: np.ndarray, fixed: ShapeLevel, other: ShapeLevel, every: int = 1
) -> float:
    """Return the figure that ranks candidates: the correlation, lower for those outside the CT."""
    correlation, overlap = measure_fit(moving_from_reference, fixed, other, every)
    return correlation * np.sqrt(overlap)


def refine_alignment(
    moving_from_reference: np.ndarray, fixed: ShapeLevel, other: ShapeLevel, centre_mm: np.ndarray
) -> np.ndarray:
    """Return the transform after gradient descent on the correlation at one level (SimpleITK).

    Rotations are about ``centre_mm``, (3,), RAS mm in the reference frame.
    """
    import SimpleITK as sitk

    start = RAS_FROM_LPS @ moving_from_reference @ RAS_FROM_LPS
    transform = sitk.Euler3DTransform()
    transform.SetCenter((RAS_FROM_LPS[:3, :3] @ centre_mm).tolist())
    transform.SetMatrix(start[:3, :3].ravel().tolist(), 1e-6)
    moved = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    transform.SetTranslation((start[:3, 3] - moved).tolist())

    near = replace(fixed.distance, data=fixed.near.astype(np.uint8))
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(itk.to_sitk(near))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, SAMPLES / fixed.near.sum()), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerScales([ARM_MM**2] * 3 + [1.0] * 3)
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
    moving_from_reference: np.ndarray, reference: BoneShape, moving: BoneShape
) -> float:
    """Return the mean distance (mm) between the surfaces of the bones inside the moving CT.

    Infinite if no part of the reference's surface is inside. Distances are compared voxel by voxel,
    so that a bone is 0 away from itself; they are limited to `bone_shape.SHAPE_MM`.
    """
    from scipy import ndimage

    voxels = np.argwhere(reference.surface)
    index_from_reference = invert(moving.distance.affine) @ moving_from_reference
    index = apply(index_from_reference @ reference.distance.affine, voxels)
    inside = ((index >= 0) & (index <= np.array(moving.distance.shape) - 1)).all(1)
    if not inside.any():
        return float("inf")
    there = ndimage.map_coordinates(moving.distance.data, index[inside].T, order=1, mode="nearest")
    return float(np.abs(there - reference.distance.data[reference.surface][inside]).mean())
