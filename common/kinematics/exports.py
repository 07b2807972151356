"""Files of a movement for other tools, by the name of their format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from common import files
from common.errors import InputError
from common.kinematics import bids_motion, marker_files, pose_files
from common.kinematics.bone_poses import BonePoses, rate_hz
from common.kinematics.formats import EVEN, TIMED
from common.kinematics.storage_file import as_storage


@dataclass(frozen=True, eq=False)
class ModelVolume:
    """The voxels that a bone was registered with, for a model of Autoscoper."""

    affine: np.ndarray  # (4, 4)
    shape: tuple[int, ...]
    scanner_from_volume: np.ndarray  # (4, 4)


@dataclass(frozen=True, eq=False)
class Exported:
    """What the files hold; ``values`` are smoothed ones if the movement was smoothed."""

    poses: BonePoses
    values: np.ndarray  # (N, 6) joint coordinates
    quantities: tuple[str, ...]
    subject: str
    task: str
    volumes: tuple[ModelVolume, ModelVolume] | None = None  # for tra


def file_names(form: str, bones: Sequence[str], subject: str, task: str) -> list[PurePosixPath]:
    """Return the files of a format, relative to the output folder."""
    if form == "bids":
        return ["bids" / path for path in bids_motion.paths(subject, task).values()]
    names = {
        "csv": ["poses.csv"],
        "json": ["poses.json"],
        "mot": ["kinematics.mot"],
        "sto": ["kinematics.sto"],
        "trc": ["bones.trc"],
        "c3d": ["bones.c3d"],
        "xmalab": ["rigid_bodies.csv"],
        "tra": [f"{bone}.tra" for bone in bones],
        "jts": [f"{bone}.jts" for bone in bones],
        "slicer": [f"{bones[1]}_motion.seq.mha"],
    }
    return [PurePosixPath(name) for name in names[form]]


def check(form: str, subject: str, task: str, times: np.ndarray | None) -> None:
    """Raise InputError if a format cannot be written: no times, no library, a wrong label."""
    if form in TIMED and times is None:
        raise InputError(
            "format", f"no times of the frames, for {form}", "`fps` or `time`", "add one of them"
        )
    if form in EVEN:
        rate_hz(times, form)
    if form == "c3d":
        marker_files.check_c3d()
    if form == "bids":
        bids_motion.check_label("subject", subject)
        bids_motion.check_label("task", task)


def as_files(form: str, exported: Exported) -> dict[PurePosixPath, str]:
    """Return the texts of a format by their path; c3d, which is not text, has `write_c3d`."""
    poses = exported.poses
    names = file_names(form, poses.bones, exported.subject, exported.task)
    match form:
        case "csv":
            texts = [pose_files.as_table(poses)]
        case "json":
            texts = [files.as_json(pose_files.as_content(poses))]
        case "mot" | "sto" if poses.times is not None:
            texts = [as_storage("kinematics", poses.times, exported.values, exported.quantities)]
        case "trc":
            texts = [marker_files.as_trc(names[0].name, poses)]
        case "xmalab":
            texts = [pose_files.as_xmalab(poses)]
        case "tra" if exported.volumes is not None:
            texts = [
                pose_files.as_autoscoper(
                    poses, which, volume.affine, volume.shape, volume.scanner_from_volume
                )
                for which, volume in enumerate(exported.volumes)
            ]
        case "jts":
            texts = [pose_files.as_jointtrack(poses, which) for which in range(2)]
        case "slicer":
            texts = [pose_files.as_slicer_sequence(poses)]
        case "bids":
            found = bids_motion.as_texts(
                exported.values,
                exported.quantities,
                poses.bones,
                rate_hz(poses.times, "bids"),
                exported.subject,
                exported.task,
            )
            return {"bids" / path: text for path, text in found.items()}
        case _:
            raise ValueError(f"format {form!r} lacks its times or volumes, or is unknown")
    return dict(zip(names, texts, strict=True))


def write(folder: Path, forms: Sequence[str], exported: Exported) -> None:
    """Write the files of formats into a folder, whose folders exist. Raises as `as_files`."""
    texts = {
        path: text
        for form in forms
        if form != "c3d"
        for path, text in as_files(form, exported).items()
    }
    for path, text in texts.items():
        files.write_text(folder / path, text)
    if "c3d" in forms:
        marker_files.write_c3d(folder / "bones.c3d", exported.poses)
