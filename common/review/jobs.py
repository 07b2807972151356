"""Work of the review that runs in worker processes; arguments and results are plain types.

A worker keeps the last results that it opened. A pose is volume_from_rig (4, 4), nested lists.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.errors import InputError, as_input_error
from common.registration import key_poses
from common.registration.competition import Solution
from common.registration.register import Registration
from common.registration.request import Followed
from common.results import names, parameters_file
from common.results.result import Result, Verdict
from common.review import pictures, renewal, reopening, saving, solving
from common.review.drafts import Pose

logger = logging.getLogger(__name__)

OPENED = 12  # results that a worker keeps, with their X-rays


def begin(leave_cores: int = 0) -> None:
    """Prepare a worker: it ends with its parent, also if that is killed.

    It leaves some cores to others: threads that wait for each other are slower than fewer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the parent, which ends this one
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # imported now, not at the first picture
    import numba

    from common.drr import joseph_kernel  # noqa: F401

    numba.set_num_threads(max(1, numba.get_num_threads() - leave_cores))


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(0)


def opened(folder: str) -> reopening.Opened:
    """Return the result in a folder, opened again unless its file is the same as before."""
    stat = os.stat(Path(folder) / names.PARAMETERS)
    return _opened(folder, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(OPENED)
def _opened(folder: str, _when: int, _size: int) -> reopening.Opened:
    return reopening.open_result(Path(folder))


def describe(folder: str, solver_pose: bool) -> dict[str, Any]:
    """Return what the page needs to show a result; ``centre_mm`` is what the bone turns about.

    It has a ``problem`` instead of poses if the result cannot be opened again: then only the
    pictures of the registration can be shown. With ``solver_pose``, the pose is that of the first
    revision, before any person corrected it.
    """
    path = Path(folder)
    result = parameters_file.load(path / names.PARAMETERS)
    try:
        one = opened(folder)
    except Exception as error:
        expected = as_input_error(error)
        if expected is None:
            raise
        return {"problem": str(expected), "views": _static_views(result)}
    kept = saving.revisions(path)
    first = parameters_file.load(kept[0]) if kept else result
    shown = first if solver_pose else result
    return {
        "problem": None,
        "views": [_view_entries(one, number) for number in range(len(one.views))],
        "pose": one.pose_of(shown.final_pose).tolist(),
        "solver_pose": one.pose_of(first.final_pose).tolist(),
        "start_pose": one.pose_of(first.init_pose).tolist(),
        "rivals": [one.pose_of(pose).tolist() for pose in first.rival_poses],
        "centre_mm": one.structure.body.points.mean(axis=0).tolist(),
    }


def glance(folder: str) -> dict[str, Any]:
    """Return what can be shown of a result without its CT and its X-rays."""
    result = parameters_file.load(Path(folder) / names.PARAMETERS)
    return {"problem": None, "views": _static_views(result)}


def warm(folder: str) -> None:
    """Open a result, so that the next job with it does not wait."""
    opened(folder)


def _static_views(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "name": Path(view.xray or str(result.xray["file"])).name,
            "width": view.size_px[0],
            "height": view.size_px[1],
            "flipped": bool(result.xray.get("flipped")),
        }
        for view in result.scanner_pose
    ]


def _view_entries(one: reopening.Opened, number: int) -> dict[str, Any]:
    view = one.views[number]
    detector = view.xray.detector
    return {
        "name": view.xray.path.name,
        "width": detector.width,
        "height": detector.height,
        "flipped": view.xray.flipped,
        "sdd_mm": detector.sdd_mm,
        "pixel_mm": list(detector.pixel_mm),
        "principal_px": list(detector.principal_px),
        "rig_from_camera": view.rig_from_camera.tolist(),
        "window": pictures.window_of(pictures.xray_picture(one, number).values),
    }


def neighbour(folder: str) -> dict[str, Any]:
    """Return another bone of X-rays that are shown: its outlines, and its pose for the 3D scene."""
    try:
        found = opened(folder)
    except InputError as error:
        return {"problem": str(error)}
    bones = found.result.scanner_pose[0].bones
    return {
        "problem": None,
        "bone": bones[0].name if bones else found.structure.ct.name,
        "outlines": pictures.outlines(found, found.pose),
        "pose": found.pose.tolist(),
    }


def xray(folder: str, view: int, longest_px: int) -> bytes:
    """Return an X-ray, packed (`pictures.Grey`); as saved if the result cannot be opened."""
    try:
        grey = pictures.xray_picture(opened(folder), view)
    except InputError:
        grey, _ = pictures.saved_pictures(Path(folder), view)
    return pictures.reduced(grey, longest_px).packed()


def saved_picture(folder: str, view: int, which: int) -> bytes:
    """Return the X-ray (0) or the DRR (1) that registration.py saved, packed."""
    return pictures.saved_pictures(Path(folder), view)[which].packed()


def render(folder: str, pose: Pose, longest_px: int, number: int) -> list[bytes]:
    """Return the DRR of every view, packed with the number of the request."""
    drrs = pictures.drr_pictures(opened(folder), np.array(pose), longest_px)
    return [each.packed(number, view) for view, each in enumerate(drrs)]


def refine(folder: str, pose: Pose) -> tuple[Pose, Solution]:
    """Refine from a pose that a person set; return the pose found, and what `judge` needs."""
    solution = solving.refine(opened(folder), np.array(pose))
    return solution.fit.poses[0].tolist(), solution


def judge(folder: str, solution: Solution) -> dict[str, Any]:
    """Return a solution with its verdict, in plain types."""
    return solving.judged(opened(folder), solution).entries()


def search_again(folder: str) -> dict[str, Any]:
    """Search from nothing."""
    return solving.search_again(opened(folder)).entries()


def assess(folder: str, pose: Pose) -> dict[str, Any]:
    """Return the verdict on a pose as it is."""
    return solving.assess(opened(folder), np.array(pose)).entries()


def follow(folder: str, last: Followed) -> tuple[dict[str, Any], Followed]:
    """Find the pose in a frame from that of the frame beside it."""
    solved, after = solving.follow(opened(folder), last)
    return solved.entries(), after


def met(folder: str, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the pose with most evidence of those that a frame was found at, from both sides.

    Its verdict says whether they agree; ``moved`` is how far it is from the stored pose.
    """
    best, *others = sorted(every, key=lambda each: -each["evidence"])
    verdict = Verdict.from_entries(best["verdict"])
    for other in others:
        verdict = key_poses.compared(verdict, _apart(folder, best["pose"], other["pose"]))
    moved = _apart(folder, best["pose"], opened(folder).pose.tolist()).as_dict()
    return {**best, "verdict": verdict.entries(), "moved": moved}


def surface(folder: str) -> dict[str, Any]:
    """Return the surface of a structure, flattened: vertices in mm, and triangles."""
    vertices, triangles = opened(folder).structure.surface
    return {
        "vertices": vertices.round(2).ravel().tolist(),
        "triangles": triangles.ravel().tolist(),
    }


def stored_camera(folder: str) -> tuple[Pose, str]:
    """Return scanner_from_camera as stored, without opening the CT, and the hash of the file."""
    path = Path(folder) / names.PARAMETERS
    return parameters_file.load(path).scanner_pose[0].camera.tolist(), files.sha256(path)


def blind_camera(folder: str, pose: Pose | None) -> tuple[Pose, str]:
    """Return scanner_from_camera of a pose, or of the solver's, and what a blind decision is about.

    That is the solver's file, if the pose is its own; else no file: the pose is not stored.
    """
    path = Path(folder)
    kept = saving.revisions(path)
    first = kept[0] if kept else path / names.PARAMETERS
    if pose is None:
        return parameters_file.load(first).scanner_pose[0].camera.tolist(), files.sha256(first)
    camera = opened(folder).scanner_camera(np.array(pose))
    return camera.tolist(), f"another pose than {files.sha256(first)}"


def save(
    folder: str, pose: Pose, start: Pose, reviewer: str, neighbours: Sequence[str]
) -> tuple[Pose, str]:
    """Write a corrected pose, and return its scanner_from_camera and the hash of the new file."""
    one = opened(folder)
    beside = [_as_registration(one, each) for each in neighbours]
    placed = np.array(pose), np.array(start)
    sha256 = saving.save_correction(one, *placed, reviewer, [each for each in beside if each])
    return one.scanner_camera(placed[0]).tolist(), sha256


def renew(folder: str, others: Sequence[str]) -> None:
    """Write the result of a bone again, with others where they are now; see `renewal`."""
    renewal.renew(opened(folder), [opened(each) for each in others])


def _as_registration(one: reopening.Opened, folder: str) -> Registration | None:
    """Return a neighbour as registered in the same rig.

    None if its verdict has failed, or its files are not there any more, which is no reason not to
    save a correction of this bone.
    """
    try:
        other = opened(folder)
    except InputError as error:
        logger.warning(f"saved without the bone beside it: {error}")
        return None
    if other.result.verdict.code == "failed" or len(other.views) != len(one.views):
        return None
    return solving.registration_at(other, other.pose, other.pose)


def _apart(folder: str, pose: Pose, other: Pose) -> geometry.PoseError:
    """Return how far a pose is from another one in the first view."""
    found = opened(folder)
    rig = found.views[0].rig_from_camera
    points, detector = found.structure.body.points, found.views[0].xray.detector
    return geometry.pose_error(np.array(pose) @ rig, np.array(other) @ rig, points, detector)
