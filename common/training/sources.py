"""The CT files of a training run, and their labelmaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import files
from common.errors import InputError
from common.volume import label_names

NIFTI = (".nii", ".nii.gz")
# formats of CTs that would otherwise be skipped without notice
OTHER_VOLUMES = (
    ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".mgh", ".mgz", ".dcm",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A CT file to train on, with the labelmap of the bone (None if the whole CT is the bone).

    ``labels`` are the labels of the bone; None stands for all labels.
    """

    ct: Path
    mask: Path | None = None
    labels: tuple[int, ...] | None = None


def find_sources(
    folder: Path, mask: Path | None, labels: Sequence[int | str] | None
) -> list[Source]:
    """CTs (.nii, .nii.gz) of a folder, each with the labelmap of the same name.

    Raises InputError if the folder has no CT or volumes of another format, or if a labelmap is
    missing.
    """
    names = sorted(path.name for path in folder.iterdir())
    cts = [name for name in names if name.endswith(NIFTI) and not name.startswith(".")]
    if not cts:
        raise InputError(
            folder,
            f"no CT (found {', '.join(names[:3]) or 'nothing'})",
            "prepared CTs, .nii or .nii.gz",
            "run steps 1 to 4 first",
        )
    foreign = [name for name in names if name.lower().endswith(OTHER_VOLUMES)]
    if foreign:
        raise InputError(
            folder,
            f"contains {', '.join(foreign[:3])} in addition to {len(cts)} NIfTI files",
            "CTs of one format, .nii or .nii.gz",
            "convert or remove the other files",
        )
    return [pair_mask(folder / name, mask, labels) for name in cts]


def pair_mask(ct: Path, mask: Path | None, labels: Sequence[int | str] | None) -> Source:
    """A CT with its labelmap: ``mask`` itself, or the file with the CT's name in folder ``mask``.

    ``labels`` are numbers, or names that the labelmap states. Raises InputError if the labelmap is
    missing.
    """
    if mask is None:
        return Source(ct)
    labelmap = mask / ct.name if mask.is_dir() else mask
    found = files.existing_file(labelmap, f"the labelmap of {ct.name}")
    return Source(ct, found, tuple(label_names.resolve(labels, found)) if labels else None)
