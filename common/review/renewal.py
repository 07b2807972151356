"""Results of other bones after a correction: where the corrected bone is, as they state it.

Bones that were registered together state each other's motion. When one is corrected, the files of
the others are written again: their own pose stays, and decisions on it hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common import files
from common.files.locks import claiming
from common.registration.recording import draw_bones, save_for_slicer
from common.results import names, parameters_file
from common.results.decisions import now
from common.results.scanner_view import BoneMotion, bone_motion
from common.review.catalogue import Item
from common.review.reopening import Opened
from common.review.saving import check_links, keep_revision

SAME = 1e-6  # of the numbers of a motion


def siblings(item: Item, items: Sequence[Item]) -> list[Item]:
    """Return the results of the bones that were registered together with that of an item."""
    return [
        each
        for each in items
        if each.id != item.id
        and each.instant == item.instant
        and each.folder.parent == item.folder.parent
        and item.motions
    ]


def stale(item: Item, others: Sequence[Item]) -> list[Item]:
    """Return which corrected bones, registered together with an item, its result has elsewhere.

    Bones that were registered again by themselves are left to whoever did so.
    """
    found = []
    for other in others:
        name = name_of(other.bone, list(item.motions), len(others))
        if name is not None and other.corrected_by is not None:
            motion = bone_motion(item.camera, other.camera)
            if not np.allclose(motion, item.motions[name], rtol=0, atol=SAME):
                found.append(other)
    return found


def name_of(bone: str, names_there: Sequence[str], others: int) -> str | None:
    """Return the name that another result has for a bone; None if it cannot be told.

    Bones of one file have other names in each result. If there is only one, it is that.
    """
    if bone in names_there:
        return bone
    return names_there[0] if len(names_there) == others == 1 else None


def renew(opened: Opened, others: Sequence[Opened]) -> None:
    """Write the result of a bone again, with the motions of ``others`` as their results have them.

    Its own pose, covariance and verdict stay. Raises InputError if the folder cannot be written.
    """
    result, folder = opened.result, opened.folder
    check_links(folder)
    reference, *beside = result.scanner_pose[0].bones
    there = [bone.name for bone in beside]
    placed = {}
    for other in others:
        own = other.result.scanner_pose[0]
        bone = own.bones[0].name if own.bones else other.structure.ct.name
        name = name_of(bone, there, len(others))
        if name is not None:
            placed[name] = (other, bone_motion(result.scanner_pose[0].camera, own.camera))
    bones = (reference, *(_moved(each, placed) for each in beside))
    uncertainty = result.pose_uncertainty
    for name in placed:
        uncertainty = uncertainty and uncertainty.without(name)
    with claiming():
        files.check_outputs([folder / names.PARAMETERS], overwrite=True)
        before = keep_revision(folder)
        hashes = [files.sha256(before), *result.same_pose_as]
        about = {"same_pose_as": hashes, "motions_renewed": {"when": now(), "of": sorted(placed)}}
        renewed = replace(
            result,
            scanner_pose=[replace(view, bones=bones) for view in result.scanner_pose],
            pose_uncertainty=uncertainty,
            settings={**result.settings, **about},
        )
        shown = [opened, *(placed[name][0] for name in there if name in placed)]
        if len(shown) == len(bones):
            drawn = draw_bones(opened.views, [(each.structure.body, each.pose) for each in shown])
            save_for_slicer(folder / names.SLICER_FOLDER, opened.views, renewed, drawn)
        parameters_file.save(folder / names.PARAMETERS, renewed)


def _moved(bone: BoneMotion, placed: dict[str, tuple[Opened, np.ndarray]]) -> BoneMotion:
    return replace(bone, motion=placed[bone.name][1]) if bone.name in placed else bone
