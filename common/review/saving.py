"""A corrected pose as the new ``parameters.pt`` of its folder; the old one is kept.

The new files are first written into a hidden folder, ``parameters.pt`` last, and then moved to
their places, so that a crash at any time leaves the old result or the new one (`finish`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.files.locks import claiming
from common.registration import recording
from common.registration.register import Registration
from common.reports.drr_files import high_quality_drrs
from common.reports.evaluation_file import find_evaluations
from common.results import names
from common.results.decisions import now
from common.review.reopening import Opened
from common.review.solving import registration_at

PENDING = ".correction"  # folder of files that are moved into their places
REVISIONS = "revisions"
EVALUATED = (".json", ".csv", ".png")  # of evaluation.py


def save_correction(
    opened: Opened,
    pose: np.ndarray,
    start: np.ndarray,
    reviewer: str,
    neighbours: Sequence[Registration] = (),
) -> str:
    """Write a pose (volume_from_rig) as the result of its folder, and return the file's hash.

    ``start`` is the pose that the person set; the solver went from there to ``pose``, if it
    differs. The settings of the new file say so. Raises InputError if the pose is out of view, or
    if the folder cannot be written or is being written by another run.
    """
    folder = opened.folder
    check_links(folder)
    with claiming():
        files.check_outputs([folder / names.PARAMETERS], overwrite=True)
        revision = keep_revision(folder)
        one = registration_at(opened, pose, start, neighbours)
        about = {
            "review": {
                "start_set_by": "person",
                "reviewer": reviewer,
                "when": now(),
                "refined": not np.allclose(pose, start),
                "supersedes": {
                    "file": str(revision.relative_to(folder)),
                    "sha256": files.sha256(revision),
                },
            }
        }
        pending = folder / PENDING
        shutil.rmtree(pending, ignore_errors=True)
        (pending / names.SLICER_FOLDER).mkdir(parents=True)
        everything = [one, *neighbours]
        recording.save(pending, everything, 0, opened.stored_request, about=about)
        finish(folder)
    return files.sha256(folder / names.PARAMETERS)


def check_links(folder: Path) -> None:
    """Raise InputError if a correction would be written through a link out of its folder."""
    for name in (REVISIONS, PENDING, names.SLICER_FOLDER):
        if (folder / name).is_symlink():
            raise InputError(
                folder / name,
                "is a link, which may lead out of the results",
                "a folder",
                "replace it by the folder that it points to",
            )


def keep_revision(folder: Path) -> Path:
    """Copy ``parameters.pt`` to revisions/parameters_001.pt, unless it is kept already."""
    current, kept = folder / names.PARAMETERS, folder / REVISIONS
    files.output_folder(kept)
    sha256 = files.sha256(current)
    earlier = revisions(folder)
    for path in earlier:
        if files.sha256(path) == sha256:
            return path
    path = kept / f"{current.stem}_{len(earlier) + 1:03d}{current.suffix}"
    with files.atomic(path) as partial:
        shutil.copyfile(current, partial)
    files.sync_folder(kept)
    return path


def revisions(folder: Path) -> list[Path]:
    """Return the earlier ``parameters.pt`` of a folder, oldest first."""
    stem, ending = Path(names.PARAMETERS).stem, Path(names.PARAMETERS).suffix
    return sorted((folder / REVISIONS).glob(f"{stem}_*{ending}"), key=files.natural)


def finish(folder: Path) -> None:
    """Move a correction to its place, also one that a crash interrupted.

    What was measured or rendered at the old pose goes to the revisions. A correction that was not
    written completely is removed: the old result stays.
    """
    pending = folder / PENDING
    if not pending.is_dir():
        return
    check_links(folder)
    if not (pending / names.PARAMETERS).is_file():
        shutil.rmtree(pending)
        return
    number = len(revisions(folder))
    stale = {*high_quality_drrs(folder)}
    for path, _ in find_evaluations(folder):
        stale |= {path.with_suffix(ending) for ending in EVALUATED}
    for path in sorted(each for each in stale if each.is_file()):
        os.replace(path, folder / REVISIONS / f"{path.stem}_{number:03d}{path.suffix}")
    for path in sorted(pending.iterdir(), key=lambda each: each.name == names.PARAMETERS):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    files.sync_folder(folder)
    pending.rmdir()
