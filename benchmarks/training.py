"""How good a network's start pose is after some minutes of training, and how often refinement ends at the truth from it.

Trains by agnostic.py (finetuned.py where -c is among its flags) with the flags after --, then predicts the pose of X-rays with known truth, of the same
patient, and refines from there as registration.py does. X-rays are NAME.dcm or NAME.png and, beside it, NAME<SUFFIX> as evaluation.py --truth reads it. With --trained nothing is trained.

writes  OUT.csv, a line an X-ray: errors of the start and of the end, mm and degrees, and seconds; medians and the share within 1 mm in plane on standard output
example
  python benchmarks/training.py --ct left_femur.nii.gz --mask left_femur_seg.nii.gz --labels 2 --xrays xrays/*.dcm --suffix .json -o femur.csv -- -o models --name femur --minutes 10
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script as script_module
from common.errors import InputError
from common.training import settings

CONVERGED_MM = 1.0
ERRORS = ("mtre_mm", "in_plane_mm", "depth_mm", "rotation_deg")


def build_parser() -> argparse.ArgumentParser:
    parser = script_module.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="the patient's preprocessed CT")
    parser.add_argument(
        "--mask", type=Path, help="labelmap on its grid (default: the whole CT is the structure)"
    )
    parser.add_argument(
        "--labels",
        type=int,
        nargs="+",
        metavar="N",
        help="labels of the bone; the first names the truth's bone",
    )
    parser.add_argument(
        "--xrays", required=True, nargs="+", type=Path, help="X-rays with their truth beside them"
    )
    parser.add_argument(
        "--suffix",
        default="_truth.json",
        help="ending of the truth's file name (default: %(default)s)",
    )
    parser.add_argument(
        "--trained", type=Path, metavar="PTH", help="measure this model instead of training one"
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
    """Run the training script and return the model's path. Raises InputError where it fails."""
    import agnostic
    import finetuned

    masked = (
        []
        if mask is None
        else ["--mask", str(mask), *(["--labels", *map(str, labels)] if labels else [])]
    )
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder)
        for path in files.with_lineages([ct]):
            if path.exists():
                (cohort / path.name).symlink_to(path.resolve())
        script, source = (
            (finetuned, ct) if {"-c", "--checkpoint"} & set(flags) else (agnostic, cohort)
        )
        if script.main(["-i", str(source), *masked, *flags]):
            raise InputError("training", "did not end well", "a model", "see its message above")
        args = script.build_parser().parse_args(["-i", str(source), *masked, *flags])
    return Path(args.output_dir) / f"{args.name}.pth"


def run(args: argparse.Namespace) -> None:
    settings.wait_without_spinning()
    from common.pose_network import checkpoint, prediction
    from common.registration import competition
    from common.registration.pyramid import View
    from common.registration.scene import load_structure
    from common.results.truth import read_truth
    from common.xray import reading

    files.check_outputs([args.output], args.overwrite, [args.ct, *args.xrays])
    model = checkpoint.load_checkpoint(
        args.trained or train(args.ct, args.mask, args.labels, args.training)
    )
    predictor = prediction.build_network(model)
    structure = load_structure(args.ct, args.mask, args.labels, "auto", None, "cpu")
    body, rows = structure.body, []
    world_from_canonical = geometry.translation(structure.ct.isocentre_mm)
    for path in args.xrays:
        xray = reading.read(path)
        truth = (
            geometry.invert(structure.ct.lineage.scanner_from_volume)
            @ read_truth(
                path.with_name(path.stem + args.suffix), args.labels and args.labels[0]
            ).camera
        )
        began = time.perf_counter()
        guess = world_from_canonical @ geometry.camera_from_pose(
            prediction.predict_pose(predictor, model, xray)
        )
        winner = competition.compete([View(xray)], body, [guess])
        taken = time.perf_counter() - began
        row = {
            "xray": path.name,
            "seconds": taken,
            "similarity": winner.fit.similarity if winner else 0.0,
        }
        for when, pose in (("start", guess), ("end", winner.fit.poses[0] if winner else None)):
            error = (
                None
                if pose is None
                else geometry.pose_error(pose, truth, body.points, xray.detector)
            )
            row |= {
                f"{when}_{name}": float("inf") if error is None else getattr(error, name)
                for name in ERRORS
            }
        rows.append(row)
        print(
            f"{path.name}: start {row['start_mtre_mm']:.1f} mm, in plane"
            f" {row['start_in_plane_mm']:.1f}, depth {row['start_depth_mm']:.1f},"
            f" {row['start_rotation_deg']:.1f} deg; end in plane {row['end_in_plane_mm']:.2f} mm,"
            f" depth {row['end_depth_mm']:.1f}, {row['end_rotation_deg']:.2f} deg, {taken:.1f} s",
            flush=True,
        )
    files.output_folder(
        args.output.parent
    )  # the scripts called above let go of what this one had made and not yet filled
    files.write_text(args.output, files.as_csv(rows))
    print(summary(rows))
    print(args.output)


def summary(rows: list[dict]) -> str:
    """Medians (90th percentiles) of the start's and the end's errors, and how many ended at the truth."""
    parts = []
    for when in ("start", "end"):
        table = np.array([[row[f"{when}_{name}"] for name in ERRORS] for row in rows])
        figures = [
            f"{median:.2f} ({high:.2f})"
            for median, high in zip(
                np.median(table, 0), np.quantile(table, 0.9, axis=0, method="nearest"), strict=True
            )
        ]
        parts.append(
            f"{when} mTRE {figures[0]} mm, in plane {figures[1]} mm, depth {figures[2]} mm,"
            f" rotation {figures[3]} deg"
        )
    converged = np.mean([row["end_in_plane_mm"] < CONVERGED_MM for row in rows])
    return (
        f"{len(rows)} X-rays, medians (90th percentiles): {'; '.join(parts)}; {100 * converged:.0f}"
        f" % within {CONVERGED_MM:g} mm in plane"
    )


main = script_module.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
