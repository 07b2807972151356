"""The bones that `crop_cts.py` cuts from a CT, with their labels and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.volume import label_names
from common.volume.label_names import number_or_name


@dataclass(frozen=True)
class Target:
    """A bone to crop, with its label and output files."""

    bone: str
    side: str  # "left" or "right"; right bones are mirrored
    label: int
    ct: Path
    mask: Path
    attached: tuple[int, ...] = ()  # labels that move with the bone

    @property
    def mirrored(self) -> bool:
        return self.side == "right"

    def __str__(self) -> str:
        return f"{self.side} {self.bone} (label {self.label})"


def attached_of(
    words: Sequence[str], bones: Sequence[str], labels: Sequence[int], source: Path
) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the labels that move with each bone and side, of words BONE=RIGHT,LEFT.

    Raises InputError for words of another form, or a label that a bone has already.
    """
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for word in words:
        bone, _, stated = word.partition("=")
        pair = stated.split(",")
        if bone not in bones or len(pair) != 2:
            raise InputError(
                "`attached`",
                f"found {word}",
                f"BONE=RIGHT,LEFT with one of {', '.join(bones)}",
                "correct it",
            )
        resolved = label_names.resolve([number_or_name(each) for each in pair], source)
        for side, label in zip(("right", "left"), resolved, strict=True):
            if label < 1 or label in labels:
                raise InputError(
                    "`attached`", f"found label {label}", "a label of no other bone", "correct it"
                )
            found[bone, side] = (*found.get((bone, side), ()), label)
    return found


def targets_of(
    base: Path,
    patient: str,
    bones: Sequence[str],
    labels: Sequence[int],
    attached: Mapping[tuple[str, str], tuple[int, ...]] | None = None,
) -> list[Target]:
    """Return the left and the right target of each bone; ``labels`` are right and left of each."""
    targets = []
    for bone, right, left in zip(bones, labels[::2], labels[1::2], strict=True):
        for side, label, ending in (("left", left, ""), ("right", right, "_mirrored")):
            ct, mask = (
                base / f"{bone}_{kind}_cropped" / f"{patient}_{bone}{ending}.nii.gz"
                for kind in ("cts", "masks")
            )
            others = (attached or {}).get((bone, side), ())
            targets.append(Target(bone, side, label, ct, mask, others))
    return targets
