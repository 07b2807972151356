"""Flags of kinematics.py."""

from __future__ import annotations

from pathlib import Path

from common.command_line import script
from common.kinematics.formats import FORMATS

FURTHER = ("png", "pdf", "svg", "html")  # formats beside those of other tools


def add_inputs(parser: script.Parser) -> None:
    """Add the flags of the results, the anatomical frames and the folder to write into."""
    for bone in ("femur", "tibia"):
        parser.add_argument(
            f"--{bone}",
            required=True,
            nargs="+",
            type=Path,
            metavar="FOLDER",
            help=f"results folders of the {bone}, or the folder of a sequence",
        )
    parser.add_argument(
        "--frames",
        required=True,
        nargs=2,
        type=Path,
        metavar=("FEMUR.json", "TIBIA.json"),
        help="anatomical frames of both bones",
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, type=Path, metavar="OUT", help="folder to write into"
    )


def add_joint(parser: script.Parser) -> None:
    """Add the flags of the joint, of times and of smoothing."""
    parser.add_argument(
        "--order",
        metavar="AXES",
        help="Cardan order, such as ZXY or YXY, for another joint than a knee",
    )
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--fps", type=float, metavar="N", help="frames per second")
    times.add_argument(
        "--time",
        type=Path,
        metavar="FILE",
        help="text file with the time of each frame in seconds, or the DICOM run",
    )
    parser.add_argument(
        "--smooth", action="store_true", help="add smoothed columns; needs --fps or --time"
    )
    parser.add_argument(
        "--cutoff_hz",
        type=float,
        metavar="HZ",
        help="frequency of which --smooth passes half (default: estimated from the movement)",
    )


def add_studies(parser: script.Parser) -> None:
    """Add the flags of what is computed beyond the six numbers."""
    parser.add_argument(
        "--align",
        choices=("reframe",),
        help="a further table in frames turned by constants that lower varus and internal rotation;"
        " needs 30 degrees of flexion",
    )
    parser.add_argument(
        "--contact",
        nargs=2,
        type=Path,
        metavar=("FEMUR", "TIBIA"),
        help="labelmaps or surfaces of both bones, for the distances between them",
    )
    parser.add_argument(
        "--normal_band",
        type=Path,
        metavar="CSV",
        help="a band for comparison, such as one of gait: columns percent, FE_deg_low, FE_deg_high,"
        " ...",
    )
    parser.add_argument(
        "--cycle",
        nargs=2,
        metavar=("FIRST", "LAST"),
        help="frames that are 0 and 100 %% of --normal_band (default: the first and the last)",
    )


def add_formats(parser: script.Parser) -> None:
    """Add the flags of further files and of what they say."""
    parser.add_argument(
        "--format",
        nargs="+",
        choices=(*FORMATS, *FURTHER),
        default=[],
        metavar="NAME",
        help=f"further files: {', '.join((*FORMATS, *FURTHER))}",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="calibration of the first view, whose world the poses of --format are to be in",
    )
    parser.add_argument("--name", help="title of the page (default: the name of OUT)")
    parser.add_argument(
        "--subject", default="01", metavar="LABEL", help="subject in BIDS (default: 01)"
    )
    parser.add_argument(
        "--task", default="movement", metavar="LABEL", help="task in BIDS (default: movement)"
    )
