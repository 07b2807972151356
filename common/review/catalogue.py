"""The list of a review: every result below a folder, the most doubtful first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError
from common.progress import track
from common.results import decisions, names, parameters_file
from common.results.folders import find_results
from common.results.result import Result, Verdict

SEVERITY = ("failed", "suspect", "ok")


@dataclass(frozen=True, eq=False)
class Item:
    """One result as listed."""

    id: str  # names it in requests of the page, which never contain paths
    folder: Path
    name: tuple[str, ...]  # folders from that of the review to the result
    bone: str
    side: str | None
    xray: str  # file name
    verdict: Verdict  # of the solver, or of the last correction
    sequence: str | None  # the same for the frames of one bone of a sequence
    instant: str  # the same for the bones of one X-ray
    corrected_by: str | None
    parameters_sha256: str
    same_pose_as: tuple[str, ...]  # hashes of earlier files of this pose
    camera: np.ndarray  # (4, 4) scanner_from_camera of the first view
    motions: dict[str, np.ndarray]  # (4, 4) of the bones registered together, by name

    @property
    def hashes(self) -> tuple[str, ...]:
        """Hashes of the files of this pose, the present one first."""
        return (self.parameters_sha256, *self.same_pose_as)

    @property
    def doubt(self) -> tuple[int, float]:
        """Sorting key: the most doubtful first."""
        return SEVERITY.index(self.verdict.code), self.verdict.similarity


def read_catalogue(root: Path) -> tuple[dict[str, Item], list[str]]:
    """Return the results below a folder by id, the most doubtful first, and what was wrong.

    Raises InputError if there is none.
    """
    folders = find_results(root)
    items, problems = [], []
    for folder in track(folders, what="reading", unit="result"):
        try:
            items.append(read_item(root, folder))
        except InputError as error:
            problems.append(str(error))
    if not items:
        raise InputError(
            root,
            problems[0] if problems else f"no {names.PARAMETERS} in this folder or below",
            "results of registration.py",
            "run registration.py first, or check the path",
        )
    items.sort(key=lambda item: item.doubt)
    return {item.id: item for item in items}, problems


def read_item(root: Path, folder: Path) -> Item:
    """Return the result in a folder as listed.

    Raises InputError if it cannot be read, or if a link leads it out of ``root``.
    """
    path = folder / names.PARAMETERS
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            path, "leads out of the folder", f"results inside {root}", "review that folder instead"
        )
    result = parameters_file.load(path)
    inside = folder.relative_to(root).parts or (root.resolve().name,)
    bones = result.scanner_pose[0].bones
    bone = bones[0].name if bones else files.stem(str(result.drr["volume"]))
    review = result.settings.get("review", {})
    return Item(
        id=hashlib.sha256(os.fsencode("/".join(inside))).hexdigest()[:12],
        folder=folder,
        name=inside,
        bone=bone,
        side=bones[0].side if bones else None,
        xray=Path(str(result.xray["file"])).name,
        verdict=result.verdict,
        sequence=_sequence(inside, bone, result),
        instant=_instant(result),
        corrected_by=review.get("reviewer"),
        parameters_sha256=files.sha256(path),
        same_pose_as=result.same_pose_as,
        camera=result.scanner_pose[0].camera,
        motions={bone.name: bone.motion for bone in bones[1:]},
    )


def _sequence(inside: tuple[str, ...], bone: str, result: Result) -> str | None:
    """Name the sequence of a result: the folder above its frame, and its bone."""
    request = result.settings.get("request")
    if not (request and request.get("sequence")):
        return None
    several = len(request["structures"]) > 1
    above = inside[: -2 if several else -1]
    volume = Path(str(result.drr["volume"])).name
    return "/".join([*above, bone, volume, str(result.drr.get("labels"))])


def _instant(result: Result) -> str:
    """Name the X-rays of a result, with their frames."""
    request = result.settings.get("request")
    frames = [xray["frame"] for xray in request["xrays"]] if request else [None]
    shown = [Path(view.xray or str(result.xray["file"])).name for view in result.scanner_pose]
    return "|".join([str(result.xray.get("sha256")), *shown, *map(str, frames)])


def neighbours_of(item: Item, items: Sequence[Item]) -> list[Item]:
    """Return the other bones in the X-rays of an item."""
    return [each for each in items if each.instant == item.instant and each.id != item.id]


def frames_of(item: Item, items: Sequence[Item]) -> list[Item]:
    """Return the frames of the sequence of an item, in their order; none for a single X-ray."""
    if item.sequence is None:
        return []
    found = [each for each in items if each.sequence == item.sequence]
    return sorted(found, key=lambda each: files.natural("/".join(each.name)))


def entries(
    item: Item, made: Sequence[decisions.Decision], reviewer: str, blind: bool
) -> dict[str, Any]:
    """Return an item as the page lists it. ``made`` are all decisions in its folder."""
    current = decisions.latest(made, item.hashes)
    mine = made if blind else current  # a blind decision may be on a pose that is not stored
    own = next((one for one in reversed(mine) if one.reviewer == reviewer), None)
    others = [one for one in current if one.reviewer != reviewer]
    return {
        "id": item.id,
        "name": list(item.name),
        "bone": item.bone,
        "side": item.side,
        "xray": item.xray,
        "verdict": item.verdict.entries(),
        "sequence": item.sequence,
        "corrected_by": None if blind and item.corrected_by != reviewer else item.corrected_by,
        "decision": _shown(own) if own else None,
        "others": [] if blind else [_shown(one) for one in others],
    }


def _shown(one: decisions.Decision) -> dict[str, str]:
    return {
        "reviewer": one.reviewer,
        "choice": one.choice,
        "note": one.note,
        "when": one.when,
        "set_by": one.set_by,
    }
