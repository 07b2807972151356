# PYTHON_ARGCOMPLETE_OK
"""Simulate an X-ray of a CT with ground truth, for demo and tests without patient data.

The CT is rendered at its own resolution with DiffDRR's exact Siddon method; registration renders
with another method and usually a cropped and resampled volume. Then detector effects are added:
beam hardening, scatter, blur, photon and electronic noise, and a tone curve that registration does
not know. The view is given as in the pose range: angles, distance and shift from source to target.

reads   a CT in Hounsfield units, a labelmap on its grid (with --labels), and metal parts (--metal)
writes  OUT.dcm, or OUT.png, which has no geometry
        OUT_truth.json: camera (4x4 scanner_from_camera; columns: image columns, image rows, source
        to detector, source position) and points of the structure, for evaluation.py --truth
frame   that of the CT
units   RAS mm
next    registration.py (step 7)

example
  python pipeline/make_xray.py --ct ct.nii.gz --mask seg.nii.gz --labels 71 --angles 10 5 0 \\
    -o xrays/view1.dcm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import flags, script
from common.errors import InputError
from common.files.pictures import write_png
from common.geometry import Detector
from common.synthetic import xray_simulation
from common.volume.mesh import SURFACE

if TYPE_CHECKING:
    from common.volume.volume import Volume

DEFAULT = xray_simulation.Effects()
ENDINGS = (".dcm", ".png")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="CT in Hounsfield units")
    parser.add_argument("--mask", type=Path, help="labelmap on the grid of the CT")
    flags.add_labels_flag(
        parser,
        "labels of the structure that the camera is aimed at and whose points are in the truth;"
        " requires --mask",
    )
    parser.add_argument(
        "--metal",
        type=Path,
        nargs="+",
        default=[],
        metavar="SURFACE",
        help="surfaces of metal parts in the frame of the CT, such as those of make_phantom.py",
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="OUT.dcm or OUT.png")
    _add_view_flags(parser)
    _add_detector_flags(parser)
    return parser


def _add_view_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("view")
    group.add_argument(
        "--target",
        type=float,
        nargs=3,
        metavar=("R", "A", "S"),
        help="point that the camera is aimed at, RAS mm (default: centre of --labels, else of the"
        " CT)",
    )
    group.add_argument(
        "--angles",
        type=float,
        nargs=3,
        default=[0.0, 0.0, 0.0],
        metavar=("R1", "R2", "R3"),
        help="Euler angles ZXY in degrees; 0 0 0 is antero-posterior (default: 0 0 0)",
    )
    group.add_argument(
        "--distance",
        type=float,
        default=850.0,
        help="source to target in mm (default: %(default)g)",
    )
    group.add_argument(
        "--shift",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        metavar=("ACROSS", "ALONG"),
        help="translation of the target across the detector in mm (default: 0 0)",
    )


def _add_detector_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detector")
    group.add_argument(
        "--sdd",
        type=float,
        default=1020.0,
        help="source-to-detector distance in mm (default: %(default)g)",
    )
    group.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[384, 384],
        metavar=("WIDTH", "HEIGHT"),
        help="pixels (default: 384 384)",
    )
    group.add_argument(
        "--pixel",
        type=float,
        default=0.8,
        help="pixel spacing at the detector in mm (default: %(default)g)",
    )
    group.add_argument(
        "--photons",
        type=float,
        default=DEFAULT.photons,
        help="photons per pixel in the open field (default: %(default)g)",
    )
    group.add_argument(
        "--scatter",
        type=float,
        default=DEFAULT.scatter,
        help="scattered fraction of the beam that is removed (default: %(default)g)",
    )
    group.add_argument(
        "--gamma",
        type=float,
        default=DEFAULT.gamma,
        help="power of the tone curve of attenuation (default: %(default)g)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="random seed of the noise (default: %(default)s)"
    )
    group.add_argument(
        "--without_sdd",
        action="store_true",
        help="write no DistanceSourceToDetector to the DICOM header",
    )


def run(args: argparse.Namespace) -> None:
    from common.volume.nifti import load_ct

    if args.output.suffix.lower() not in ENDINGS:
        raise InputError(
            args.output,
            f"ends in {args.output.suffix or 'nothing'}",
            ".dcm or .png",
            "change --output",
        )
    if args.labels and not args.mask:
        raise InputError("--labels", "given without --mask", "--mask with it", "add --mask FILE")
    for path in args.metal:
        files.existing_file(path, SURFACE)
    truth = args.output.with_name(args.output.stem + "_truth.json")
    files.check_outputs([args.output, truth], args.overwrite, [args.ct])
    ct = load_ct(args.ct, fill=False)
    points = structure_points(ct, args.mask, args.labels)
    centre = points.mean(0) if args.labels else ct.isocentre_mm
    target = np.array(args.target) if args.target else centre
    detector = Detector.centred(args.size[1], args.size[0], args.sdd, args.pixel)
    camera = xray_simulation.view(target, args.angles, args.distance, args.shift)
    image = xray_simulation.simulate(
        xray_simulation.render_strips(ct, camera, detector)
        + xray_simulation.metal_integrals(args.metal, camera, detector),
        args.pixel,
        xray_simulation.Effects(args.photons, args.scatter, args.gamma),
        np.random.default_rng(args.seed),
    )
    if args.output.suffix.lower() == ".dcm":
        xray_simulation.write_dicom(args.output, image, detector, not args.without_sdd)
    else:
        write_png(args.output, image)
    about = {
        "angles_deg": args.angles,
        "distance_mm": args.distance,
        "shift_mm": args.shift,
        "gamma": args.gamma,
        "seed": args.seed,
    }
    xray_simulation.write_truth(truth, camera, detector, points, about)
    print(args.output)


def structure_points(ct: Volume, mask: Path | None, labels: list[int | str] | None) -> np.ndarray:
    """Return points (N, 3) of the labels, or of the dense voxels of the CT, RAS mm.

    Raises InputError if the labelmap has none of the labels.
    """
    from common.volume import label_names
    from common.volume.nifti import load_labelmap
    from common.volume.volume import points_of

    if not (mask and labels):
        return points_of(ct)
    numbers = label_names.resolve(labels, mask)
    labelmap = load_labelmap(mask)
    inside = np.isin(labelmap.data, numbers)
    if not inside.any():
        raise InputError(
            mask,
            f"no voxel of labels {labels}",
            f"labels {np.unique(labelmap.data)[1:].tolist()}",
            "correct --labels",
        )
    return points_of(labelmap, inside)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
