"""Measure start poses of a trained network, and how often refinement from them ends at the truth.

Trains by agnostic.py (by finetuned.py if -c is among its flags) with the flags after --, then
predicts the pose of X-rays of the same patient with known ground truth, and refines from there as
registration.py does. X-rays are NAME.dcm or NAME.png, each with a file NAME<SUFFIX> next to it as
evaluation.py --truth reads it. With --trained, nothing is trained.

writes  OUT.csv, one row per X-ray: errors of the start pose and of the final pose in mm and
        degrees, and seconds; medians and the share within 1 mm in plane on standard output
example
  python benchmarks/training.py --ct left_femur.nii.gz --mask left_femur_seg.nii.gz --labels 2 \\
    --xrays xrays/*.dcm --suffix .json -o femur.csv -- -o models --name femur --minutes 10
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script as script_module
from common.errors import InputError

if TYPE_CHECKING:
    import torch

    from common.pose_network.checkpoint import Checkpoint
    from common.registration.scene import Body
    from common.xray.xray import Xray

CONVERGED_MM = 1.0
ERRORS = ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg")

Row = dict[str, Any]


def build_parser() -> script_module.Parser:
    parser = script_module.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="the patient's prepared CT")
    parser.add_argument(
        "--mask", type=Path, help="labelmap on its grid (default: register the whole CT)"
    )
    parser.add_argument(
        "--labels",
        type=int,
        nargs="+",
        metavar="N",
        help="labels of the bone; the first selects the bone in the ground truth",
    )
    parser.add_argument(
        "--xrays",
        required=True,
        nargs="+",
        type=Path,
        help="X-rays with their ground truth next to them",
    )
    parser.add_argument(
        "--suffix",
        default="_truth.json",
        help="ending of the file names of the ground truth (default: %(default)s)",
    )
    parser.add_argument(
        "--trained", type=Path, metavar="PTH", help="measure this network instead of training one"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="table, .csv")
    parser.add_argument(
        "training",
        nargs="*",
        metavar="-- FLAGS",
        help="flags of the training script: -o OUT --name NAME --minutes M ...",
    )
    return parser


def train(ct: Path, mask: Path | None, labels: list[int] | None, flags: list[str]) -> Path:
    """Run the training script. Returns the path of the network; raises InputError if it fails."""
    import agnostic
    import finetuned

    masked = [] if mask is None else ["--mask", str(mask)]
    if mask is not None and labels:
        masked += ["--labels", *map(str, labels)]
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder)
        for path in files.with_lineages([ct]):
            if path.exists():
                shutil.copy(path, cohort)
        finetunes = bool({"-c", "--checkpoint"} & set(flags))
        script, source = (finetuned, ct) if finetunes else (agnostic, cohort)
        arguments = ["-i", str(source), *masked, *flags]
        if script.main(arguments):
            raise InputError("training", "failed", "a network", "see the message above")
        args = script.build_parser().parse_args(arguments)
    return Path(args.output_dir) / f"{args.name}.pth"


def measure(
    xray: Xray,
    truth: np.ndarray,
    predict: tuple[torch.nn.Module, Checkpoint],
    body: Body,
    volume_from_canonical: np.ndarray,
) -> Row:
    """Seconds, similarity, and the errors of the predicted and of the refined pose.

    ``truth`` is ``volume_from_camera`` (4, 4). The errors are infinite if refinement fails.
    """
    from common.pose_network import prediction
    from common.registration import competition
    from common.registration.scene import View

    began = time.perf_counter()
    guess = volume_from_canonical @ geometry.camera_from_pose(
        prediction.predict_pose(*predict, xray)
    )
    winner = competition.compete([View(xray)], body, [guess])
    row: Row = {
        "seconds": time.perf_counter() - began,
        "similarity": winner.fit.similarity if winner else 0.0,
    }
    for when, pose in (("start", guess), ("end", winner.fit.poses[0] if winner else None)):
        if pose is None:
            row |= {f"{when}_{name}": float("inf") for name in ERRORS}
            continue
        error = geometry.pose_error(pose, truth, body.points, xray.detector)
        row |= {f"{when}_{name}": getattr(error, name) for name in ERRORS}
    return row


def run(args: argparse.Namespace) -> None:
    from common.pose_network import checkpoint, prediction
    from common.registration.structures import load_structure
    from common.results.truth import read_truth
    from common.xray import reading

    files.check_outputs([args.output], args.overwrite, [args.ct, *args.xrays])
    model = checkpoint.load_checkpoint(
        args.trained or train(args.ct, args.mask, args.labels, args.training)
    )
    network = prediction.build_network(model)
    structure = load_structure(args.ct, args.mask, args.labels, device="cpu")
    volume_from_scanner = geometry.invert(structure.ct.lineage.scanner_from_volume)
    volume_from_canonical = geometry.translation(structure.ct.isocentre_mm)
    rows = []
    for path in args.xrays:
        label = args.labels[0] if args.labels else None
        truth = read_truth(path.with_name(path.stem + args.suffix), label)
        xray, camera = reading.read(path), volume_from_scanner @ truth.camera
        row = measure(xray, camera, (network, model), structure.body, volume_from_canonical)
        rows.append({"xray": path.name, **row})
        print(one_row(rows[-1]), flush=True)
    files.write_text(args.output, files.as_csv(rows))
    print(summary(rows))
    print(args.output)


def one_row(row: Row) -> str:
    """The errors of one X-ray, in words."""
    return (
        f"{row['xray']}: start {row['start_mtre_mm']:.1f} mm, in plane"
        f" {row['start_in_plane_mm']:.1f}, depth {row['start_depth_mm']:.1f},"
        f" {row['start_rotation_deg']:.1f} deg; end in plane {row['end_in_plane_mm']:.2f} mm,"
        f" depth {row['end_depth_mm']:.1f}, {row['end_rotation_deg']:.2f} deg,"
        f" {row['seconds']:.1f} s"
    )


def summary(rows: Sequence[Row]) -> str:
    """Medians (90th percentiles) of the errors, and the share of X-rays that ended at the truth."""
    parts = []
    for when in ("start", "end"):
        table = np.array([[row[f"{when}_{name}"] for name in ERRORS] for row in rows])
        median, high = np.median(table, 0), np.quantile(table, 0.9, axis=0, method="nearest")
        figures = [f"{a:.2f} ({b:.2f})" for a, b in zip(median, high, strict=True)]
        parts.append(
            f"{when} mTRE {figures[0]} mm, in plane {figures[1]} mm, depth {figures[2]} mm,"
            f" rotation {figures[3]} deg"
        )
    converged = np.mean([row["end_in_plane_mm"] < CONVERGED_MM for row in rows])
    return (
        f"{len(rows)} X-rays, medians (90th percentiles): {'; '.join(parts)};"
        f" {100 * converged:.0f} % within {CONVERGED_MM:g} mm in plane"
    )


main = script_module.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
