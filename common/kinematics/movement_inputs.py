"""The results of a movement: found in folders, paired by frame, checked against the axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.kinematics.exports import ModelVolume
from common.kinematics.frame_file import AnatomicalFrame
from common.kinematics.movement import JointPose, joint_pose
from common.results import decisions, names, parameters_file
from common.results.folders import find_results
from common.results.result import Result
from common.volume.mesh import is_surface
from common.volume.nifti import load_ct

EXPECTED = "results of registration.py for the same X-rays, one per bone"


@dataclass(frozen=True, eq=False)
class Found:
    """One result with its folder and the name of its frame."""

    frame: str
    folder: Path
    result: Result


def find_frames(folders: Sequence[Path], frame: AnatomicalFrame) -> list[Found]:
    """Return the results of one bone in the order of the folders.

    A folder is that of a result, or has the results of a sequence below it: then those of the bone
    of ``frame`` are taken, by name. Raises InputError for a folder without results, a result of
    another bone, side or CT, or one without covariance.
    """
    found: list[Found] = []
    for folder in folders:
        if (folder / names.PARAMETERS).is_file():
            found.append(_checked(folder, frame))
            continue
        below = find_results(folder)
        several = len({path.name for path in below}) > 1
        own = [path for path in below if not several or frame.bone in path.name]
        if not own:
            raise InputError(
                folder,
                f"has no {names.PARAMETERS} of a {frame.bone} in it or below",
                "a results folder of registration.py, or that of a sequence",
                "check the path",
            )
        found += [_checked(path, frame) for path in own]
    _check_order(found)
    return found


def _checked(folder: Path, frame: AnatomicalFrame) -> Found:
    """Return the result of a folder. Raises InputError if it is not one of the frame's bone."""
    result = parameters_file.load(folder / names.PARAMETERS)
    bones = result.scanner_pose[0].bones
    if bones and {bones[0].name, frame.bone} == {"femur", "tibia"}:
        raise InputError(
            folder,
            f"is a result of a {bones[0].name}",
            f"a {frame.bone}, as its frame states",
            "exchange the folders, or the frames",
        )
    if bones and bones[0].side not in (None, frame.side):
        raise InputError(
            folder,
            f"is a result of a {bones[0].side} bone",
            f"a {frame.side} {frame.bone}, as its frame states",
            "choose the frame of that side",
        )
    source, stated = result.drr.get("source", {}).get("sha256"), frame.source.get("sha256")
    if source and stated and source != stated:
        raise InputError(
            folder,
            f"was registered with another CT ({result.drr['source'].get('name')}) than the frame"
            f" of the {frame.bone} was found in ({frame.source.get('name')})",
            "one patient's CT",
            "choose the frame of that CT",
        )
    if result.pose_uncertainty is None:
        raise InputError(
            folder / names.PARAMETERS,
            "has no covariance of its pose",
            "a result of this version of registration.py",
            "register again",
        )
    return Found(_frame_name(folder, result), folder, decisions.as_judged(folder, result))


def _frame_name(folder: Path, result: Result) -> str:
    """Return the name of a frame: its folder's, without the folder of the volume below it."""
    volume = Path(str(result.drr["volume"])).name
    holds_volume = volume.startswith(folder.name + ".")
    return folder.parent.name if holds_volume else folder.name


def _check_order(found: Sequence[Found]) -> None:
    """Raise InputError if a frame occurs twice or a frame number is below the one before."""
    keys = [each.frame for each in found]
    for before, after, each in zip(keys, keys[1:], found[1:], strict=False):
        if keys.count(after) > 1 or files.natural(after) < files.natural(before):
            raise InputError(
                each.folder,
                f"frame {after} follows frame {before}",
                "each frame once, in the order of their names",
                "sort the folders",
            )


def joints_of(proximal: Sequence[Found], distal: Sequence[Found]) -> list[JointPose]:
    """Return the pose of the joint in every frame.

    Raises InputError if one bone lacks a frame of the other, or a frame's bones are from different
    X-rays.
    """
    first, second = ([each.frame for each in bone] for bone in (proximal, distal))
    if len(first) > 1 or len(second) > 1:
        lone = sorted(set(first) ^ set(second), key=files.natural)
        if lone:
            where = proximal if lone[0] in first else distal
            folder = next(each.folder for each in where if each.frame == lone[0])
            raise InputError(
                folder,
                f"frame {lone[0]} has no result of the other bone ({len(lone)} such frames)",
                "the same frames of both bones",
                "register the missing bone, or leave the frame out",
            )
    joints = []
    for one, other in zip(proximal, distal, strict=True):
        xrays = [
            each.result.xray.get("sha256") or each.result.xray["file"] for each in (one, other)
        ]
        if xrays[0] != xrays[1]:
            raise InputError(
                other.folder,
                f"shows {Path(str(other.result.xray['file'])).name}, the other bone"
                f" {Path(str(one.result.xray['file'])).name}",
                EXPECTED,
                "pair the folders",
            )
        joints.append(joint_pose(one.frame, one.result, other.result))
    return joints


def model_volume(found: Sequence[Found]) -> ModelVolume:
    """Return the voxels that all frames of a bone were registered with.

    Raises InputError if they are of several volumes, or the file is gone or a surface.
    """
    drr = found[0].result.drr
    path = Path(str(drr["volume"]))
    for each in found:
        other = Path(str(each.result.drr["volume"]))
        if other.name != path.name:
            raise InputError(
                each.folder,
                f"was registered with {other.name}, frame {found[0].frame} with {path.name}",
                "one volume for all frames, as a tracking file (tra) has one model",
                "leave out the format tra",
            )
    if is_surface(path):
        raise InputError(
            path, "is a surface", "a CT, as a tracking file (tra) has a voxel model", "use jts"
        )
    ct = load_ct(path, fill=False)
    return ModelVolume(ct.affine, ct.shape, ct.lineage.scanner_from_volume)


def model_volumes(
    results: tuple[Sequence[Found], Sequence[Found]],
) -> tuple[ModelVolume, ModelVolume]:
    """Return `model_volume` of both bones."""
    return model_volume(results[0]), model_volume(results[1])


def check_frames(paths: Sequence[Path], frames: tuple[AnatomicalFrame, AnatomicalFrame]) -> None:
    """Raise InputError unless two frames are of one side and one CT, and of different bones."""
    first, second = frames
    if first.side != second.side:
        raise InputError(
            paths[1],
            f"is of a {second.side} {second.bone}, {paths[0].name} of a {first.side} {first.bone}",
            "two bones of one side",
            "choose the frame of the other side",
        )
    if first.bone == second.bone or (first.bone, second.bone) == ("tibia", "femur"):
        raise InputError(
            paths[1],
            f"is of a {second.bone}, {paths[0].name} of a {first.bone}",
            "the proximal bone's frame first, then the distal bone's: femur, then tibia",
            "exchange the frames",
        )
    sources = [frame.source.get("sha256") for frame in frames]
    if all(sources) and sources[0] != sources[1]:
        raise InputError(
            paths[1],
            f"is of another CT ({second.source.get('name')}) than {paths[0].name}"
            f" ({first.source.get('name')})",
            "two bones of one CT",
            "choose the frame of that CT",
        )


def times_of_frames(path: Path, times: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the times (N,) of the frames of a movement, of those of a run (M,).

    All frames of a run are taken in their order; some of them by the numbers that their names end
    in, as ``frame_0012``, counted from 0. Raises InputError if they do not fit.
    """
    if len(times) == len(names):
        return times
    ends = [re.search(r"(\d+)$", name) for name in names]
    chosen = [int(end.group(1)) for end in ends if end]
    if len(chosen) < len(names) or max(chosen) >= len(times):
        raise InputError(
            path,
            f"has {len(times)} frames, the movement {len(names)}",
            "the run that was registered, its frames named as frame_0012",
            "choose that run, or state `time` as a text file",
        )
    return times[chosen]


def read_times(path: Path, count: int) -> np.ndarray:
    """Return the times (N,) of a file, one number per line, in seconds.

    Raises InputError unless there is one per frame, and each is later than the one before.
    """
    try:
        times = np.array([float(word) for word in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read ({error})", "one time per line, seconds", "correct the file"
        ) from None
    if len(times) != count or not np.isfinite(times).all():
        raise InputError(
            path, f"has {len(times)} times", f"{count}, one per frame", "correct the file"
        )
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        raise InputError(
            path,
            f"time {times[back[0] + 1]:g} s follows {times[back[0]]:g} s",
            "times that increase",
            "sort the frames, or correct the file",
        )
    return times
