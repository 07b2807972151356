"""A parametric phantom of both knees: CT in Hounsfield units, labelmap and known truth, made from a seed.

Bones are smooth unions of ellipsoids and tapered capsules, given as approximate signed distances (millimetres, negative inside) in the *knee
frame*: lateral, anterior, superior, origin at the middle of the joint. The left knee is the right one's mirror image in another pose, so that a
mirrored right bone fits the left one exactly after a rigid motion, and both differ from patient to patient. Lengths follow an average adult knee
(epicondylar width 80 mm, tibial plateau 75 x 50 mm) and are round numbers, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.geometry import apply, invert, rotation_matrix, translation
from common.volume.lineage import Lineage
from common.volume.volume import Volume

LABELS = {
    "tibia right": 1,
    "tibia left": 2,
    "femur right": 3,
    "femur left": 4,
    "fibula right": 5,
    "fibula left": 6,
    "patella right": 7,
    "patella left": 8,
}
AXES = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1, 1]),
    "LAS": np.diag([-1.0, 1, 1]),  # left-handed
    "PIR": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),  # sagittal slices
}
AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -100.0, 55.0
NOISE_HU = 12.0
FIELD_MM = np.array([[-165.0, -85, -125], [165, 80, 140]])  # of a patient of scale 1, both knees


@dataclass(frozen=True)
class Shape:
    """One patient's knee: ellipsoids {name: (centre, radii)}, tapered capsules {name: (start, stop, radius at start, radius at stop)}, millimetres in the knee frame.

    ``size`` is his size along the three axes relative to the average.
    """

    ellipsoids: dict[str, tuple[np.ndarray, np.ndarray]]
    capsules: dict[str, tuple[np.ndarray, np.ndarray, float, float]]
    size: np.ndarray


ELLIPSOIDS = {
    "femur medial condyle": ((-23, -9, 25), (14, 30, 24)),
    "femur lateral condyle": ((23, -5, 23.5), (13, 28, 22)),
    "femur epicondyles": ((0, 0, 38), (39, 22, 18)),
    "femur adductor tubercle": ((-32, -8, 46), (8, 9, 10)),
    "femur trochlea lateral": ((16, 20, 36), (13, 11, 18)),
    "femur trochlea medial": ((-14, 17, 33), (12, 10, 15)),
    "tibia medial plateau": ((-20, -5, -16), (23, 26, 13)),
    "tibia lateral plateau": ((20, -3, -14), (20, 21, 11)),
    "tibia medial spine": ((-5, -2, -5), (4, 7, 6)),
    "tibia lateral spine": ((5, 0, -5.5), (4, 5, 5)),
    "tibia tuberosity": ((5, 24, -42), (9, 9, 15)),
    "fibula head": ((39, -19, -27), (9, 10, 12)),
    "patella body": ((3, 43, 34), (21, 9, 20)),
    "patella apex": ((1, 42, 16), (8, 6, 9)),
}
CAPSULES = {
    "femur metaphysis": ((0, -2, 48), (3, 4, 95), 25, 16),
    "femur shaft": ((3, 4, 95), (10, 8, 260), 16, 14),
    "tibia metaphysis": ((0, -3, -36), (1, -3, -75), 26, 16),
    "tibia shaft": ((1, -3, -75), (-2, -6, -260), 15, 11),
    "tibia crest": ((4, 16, -45), (1, 4, -240), 9, 6),
    "fibula shaft": ((39, -19, -32), (33, -16, -250), 5.5, 6.5),
}
BONES = ("femur", "tibia", "fibula", "patella")


@dataclass(frozen=True)
class Phantom:
    """CT (int16, HU), labelmap (uint8) on the same grid, and the truth as written to ``truth.json``."""

    ct: Volume
    segmentation: Volume
    truth: dict


def sample_shape(rng: np.random.Generator, variation: float = 1.0) -> Shape:
    """One patient's shape: overall size by 6 %, each direction by 3 %, each part's size by 4 % and place by 0.8 mm (standard deviations, times ``variation``)."""
    size = 1 + variation * (0.06 * rng.uniform(-1.7, 1.7) + 0.03 * rng.normal(size=3))
    ellipsoids, capsules = {}, {}
    for name, (centre, radii) in ELLIPSOIDS.items():
        ellipsoids[name] = (
            size * centre + variation * rng.normal(0, 0.8, 3),
            size * radii * (1 + variation * rng.normal(0, 0.04, 3)),
        )
    bow = variation * rng.normal(0, 4, 3) * [1, 1, 0]
    for name, (start, stop, r0, r1) in CAPSULES.items():
        girth = np.sqrt(size[0] * size[1])
        end = size * stop + (bow if "shaft" in name or "crest" in name else 0)
        capsules[name] = (size * start, end, girth * r0, girth * r1)
    return Shape(ellipsoids, capsules, size)


def bone_distance(shape: Shape, bone: str, points: np.ndarray) -> np.ndarray:
    """Approximate signed distance (...,) in millimetres of points (..., 3) in the knee frame to a bone's surface, negative inside."""
    parts = [
        _ellipsoid(points, *part)
        for name, part in shape.ellipsoids.items()
        if name.startswith(bone)
    ]
    parts += [
        _capsule(points, *part) for name, part in shape.capsules.items() if name.startswith(bone)
    ]
    distance = parts[0]
    for part in parts[1:]:
        distance = _smooth_union(distance, part, 5.0)
    if (
        bone == "femur"
    ):  # the notch between the condyles, open to the back, and the patella's groove in front
        notch = _ellipsoid(points, np.array([0.0, -22, 8]), np.array([9.0, 26, 22]))
        groove = _ellipsoid(points, np.array([2.0, 36, 28]), np.array([10.0, 10, 40]))
        distance = -_smooth_union(-distance, _smooth_union(notch, groove, 3.0), 3.0)
    return distance


def _ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """First-order distance to an ellipsoid: f (f - 1) / |grad|, with f = |p / r|."""
    scaled = (points - np.float32(centre)) / np.float32(radii)
    f = np.sqrt(np.einsum("...i,...i->...", scaled, scaled))
    scaled /= np.float32(radii)
    return f * (f - 1) / np.sqrt(np.einsum("...i,...i->...", scaled, scaled) + np.float32(1e-12))


def _capsule(
    points: np.ndarray, start: np.ndarray, stop: np.ndarray, r0: float, r1: float
) -> np.ndarray:
    """Distance to a segment less a radius that runs from r0 to r1."""
    axis = np.float32(stop - start)
    offset = points - np.float32(start)
    along = np.clip(offset @ axis / np.dot(axis, axis), 0, 1)
    offset -= along[..., None] * axis
    return (
        np.sqrt(np.einsum("...i,...i->...", offset, offset))
        - np.float32(r0)
        - along * np.float32(r1 - r0)
    )


def _smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Union of two distances with a fillet of about ``blend_mm`` (polynomial smooth minimum)."""
    h = np.clip(0.5 + (b - a) / np.float32(2 * blend_mm), 0, 1)
    return b + (a - b) * h - np.float32(blend_mm) * h * (1 - h)


def bone_hu(distance: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Hounsfield units inside a bone: a cortical shell, thin at the joint and thick at the shaft, around trabecular bone that gives way to fatty marrow."""
    away = np.clip(
        (np.abs(points[..., 2] - np.float32(5)) - 40) / 60, 0, 1
    )  # 0 at the joint, 1 in the shaft
    depth = -distance
    core = np.clip(depth - (1.2 + 3.3 * away) + 0.5, 0, 1)
    texture = (
        np.sin(points[..., 0] / 5) * np.sin(points[..., 1] / 6 + 1) * np.sin(points[..., 2] / 7 + 2)
    )
    trabecular = (320 + 90 * texture) * (1 - away) - 40 * away
    cortical = 800 + 700 * away
    return cortical + (trabecular - cortical) * core


def make(
    seed: int = 0,
    spacing_mm: float | tuple[float, float, float] = 1.5,
    axes: str = "RAS",
    tilt_deg: float = 0.0,
    variation: float = 1.0,
) -> Phantom:
    """One patient's CT, labelmap and truth; the same seed gives the same patient on any grid.

    ``spacing_mm`` is along the file's three axes, ``axes`` their nearest patient directions (one of `AXES`), ``tilt_deg`` turns the grid away from
    them; ``variation`` scales the differences between patients.
    """
    rng = np.random.default_rng([seed, 11])
    shape = sample_shape(rng, variation)
    poses = {side: _sample_poses(rng, side, shape, variation) for side in ("right", "left")}
    field = FIELD_MM + rng.uniform(-8, 8, (2, 3)) * [[0, 0, 1], [0, 0, 1]]
    affine, grid = _grid(
        field,
        np.broadcast_to(spacing_mm, 3),
        AXES[axes] @ rotation_matrix(np.radians(tilt_deg) * np.array([0.48, 0.6, 0.64])),
        rng,
    )

    hu = np.full(grid, AIR_HU, np.float32)
    labels = np.zeros(grid, np.uint8)
    for side, bones in poses.items():
        _paint_leg(hu, affine, bones["femur"], shape.size)
        for bone in BONES:
            _paint_bone(hu, labels, affine, bones[bone], shape, bone, LABELS[f"{bone} {side}"])
    noise = np.random.default_rng([seed, 12])
    for plane in hu:  # by planes, to keep memory small
        plane += noise.normal(0, NOISE_HU, plane.shape).astype(np.float32)
    islands = _add_islands(labels, np.random.default_rng([seed, 13]))

    truth = {
        "schema": "phantom-truth/1",
        "seed": seed,
        "frame": "RAS millimetres of the CT",
        "labels": LABELS,
        "scanner_from_knee": {
            f"{bone} {side}": pose.tolist()
            for side, bones in poses.items()
            for bone, pose in bones.items()
        },
        "landmarks": {
            f"{bone} {side}": {
                name: apply(pose, point).tolist() for name, point in landmarks(shape, bone).items()
            }
            for side, bones in poses.items()
            for bone, pose in bones.items()
        },
        "islands": islands,
    }
    source = {"name": f"phantom {seed}", "sha256": ""}
    return Phantom(
        Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), affine, Lineage(source=source)),
        Volume(labels, affine, Lineage(source=source)),
        truth,
    )


def landmarks(shape: Shape, bone: str) -> dict[str, np.ndarray]:
    """Named points of a bone in the knee frame: the centres of its rounded parts and a point on the shaft's axis."""
    points = {
        name.removeprefix(bone + " "): centre
        for name, (centre, _) in shape.ellipsoids.items()
        if name.startswith(bone)
    }
    shaft = shape.capsules.get(f"{bone} shaft")
    return points if shaft is None else {**points, "shaft": shaft[0]}


def _sample_poses(
    rng: np.random.Generator, side: str, shape: Shape, variation: float
) -> dict[str, np.ndarray]:
    """scanner_from_knee of each bone; determinant -1 on the left. Tibia and fibula flex and turn about the joint."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix(np.radians(variation * rng.normal(0, [3, 2, 4])))
    pose[:3, 3] = [82.0, 0, 0] + variation * rng.normal(0, [4, 5, 5])
    flexion = np.eye(4)
    flexion[:3, :3] = rotation_matrix(
        np.radians(variation * np.array([-rng.uniform(0, 12), rng.normal(0, 1), rng.normal(0, 3)]))
    )
    centre = (
        shape.ellipsoids["femur medial condyle"][0] + shape.ellipsoids["femur lateral condyle"][0]
    ) / 2
    shank = pose @ translation(centre) @ flexion @ translation(-centre)
    mirror = np.diag([1.0 if side == "right" else -1.0, 1, 1, 1])
    return {
        "femur": mirror @ pose,
        "tibia": mirror @ shank,
        "fibula": mirror @ shank,
        "patella": mirror @ pose,
    }


def _grid(
    field_mm: np.ndarray, spacing: np.ndarray, directions: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (rounded to what NIfTI's 32-bit floats hold) and shape of a grid along ``directions`` (columns), about as large as the field."""
    extent = np.abs(directions.round()).T @ (field_mm[1] - field_mm[0])
    grid = tuple(int(n) for n in np.ceil(extent / spacing))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (
        field_mm.mean(0) + rng.uniform(-1, 1, 3) - affine[:3, :3] @ ((np.array(grid) - 1) / 2)
    )
    return affine.astype(np.float32).astype(float), grid


def _local_box(
    affine: np.ndarray,
    grid: tuple[int, ...],
    knee_pose: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """The part of the grid that holds a box of the knee frame, and its voxels' knee-frame positions (..., 3), float32."""
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    index = apply(invert(affine) @ knee_pose, corners)
    start = np.clip(np.floor(index.min(0)).astype(int), 0, grid)
    stop = np.clip(np.ceil(index.max(0)).astype(int) + 1, 0, grid)
    knee_from_index = (invert(knee_pose) @ affine).astype(np.float32)
    along = [
        np.arange(a, b, dtype=np.float32)[:, None] * knee_from_index[:3, axis]
        for axis, (a, b) in enumerate(zip(start, stop, strict=True))
    ]
    points = (
        along[0][:, None, None]
        + along[1][None, :, None]
        + along[2][None, None, :]
        + knee_from_index[:3, 3]
    )
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True)), points


def _paint_leg(hu: np.ndarray, affine: np.ndarray, pose: np.ndarray, size: np.ndarray) -> None:
    """Muscle in a layer of fat: an elliptic column, waisted at the joint and fuller around the thigh."""
    blur = np.float32(np.linalg.norm(affine[:3, :3], axis=0).mean())
    box, points = _local_box(
        affine, hu.shape, pose, np.array([-100.0, -100, -300]), np.array([100.0, 100, 300])
    )
    height = points[..., 2]
    girth = 1 + 0.12 * np.tanh((height - 40) / 50) - 0.04 * np.tanh((height + 60) / 40)
    radius = np.hypot(
        points[..., 0] / np.float32(62 * size[0]), (points[..., 1] + 2) / np.float32(66 * size[1])
    )
    skin = (radius - girth) * 60
    muscle = skin + 9
    tissue = FAT_HU + (MUSCLE_HU - FAT_HU) * np.clip(0.5 - muscle / blur, 0, 1)
    part = hu[box]
    np.maximum(part, AIR_HU + (tissue - AIR_HU) * np.clip(0.5 - skin / blur, 0, 1), out=part)


def _paint_bone(
    hu: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    pose: np.ndarray,
    shape: Shape,
    bone: str,
    label: int,
) -> None:
    """Put a bone into the CT, its surface softened over one voxel, and its voxels into the labelmap."""
    boxes = [
        (centre - radii, centre + radii)
        for name, (centre, radii) in shape.ellipsoids.items()
        if name.startswith(bone)
    ]
    boxes += [
        (np.minimum(a, b) - max(r0, r1), np.maximum(a, b) + max(r0, r1))
        for name, (a, b, r0, r1) in shape.capsules.items()
        if name.startswith(bone)
    ]
    low, high = np.min([box[0] for box in boxes], 0), np.max([box[1] for box in boxes], 0)
    box, points = _local_box(affine, hu.shape, pose, low - 4, high + 4)
    distance = bone_distance(shape, bone, points)
    blur = np.float32(np.linalg.norm(affine[:3, :3], axis=0).mean())
    part = hu[box]
    part += (bone_hu(distance, points) - part) * np.clip(0.5 - distance / blur, 0, 1)
    labels[box][distance < 0] = label


def _add_islands(
    labels: np.ndarray, rng: np.random.Generator, each: int = 3
) -> dict[str, dict[str, int]]:
    """Scatter small cuboids of every label well away from everything; returns how many and how many voxels, by label."""
    islands = {}
    for label in LABELS.values():
        counted = {"islands": 0, "voxels": 0}
        while counted["islands"] < each:
            size = rng.integers(1, 4, 3)
            corner = np.array([rng.integers(3, n - 7) for n in labels.shape])
            if labels[
                tuple(slice(c - 3, c + s + 3) for c, s in zip(corner, size, strict=True))
            ].any():
                continue
            labels[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = label
            counted = {
                "islands": counted["islands"] + 1,
                "voxels": counted["voxels"] + int(size.prod()),
            }
        islands[str(label)] = counted
    return islands


def cohort_member(number: int, seed: int, spacing_mm: float) -> Phantom:
    """Patient ``number`` (from 0) of a cohort: his own shape, pose, voxel size and orientation of the file."""
    rng = np.random.default_rng([seed, number, 21])
    axes = list(AXES)[(number + 1) % len(AXES)]
    spacing = spacing_mm * np.array([1, 1, 1.0 if number % 2 else 1.4])
    return make(
        seed=1000 * seed + number,
        spacing_mm=tuple(spacing),
        axes=axes,
        tilt_deg=float(rng.uniform(-6, 6)) if number % 3 == 1 else 0.0,
    )


def write(phantom: Phantom, folder: Path, name: str) -> list[Path]:
    """Write ``NAME_ct.nii.gz``, ``segmentations/NAME_seg.nii.gz`` and ``truth.json``; no lineage: these stand for originals. Returns the paths."""
    import nibabel

    paths = files_of(folder, name)
    for path, volume in zip(paths, (phantom.ct, phantom.segmentation), strict=False):
        files.output_folder(path.parent)
        with files.atomic(path) as partial:
            nibabel.save(nibabel.Nifti1Image(volume.data, volume.affine), partial)
    files.write_json(paths[2], phantom.truth)
    return paths


def files_of(folder: Path, name: str) -> list[Path]:
    """The three files of a phantom patient: CT, labelmap, truth."""
    return [
        folder / f"{name}_ct.nii.gz",
        folder / "segmentations" / f"{name}_seg.nii.gz",
        folder / "truth.json",
    ]
