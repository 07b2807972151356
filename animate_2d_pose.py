# PYTHON_ARGCOMPLETE_OK
"""Animate a registration as a GIF: the DRR moves onto the X-ray, pose by pose.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume, or the registered
        surface (STL, PLY, OBJ, VTP, GIFTI)
        parameters.pt of registration.py (step 7): the X-ray, the detector and the trajectory of
        poses
writes  a GIF; DRR and X-ray are at most 400 pixels wide. Every frame shows its iteration,
        similarity and scale; the last frame is shown for one second.
        overlay       X-ray in red, DRR in cyan: grey where they agree
        difference    DRR minus X-ray: red where the DRR is brighter, blue where it is darker,
                      white where they agree
        side          X-ray left, DRR right
        checkerboard  squares of X-ray and DRR alternately
        One monotone curve, determined at the final pose, matches the grey values of the DRR to
        those of the X-ray.
frame   the volume frame; pixels of the X-ray as registered
step    after registration.py (step 7)

example
  python animate_2d_pose.py --volume P01_femur.nii.gz --parameters results/parameters.pt \\
    --output_path results/registration.gif
"""

from __future__ import annotations

import argparse
import logging
import sys

from common import files
from common.command_line import flags, script
from common.errors import InputError
from common.reports import animation

logger = logging.getLogger("common.script")

MAX_FRAMES = 60


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--volume", required=True, metavar="CT", help="CT or surface that was registered"
    )
    parser.add_argument(
        "--parameters", required=True, metavar="PT", help="parameters.pt of registration.py"
    )
    parser.add_argument(
        "--output_path", required=True, metavar="GIF", help="animation to write, .gif"
    )
    parser.add_argument(
        "--mode",
        choices=tuple(animation.LEGENDS),
        default="overlay",
        help="how DRR and X-ray are shown (default: %(default)s)",
    )
    parser.add_argument(
        "--max_frames",
        type=int,
        default=MAX_FRAMES,
        metavar="N",
        help="largest number of frames; first and last pose are always shown"
        " (default: %(default)s)",
    )
    flags.add_device_flag(parser)
    return parser


def run(args: argparse.Namespace) -> int | None:
    from common.volume import nifti

    volume_path = files.existing_input(args.volume, nifti.CT)
    parameters = files.existing_file(args.parameters, "parameters.pt of registration.py")
    if not args.output_path.lower().endswith(".gif"):
        raise InputError(
            args.output_path,
            "not a GIF file name",
            "a name ending in .gif",
            "change --output_path",
        )
    if args.max_frames < 2:
        raise InputError(
            "--max_frames",
            f"found {args.max_frames}",
            "2 or more, for the first and the last pose",
            "increase it",
        )
    files.check_outputs([args.output_path], args.overwrite, [volume_path, parameters])

    from common.drr.renderer import choose_device, make_renderer
    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume import attenuation, nifti
    from common.volume.materials import rendered_above_hu

    result = parameters_file.load(parameters)
    ct = nifti.load_ct(volume_path, material=result.material)
    device = choose_device(args.device)
    volume_from_registered = world_from_registered(result, ct)
    renderer = make_renderer(
        attenuation.select_structures(ct, None, None, rendered_above_hu(ct.lineage)), device
    )
    # a voxel is magnified on its way to the detector
    pixel_mm = min(result.detector.pixel_mm) * animation.binning(result.detector)
    render = renderer.coarser(pixel_mm / 2).render
    images = animation.animate(result, render, volume_from_registered, args.mode, args.max_frames)
    animation.save_gif(args.output_path, images)
    logger.info(
        f"{len(images)} frames of {images[0].width} x {images[0].height} pixels, {args.mode}, from"
        f" {len(result.trajectory['r1'])} poses"
    )
    print(args.output_path)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
