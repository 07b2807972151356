# PYTHON_ARGCOMPLETE_OK
"""Step 6: finetune a pose network on one patient.

Starts from the weights of a checkpoint (of agnostic.py, this script or xvr) and trains on images of
this patient's CT alone, with the network, detector and pose range of the checkpoint; flags override
detector and pose range.

reads   the patient's prepared CT in Hounsfield units (steps 1 to 4), in the orientation of the
        cohort; the checkpoint
        --mask: the labelmap of the bone on the grid of the CT; other bones then move at random
writes  OUT/NAME.pth          the network that was best on held-out poses
        OUT/NAME_last.pth     its last state, for --resume; written about ten times per run
        OUT/NAME.csv          loss and held-out errors; mm and degrees
        OUT/NAME_tensorboard/ the same for TensorBoard
        OUT/NAME_samples.png  training images; OUT/NAME_curve.png the learning curve
        with --check, only OUT/check.png and a table: they show whether the X-ray of --like, the CT,
        the detector and the pose range are consistent
frame   poses in the canonical frame: RAS mm of the CT with its isocentre as origin; Euler ZXY
before  agnostic.py (step 5)
next    registration.py (step 7)

example
  python finetuned.py -i cohort/femur_centered/P01_femur.nii.gz -o models \\
    -c models/knee_femur.pth --name P01_femur --minutes 5
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command_line import flags, log, script, training_flags
from common.errors import InputError
from common.files import check_outputs, existing_file, output_folder
from common.results import names
from common.training.settings import (
    DEFAULT_MINUTES,
    Settings,
    device_defaults,
)
from common.training.xvr_config import RunPaths, settings_of

if TYPE_CHECKING:
    from common.drr.renderer import Device
    from common.training.sources import Source
    from common.training.view import TrainingView
    from common.xray.xray import Xray

logger = logging.getLogger("common.script")

CPU_LR, GPU_LR = 1.5e-3, 5e-4  # half of agnostic.py's


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="CT",
        help="the patient's prepared CT (.nii or .nii.gz)",
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder of the output files"
    )
    parser.add_argument(
        "-c", "--checkpoint", required=True, metavar="PTH", help="checkpoint to start from"
    )
    parser.add_argument("--name", required=True, help="name of the output files")
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "only check the inputs: writes OUT/check.png and prints a table with remedies (exit"
            " code 2 if training cannot work); requires --like"
        ),
    )
    training_flags.add_training_flags(parser, inherited=True, rates=(CPU_LR, GPU_LR))
    flags.add_device_flag(parser)
    return parser


def inherited_settings(config: dict[str, Any], device: Device) -> Settings:
    """Settings with the network, detector and pose range of a checkpoint's config.

    Budget, batch size and learning rate are those of this step. The network knows the bone already,
    so augmentation is complete from the start.
    """
    return settings_of(
        config,
        **device_defaults(device),
        lr=CPU_LR if device == "cpu" else GPU_LR,
        iterations=None,
        minutes=DEFAULT_MINUTES,
        warmup=Settings.warmup,
        seed=0,
        effects_full_at=0.0,
    )


def check_flags(args: argparse.Namespace, inputs: list[Path]) -> None:
    """Raise InputError if --check has no X-ray, resumes a run, or would replace an image."""
    if not args.like:
        raise InputError("--check", "no X-ray", "one of those to register", "add --like XRAY")
    if args.resume:
        raise InputError(
            "--check", "given with --resume", "only one of the two", "drop one of the two"
        )
    check_outputs([Path(args.output_dir) / names.CHECK_IMAGE], args.overwrite, [*inputs, args.like])


def check(
    xray: Xray, source: Source, view: TrainingView, seed: int, device: Device, folder: Path
) -> int:
    """Write check.png into the folder and print the table. Returns the exit code.

    The code is 2 if a finding makes training impossible.
    """
    from common.registration import preflight, structures
    from common.training import loading
    from common.training.check import examine_training

    structure = structures.load_structure(source.ct, source.mask, source.labels, device=device)
    # as registration.py: for a mirrored bone, or an image seen from the detector's side
    if structure.ct.lineage.mirrored == view.reverse_x_axis:
        xray = xray.flip()
    patient = loading.load_patient(source, view, device)
    report = examine_training(xray, structure, patient, view, seed)
    report = report.worded(lambda text: log.with_flags(text, build_parser().settings))
    image = output_folder(folder) / names.CHECK_IMAGE
    preflight.write_image(image, [report], [xray.as_uint8()], ["centre of the range"])
    print(preflight.table([report]))
    print(image)
    return script.EXIT_BAD_INPUT if preflight.impossible([report]) else script.EXIT_DONE


def run(args: argparse.Namespace) -> int | None:
    from common.drr import renderer
    from common.pose_network.checkpoint import load_checkpoint
    from common.training import sources
    from common.training.job import Job
    from common.training.run import train

    ct = existing_file(args.input, "the patient's prepared CT (.nii or .nii.gz)")
    checkpoint = existing_file(args.checkpoint, "the checkpoint to start from (.pth)")
    source = sources.pair_mask(ct, Path(args.mask) if args.mask else None, args.labels)
    device = renderer.choose_device(args.device)
    if args.check:
        check_flags(args, [ct, checkpoint])
        inherited = inherited_settings(load_checkpoint(checkpoint).config, device)
        settings = training_flags.overridden(inherited, args, device)
        xray, folder = training_flags.like_xray(args), Path(args.output_dir)
        return check(xray, source, settings.view, settings.seed, device, folder)
    outputs = training_flags.outputs_of(args, [ct, checkpoint])
    start = load_checkpoint(checkpoint)
    resume = load_checkpoint(outputs.last) if args.resume else None
    if start.pose_range is None:
        logger.info(
            f"{checkpoint.name}: no pose range; the knee's defaults are used for flags that are not"
            " given"
        )
    if resume:
        settings = settings_of(resume.config, **training_flags.changes_from(args))
    else:
        inherited = inherited_settings(start.config, device)
        settings = training_flags.overridden(inherited, args, device)
    paths = RunPaths(str(ct), args.mask, args.output_dir, str(checkpoint))
    training_flags.let_first_process_speak()
    best = train(
        Job(settings, (source,), outputs, paths, args.cache_gb, device, args.wandb, start, resume)
    )
    if best:
        print(best)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
