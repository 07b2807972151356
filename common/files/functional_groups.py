"""Functional groups of enhanced (multi-frame) DICOM objects, as plain tags of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


def spread_frame(dataset: Any, frame: int | None, names: Sequence[str]) -> None:
    """Copy the functional groups ``names`` of a frame to the pydicom dataset, in place.

    The groups (PS3.3 C.7.6.16) are those of the frame, then those of all frames. Tags that the
    dataset has itself are kept: the standard leaves them empty, and add_dicom_data.py writes them.
    """
    for sequence, index in ((PER_FRAME, frame or 0), (SHARED, 0)):
        for group in (dataset.get(sequence) or [])[index : index + 1]:
            said = [
                element
                for name in names
                for item in (group.get(name) or [])[:1]
                for element in item
            ]
            dataset.update(
                {
                    element.tag: element
                    for element in said
                    if element.tag not in dataset or dataset[element.tag].is_empty
                }
            )
