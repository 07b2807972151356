"""Folders of CTs and the sibling folders of their labelmaps."""

from __future__ import annotations

from pathlib import Path

from common import files
from common.errors import InputError
from common.files.dicom_marks import is_bare, is_marked


def images_in(folder: str | Path) -> list[Path]:
    """Return the .nii.gz and .nii files of a folder, sorted by name.

    Raises InputError if the folder has no volume, or if two volumes would have the same output.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            folder, "not a folder", "a folder of .nii.gz or .nii files", "check the path"
        )
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith((".nii.gz", ".nii")) and not path.name.startswith(".")
    )
    if not paths:
        raise InputError(
            folder, "contains no .nii.gz or .nii file", "cropped or aligned CTs", "check the path"
        )
    names = [files.stem(path) for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                folder,
                f"contains both {name}.nii and {name}.nii.gz",
                "one file per CT",
                "move one of them",
            )
    return paths


def is_series(path: str | Path) -> bool:
    """Return whether a path is a folder of DICOM slices: a CT by itself, not a folder of CTs."""
    folder = Path(path)
    inside = [each for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []
    return any(is_marked(each) or is_bare(each) for each in inside) and not any(
        each.name.lower().endswith((".nii.gz", ".nii")) for each in inside
    )


def masks_folder(folder: str | Path) -> Path:
    """Return the sibling folder of labelmaps of a folder of CTs.

    That of ``femur_cts_cropped`` is ``femur_masks_cropped``, that of ``aligned`` is
    ``aligned_masks``.
    """
    folder = Path(folder).absolute()
    if "_cts" in folder.name:
        return folder.with_name(folder.name.replace("_cts", "_masks", 1))
    return folder.with_name(folder.name + "_masks")


def labelmap_beside(ct: Path) -> Path | None:
    """Return the labelmap of the same name in the sibling masks folder, or None if missing."""
    beside = masks_folder(ct.parent) / ct.name
    return beside if beside.exists() else None
