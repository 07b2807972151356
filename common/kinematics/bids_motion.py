"""A movement as a data set in BIDS (Motion-BIDS): a channel per joint coordinate.

Layout: Jeung et al., Sci Data 11:716, 2024. Angles are JNTANG in degrees, translations POS in mm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from common import files
from common.errors import InputError
from common.version import VERSION

BIDS_VERSION = "1.9.0"
TRACKING = "xray"
TITLES = {
    "FE_deg": "flexion of the knee (Grood and Suntay 1983)",
    "VV_deg": "varus of the knee",
    "IE_deg": "internal rotation of the tibia",
    "ML_mm": "tibia lateral of the femur",
    "AP_mm": "tibia anterior of the femur",
    "PD_mm": "tibia apart from the femur",
}


def check_label(what: str, label: str) -> None:
    """Raise InputError if a label of a subject or task is not letters and digits."""
    if not re.fullmatch(r"[A-Za-z0-9]+", label):
        raise InputError(what, f"is {label!r}", "letters and digits", f"correct `{what}`")


def paths(subject: str, task: str) -> dict[str, PurePosixPath]:
    """Return the files of a data set, relative to its folder, by what they hold."""
    folder = PurePosixPath(f"sub-{subject}/motion")
    name = f"sub-{subject}_task-{task}_tracksys-{TRACKING}"
    return {
        "dataset": PurePosixPath("dataset_description.json"),
        "readme": PurePosixPath("README"),
        "participants": PurePosixPath("participants.tsv"),
        "motion": folder / f"{name}_motion.tsv",
        "sidecar": folder / f"{name}_motion.json",
        "channels": folder / f"{name}_channels.tsv",
    }


def as_texts(
    values: np.ndarray,
    quantities: Sequence[str],
    bones: Sequence[str],
    rate_hz: float,
    subject: str,
    task: str,
) -> dict[PurePosixPath, str]:
    """Return the files of a data set by their path; ``values`` (N, 6) are NaN without a pose."""
    where = paths(subject, task)
    gaps = int((~np.isfinite(values).all(axis=1)).sum())
    motion = "".join(
        "\t".join(f"{x:.6f}" if np.isfinite(x) else "n/a" for x in row) + "\n" for row in values
    )
    texts = {
        "dataset": files.as_json(
            {
                "Name": f"{task}: motion of {' and '.join(bones)} from X-rays",
                "BIDSVersion": BIDS_VERSION,
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "bone-registration", "Version": VERSION}],
            }
        ),
        "readme": f"Joint coordinates of {' and '.join(bones)}, from registered X-rays.\n",
        "participants": f"participant_id\nsub-{subject}\n",
        "motion": motion,
        "sidecar": files.as_json(
            {
                "TaskName": task,
                "SamplingFrequency": round(rate_hz, 6),
                "TrackingSystemName": TRACKING,
                "TaskDescription": "bones registered to X-rays; n/a where a pose failed",
                "MotionChannelCount": len(quantities),
                "JNTANGChannelCount": sum(each.endswith("_deg") for each in quantities),
                "POSChannelCount": sum(each.endswith("_mm") for each in quantities),
                "MissingValues": "n/a" if gaps else "none",
                "TrackedPointsCount": 1,
            }
        ),
        "channels": _channels(quantities, bones),
    }
    return {where[key]: text for key, text in texts.items()}


def _channels(quantities: Sequence[str], bones: Sequence[str]) -> str:
    rows = [("name", "component", "type", "tracked_point", "units", "description")]
    for each in quantities:
        name, _, unit = each.rpartition("_")
        kind = ("JNTANG", "deg") if unit == "deg" else ("POS", "mm")
        described = TITLES.get(each, f"{bones[1]} relative to {bones[0]}, {name}")
        rows.append((name, "n/a", kind[0], f"{bones[0]}_{bones[1]}", kind[1], described))
    return "".join("\t".join(row) + "\n" for row in rows)
