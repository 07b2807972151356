"""Compare the kinematics of a simulated movement with its truth, raw and smoothed.

reads   MOVEMENT: the folder of make_movement.py; KINEMATICS: the folder of kinematics.py for it,
        with --smooth; both files FRAME.json
writes  to standard output: per number, the root mean square and mean of the error, raw and
        smoothed, the share of errors inside their 95 % bands, and the mean error around the turning
        point; the same for the depth of the tibia relative to the femur, along the view
units   degrees, millimetres

example
  python benchmarks/movement.py bending bending/knee --frames bending/femur.json bending/tibia.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files, geometry
from common.command_line import script
from common.kinematics import frame_file, movement_table
from common.kinematics.joint_coordinates import knee_coordinates, tibia_from_coordinates

AROUND = 3  # frames on either side of the turning point


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("movement", type=Path, help="folder of make_movement.py")
    parser.add_argument("kinematics", type=Path, help="folder of kinematics.py")
    parser.add_argument("--frames", required=True, nargs=2, type=Path, help="femur, tibia")
    return parser


def truth_of(path: Path, frames: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the true numbers (N, 6), and the view in the femur's frame (N, 3)."""
    stated = files.read_json(path, "truth of make_movement.py")
    femur, tibia = (frame_file.load(each).scanner_from_frame for each in frames)
    side = "left" if stated["side"] == "left" else "right"
    numbers, views = [], []
    for each in stated["frames"]:
        femur_pose = geometry.invert(np.array(each["femur"])) @ femur
        tibia_pose = geometry.invert(np.array(each["tibia"])) @ tibia
        numbers.append(knee_coordinates(femur_pose, tibia_pose, side))
        views.append(femur_pose[2, :3])
    return np.array(numbers), np.array(views)


def positions(numbers: np.ndarray, side: str) -> np.ndarray:
    """Return the tibia's origins (N, 3) in the femur's frame; NaN in gaps."""
    return np.array(
        [
            tibia_from_coordinates(np.eye(4), row, "left" if side == "left" else "right")[:3, 3]
            if np.isfinite(row).all()
            else np.full(3, np.nan)
            for row in numbers
        ]
    )


def line_of(name: str, raw: np.ndarray, smoothed: np.ndarray, inside: str, around: slice) -> str:
    """Return a line of the table: errors (N,) of one number, NaN in gaps."""
    known = np.isfinite(raw) & np.isfinite(smoothed)
    cells = [name.ljust(9)]
    for errors in (raw[known], smoothed[known]):
        cells.append(f"rms {np.sqrt(np.mean(errors**2)):6.3f} mean {errors.mean():6.3f}")
    ratio = raw[known].std() / smoothed[known].std()
    cells.append(
        f"turning point {np.nanmean(smoothed[around]):6.3f}  scatter / {ratio:.1f}  {inside}"
    )
    return "   ".join(cells)


def run(args: argparse.Namespace) -> int | None:
    truth, views = truth_of(args.movement / "movement_truth.json", args.frames)
    tables = [movement_table.load(args.kinematics, smoothed) for smoothed in (False, True)]
    turn = int(truth[:, 0].argmax())
    around = slice(turn - AROUND, turn + AROUND + 1)
    known = np.isfinite(tables[0].values[:, 0])
    print("number      registered                 smoothed")
    for number, name in enumerate(tables[0].quantities):
        errors = [each.values[:, number] - truth[:, number] for each in tables]
        inside = [
            float((np.abs(error) <= each.half[:, number])[known].mean())
            for error, each in zip(errors, tables, strict=True)
        ]
        held = f"inside {inside[0]:.2f}, {inside[1]:.2f}"
        print(line_of(name, errors[0], errors[1], held, around))
    places = positions(truth, tables[0].side)
    depths = [((positions(each.values, each.side) - places) * views).sum(axis=1) for each in tables]
    print(line_of("depth_mm", depths[0], depths[1], "", around))
    print(f"{int(known.sum())} of {len(truth)} frames have a pose")
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
