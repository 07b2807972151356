"""Preflight check: are an X-ray, its geometry and a CT consistent? Before a slow registration.

`examine` inspects one view at a start pose and returns a `Report`: a table, and for each doubt what
to change. Texts name settings in backticks.
"""

from common.registration.preflight.examination import QUICK_STARTS, examine, examine_views
from common.registration.preflight.orientation import AS_IT_IS, orientation_fits
from common.registration.preflight.report import (
    Finding,
    Report,
    Severity,
    impossible,
    table,
    write_image,
)
from common.registration.preflight.setup import MAGNIFICATION

__all__ = [
    "AS_IT_IS",
    "MAGNIFICATION",
    "QUICK_STARTS",
    "Finding",
    "Report",
    "Severity",
    "examine",
    "examine_views",
    "impossible",
    "orientation_fits",
    "table",
    "write_image",
]
