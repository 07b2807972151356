"""Template banks kept between calls in the user's cache folder, by the content they come from.

A bank is two files: the pictures, of which a search reads those that it needs (memory-mapped), and
the rest. A file is complete or absent; a damaged bank is made again. The folder is kept below
`LIMIT_BYTES`: the banks that were not used for longest are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError
from common.registration.search.bank import Bank

logger = logging.getLogger(__name__)

FORMAT = "bank/2"
LIMIT_BYTES = 2_000_000_000


def cache_folder() -> Path:
    """The folder of the banks; the variable BONE_CACHE names another."""
    import platformdirs

    stated = os.environ.get("BONE_CACHE")
    return (
        Path(stated) if stated else Path(platformdirs.user_cache_dir("bone-registration")) / "banks"
    )


def content_key(*parts: object) -> str:
    """A name for what a bank is made from: arrays by their bytes, everything else by its text."""
    digest = hashlib.blake2b(FORMAT.encode(), digest_size=20)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def cached(key: str, make: Callable[[], Bank]) -> Bank:
    """The bank of that key, read from the cache folder or made and written there."""
    path = cache_folder() / f"{key}.npz"
    try:
        bank = _read(path)
        os.utime(path)
        return bank
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.info(f"{path}: damaged ({error}); made anew")
    bank = make()
    try:
        _write(path, bank)
        _trim(path.parent)
    except (OSError, InputError) as error:  # a full or read-only disk costs time, nothing else
        logger.info(f"template bank not kept: {error}")
    return bank


def _read(path: Path) -> Bank:
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    # copy on write, as kernels are compiled for arrays that may be written to
    pictures = np.load(_pictures(path), mmap_mode="c", allow_pickle=False)
    return Bank.from_arrays({**arrays, "pictures": np.asarray(pictures)})


def _write(path: Path, bank: Bank) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = bank.arrays()
    pictures = arrays.pop("pictures")
    with files.atomic(_pictures(path)) as partial:
        np.save(partial, pictures)
    with files.atomic(path) as partial, open(partial, "wb") as stream:
        np.savez(stream, **arrays)


def _pictures(path: Path) -> Path:
    return path.with_suffix(".npy")


def _trim(folder: Path) -> None:
    """Remove the banks that were not used for longest until the rest fits."""
    found: dict[Path, list[os.stat_result]] = {}
    for path in folder.glob("*.np[yz]"):
        with contextlib.suppress(FileNotFoundError):  # another run trims too
            found.setdefault(path.with_suffix(".npz"), []).append(path.stat())
    # used last when one of its files was; what is left of a bank without the other counts too
    banks = sorted(
        (max(each.st_mtime for each in files_of), sum(each.st_size for each in files_of), path)
        for path, files_of in found.items()
    )
    total = sum(size for _, size, _ in banks)
    for _, size, path in banks:
        if total <= LIMIT_BYTES:
            break
        path.unlink(missing_ok=True)
        _pictures(path).unlink(missing_ok=True)
        total -= size
