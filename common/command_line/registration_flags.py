"""Flags of registration.py."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from common.command_line import flags
from common.command_line.script import Parser
from common.registration.request import (
    AttenuationMode,
    Flip,
    Optimizer,
    SearchExtent,
    Side,
    StartMethod,
)
from common.xray.grey_values import Polarity


def add_registration_flags(parser: Parser) -> None:
    """Add all flags of registration.py."""
    _add_inputs(parser)
    _add_geometry(parser)
    _add_image(parser)
    _add_start(parser)
    parser.add_argument(
        "--optimizer",
        choices=get_args(Optimizer),
        default="gauss-newton",
        help=(
            "adam: reference for comparison, first-order ascent of xvr's gmncc from a single start"
            " pose with hundreds of DRRs (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "only check the inputs: check.png and a table of geometry, field of view, polarity and"
            " (without --views) orientation, with remedies; exit code 2 if registration is"
            " impossible"
        ),
    )
    parser.add_argument(
        "--repeat",
        type=Path,
        metavar="PARAMETERS",
        help="repeat the registration that wrote this parameters.pt; needs only -o",
    )
    flags.add_pose_range_flags(parser, everywhere=True)
    flags.add_device_flag(parser)


def _add_inputs(parser: Parser) -> None:
    parser.add_argument(
        "xray",
        nargs="*",
        type=Path,
        help="X-rays, before the flags: DICOM, PNG, JPEG, TIFF, BMP, JPEG 2000, AVI or MP4",
    )
    parser.add_argument(
        "-v",
        "--volume",
        nargs="+",
        type=Path,
        default=[],
        help=(
            "CT in Hounsfield units (NIfTI, NRRD, MHA, a DICOM folder or zip), or a surface in mm"
            " (STL, PLY, OBJ, VTP, GIFTI); one per bone or implant"
        ),
    )
    parser.add_argument(
        "-c",
        "--checkpoint",
        type=Path,
        help=(
            "pose network of agnostic.py or finetuned.py (or xvr's); without it, the start pose is"
            " searched"
        ),
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="output folder")
    parser.add_argument(
        "--mask",
        nargs="+",
        type=Path,
        help=(
            "labelmap on the grid of the volume, one per volume that is no surface: render only its"
            " structures"
        ),
    )
    flags.add_labels_flag(
        parser, "labels of --mask to render (default: all), with several volumes one label each"
    )
    flags.add_series_flag(parser)
    flags.add_material_flag(parser, nargs="+")
    parser.add_argument(
        "--attenuation",
        choices=get_args(AttenuationMode),
        default="auto",
        help=(
            "whole: total attenuation; excess: attenuation above that of soft tissue; auto: excess"
            " for a labelmap or a cropped bone, else whole (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--context",
        type=Path,
        metavar="CT",
        help=(
            "whole CT that is searched for and rendered with the structure, for a bone that"
            " moves with its surroundings (a vertebra, a scapula in the chest); not for a joint,"
            " where neighbours have moved since the CT"
        ),
    )


def _add_geometry(parser: Parser) -> None:
    views = parser.add_argument_group("views of one instant")
    views.add_argument(
        "--views",
        action="store_true",
        help=(
            "the X-rays show one instant, one camera per X-ray (or several instants, one after the"
            " other); needs --calibration"
        ),
    )
    views.add_argument(
        "--calibration",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=(
            "calibrated cameras in the order of the X-rays, repeated in sequence if there are more"
            " X-rays (cam1_*.tif cam2_*.tif are paired by names, with cam1.txt cam2.txt): XMALab"
            " text (MayaCam 2.0 or 1), JSON with K, R, t in mm, or JointTrack's (one camera)"
        ),
    )
    detector = parser.add_argument_group(
        "detector geometry (default: the DICOM header, or NAME.json next to NAME.png)"
    )
    detector.add_argument("--sdd", type=float, help="source-to-detector distance, mm")
    detector.add_argument(
        "--pixel_spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="pixel spacing at the detector, mm: one number, or width and height",
    )
    detector.add_argument(
        "--principal_point",
        type=float,
        nargs=2,
        metavar=("COLUMN", "ROW"),
        help="pixel that the perpendicular from the source hits, from 0 (default: the centre)",
    )


def _add_image(parser: Parser) -> None:
    image = parser.add_argument_group("image")
    image.add_argument(
        "--bone",
        choices=get_args(Polarity),
        default="auto",
        help=(
            "polarity of bone in the image as shown by a viewer; auto: from the DICOM header, or a"
            " guess, which is printed (default: %(default)s)"
        ),
    )
    image.add_argument(
        "--frame",
        type=int,
        help="frame of a multi-frame DICOM, a multi-page TIFF or a video, from 0",
    )
    image.add_argument(
        "--side",
        choices=get_args(Side),
        help=(
            "side of a volume without lineage; right: a right bone mirrored to a left one, whose"
            " image is then flipped (default: the lineage; without one, not mirrored)"
        ),
    )
    image.add_argument(
        "--flip",
        choices=get_args(Flip),
        default="auto",
        help=(
            "flip the image left to right; auto: for a mirrored volume, or an image seen from the"
            " detector according to the checkpoint or, with --init dicom, the header"
            " (default: %(default)s)"
        ),
    )


def _add_start(parser: Parser) -> None:
    start = parser.add_argument_group("start pose")
    start.add_argument(
        "--init",
        choices=get_args(StartMethod),
        help=(
            "origin of the start pose; model: the pose network; search: the pose range; fixed:"
            " --init_pose; dicom: the C-arm's angles in the header (default: model with -c, else"
            " search)"
        ),
    )
    start.add_argument(
        "--init_pose",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=(
            "required with --init fixed: an earlier parameters.pt, or JSON with camera, 4x4"
            " scanner_from_camera (one, or one per view); for several volumes, one each or one for"
            " all; with --sequence also FRAME=FILE for some frames, counted from 0: the bones are"
            " tracked from each to both sides"
        ),
    )
    start.add_argument(
        "--search",
        choices=get_args(SearchExtent),
        default="range",
        help=(
            "orientations that --init search covers; range: upright first, then others where that"
            " is uncertain (those of the pose range if one is given); full: all at once, for a bone"
            " in the frame of a laboratory (default: %(default)s)"
        ),
    )
    start.add_argument(
        "--no_cache",
        action="store_true",
        help="do not keep the template bank of the search in the user's cache folder",
    )
    start.add_argument(
        "--sequence",
        action="store_true",
        help=(
            "the X-rays are frames of one motion in order (a folder, a multi-frame DICOM, a"
            " multi-page TIFF or a video is its frames): each"
            " starts where the motion so far leads to; if the bone is lost, it is searched for"
        ),
    )
    start.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the candidates around a start pose (default: %(default)s)",
    )
