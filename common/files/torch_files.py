"""PyTorch files (.pt, .pth), opened without running code that they contain.

The only reader of ``parameters.pt``, of checkpoints, and of `read_pt.py`.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError, reading


def load(path: str | Path, what: str, unsafe: bool = False) -> Any:
    """Return the content of a PyTorch file, on the CPU.

    It may consist of tensors, numbers, texts, dates and containers of these. Raises InputError if
    the file is not a PyTorch file, or, unless ``unsafe``, if it imports or calls anything else.
    """
    import pickle
    import warnings

    import torch

    path = files.existing_file(path, what)
    try:
        # xvr's checkpoints contain a date; torch warns about pickle protocols
        with (
            reading(path, what, "copy or make the file again"),
            torch.serialization.safe_globals([datetime.datetime]),
            warnings.catch_warnings(action="ignore"),
        ):
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except InputError as error:
        cause = error.__cause__
        wanted = (
            _wanted_globals(path, str(cause)) if isinstance(cause, pickle.UnpicklingError) else []
        )
        if not wanted:
            raise
        raise InputError(
            path,
            f"imports or calls {', '.join(wanted)}, so it would run code on loading",
            f"{what} of tensors, numbers, texts and dates",
            "not opened, read_pt.py with `unsafe` shows its content if you trust its source",
        ) from error


def _wanted_globals(path: Path, message: str) -> list[str]:
    """Return what a pickle would import beyond the safe names, without running it.

    Empty if the file is not a pickle. ``message`` is the text of torch's UnpicklingError.
    """
    import zipfile

    import torch

    with reading(path, "a PyTorch file", "copy or make the file again"):
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    named = re.search(r"GLOBAL ([\w.]+)", message)
    with open(path, "rb") as stream:
        is_pickle = stream.read(1) == b"\x80"
    return [named[1]] if named else ["objects beyond PyTorch's own"] if is_pickle else []
