"""Poses of both bones as files of other tools; the layouts are in docs/motion_files.md.

Every function returns the text of one file. Frames without a pose are NaN, or left out where the
format has no such value, as stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import files, geometry
from common.kinematics.bone_poses import UPRIGHT_FROM_CAMERA, BonePoses
from common.version import VERSION

SCHEMA = "bone-poses/1"
# names of a 4x4 matrix in a row of XMALab's table: column by column
XMALAB_NAMES = (
    "R11", "R12", "R13", "01", "R21", "R22", "R23", "02", "R31", "R32", "R33", "03",
    "TX", "TY", "TZ", "1",
)  # fmt: skip
JOINTTRACK_HEADER = (
    "JT_EULER_312\n"
    "          x_tran,          y_tran,          z_tran,"
    "                   z_rot,           x_rot,           y_rot\n"
)


def as_table(poses: BonePoses) -> str:
    """Return a CSV table: frame, time_s, world_from_frame of both bones row by row."""
    cells = [f"{row}{column}" for row in range(1, 5) for column in range(1, 5)]
    rows = []
    for number, name in enumerate(poses.names):
        time = "" if poses.times is None else f"{poses.times[number]:.6f}"
        row: dict[str, Any] = {"frame": name, "time_s": time}
        for bone, matrix in zip(poses.bones, poses.world_from_frame[number], strict=True):
            numbers = [f"{x:.9g}" if np.isfinite(x) else "" for x in matrix.ravel()]
            row |= dict(zip([f"{bone}_{cell}" for cell in cells], numbers, strict=True))
        rows.append(row)
    return files.as_csv(rows)


def as_content(poses: BonePoses) -> dict[str, Any]:
    """Return the poses as JSON: matrices (4x4) by frame and bone, null without a pose."""
    turn = "world of the calibration" if poses.calibrated else (
        "first view's camera: x along image columns, y along rows downwards, z to the detector"
    )  # fmt: skip

    def matrix(found: np.ndarray) -> list | None:
        return found.tolist() if np.isfinite(found).all() else None

    return {
        "schema": SCHEMA,
        "world": f"mm; {turn}",
        "scanner": "RAS mm of the original CT",
        "frame": "anatomical: X anterior, Y proximal, Z to the subject's right, mm",
        "scanner_from_frame": {
            bone: place.tolist()
            for bone, place in zip(poses.bones, poses.scanner_from_frame, strict=True)
        },
        "frames": [
            {
                "frame": name,
                "time_s": None if poses.times is None else float(poses.times[number]),
                **{
                    bone: {
                        "world_from_frame": matrix(poses.world_from_frame[number, which]),
                        "world_from_scanner": matrix(poses.world_from_scanner[number, which]),
                    }
                    for which, bone in enumerate(poses.bones)
                },
            }
            for number, name in enumerate(poses.names)
        ],
        "versions": {"suite": VERSION},
    }


def as_xmalab(poses: BonePoses) -> str:
    """Return XMALab's table of rigid-body transformations (mm), world_from_scanner per bone.

    A header, then 16 numbers per bone, the matrix column by column as XMALab and Maya write it.
    """
    header = [f"{bone}_{name}" for bone in poses.bones for name in XMALAB_NAMES]
    columns = poses.world_from_scanner.transpose(0, 1, 3, 2).reshape(len(poses.names), -1)
    rows = [",".join(_number(x, "NaN") for x in row) for row in columns]
    return "\n".join([",".join(header), *rows]) + "\n"


def as_autoscoper(poses: BonePoses, which: int, affine: np.ndarray, shape: Sequence[int],
                  scanner_from_volume: np.ndarray) -> str:  # fmt: skip
    """Return the tracking file of one bone (.tra): world_from_model row by row, mm, commas.

    The model is the voxel stack of the registered volume, ``affine`` (4, 4) and ``shape`` (3,),
    with a page per slice. In Autoscoper x runs along columns, y against rows and z against pages;
    a stack that is left-handed in the body is read with VolumeFlip 1 0 0.
    """
    model = world_from_model(poses.world_from_scanner[:, which], affine, shape, scanner_from_volume)
    rows = [",".join(_number(x, "NaN", ".16f") for x in pose.ravel()) for pose in model]
    return "\n".join(rows) + "\n"


def world_from_model(
    world_from_scanner: np.ndarray,
    affine: np.ndarray,
    shape: Sequence[int],
    scanner_from_volume: np.ndarray,
) -> np.ndarray:
    """Return the poses (N, 4, 4) of Autoscoper's model of a volume, see `as_autoscoper`.

    A model's origin is the outer corner of the first column, last row and first page.
    """
    scanner_from_index = scanner_from_volume @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    index_from_model = np.eye(4)
    signs = np.array([1.0, -1.0, -1.0])
    if np.linalg.det(scanner_from_index[:3, :3]) < 0:
        signs[0] = -1.0
    index_from_model[:3, :3] = np.diag(signs / spacing)
    index_from_model[:3, 3] = np.where(signs > 0, -0.5, np.array(shape[:3]) - 0.5)
    index_from_model[2, 3] = -0.5
    return world_from_scanner @ scanner_from_index @ index_from_model


def as_jointtrack(poses: BonePoses, which: int) -> str:
    """Return the poses of one bone for JointTrack (.jts), a row per frame: mm and degrees.

    camera_from_scanner = [Rz Rx Ry | (x, y, z)] with x right and y up in the image and z towards
    the source; the model is in the frame of the original CT, or of the implant's file.
    """
    from scipy.spatial.transform import Rotation

    rows = []
    for pose in UPRIGHT_FROM_CAMERA @ poses.camera_from_scanner[:, which]:
        if np.isfinite(pose).all():
            angles = Rotation.from_matrix(pose[:3, :3]).as_euler("ZXY", degrees=True)
            numbers = [*pose[:3, 3], *angles]
        else:
            numbers = [np.nan] * 6
        rows.append(",".join(f"{x:16.9g}" for x in numbers) + "\n")
    return JOINTTRACK_HEADER + "".join(rows)


def as_slicer_sequence(poses: BonePoses) -> str:
    """Return a transform sequence for 3D Slicer (.seq.mha): the distal bone's motion, RAS mm.

    It moves the distal bone from its place in the original CT, while the proximal one stays there.
    A frame without a pose is marked INVALID. Without times, frames are a second apart.
    """
    name = f"{poses.bones[1]}To{poses.bones[0].capitalize()}"
    motions = geometry.invert(poses.world_from_scanner[:, 0]) @ poses.world_from_scanner[:, 1]
    times = np.arange(len(motions)) if poses.times is None else poses.times
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "AnatomicalOrientation = RAI",
        "BinaryData = True",
        "CompressedData = False",
        f"DimSize = 0 0 {len(motions)}",
        "ElementSpacing = 1 1 1",
        "Offset = 0 0 0",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "ElementType = MET_UCHAR",
        "Kinds = domain domain list",
    ]
    for number, (motion, time) in enumerate(zip(motions, times, strict=True)):
        known = np.isfinite(motion).all()
        values = " ".join(f"{x:.9g}" for x in (motion if known else np.eye(4)).ravel())
        frame = f"Seq_Frame{number:04d}"
        lines += [
            f"{frame}_{name}Transform = {values}",
            f"{frame}_{name}TransformStatus = {'OK' if known else 'INVALID'}",
            f"{frame}_Timestamp = {time:.6f}",
        ]
    return "\n".join([*lines, "ElementDataFile = LOCAL"]) + "\n"


def _number(value: float, missing: str, form: str = ".12g") -> str:
    return format(value, form) if np.isfinite(value) else missing
