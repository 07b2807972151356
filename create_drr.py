# PYTHON_ARGCOMPLETE_OK
"""Step 8: the radiograph that a CT gives from a registered pose, exact and at the detector's full resolution.

Registration renders fast pictures; this one integrates the attenuation of every voxel that a ray passes (Siddon's method, by
DiffDRR) along several rays a pixel. It takes minutes for a whole CT. Bone is bright, as in gt.png.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume, at any resolution and of any extent
        parameters.pt of registration.py (step 7): pose and detector
writes  a 16-bit PNG of the size of gt.png: line integrals, linear from the smallest (0) to the largest (65535); both are in its text chunks
frame   the registered volume's world. A CT whose lineage places it elsewhere (the original CT of a prepared volume) is brought there first.
next    evaluation.py (name the picture drr.png in the registration's folder, and it is compared too)

example
  python create_drr.py --volume P01_femur.nii.gz --pose_path results/parameters.pt --output_path results/drr.png
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import flags, script
from common.errors import InputError
from common.geometry import Detector
from common.progress import Track
from common.reports import overlays

if TYPE_CHECKING:
    from common.drr.renderer import Renderer

logger = logging.getLogger("common.script")


METHODS = ("siddon", "fused")
SUPERSAMPLING = 2
STRIP_BYTES = 600e6  # working memory of a strip of rows
BYTES_PER_CROSSING = 90  # DiffDRR's tensors for one crossing of a ray with a voxel plane, measured


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--volume", required=True, metavar="CT", help="CT to look through (.nii or .nii.gz)"
    )
    parser.add_argument(
        "--pose_path", required=True, metavar="PT", help="parameters.pt of registration.py"
    )
    parser.add_argument("--output_path", required=True, metavar="PNG", help="picture to write")
    parser.add_argument(
        "--supersampling",
        type=int,
        default=SUPERSAMPLING,
        metavar="N",
        help=f"N x N rays a pixel, averaged (default: {SUPERSAMPLING})",
    )
    parser.add_argument(
        "--mask", metavar="SEG", help="labelmap on the CT's grid: only its structures are rendered"
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        type=int,
        metavar="N",
        help="labels of --mask to render (default: all)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="siddon is exact and slow, fused interpolates in seconds on the CPU (default: siddon)",
    )
    flags.add_device_flag(parser)
    return parser


def render_picture(
    renderer: Renderer,
    camera: np.ndarray,
    detector: Detector,
    supersampling: int,
    rows_at_once: int,
) -> np.ndarray:
    """Line integrals (H, W), float32: the mean of ``supersampling`` squared rays a pixel.

    ``camera`` is world_from_camera (4, 4). Strips of ``rows_at_once`` rows keep memory bounded.
    """
    fine = detector.supersampled(supersampling)
    picture = np.empty((detector.height, detector.width), np.float32)
    with Track(total=detector.height, what="rendering", unit="row") as bar:
        for top in range(0, detector.height, rows_at_once):
            rows = min(rows_at_once, detector.height - top)
            strip = fine.cropped(top * supersampling, 0, rows * supersampling, fine.width)
            rays = renderer.render(camera[None], strip)[0]
            picture[top : top + rows] = rays.reshape(
                rows, supersampling, detector.width, supersampling
            ).mean(axis=(1, 3), dtype=np.float64)
            bar.update(rows)
    return picture


def rows_per_strip(shape: tuple[int, int, int], width: int, supersampling: int) -> int:
    """Picture rows whose rays fit into `STRIP_BYTES`."""
    row_bytes = width * supersampling**2 * (sum(shape) + 3) * BYTES_PER_CROSSING
    return max(1, int(STRIP_BYTES / row_bytes))


def write_png16(path, picture: np.ndarray) -> None:
    """Write a picture from its smallest to its largest value; both are kept as text."""
    from PIL import Image, PngImagePlugin

    low, high = float(picture.min()), float(picture.max())
    text = PngImagePlugin.PngInfo()
    for name, value in zip(overlays.LINE_INTEGRALS, (low, high), strict=True):
        text.add_text(name, f"{value:.6g}")
    grey = np.round((picture - low) / (high - low) * 65535).astype(np.uint16)
    with files.writing(path) as stream:
        Image.fromarray(grey).save(stream, format="PNG", pnginfo=text)


def run(args: argparse.Namespace) -> int | None:
    volume_path = files.existing_file(args.volume, "a CT volume (NIfTI)")
    pose_path = files.existing_file(args.pose_path, "parameters.pt of registration.py")
    inputs = [volume_path, pose_path] + (
        [files.existing_file(args.mask, "a labelmap (NIfTI)")] if args.mask else []
    )
    if not args.output_path.lower().endswith(".png"):
        raise InputError(
            args.output_path, "is no PNG name", "--output_path to end in .png (16 bit)", "rename it"
        )
    if not 1 <= args.supersampling <= 8:
        raise InputError(
            f"--supersampling {args.supersampling}",
            f"found {args.supersampling}",
            "1 to 8 rays a pixel and axis",
            "correct it",
        )
    if args.labels and not args.mask:
        raise InputError(
            "--labels", "given without --mask", "the labelmap whose labels these are", "give --mask"
        )
    files.check_outputs([args.output_path], args.overwrite, inputs)

    from common.drr import siddon
    from common.drr.renderer import choose_device, make_renderer
    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume import attenuation, nifti

    result = parameters_file.load(pose_path)
    ct = nifti.load_ct(volume_path)
    camera = world_from_registered(result, ct) @ result.volume_from_camera()
    if result.drr.get("mask") and not args.mask:
        logger.info(
            f"registered with the structures of {result.drr['mask']} alone; this picture shows the"
            " whole CT (--mask for less)"
        )
    labelmap = nifti.load_labelmap(args.mask) if args.mask else None
    volume = attenuation.select_structures(
        ct, labelmap, args.labels, attenuation.WHOLE_ATTENUATION_HU
    )
    device = choose_device(args.device)
    make = siddon.SiddonRenderer if args.method == "siddon" else make_renderer
    renderer = make(volume, centre_mm=ct.isocentre_mm, device=device)
    detector = result.detector
    source = " ".join(f"{x:.1f}" for x in camera[:3, 3])
    logger.info(
        f"geometry: {detector.width} x {detector.height} pixels of {detector.pixel_mm[0]:.4g} x"
        f" {detector.pixel_mm[1]:.4g} mm, SDD {detector.sdd_mm:.1f} mm, principal point"
        f" ({detector.principal_px[0]:.1f}, {detector.principal_px[1]:.1f}), source at ({source})"
        f" mm RAS of {ct.name}"
    )
    start = time.monotonic()
    rows = rows_per_strip(volume.shape, detector.width, args.supersampling)
    picture = render_picture(renderer, camera, detector, args.supersampling, rows)
    if np.ptp(picture) == 0:
        raise InputError(
            volume_path,
            "casts no shadow on the detector from this pose",
            "a CT in the frame of the registered volume",
            "check that both files belong together",
        )
    write_png16(args.output_path, picture)
    logger.info(
        f"{args.method}, {args.supersampling**2} rays a pixel: line integrals {picture.min():.3g}"
        f" to {picture.max():.3g}, {time.monotonic() - start:.0f} s"
    )
    print(args.output_path)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
