"""A parametric phantom of both knees: CT, labelmap and ground truth, generated from a seed.

The left knee is the mirror image of the right one in another pose, so that a mirrored right bone
matches the left one exactly after a rigid motion. Both differ from patient to patient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.geometry import MIRROR, RAS_FROM_LPS, apply, rotation_matrix, translation
from common.synthetic.implant_shape import COMPONENTS, components
from common.synthetic.knee_shape import BONES, KneeShape, landmarks, sample_shape
from common.synthetic.painting import paint_bone, paint_leg
from common.volume.hounsfield import AIR_HU
from common.volume.lineage import Lineage
from common.volume.mesh import write_mesh
from common.volume.volume import Volume

SIDES = ("right", "left")
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
# directions of the axes of a file, columns in RAS
AXES = {
    "RAS": np.eye(3),
    "LPS": RAS_FROM_LPS[:3, :3],
    "LAS": MIRROR[:3, :3],  # left-handed
    "PIR": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),  # sagittal slices
}
TILT_AXIS = np.array([0.48, 0.6, 0.64])  # unit vector about which a tilted grid is rotated
NOISE_HU = 12.0
STORED_HU = (-1024, 3071)  # of a 12-bit scanner
BENT_MM = 25.0  # by which the columns of a bent thigh and shank overlap, on either side of the knee
# corners of the field of an average patient, both knees, RAS mm
FIELD_MM = np.array([[-165.0, -85, -125], [165, 80, 140]])

Poses = dict[str, dict[str, np.ndarray]]  # side: bone: scanner_from_knee, 4x4


@dataclass(frozen=True)
class Phantom:
    """CT (int16, HU), labelmap (uint8) on the same grid, and the content of ``truth.json``."""

    ct: Volume
    segmentation: Volume
    truth: dict[str, Any]
    # of each component of a knee replacement on the right: vertices (V, 3), RAS mm, and triangles
    implant: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def make(
    seed: int = 0,
    spacing_mm: float | tuple[float, float, float] = 1.5,
    axes: str = "RAS",
    tilt_deg: float = 0.0,
    variation: float = 1.0,
    posture: int = 0,
    flexion_deg: float | None = None,
    implant: bool = False,
    bent: bool = False,
) -> Phantom:
    """Return one patient; the same seed gives the same patient on every grid.

    ``spacing_mm`` is the voxel spacing along the three axes of the file, ``axes`` are the patient
    directions closest to them (one of `AXES`), and ``tilt_deg`` rotates the grid away from these.
    ``variation`` scales the differences between patients. Another ``posture`` is the same patient
    with the bones in other poses, and ``flexion_deg`` is that of both knees, at random if None.
    With ``implant``, there are surfaces of a knee replacement that fits the right knee; the CT is
    that of the knee before. With ``bent``, the soft tissue below the knee follows the shank, as it
    has to for more than about 15 degrees of flexion; without it, the leg is straight.
    """
    rng = np.random.default_rng([seed, 11])
    shape = sample_shape(rng, variation)
    if posture:
        rng = np.random.default_rng([seed, 14, posture])
    poses = {side: _sample_poses(rng, side, shape, variation, flexion_deg) for side in SIDES}
    field = FIELD_MM + rng.uniform(-8, 8, (2, 3)) * [[0, 0, 1], [0, 0, 1]]
    directions = AXES[axes] @ rotation_matrix(np.radians(tilt_deg) * TILT_AXIS)
    affine, grid = _grid(field, np.broadcast_to(spacing_mm, 3), directions, rng)

    hu = np.full(grid, AIR_HU, np.float32)
    labels = np.zeros(grid, np.uint8)
    for side, bones in poses.items():
        thigh = (-BENT_MM, np.inf) if bent else (-np.inf, np.inf)
        paint_leg(hu, affine, bones["femur"], shape.size, thigh)
        if bent:
            paint_leg(hu, affine, bones["tibia"], shape.size, (-np.inf, BENT_MM))
        for bone in BONES:
            label = LABELS[f"{bone} {side}"]
            paint_bone(hu, labels, affine, bones[bone], shape, bone, label)
    noise = np.random.default_rng([seed, 12])
    for plane in hu:  # by planes, to keep memory small
        plane += noise.normal(0, NOISE_HU, plane.shape).astype(np.float32)
    islands = _add_islands(labels, np.random.default_rng([seed, 13]))

    lineage = Lineage(source={"name": f"phantom {seed}", "sha256": ""})
    ct = Volume(np.clip(np.rint(hu), *STORED_HU).astype(np.int16), affine, lineage)
    truth = _truth(seed, shape, poses, islands)
    placed = _placed_implant(shape, poses["right"]) if implant else {}
    return Phantom(ct, Volume(labels, affine, lineage), truth, placed)


def _placed_implant(
    shape: KneeShape, bones: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the components of `implant_shape` on femur and tibia, in the frame of the CT."""
    made = components(shape)
    poses = dict(zip(COMPONENTS, (bones["femur"], bones["tibia"]), strict=True))
    return {name: (apply(poses[name], made[name][0]), made[name][1]) for name in COMPONENTS}


def _truth(
    seed: int, shape: KneeShape, poses: Poses, islands: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Return the content of ``truth.json``."""
    named = {
        f"{bone} {side}": (bone, pose)
        for side, bones in poses.items()
        for bone, pose in bones.items()
    }
    return {
        "schema": "phantom-truth/1",
        "seed": seed,
        "frame": "RAS millimetres of the CT",
        "labels": LABELS,
        "scanner_from_knee": {name: pose.tolist() for name, (_, pose) in named.items()},
        "landmarks": {
            name: {
                landmark: apply(pose, point).tolist()
                for landmark, point in landmarks(shape, bone).items()
            }
            for name, (bone, pose) in named.items()
        },
        "islands": islands,
    }


def _sample_poses(
    rng: np.random.Generator,
    side: str,
    shape: KneeShape,
    variation: float,
    flexion_deg: float | None,
) -> dict[str, np.ndarray]:
    """Return scanner_from_knee (4x4) of each bone, with determinant -1 on the left.

    Tibia and fibula are flexed and rotated about the joint.
    """
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix(np.radians(variation * rng.normal(0, [3, 2, 4])))
    pose[:3, 3] = [82.0, 0, 0] + variation * rng.normal(0, [4, 5, 5])
    angles = variation * np.array([-rng.uniform(0, 12), rng.normal(0, 1), rng.normal(0, 3)])
    if flexion_deg is not None:
        angles[0] = -flexion_deg
    flexion = np.eye(4)
    flexion[:3, :3] = rotation_matrix(np.radians(angles))
    condyles = [shape.ellipsoids[f"femur {name} condyle"][0] for name in ("medial", "lateral")]
    centre = (condyles[0] + condyles[1]) / 2
    shank = pose @ translation(centre) @ flexion @ translation(-centre)
    mirror = MIRROR if side == "left" else np.eye(4)
    return {
        "femur": mirror @ pose,
        "tibia": mirror @ shank,
        "fibula": mirror @ shank,
        "patella": mirror @ pose,
    }


def _grid(
    field_mm: np.ndarray, spacing: np.ndarray, directions: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return affine and shape of a grid along ``directions`` (columns) that covers the field.

    The affine is rounded to the 32-bit floats that NIfTI stores.
    """
    extent = np.abs(directions.round()).T @ (field_mm[1] - field_mm[0])
    i, j, k = (int(n) for n in np.ceil(extent / spacing))
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (
        field_mm.mean(0) + rng.uniform(-1, 1, 3) - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    )
    return affine.astype(np.float32).astype(float), (i, j, k)


def _add_islands(
    labels: np.ndarray, rng: np.random.Generator, each: int = 3
) -> dict[str, dict[str, int]]:
    """Add ``each`` small cuboids of every label, away from all labels, in place.

    Returns the numbers of "islands" and "voxels" added, by label.
    """
    islands = {}
    for label in LABELS.values():
        count = voxels = 0
        while count < each:
            size = rng.integers(1, 4, 3)
            corner = np.array([rng.integers(3, n - 7) for n in labels.shape])
            around = tuple(slice(c - 3, c + s + 3) for c, s in zip(corner, size, strict=True))
            if labels[around].any():
                continue
            labels[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = label
            count, voxels = count + 1, voxels + int(size.prod())
        islands[str(label)] = {"islands": count, "voxels": voxels}
    return islands


def cohort_member(number: int, seed: int, spacing_mm: float, implant: bool = False) -> Phantom:
    """Return patient ``number`` (from 0) of a cohort.

    Every patient has a different shape, pose, voxel spacing and file orientation; every second one
    has slices 1.4 times as thick.
    """
    rng = np.random.default_rng([seed, number, 21])
    axes = list(AXES)[(number + 1) % len(AXES)]
    return make(
        seed=1000 * seed + number,
        spacing_mm=(spacing_mm, spacing_mm, spacing_mm * (1.0 if number % 2 else 1.4)),
        axes=axes,
        tilt_deg=float(rng.uniform(-6, 6)) if number % 3 == 1 else 0.0,
        implant=implant,
    )


def write(phantom: Phantom, folder: Path, name: str) -> list[Path]:
    """Write the files of a patient, without lineage, as originals have none; return their paths."""
    import nibabel

    paths = files_of(folder, name, bool(phantom.implant))
    for path, volume in zip(paths[:2], (phantom.ct, phantom.segmentation), strict=True):
        files.output_folder(path.parent)
        with files.atomic(path) as partial:
            nibabel.save(nibabel.Nifti1Image(volume.data, volume.affine), partial)
    files.write_json(paths[2], phantom.truth)
    for path, surface in zip(paths[3:], phantom.implant.values(), strict=True):
        files.output_folder(path.parent)
        write_mesh(path, *surface)
    return paths


def files_of(folder: Path, name: str, implant: bool = False) -> list[Path]:
    """Return the paths of the CT, labelmap, truth and implant of a phantom patient."""
    return [
        folder / f"{name}_ct.nii.gz",
        folder / "segmentations" / f"{name}_seg.nii.gz",
        folder / "truth.json",
        *(folder / "implant" / f"{each}.stl" for each in COMPONENTS if implant),
    ]
