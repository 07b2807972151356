"""Poses that are not decided on yet: ``draft_NAME.jsonl`` in the folder of a result.

One file per reviewer, one line of JSON per change, only ever added; the last one holds, for the
``parameters.pt`` that it names by its hash. So a page or a server that ends loses no correction.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import is_rigid
from common.results.decisions import now

logger = logging.getLogger(__name__)

SCHEMA = "draft/1"
PREFIX, ENDING = "draft_", ".jsonl"
WHAT = "poses of pipeline/review.py that are not decided on, one JSON object per line"

Pose: TypeAlias = list[list[float]]  # volume_from_rig (4, 4)
Author: TypeAlias = Literal["person", "solver", "tracking"]


@dataclass(frozen=True)
class Draft:
    """A pose that a person or the solver set, and whether it leads the frames beside it."""

    pose: Pose
    by: Author = "person"
    start: Pose | None = None  # that a person set, if the solver went on from it
    changed: bool = True  # it differs from the stored pose
    key: bool = False  # a key pose of its sequence
    verdict: dict[str, Any] | None = None  # entries, if the solver has judged it
    moved: dict[str, float] | None = None  # how far from the stored pose, of a tracked one

    def entries(self) -> dict[str, Any]:
        """Return it in plain types."""
        return asdict(self)


def path_of(folder: Path, reviewer: str) -> Path:
    """Return the file of a reviewer's drafts of the result in a folder."""
    return folder / f"{PREFIX}{reviewer}{ENDING}"


def keep(folder: Path, reviewer: str, about: str, draft: Draft | None) -> None:
    """Keep a draft, on the disk when this returns; with None, it is dropped.

    ``about`` is the hash of the parameters.pt that it is about. Raises InputError if the folder
    cannot be written.
    """
    entries = {"draft": draft.entries() if draft else None}
    line = {"schema": SCHEMA, "reviewer": reviewer, "when": now(), "about": about, **entries}
    files.add_line(path_of(folder, reviewer), line)


def last(folder: Path, reviewer: str, about: Collection[str]) -> Draft | None:
    """Return the draft of a reviewer, None if there is none about a parameters.pt of these hashes.

    A damaged file is named in a warning: a draft is no decision, and nothing else depends on it.
    """
    path = path_of(folder, reviewer)
    if not path.is_file():
        return None
    found = None
    try:
        for number, content in files.read_lines(path, WHAT):
            try:
                if content["schema"] == SCHEMA and content["about"] in about:
                    found = _parsed(content["draft"])
            except (KeyError, TypeError, ValueError):
                logger.warning(f"{path}: line {number} is damaged; it is skipped")
    except InputError as error:
        logger.warning(str(error))
    return found


def _parsed(content: dict[str, Any] | None) -> Draft | None:
    if content is None:
        return None
    draft = Draft(**content)
    poses = [draft.pose] if draft.start is None else [draft.pose, draft.start]
    if draft.by not in get_args(Author) or not all(is_rigid(np.array(each)) for each in poses):
        raise ValueError("no pose")
    return draft
