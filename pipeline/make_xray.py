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
from common import cli, geometry
from common.geometry import Detector

STRIP_ROWS = 32  # rows rendered at a time: bounds Siddon's memory
HARDENING = 0.02  # share of a ray's attenuation lost per unit of it, in bone and tissue alike


def build_parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(__doc__)
    parser.add_argument("--ct", required=True, type=Path, help="CT in Hounsfield units")
    parser.add_argument("--mask", type=Path, help="labelmap on the CT's grid")
    parser.add_argument("--labels", type=int, nargs="+", help="structures to aim at; their points go into the truth")
    parser.add_argument("--target", type=float, nargs=3, metavar=("R", "A", "S"), help="point to aim at, RAS mm (default: middle of --labels, else of the CT)")
    parser.add_argument("--angles", type=float, nargs=3, default=[0.0, 0.0, 0.0], metavar=("R1", "R2", "R3"), help="degrees (default: 0 0 0)")
    parser.add_argument("--distance", type=float, default=850.0, help="source to target, mm (default: 850)")
    parser.add_argument("--shift", type=float, nargs=2, default=[0.0, 0.0], metavar=("ACROSS", "ALONG"), help="mm from the axis to the target (default: 0 0)")
    parser.add_argument("--sdd", type=float, default=1020.0, help="source to detector, mm (default: 1020)")
    parser.add_argument("--size", type=int, nargs=2, default=[384, 384], metavar=("WIDTH", "HEIGHT"), help="pixels (default: 384 384)")
    parser.add_argument("--pixel", type=float, default=0.8, help="pixel size at the detector, mm (default: 0.8)")
    parser.add_argument("--photons", type=float, default=5000.0, help="per pixel in the open field (default: 5000)")
    parser.add_argument("--scatter", type=float, default=0.05, help="scattered share of the removed beam (default: 0.05)")
    parser.add_argument("--gamma", type=float, default=0.85, help="power of the tone curve of attenuation (default: 0.85)")
    parser.add_argument("--without_sdd", action="store_true", help="leave DistanceSourceToDetector out of the DICOM header")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="OUT.dcm or OUT.png")
    return parser


def simulate(integrals: np.ndarray, pixel_mm: float, photons: float, scatter: float, gamma: float, rng: np.random.Generator) -> np.ndarray:
    """Line integrals (H, W) to a 16-bit picture, bone bright: hardened beam, scatter, blur, noise, tone curve."""
    from scipy.ndimage import gaussian_filter

    hardened = integrals / (1 + HARDENING * integrals)
    beam = np.exp(-hardened)
    beam += scatter * gaussian_filter(-beam * np.log(np.clip(beam, 1e-9, 1)), 30.0 / pixel_mm, mode="nearest")
    beam = gaussian_filter(beam, 0.3 / pixel_mm, mode="nearest")
    counts = gaussian_filter(rng.poisson(beam * photons).astype(float), 0.4, mode="nearest") + rng.normal(0, 2.0, beam.shape)
    attenuation = np.clip(-np.log(np.clip(counts / photons, 0.2 / photons, None)), 0, None)
    return np.clip((attenuation / attenuation.max()) ** gamma * 60000 + 2000, 0, 65535).round().astype(np.uint16)


def view(target: np.ndarray, angles_deg: list[float], distance_mm: float, shift_mm: list[float]) -> np.ndarray:
    """scanner_from_camera of a source that looks at ``target`` (RAS mm) as the pose range describes it."""
    pose = geometry.pose_from_angles(angles_deg, [shift_mm[0], distance_mm, shift_mm[1]])
    return geometry.translation(target) @ geometry.camera_from_pose(pose)


def render_strips(ct, camera: np.ndarray, detector: Detector) -> np.ndarray:
    """Exact line integrals (H, W) of a CT's whole attenuation, a strip of rows at a time."""
    from common.rendering import SiddonRenderer
    from common.volumes import Volume, attenuation

    renderer = SiddonRenderer(Volume(attenuation(ct.data), ct.affine, ct.lineage), ct.isocentre_mm)
    strips = [(top, min(STRIP_ROWS, detector.height - top)) for top in range(0, detector.height, STRIP_ROWS)]
    return np.concatenate([renderer.render(camera[None], detector.cropped(top, 0, rows, detector.width))[0] for top, rows in cli.progress(strips, what="X-ray", unit="strip")])


def write_dicom(path: Path, picture: np.ndarray, detector: Detector, with_sdd: bool) -> None:
    """An X-ray angiography object whose pixels are a logarithmic picture, bone bright."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name, picture.tobytes().hex()[:4000]])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series", path.name])
    dataset.PatientName, dataset.PatientID, dataset.Modality, dataset.ImageType = "SIMULATED", "SIMULATED", "XA", ["DERIVED", "PRIMARY", "SINGLE PLANE"]
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelIntensityRelationship = "LOG"
    dataset.ImagerPixelSpacing = [detector.pixel_mm[1], detector.pixel_mm[0]]
    if with_sdd:
        dataset.DistanceSourceToDetector = detector.sdd_mm
    dataset.PixelData = picture.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    with cli.writing(path) as stream:
        dataset.save_as(stream, enforce_file_format=True)


def run(args: argparse.Namespace) -> None:
    from PIL import Image

    from common.volumes import load_ct, load_labelmap, points_of

    truth = args.output.with_name(args.output.stem + "_truth.json")
    if args.output.suffix.lower() not in (".dcm", ".png"):
        raise cli.InputError(f"{args.output}: ends in {args.output.suffix or 'nothing'}; expected .dcm or .png; change --output")
    if args.labels and not args.mask:
        raise cli.InputError("--labels: no labelmap; expected --mask with it; add --mask FILE")
    cli.check_outputs([args.output, truth], args.overwrite, [args.ct])
    ct = load_ct(args.ct)
    points = points_of(ct)
    if args.labels:
        labelmap = load_labelmap(args.mask)
        inside = np.isin(labelmap.data, args.labels)
        if not inside.any():
            raise cli.InputError(f"{args.mask}: no voxel of labels {args.labels}; expected {np.unique(labelmap.data)[1:].tolist()}; correct --labels")
        points = points_of(labelmap, inside)
    target = np.array(args.target) if args.target else points.mean(0) if args.labels else ct.isocentre_mm
    detector = Detector.centred(args.size[1], args.size[0], args.sdd, args.pixel)
    camera = view(target, args.angles, args.distance, args.shift)
    picture = simulate(render_strips(ct, camera, detector), args.pixel, args.photons, args.scatter, args.gamma, np.random.default_rng(args.seed))
    if args.output.suffix.lower() == ".dcm":
        write_dicom(args.output, picture, detector, not args.without_sdd)
    else:
        with cli.writing(args.output) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
    cli.write_json(truth, {
        "camera": camera.tolist(), "frame": "scanner_from_camera, RAS mm",
        "sdd_mm": detector.sdd_mm, "pixel_mm": list(detector.pixel_mm), "height": detector.height, "width": detector.width, "principal_px": list(detector.principal_px),
        "fiducials": points.tolist(), "angles_deg": args.angles, "distance_mm": args.distance, "shift_mm": args.shift, "gamma": args.gamma, "seed": args.seed,
    })  # fmt: skip
    print(args.output)


main = cli.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
