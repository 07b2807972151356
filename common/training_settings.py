"""What a training run is asked to do: settings with their defaults, the flags that change them, and xvr's config of them. numpy only."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from typing import Any

from common import cli, network, poserange
from common.geometry import Detector
from common.poserange import PoseRange
from common.sampling import View

# a small backbone sees many times the pictures on a CPU (benchmarks/README.md); on a GPU, xvr's
CPU_MODEL = {"model_name": "test_resnet", "norm_layer": "batchnorm2d", "parameterization": "rotation_6d"}
GPU_MODEL = {"model_name": "resnet18", "norm_layer": "groupnorm", "parameterization": "quaternion_adjugate"}
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
            **network.range_entries(self.view.pose_range),
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
        detector = Detector.centred(config["height"], config["height"], config["sdd"], config["delx"])
        view = View(detector, network.range_of(config) or poserange.knee(orientation), orientation, config.get("reverse_x_axis", False))
        ours = {key: config[key] for key in ("p_augmentation", "lr", "batch_size", "seed", "minutes", "weight_ncc", "weight_dice", "reuse", "effects_full_at") if key in config}
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


def add_training_flags(parser: argparse.ArgumentParser, inherited: bool, rates: tuple[float, float]) -> None:
    """The flags of both training scripts; ``inherited`` says that detector and poses default to the checkpoint's; ``rates`` are the learning rates on a CPU and on a GPU."""
    source = "the checkpoint's" if inherited else ""
    budget = parser.add_argument_group("budget")
    length = budget.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M", help=f"train for so long (default: {DEFAULT_MINUTES:g})")
    length.add_argument("--iterations", type=int, metavar="N", help="train for so many batches instead; with it, --resume continues bit for bit")
    budget.add_argument("--resume", action="store_true", help="continue OUT/NAME_last.pth with its settings and budget")
    budget.add_argument("--batch_size", type=int, metavar="N", help=f"pictures a batch (default: {CPU_BATCH} on a CPU, {GPU_BATCH} on a GPU)")
    budget.add_argument("--lr", type=float, help=f"highest learning rate (default: {rates[0]:g} on a CPU, {rates[1]:g} on a GPU)")
    budget.add_argument("--wandb", metavar="PROJECT", help="report to this project of Weights & Biases too (pip install wandb)")
    budget.add_argument("--seed", type=int, default=None, help="another seed draws other weights and pictures (default: 0)")
    for name, term in (("weight_ncc", "pictures"), ("weight_dice", "silhouettes")):
        budget.add_argument(
            f"--{name}",
            type=float,
            metavar="W",
            help=f"weight of the difference of {term} at predicted and true pose, beside 1 a 100 mm (default: {GPU_WEIGHT:g} on CUDA, else 0)",
        )
    data = parser.add_argument_group("pictures")
    data.add_argument("--mask", metavar="FILE|DIR", help="labelmap of the bone, or a folder with one of each CT's file name: other bones then move at random")
    data.add_argument("--labels", nargs="+", type=int, metavar="N", help="labels of --mask that are the bone (default: all)")
    data.add_argument("--like", metavar="XRAY", help="take SDD and field of view from this X-ray's DICOM header")
    for name, kind, default, what in (
        ("sdd", float, "1020", "source-to-detector distance, mm"),
        ("height", int, f"{CPU_HEIGHT} on a CPU, {GPU_HEIGHT} on a GPU", "pixels of the square training detector"),
        ("delx", float, f"a field of {FIELD_MM:g} mm", "its pixel size, mm"),
    ):
        data.add_argument(f"--{name}", type=kind, metavar="PX" if kind is int else "MM", help=f"{what} (default: {source or default})")
    data.add_argument("--p_augmentation", type=float, metavar="P", help="chance of each effect on each picture (default: 0.4)")
    data.add_argument("--cache_gb", type=float, default=4.0, metavar="GB", help="memory for CTs; a larger cohort passes through it (default: %(default)g)")
    poserange.add_pose_range_flags(parser, source)


def device_defaults(device: str) -> dict[str, Any]:
    """Batch, reuse of renderings, and weights of the loss's terms."""
    weight = GPU_WEIGHT if device == "cuda" else 0.0
    batch, reuse = (CPU_BATCH, CPU_REUSE) if device == "cpu" else (GPU_BATCH, 1)
    return {"batch_size": batch, "reuse": reuse, "weight_ncc": weight, "weight_dice": weight}


def wait_without_spinning() -> None:
    """Let idle threads of torch and numba sleep: spinning took 2.6 times the time on a machine with other work. To be called before either is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def view_from(args: argparse.Namespace, device: str, fallback: View | None = None) -> View:
    """Detector and poses of the flags over --like over ``fallback`` over the device's and the knee's defaults. Raises InputError for what cannot be."""
    pixels = CPU_HEIGHT if device == "cpu" else GPU_HEIGHT
    base = fallback or View(Detector.centred(pixels, pixels, 1020.0, FIELD_MM / pixels), PoseRange())
    height, sdd, delx = base.detector.height, base.detector.sdd_mm, base.detector.pixel_mm[0]
    height = height if args.height is None else args.height
    if args.height is not None and height > 0:
        delx = delx * base.detector.height / height
    if args.like:
        from common import xrays

        detector = xrays.read(args.like, xrays.GeometryFlags(args.sdd)).detector
        sdd, delx = detector.sdd_mm, max(detector.size_mm) / max(height, 1)
    sdd, delx = (given if given is not None else found for given, found in ((args.sdd, sdd), (args.delx, delx)))
    low, high = network.HEIGHTS
    if not low <= height <= high or height % 2:
        raise cli.InputError(f"--height: found {height}; expected an even number of pixels, {low} to {high}; {CPU_HEIGHT} suits a CPU")
    if not 50 <= sdd <= 10_000 or not 0.01 <= delx <= 50:
        raise cli.InputError(f"--sdd {sdd:g} --delx {delx:g}: expected 50 to 10000 mm and 0.01 to 50 mm; correct them")
    pose_range = poserange.pose_range_from(args, fallback and fallback.pose_range)
    return View(Detector.centred(height, height, sdd, delx), pose_range, base.orientation, base.reverse_x_axis)


def changes_from(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags state, checked. Raises InputError."""
    for name, low, high, unit in (("minutes", 0.01, 100_000, "minutes"), ("iterations", 1, 1e9, ""), ("batch_size", 2, 4096, "pictures"), ("lr", 1e-8, 1, ""), ("seed", 0, 2**31, ""), ("p_augmentation", 0, 1, ""), ("weight_ncc", 0, 1000, ""), ("weight_dice", 0, 1000, ""), ("cache_gb", 0.01, 10_000, "GB")):  # fmt: skip
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise cli.InputError(f"--{name}: found {value:g}; expected {low:g} to {high:g} {unit}".rstrip() + "; correct it")
    changes = {name: getattr(args, name) for name in ("batch_size", "lr", "seed", "p_augmentation", "weight_ncc", "weight_dice") if getattr(args, name) is not None}
    if args.iterations is not None:
        return {**changes, "iterations": args.iterations, "minutes": None}
    if args.minutes is not None:
        return {**changes, "iterations": None, "minutes": args.minutes}
    return changes
