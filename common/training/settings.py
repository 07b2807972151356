"""What a training run is asked to do: settings with their defaults, the flags that change them, and xvr's config of them. numpy only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from common.geometry import Detector
from common.geometry.pose_range import knee
from common.pose_network import checkpoint
from common.training.sampling import View

# a small backbone sees many times the pictures on a CPU (benchmarks/README.md); on a GPU, xvr's
CPU_MODEL = {
    "model_name": "test_resnet",
    "norm_layer": "batchnorm2d",
    "parameterization": "rotation_6d",
}
GPU_MODEL = {
    "model_name": "resnet18",
    "norm_layer": "groupnorm",
    "parameterization": "quaternion_adjugate",
}
CPU_BATCH, GPU_BATCH = 32, 116
CPU_REUSE = 4
CPU_HEIGHT, GPU_HEIGHT = 96, 128  # pixels a side of the training detector
FIELD_MM = 256.0
GPU_WEIGHT = 1.0  # of the image and Dice terms, as xvr trains
DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Settings:
    """One training run. Exactly one of ``minutes`` and ``iterations`` is set."""

    model_name: str
    norm_layer: str | None
    parameterization: str
    view: View
    batch_size: int
    lr: float
    convention: str | None = "ZXY"
    unit_conversion_factor: float = 100.0  # millimetres of one unit of the translation head
    p_augmentation: float = 0.4
    effects_full_at: float = 0.5  # share of the budget; with all effects from the start, 8,000 pictures taught a knee to 58 mm, without any to 15 mm
    minutes: float | None = DEFAULT_MINUTES
    iterations: int | None = None
    warmup: float = 0.05  # share of the budget over which the learning rate rises
    weight_ncc: float = 0.0  # of the image term, beside the pose's 1
    weight_dice: float = 0.0
    reuse: int = 1  # batches in which a rendering appears, each time with other effects
    seed: int = 0

    def config(self, **files: Any) -> dict[str, Any]:
        """xvr's config: all that its trainer stores, with ours where we have it, and the settings only we know."""
        detector = self.view.detector
        total = self.iterations or 0
        return {
            "volpath": files["volpath"],
            "maskpath": files["maskpath"],
            "outpath": files["outpath"],
            **checkpoint.range_entries(self.view.pose_range),
            "sdd": detector.sdd_mm,
            "height": detector.height,
            "delx": detector.pixel_mm[0],
            "orientation": self.view.orientation,
            "reverse_x_axis": self.view.reverse_x_axis,
            "parameterization": self.parameterization,
            "convention": self.convention,
            "model_name": self.model_name,
            "pretrained": False,
            "norm_layer": self.norm_layer,
            "unit_conversion_factor": self.unit_conversion_factor,
            "p_augmentation": self.p_augmentation,
            "lr": self.lr,
            "weight_ncc": self.weight_ncc,
            "weight_geo": 1.0,
            "weight_dice": self.weight_dice,
            "weight_haus": 0.0,
            "batch_size": self.batch_size,
            "n_total_itrs": total,
            "n_warmup_itrs": int(total * self.warmup),
            "n_grad_accum_itrs": 1,
            "n_save_every_itrs": 0,
            "disable_scheduler": False,
            "ckptpath": files["ckptpath"],
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
            "geodesic_only": not (self.weight_ncc or self.weight_dice),
            "minutes": self.minutes,
            "seed": self.seed,
            "reuse": self.reuse,
            "effects_full_at": self.effects_full_at,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], **changes: Any) -> Settings:
        """Settings of a checkpoint's config, ours or xvr's; ``changes`` win."""
        orientation = config.get("orientation", "AP")
        detector = Detector.centred(
            config["height"], config["height"], config["sdd"], config["delx"]
        )
        view = View(
            detector,
            checkpoint.range_of(config) or knee(orientation),
            orientation,
            config.get("reverse_x_axis", False),
        )
        ours = {
            key: config[key]
            for key in (
                "p_augmentation",
                "lr",
                "batch_size",
                "seed",
                "minutes",
                "weight_ncc",
                "weight_dice",
                "reuse",
                "effects_full_at",
            )
            if key in config
        }
        settings = cls(
            model_name=config["model_name"],
            norm_layer=config.get("norm_layer"),
            parameterization=config["parameterization"],
            convention=config.get("convention"),
            unit_conversion_factor=config.get("unit_conversion_factor", 1.0),
            view=view,
            iterations=config.get("n_total_itrs") if not config.get("minutes") else None,
            **{"lr": 1e-3, "batch_size": CPU_BATCH, **ours},
        )
        return replace(settings, **changes)


def device_defaults(device: str) -> dict[str, Any]:
    """Batch, reuse of renderings, and weights of the loss's terms."""
    weight = GPU_WEIGHT if device == "cuda" else 0.0
    batch, reuse = (CPU_BATCH, CPU_REUSE) if device == "cpu" else (GPU_BATCH, 1)
    return {"batch_size": batch, "reuse": reuse, "weight_ncc": weight, "weight_dice": weight}


def wait_without_spinning() -> None:
    """Let idle threads of torch and numba sleep: spinning took 2.6 times the time on a machine with other work. To be called before either is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
