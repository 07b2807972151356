"""pydicom without its warnings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Suppress pydicom's warnings: they quote values, which may identify the patient."""
    from pydicom.config import logger

    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before
