"""Checkpoints of pose networks: read and checked, with the detector and pose range of training.

A checkpoint is xvr's dictionary with its key names, so models can be exchanged in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import files, geometry
from common.errors import InputError
from common.geometry import Detector
from common.geometry.pose_range import PoseRange, check, turned_about

# xvr's names for r1 r2 r3 tx ty tz, without "min" and "max"
RANGE_KEYS = {"r1": "alpha", "r2": "beta", "r3": "gamma", "tx": "tx", "ty": "ty", "tz": "tz"}
KEYS = ("model_state_dict", "config")
CONFIG_KEYS = {
    "model_name": str,
    "parameterization": str,
    "height": int,
    "sdd": (int, float),
    "delx": (int, float),
}
NUMBERS = (
    "sdd",
    "delx",
    "unit_conversion_factor",
    *(f"{key}{end}" for key in RANGE_KEYS.values() for end in ("min", "max")),
)
HEIGHTS = (16, 2048)


@dataclass(frozen=True)
class Checkpoint:
    """A trained pose network as stored in a file; ``content`` is xvr's dictionary."""

    content: dict[str, Any]
    path: Path = field(default=Path("checkpoint"))

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the network and of its training."""
        return self.content["config"]

    @property
    def detector(self) -> Detector:
        """The square, centred detector of the training images."""
        return Detector.centred(
            self.config["height"], self.config["height"], self.config["sdd"], self.config["delx"]
        )

    @property
    def pose_range(self) -> PoseRange | None:
        """The pose range of training, for poses of orientation AP.

        None if the checkpoint does not state it, or was trained without an orientation.
        """
        stated, orientation = range_of(self.config), self.config.get("orientation", "AP")
        if stated is None or orientation is None:
            return None
        return stated if orientation == "AP" else turned_about(stated)


def range_of(config: dict[str, Any]) -> PoseRange | None:
    """Return the pose range of a config, for poses of its own orientation; None if not stated."""
    ends = {}
    for name, key in RANGE_KEYS.items():
        low, high = config.get(f"{key}min"), config.get(f"{key}max")
        if low is None or high is None:
            return None
        ends[name] = (float(low), float(high))
    return PoseRange(**ends)


def range_entries(pose_range: PoseRange) -> dict[str, float]:
    """Return the entries of a config for a pose range: alphamin, alphamax, ..., tzmax."""
    return {
        f"{key}{end}": float(value)
        for name, key in RANGE_KEYS.items()
        for end, value in zip(("min", "max"), getattr(pose_range, name), strict=True)
    }


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of this suite or of xvr (0.1.0 and earlier) without running code from it.

    Raises InputError if the file is not a checkpoint.
    """
    from common.files import torch_files

    what = "a checkpoint of agnostic.py, finetuned.py or xvr (.pth)"
    path = files.existing_file(path, what)
    content = torch_files.load(path, what)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in KEYS):
        raise InputError(
            path,
            f"is not a checkpoint (no {' and '.join(KEYS)})",
            what,
            "give the .pth file written by training",
        )
    checkpoint = Checkpoint(content, path)
    _check_config(checkpoint, what)
    return checkpoint


def _check_config(checkpoint: Checkpoint, what: str) -> None:
    """Raise InputError if a setting is missing or out of range."""
    config, path = checkpoint.config, checkpoint.path
    wrong = [key for key, kind in CONFIG_KEYS.items() if not isinstance(config.get(key), kind)]
    # None stands for a default, like a missing key
    wrong += [
        key
        for key in NUMBERS
        if config.get(key) is not None
        and not (isinstance(config[key], int | float) and math.isfinite(config[key]))
    ]
    if wrong:
        raise InputError(
            path,
            f"config has no usable {', '.join(dict.fromkeys(wrong))}",
            what,
            "train it again",
        )
    if not (HEIGHTS[0] <= config["height"] <= HEIGHTS[1]) or not (
        config["sdd"] > 0 and config["delx"] > 0
    ):
        raise InputError(
            path,
            f"detector is {config['height']} px of {config['delx']} mm at {config['sdd']} mm",
            f"{HEIGHTS[0]} to {HEIGHTS[1]} px and lengths above 0",
            "train it again",
        )
    if config.get("orientation", "AP") not in list(geometry.REORIENT):
        raise InputError(
            path,
            f"orientation is {config['orientation']!r}",
            "AP, PA or None",
            "train it again",
        )
    if ":" in config["model_name"] or "/" in config["model_name"]:
        raise InputError(
            path,
            f"backbone {config['model_name']!r} would be downloaded",
            "a model name of timm, without a source",
            "train it again",
        )
    stated = range_of(config)
    if stated is not None:
        check(stated, path)
