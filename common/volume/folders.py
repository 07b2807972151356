"""CT and labelmap files (NIfTI) with their lineage, their grid, and Hounsfield units as attenuation."""

from __future__ import annotations

from pathlib import Path

from common import files
from common.errors import InputError


def images_in(folder: str | Path) -> list[Path]:
    """The .nii.gz and .nii files of a folder by name; InputError where there is none, or two would have one output."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            folder, "is not a folder", "a folder of .nii.gz or .nii files", "check the path"
        )
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith((".nii.gz", ".nii")) and not path.name.startswith(".")
    )
    if not paths:
        raise InputError(
            folder, "holds no .nii.gz or .nii file", "cropped or aligned CTs", "check the path"
        )
    names = [files.stem(path) for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                folder,
                f"holds both {name}.nii and {name}.nii.gz",
                "one file a scan",
                "move one away",
            )
    return paths


def masks_folder(folder: str | Path) -> Path:
    """The folder of labelmaps that belongs to a folder of CTs: femur_cts_cropped has femur_masks_cropped, aligned has aligned_masks."""
    folder = Path(folder).absolute()
    return folder.with_name(
        folder.name.replace("_cts", "_masks", 1)
        if "_cts" in folder.name
        else folder.name + "_masks"
    )


def labelmap_beside(ct: Path) -> Path | None:
    """The labelmap of the CT's file name in the sibling masks folder, where there is one."""
    beside = masks_folder(ct.parent) / ct.name
    return beside if beside.exists() else None
