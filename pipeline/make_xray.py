# PYTHON_ARGCOMPLETE_OK
"""Make an X-ray of a CT with known truth: for the demo, for tests, and for trying the suite without patient data.

Renders the CT at its own resolution with DiffDRR's exact Siddon method (registration renders with another method and,
usually, a cropped and resampled volume), then adds what a detector adds: beam hardening of bone, scatter haze, blur, photon and electronic noise
and a tone curve that registration is not told.

The view is given as in the pose range: --angles r1 r2 r3 (degrees, Euler ZXY; 0 0 0 is antero-posterior) and --distance from source to
target (mm), aimed at --target (RAS mm) or at the middle of --labels, moved across the detector by --shift.

Writes OUT.dcm, or OUT.png with the geometry left to you, and OUT_truth.json: camera (4x4 scanner_from_camera, RAS mm; columns: image columns, image rows,
source to detector, source position) and points of the labelled structure, which evaluation.py --truth reads.

Example:
  python pipeline/make_xray.py --ct ct.nii.gz --mask seg.nii.gz --labels 71 --angles 10 5 0 -o xrays/view1.dcm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.geometry import Detector
from common.synthetic import xray_simulation

DEFAULT = xray_simulation.Effects()


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="CT in Hounsfield units")
    parser.add_argument("--mask", type=Path, help="labelmap on the CT's grid")
    parser.add_argument(
        "--labels", type=int, nargs="+", help="structures to aim at; their points go into the truth"
    )
    parser.add_argument(
        "--target",
        type=float,
        nargs=3,
        metavar=("R", "A", "S"),
        help="point to aim at, RAS mm (default: middle of --labels, else of the CT)",
    )
    parser.add_argument(
        "--angles",
        type=float,
        nargs=3,
        default=[0.0, 0.0, 0.0],
        metavar=("R1", "R2", "R3"),
        help="degrees (default: 0 0 0)",
    )
    parser.add_argument(
        "--distance", type=float, default=850.0, help="source to target, mm (default: 850)"
    )
    parser.add_argument(
        "--shift",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        metavar=("ACROSS", "ALONG"),
        help="mm from the axis to the target (default: 0 0)",
    )
    parser.add_argument(
        "--sdd", type=float, default=1020.0, help="source to detector, mm (default: 1020)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[384, 384],
        metavar=("WIDTH", "HEIGHT"),
        help="pixels (default: 384 384)",
    )
    parser.add_argument(
        "--pixel", type=float, default=0.8, help="pixel size at the detector, mm (default: 0.8)"
    )
    parser.add_argument(
        "--photons",
        type=float,
        default=DEFAULT.photons,
        help="per pixel in the open field (default: %(default)g)",
    )
    parser.add_argument(
        "--scatter",
        type=float,
        default=DEFAULT.scatter,
        help="scattered share of the removed beam (default: %(default)g)",
    )
    parser.add_argument(
        "--gamma",
        type=float,
        default=DEFAULT.gamma,
        help="power of the tone curve of attenuation (default: %(default)g)",
    )
    parser.add_argument(
        "--without_sdd",
        action="store_true",
        help="leave DistanceSourceToDetector out of the DICOM header",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="OUT.dcm or OUT.png")
    return parser


def run(args: argparse.Namespace) -> None:
    from PIL import Image

    from common.volume.nifti import load_ct, load_labelmap
    from common.volume.volume import points_of

    truth = args.output.with_name(args.output.stem + "_truth.json")
    if args.output.suffix.lower() not in (".dcm", ".png"):
        raise InputError(
            args.output,
            f"ends in {args.output.suffix or 'nothing'}",
            ".dcm or .png",
            "change --output",
        )
    if args.labels and not args.mask:
        raise InputError("--labels", "no labelmap", "--mask with it", "add --mask FILE")
    files.check_outputs([args.output, truth], args.overwrite, [args.ct])
    ct = load_ct(args.ct)
    points = points_of(ct)
    if args.labels:
        labelmap = load_labelmap(args.mask)
        inside = np.isin(labelmap.data, args.labels)
        if not inside.any():
            raise InputError(
                args.mask,
                f"no voxel of labels {args.labels}",
                np.unique(labelmap.data)[1:].tolist(),
                "correct --labels",
            )
        points = points_of(labelmap, inside)
    target = (
        np.array(args.target) if args.target else points.mean(0) if args.labels else ct.isocentre_mm
    )
    detector = Detector.centred(args.size[1], args.size[0], args.sdd, args.pixel)
    camera = xray_simulation.view(target, args.angles, args.distance, args.shift)
    effects = xray_simulation.Effects(args.photons, args.scatter, args.gamma)
    picture = xray_simulation.simulate(
        xray_simulation.render_strips(ct, camera, detector),
        args.pixel,
        effects,
        np.random.default_rng(args.seed),
    )
    if args.output.suffix.lower() == ".dcm":
        xray_simulation.write_dicom(args.output, picture, detector, not args.without_sdd)
    else:
        with files.writing(args.output) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
    about = {
        "angles_deg": args.angles,
        "distance_mm": args.distance,
        "shift_mm": args.shift,
        "gamma": args.gamma,
        "seed": args.seed,
    }
    xray_simulation.write_truth(truth, camera, detector, points, about)
    print(args.output)


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
