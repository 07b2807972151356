"""PyTorch files (.pt, .pth) from anywhere, opened without running what they hold. One reader for parameters.pt, checkpoints and read_pt.py."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError, reading


def load(path: str | Path, what: str, unsafe: bool = False) -> Any:
    """The content of a PyTorch file, on the CPU: tensors, numbers, texts, dates and containers of them.

    A file that wants anything else to be imported or called is refused, by name, unless ``unsafe``. Raises InputError for that and for what is no such file.
    """
    import pickle
    import warnings

    import torch

    path = files.existing_file(path, what)
    try:
        # xvr's checkpoints are dated; torch remarks on pickle protocols
        with (
            reading(path, what, "copy or make the file again"),
            torch.serialization.safe_globals([datetime.datetime]),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except InputError as error:
        wanted = (
            _wanted_globals(path, str(error.__cause__))
            if isinstance(error.__cause__, pickle.UnpicklingError)
            else []
        )
        if not wanted:
            raise
        raise InputError(
            path,
            f"wants {', '.join(wanted)} to be called or built, so it would run code on loading",
            f"{what} of tensors, numbers, texts and dates",
            "not opened, read_pt.py `unsafe` shows it if it is your own",
        ) from error


def _wanted_globals(path: Path, message: str) -> list[str]:
    """Names of what a pickle would import beyond what is safe, found without running it; empty where it is no pickle."""
    import zipfile

    import torch

    with reading(path, "a PyTorch file", "copy or make the file again"):
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    named = re.search(r"GLOBAL ([\w.]+)", message)
    with open(path, "rb") as stream:
        is_pickle = stream.read(1) == b"\x80"
    return [named[1]] if named else ["objects beyond PyTorch's own"] if is_pickle else []
