# PYTHON_ARGCOMPLETE_OK
"""Make a cohort of phantom knees to try the workflow with: CTs, labelmaps, X-rays with known truth, and the table that lists them.

reads   nothing
writes  OUT/P01/..., as make_phantom.py does, OUT/P01/xrays/left_1.dcm and so on with left_1_truth.json, as make_xray.py does,
        and OUT/patients.csv, the table of workflow/Snakefile
        Each knee is seen through the whole CT, in views within registration.py's default pose range; the headers lack the source-to-detector distance, which the table gives
next    snakemake --cores 2 --configfile workflow/phantom.yaml

example
  python pipeline/make_cohort.py -o phantom_cohort --patients 6
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import script
from common.errors import InputError
from common.files import as_csv, check_outputs, write_text
from common.geometry import Detector
from common.progress import track
from common.results import cohort

if TYPE_CHECKING:
    from common.synthetic import phantom

SDD_MM, FIELD_MM = 1020.0, 280.0  # source to detector, side of the detector
KNEE_LABELS = {"left": (2, 4), "right": (1, 3)}  # tibia and femur, of make_phantom.py


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output_dir",
        required=True,
        type=Path,
        metavar="OUT",
        help="folder for the patients' folders and the table",
    )
    parser.add_argument("--patients", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument(
        "--views", type=int, default=2, help="X-rays of each knee (default: %(default)s)"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=1.5,
        help="voxel size of the CTs in mm (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=256, help="pixels of the square X-rays (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed makes other patients and views (default: %(default)s)",
    )
    return parser


def draw_view(rng: np.random.Generator) -> tuple[list[float], float, list[float]]:
    """Angles r1 r2 r3 in degrees, distance and shift in mm, within the pose range of an antero-posterior knee."""
    return (
        rng.uniform([-25, -8, -10], [25, 8, 10]).round(1).tolist(),
        round(rng.uniform(820, 880), 1),
        rng.uniform(-12, 12, 2).round(1).tolist(),
    )


def take_xray(
    patient: phantom.Phantom, side: str, path: Path, size: int, rng: np.random.Generator
) -> None:
    """Write a DICOM X-ray of one knee of a phantom, and its truth."""
    from common.synthetic import xray_simulation
    from common.volume import volume

    points = volume.points_of(
        patient.segmentation, np.isin(patient.segmentation.data, KNEE_LABELS[side])
    )
    angles, distance, shift = draw_view(rng)
    detector = Detector.centred(size, size, SDD_MM, FIELD_MM / size)
    camera = xray_simulation.view(points.mean(0), angles, distance, shift)
    picture = xray_simulation.simulate(
        xray_simulation.render_strips(patient.ct, camera, detector),
        FIELD_MM / size,
        xray_simulation.Effects(),
        rng,
    )
    xray_simulation.write_dicom(path, picture, detector, with_sdd=False)
    xray_simulation.write_truth(
        path.with_name(path.stem + "_truth.json"),
        camera,
        detector,
        points,
        {"angles_deg": angles, "distance_mm": distance, "shift_mm": shift},
    )


def run(args: argparse.Namespace) -> int | None:
    for name, low, high in (
        ("patients", 1, 999),
        ("views", 1, 99),
        ("size", 32, 4096),
        ("spacing", 0.4, 5),
        ("seed", 0, 2**31),
    ):
        if not low <= getattr(args, name) <= high:
            raise InputError(
                f"--{name}",
                f"found {getattr(args, name)}",
                f"{low} to {high}",
                "give another number",
            )
    from common.synthetic import phantom

    table = args.output_dir / "patients.csv"
    names = [f"P{number:02d}" for number in range(1, args.patients + 1)]
    knees = [f"{side}_{view}" for side in KNEE_LABELS for view in range(1, args.views + 1)]
    xrays = {
        name: [args.output_dir / name / "xrays" / f"{knee}.dcm" for knee in knees] for name in names
    }
    check_outputs([table, *(path for paths in xrays.values() for path in paths)], args.overwrite)
    rows = []
    for number, name in enumerate(track(names, what="patients", unit="patient")):
        patient = phantom.cohort_member(number, args.seed, args.spacing)
        ct, seg, _ = phantom.write(patient, args.output_dir / name, name)
        for path in xrays[name]:
            side = path.stem.split("_")[0]
            take_xray(
                patient,
                side,
                path,
                args.size,
                np.random.default_rng([args.seed, number, knees.index(path.stem), 31]),
            )
            files = {
                "ct": ct,
                "segmentation": seg,
                "xray": path,
                "truth": path.with_name(path.stem + "_truth.json"),
            }
            rows.append(
                {
                    "patient": name,
                    **{key: file.relative_to(args.output_dir) for key, file in files.items()},
                    "side": side,
                    "sdd_mm": SDD_MM,
                }
            )
    write_text(table, as_csv(rows, [*cohort.REQUIRED, *cohort.OPTIONAL]))
    print(table)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
