"""Settings of a training run as the config of a checkpoint, with xvr's keys. numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common.geometry import Detector
from common.geometry.pose_range import PoseRange, oriented
from common.pose_network import checkpoint
from common.training.settings import CPU_BATCH, DEFAULT_MINUTES, Settings
from common.training.view import TrainingView
from common.version import VERSION

# settings that have the same key in the config
SAME_KEYS = (
    "model_name",
    "norm_layer",
    "parameterization",
    "convention",
    "unit_conversion_factor",
    "batch_size",
    "lr",
    "p_augmentation",
    "effects_full_at",
    "warmup",
    "weight_ncc",
    "weight_dice",
    "reuse",
    "seed",
)
# their values if the config of an early xvr has no such key
DEFAULTS: dict[str, Any] = {
    "norm_layer": None,
    "convention": None,
    "unit_conversion_factor": 1.0,
    "batch_size": CPU_BATCH,
    "lr": 1e-3,
}
# settings of xvr's trainer that this one does not have, with the values that describe it
XVR_ONLY: dict[str, Any] = {
    "pretrained": False,
    "weight_geo": 1.0,
    "weight_haus": 0.0,
    "n_grad_accum_itrs": 1,
    "n_save_every_itrs": 0,
    "disable_scheduler": False,
    "reuse_optimizer": False,
    "warp": None,
    "invert": False,
    "patch_size": None,
    "num_workers": 0,
    "pin_memory": False,
    "weights": None,
    "img_threshold": 0.0,
    "mask_threshold": 0.0,
    "n_samples": 0,
}


@dataclass(frozen=True)
class RunPaths:
    """Paths as the config stores them: CTs, labelmaps, output folder, and start checkpoint."""

    volpath: str
    maskpath: str | None = None
    outpath: str = ""
    ckptpath: str | None = None


def config_of(settings: Settings, paths: RunPaths) -> dict[str, Any]:
    """The config: every key that xvr's trainer stores, then the settings that only this suite has.

    `settings_of` returns the same settings. ``suite_version`` is the version of this suite.
    """
    detector = settings.view.detector
    total = settings.iterations or 0
    return {
        **asdict(paths),
        **checkpoint.range_entries(settings.view.pose_range),
        "sdd": detector.sdd_mm,
        "height": detector.height,
        "delx": detector.pixel_mm[0],
        "orientation": settings.view.orientation,
        "reverse_x_axis": settings.view.reverse_x_axis,
        "n_total_itrs": total,
        "n_warmup_itrs": int(total * settings.warmup),
        "geodesic_only": not (settings.weight_ncc or settings.weight_dice),
        **XVR_ONLY,
        **{key: getattr(settings, key) for key in SAME_KEYS},
        "minutes": settings.minutes,
        "suite_version": VERSION,
    }


def settings_of(config: dict[str, Any], **changes: Any) -> Settings:
    """The settings in the config of a checkpoint of this suite or of xvr, with ``changes``."""
    orientation = config.get("orientation", "AP")
    detector = Detector.centred(config["height"], config["height"], config["sdd"], config["delx"])
    view = TrainingView(
        detector,
        checkpoint.range_of(config) or oriented(PoseRange(), orientation),
        orientation,
        config.get("reverse_x_axis", False),
    )
    minutes = config.get("minutes")
    iterations = None if minutes else config.get("n_total_itrs") or None
    stored: dict[str, Any] = {
        **DEFAULTS,
        **{key: config[key] for key in SAME_KEYS if key in config},
        "view": view,
        "minutes": minutes or (None if iterations else DEFAULT_MINUTES),
        "iterations": iterations,
    }
    return Settings(**{**stored, **changes})
