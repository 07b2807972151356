"""File names, hashes and versions. Standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stem(path: str | Path) -> str:
    """File name without its ending; ``.nii.gz`` counts as one ending."""
    name = Path(path).name
    for ending in (".nii.gz", ".nii"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem


def is_plain_name(name: str) -> bool:
    """Whether a name can stand in a file name and leads to no other folder."""
    return (
        0 < len(name) <= 100
        and name.isprintable()
        and not name.startswith(".")
        and not set(name) & set('/\\:*?"<>|')
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named distributions, for lineage and results."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}
