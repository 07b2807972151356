"""Settings of a training run, and their defaults per device. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from common.errors import InputError
from common.geometry import Detector
from common.geometry.pose_range import PoseRange
from common.training.view import TrainingView

if TYPE_CHECKING:
    from common.drr.renderer import Device

# DiffDRR's names, of those that a network can predict (diffdrr.registration.N_ANGULAR_COMPONENTS)
Parameterization = Literal[
    "axis_angle",
    "euler_angles",
    "se3_log_map",
    "quaternion",
    "rotation_6d",
    "rotation_9d",
    "rotation_10d",
    "quaternion_adjugate",
]

CPU_BATCH, GPU_BATCH = 32, 116
CPU_REUSE = 4
CPU_HEIGHT, GPU_HEIGHT = 96, 128  # pixels per side of the training detector
FIELD_MM = 256.0
SDD_MM = 1020.0
GPU_WEIGHT = 1.0  # of the image and Dice terms, as in xvr
DEFAULT_MINUTES = 10.0


class Model(TypedDict):
    """Architecture of a pose network."""

    model_name: str
    norm_layer: str | None
    parameterization: Parameterization


# a small backbone processes many times the images on a CPU; on a GPU, xvr's
# (benchmarks/README.md, 'Errors of start poses')
CPU_MODEL: Model = {
    "model_name": "test_resnet",
    "norm_layer": "batchnorm2d",
    "parameterization": "rotation_6d",
}
GPU_MODEL: Model = {
    "model_name": "resnet18",
    "norm_layer": "groupnorm",
    "parameterization": "quaternion_adjugate",
}


class DeviceDefaults(TypedDict):
    """Settings whose defaults depend on the device."""

    batch_size: int
    reuse: int
    weight_ncc: float
    weight_dice: float


@dataclass(frozen=True)
class Settings:
    """Settings of one training run. Exactly one of ``minutes`` and ``iterations`` is given.

    ``unit_conversion_factor`` is the length in mm of one unit of the network's translation.
    ``p_augmentation`` is the probability of each augmentation, reached at the fraction
    ``effects_full_at`` of the budget (docs/training.md, 'Augmentation'). The learning rate rises to
    ``lr`` over the fraction ``warmup`` of the budget. ``weight_ncc`` and ``weight_dice`` are the
    weights of the image and Dice terms; that of the pose term is 1. Each DRR appears in ``reuse``
    batches.

    Raises InputError if both budgets are given, or none.
    """

    model_name: str
    norm_layer: str | None
    parameterization: Parameterization
    view: TrainingView
    batch_size: int
    lr: float
    convention: str | None = "ZXY"
    unit_conversion_factor: float = 100.0
    p_augmentation: float = 0.4
    effects_full_at: float = 0.5
    minutes: float | None = DEFAULT_MINUTES
    iterations: int | None = None
    warmup: float = 0.05
    weight_ncc: float = 0.0
    weight_dice: float = 0.0
    reuse: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.iterations is None):
            raise InputError(
                "`minutes`, `iterations`",
                f"{self.minutes} and {self.iterations}",
                "exactly one of the two",
                "set the other to None",
            )


def device_defaults(device: Device) -> DeviceDefaults:
    """Batch size, reuse of DRRs, and weights of the image and Dice terms."""
    weight = GPU_WEIGHT if device == "cuda" else 0.0
    batch, reuse = (CPU_BATCH, CPU_REUSE) if device == "cpu" else (GPU_BATCH, 1)
    return {"batch_size": batch, "reuse": reuse, "weight_ncc": weight, "weight_dice": weight}


def default_view(device: Device) -> TrainingView:
    """The knee's default pose range on the default detector of the device."""
    pixels = CPU_HEIGHT if device == "cpu" else GPU_HEIGHT
    return TrainingView(Detector.centred(pixels, pixels, SDD_MM, FIELD_MM / pixels), PoseRange())
