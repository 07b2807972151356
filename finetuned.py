# PYTHON_ARGCOMPLETE_OK
"""Step 6: specialise a model to one patient.

Starts from the weights of a checkpoint (agnostic.py, this script, or xvr) and trains on pictures of this patient's CT alone, with the checkpoint's network,
detector and range of poses; flags overrule detector and poses.

reads   the patient's preprocessed CT in Hounsfield units (steps 1 to 4), in the orientation of the cohort; the checkpoint
        --mask: the bone's labelmap on the CT's grid; then other bones in the pictures move at random
writes  OUT/NAME.pth          the model that was best on held-out poses
        OUT/NAME_last.pth     its last state, for --resume; written about ten times a run
        OUT/NAME.csv          loss and held-out errors; mm and degrees
        OUT/NAME_tensorboard/ the same for TensorBoard
        OUT/NAME_samples.png  what the network is shown; OUT/NAME_curve.png the learning curve
        with --check only OUT/check.png and a table: does the X-ray of --like go together with CT, detector and range of poses
frame   poses in the canonical frame: the CT's RAS millimetres with its middle as origin; angles Euler ZXY
before  agnostic.py (step 5)
next    registration.py (step 7)

example
  python finetuned.py -i cohort/femur_centered/P01_femur.nii.gz -o models -c models/knee_femur.pth --name P01_femur --minutes 5
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.command_line import flags, script, training_flags
from common.errors import InputError
from common.files import check_outputs, existing_file, output_folder
from common.training.settings import (
    DEFAULT_MINUTES,
    Settings,
    device_defaults,
    wait_without_spinning,
)

if TYPE_CHECKING:
    from common.training.sampling import Source, View

logger = logging.getLogger("common.script")


CPU_LR, GPU_LR = 1.5e-3, 5e-4  # half of agnostic.py's


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="CT",
        help="the patient's preprocessed CT (.nii or .nii.gz)",
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for the model"
    )
    parser.add_argument(
        "-c", "--checkpoint", required=True, metavar="PTH", help="model to start from"
    )
    parser.add_argument("--name", required=True, help="name of the model's files")
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "only look: OUT/check.png and a table, with what to change (exit code 2 where it cannot"
            " work); needs --like"
        ),
    )
    training_flags.add_training_flags(parser, inherited=True, rates=(CPU_LR, GPU_LR))
    flags.add_device_flag(parser)
    return parser


def choose_settings(args: argparse.Namespace, config: dict, device: str) -> Settings:
    """Flags over the checkpoint's network, detector and poses; budget, batch and learning rate are this step's own. The network knows the bone already: all effects come from the start."""
    rate = CPU_LR if device == "cpu" else GPU_LR
    own = {
        **device_defaults(device),
        "lr": rate,
        "iterations": None,
        "minutes": DEFAULT_MINUTES,
        "seed": 0,
        "effects_full_at": 0.0,
    }
    inherited = Settings.from_config(config, **own)
    return replace(
        inherited,
        view=training_flags.view_from(args, device, inherited.view),
        **training_flags.changes_from(args),
    )


def check_flags(args: argparse.Namespace, inputs: list[Path]) -> None:
    """InputError where --check lacks an X-ray, continues a run, or would replace a picture."""
    from common.registration import preflight

    if not args.like:
        raise InputError("--check", "no X-ray", "one of those to be registered", "add --like XRAY")
    if args.resume:
        raise InputError(
            "--check", "given with --resume", "a run that has not begun", "drop one of the two"
        )
    check_outputs([Path(args.output_dir) / preflight.PICTURE], args.overwrite, [*inputs, args.like])


def check(args: argparse.Namespace, view: View, source: Source, device: str) -> int:
    """Write check.png, print the table, and return the exit code: 2 where something is impossible."""
    from common.registration import preflight, scene
    from common.training import sampling
    from common.training.check import examine
    from common.xray import reading

    xray = reading.read(args.like, reading.GeometryFlags(args.sdd))
    structure = scene.load_structure(
        source.ct, source.mask, list(source.labels) if source.labels else None, "auto", None, device
    )
    if (
        structure.ct.lineage.mirrored == view.reverse_x_axis
    ):  # as registration.py: for a mirrored bone, or a picture seen from the detector's side
        xray = xray.flip()
    report = examine(
        xray, structure, sampling.load_patient(source, view, device), view, args.seed or 0
    )
    picture = output_folder(args.output_dir) / preflight.PICTURE
    preflight.write_picture(picture, [report], [xray.as_uint8()], ["middle of the range"])
    print(preflight.table([report]))
    print(picture)
    return preflight.exit_code([report])


def run(args: argparse.Namespace) -> int | None:
    wait_without_spinning()
    from common.command_line import training_flags
    from common.drr import renderer
    from common.pose_network.checkpoint import load_checkpoint
    from common.training import sampling
    from common.training.run import Job, execute

    ct = existing_file(args.input, "the patient's preprocessed CT (.nii or .nii.gz)")
    checkpoint = existing_file(args.checkpoint, "the model to start from (.pth)")
    source = sampling.pair_mask(ct, Path(args.mask) if args.mask else None, args.labels)
    device = renderer.choose_device(args.device)
    if args.check:
        check_flags(args, [ct, checkpoint])
        return check(
            args,
            choose_settings(args, load_checkpoint(checkpoint).config, device).view,
            source,
            device,
        )
    outputs = training_flags.outputs_of(args, [ct, checkpoint])
    start = load_checkpoint(checkpoint)
    resume = load_checkpoint(outputs.last) if args.resume else None
    if start.pose_range is None:
        logger.info(
            f"{checkpoint.name}: states no range of poses; the knee defaults are taken where no"
            " flag says otherwise"
        )
    settings = (
        Settings.from_config(resume.config, **training_flags.changes_from(args))
        if resume
        else choose_settings(args, start.config, device)
    )
    files = {
        "volpath": str(ct),
        "maskpath": args.mask,
        "outpath": args.output_dir,
        "ckptpath": str(checkpoint),
    }
    return execute(
        Job(
            settings,
            [source],
            outputs,
            files,
            args.cache_gb,
            args.wandb,
            start=start,
            resume=resume,
        ),
        device,
    )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
