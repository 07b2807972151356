# PYTHON_ARGCOMPLETE_OK
"""Create a cohort of phantom knees, to try the workflow without patient data.

Each knee is rendered from the whole CT, in views inside the default pose range of registration.py.
The DICOM headers lack the source-to-detector distance, which the table has.

reads   nothing
writes  OUT/P01/..., as make_phantom.py does; OUT/P01/xrays/left_1.dcm and so on with
        left_1_truth.json, as make_xray.py does; OUT/patients.csv, the table of workflow/Snakefile
next    snakemake --cores 2 --configfile workflow/phantom.yaml

example
  python pipeline/make_cohort.py -o phantom_cohort --patients 6
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
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

# source to detector, and side of the detector
SDD_MM, FIELD_MM = 1020.0, 280.0
# tibia and femur, of make_phantom.py
KNEE_LABELS = {"left": (2, 4), "right": (1, 3)}
LIMITS = {
    "patients": (1, 999),
    "views": (1, 99),
    "size": (32, 4096),
    "spacing": (0.4, 5),
    "seed": (0, 2**31),
}


@dataclass(frozen=True)
class CohortRequest:
    """The cohort to create."""

    folder: Path
    patients: int
    views: int  # X-rays per knee
    spacing_mm: float  # of the CTs
    size_px: int  # of the square X-rays
    seed: int

    @property
    def table(self) -> Path:
        return self.folder / "patients.csv"

    @property
    def names(self) -> list[str]:
        return [f"P{number:02d}" for number in range(1, self.patients + 1)]

    @property
    def knees(self) -> list[str]:
        """Names of a patient's X-rays: left_1, left_2, ..."""
        return [f"{side}_{view}" for side in KNEE_LABELS for view in range(1, self.views + 1)]

    def xray(self, name: str, knee: str) -> Path:
        return self.folder / name / "xrays" / f"{knee}.dcm"


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o",
        "--output_dir",
        required=True,
        type=Path,
        metavar="OUT",
        help="folder for the patients and the table",
    )
    parser.add_argument(
        "--patients", type=int, default=6, help="number of patients (default: %(default)s)"
    )
    parser.add_argument(
        "--views", type=int, default=2, help="X-rays per knee (default: %(default)s)"
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=1.5,
        help="voxel spacing of the CTs in mm (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=256,
        help="pixels of the square X-rays per side (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of patients and views (default: %(default)s)",
    )
    return parser


def draw_view(rng: np.random.Generator) -> tuple[list[float], float, list[float]]:
    """Return angles r1 r2 r3 (degrees), distance and translation (mm) of a random view.

    All are inside the pose range of an antero-posterior knee.
    """
    return (
        rng.uniform([-25, -8, -10], [25, 8, 10]).round(1).tolist(),
        round(rng.uniform(820, 880), 1),
        rng.uniform(-12, 12, 2).round(1).tolist(),
    )


def truth_path(xray: Path) -> Path:
    return xray.with_name(xray.stem + "_truth.json")


def take_xray(
    patient: phantom.Phantom, side: str, path: Path, size: int, rng: np.random.Generator
) -> None:
    """Write a DICOM X-ray of one knee of a phantom, and its ground truth."""
    from common.synthetic import xray_simulation
    from common.volume import volume

    points = volume.points_of(
        patient.segmentation, np.isin(patient.segmentation.data, KNEE_LABELS[side])
    )
    angles, distance, shift = draw_view(rng)
    pixel_mm = FIELD_MM / size
    detector = Detector.centred(size, size, SDD_MM, pixel_mm)
    camera = xray_simulation.view(points.mean(0), angles, distance, shift)
    integrals = xray_simulation.render_strips(patient.ct, camera, detector)
    image = xray_simulation.simulate(integrals, pixel_mm, xray_simulation.Effects(), rng)
    xray_simulation.write_dicom(path, image, detector, with_sdd=False)
    xray_simulation.write_truth(
        truth_path(path),
        camera,
        detector,
        points,
        {"angles_deg": angles, "distance_mm": distance, "shift_mm": shift},
    )


def write_patient(request: CohortRequest, number: int, name: str) -> list[dict[str, str | float]]:
    """Write CT, labelmap and X-rays of a patient; return the rows of the table."""
    from common.synthetic import phantom

    patient = phantom.cohort_member(number, request.seed, request.spacing_mm)
    ct, segmentation, _ = phantom.write(patient, request.folder / name, name)
    rows = []
    for index, knee in enumerate(request.knees):
        side, path = knee.split("_")[0], request.xray(name, knee)
        rng = np.random.default_rng([request.seed, number, index, 31])
        take_xray(patient, side, path, request.size_px, rng)
        paths = {
            "ct": ct,
            "segmentation": segmentation,
            "xray": path,
            "truth": truth_path(path),
        }
        rows.append(
            {
                "patient": name,
                **{key: str(file.relative_to(request.folder)) for key, file in paths.items()},
                "side": side,
                "sdd_mm": SDD_MM,
            }
        )
    return rows


def run(args: argparse.Namespace) -> int | None:
    for name, (low, high) in LIMITS.items():
        value = getattr(args, name)
        if not low <= value <= high:
            raise InputError(
                f"--{name}", f"found {value}", f"{low} to {high}", "choose another value"
            )
    request = CohortRequest(
        args.output_dir, args.patients, args.views, args.spacing, args.size, args.seed
    )
    xrays = [request.xray(name, knee) for name in request.names for knee in request.knees]
    check_outputs([request.table, *xrays], args.overwrite)
    rows = [
        row
        for number, name in enumerate(track(request.names, what="patients", unit="patient"))
        for row in write_patient(request, number, name)
    ]
    write_text(request.table, as_csv(rows, [*cohort.REQUIRED, *cohort.OPTIONAL]))
    print(request.table)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
