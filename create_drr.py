# PYTHON_ARGCOMPLETE_OK
"""Step 8: render the DRR of a CT at a registered pose, exactly and at the detector's resolution.

Registration renders fast DRRs. This script integrates the attenuation of every voxel that a ray
crosses (Siddon's method, by DiffDRR) along several rays per pixel, which takes minutes for a whole
CT. Bone is bright, as in gt.png.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume, with any voxel spacing
        and extent, or the registered surface
        parameters.pt of registration.py (step 7): pose and detector
writes  a 16-bit PNG of the size of gt.png: line integrals, linear from the lowest (0) to the
        highest (65535); both are in its text chunks. Of metal, the share of the
        beam that it takes
frame   the volume frame. A CT whose lineage places it elsewhere (the original CT of a prepared
        CT) is moved there first.
next    evaluation.py (if the image is named drr.png in the registration's folder, it is compared
        too)

example
  python create_drr.py --volume P01_femur.nii.gz --pose_path results/parameters.pt \\
    --output_path results/drr.png
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import flags, script
from common.errors import InputError
from common.geometry import Detector
from common.geometry.blocks import block_mean
from common.progress import Track
from common.reports import drr_files

if TYPE_CHECKING:
    from common.drr.renderer import ImageRenderer
    from common.results.result import Result
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

METHODS = ("siddon", "fused")
SUPERSAMPLING, MAX_SUPERSAMPLING = 2, 8
STRIP_BYTES = 600e6  # working memory of a strip of rows
BYTES_PER_CROSSING = (
    90  # of DiffDRR's tensors for a ray and a voxel plane that it crosses, measured
)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--volume",
        required=True,
        metavar="CT",
        help="CT to render (any of docs/formats.md), or a surface (STL, PLY, OBJ, VTP, GIFTI)",
    )
    parser.add_argument(
        "--pose_path", required=True, metavar="PT", help="parameters.pt of registration.py"
    )
    parser.add_argument("--output_path", required=True, metavar="PNG", help="DRR to write, .png")
    parser.add_argument(
        "--supersampling",
        type=int,
        default=SUPERSAMPLING,
        metavar="N",
        help="rays per pixel along each axis; N x N are averaged (default: %(default)s)",
    )
    parser.add_argument(
        "--mask", metavar="SEG", help="labelmap on the grid of the CT: render only its structures"
    )
    flags.add_labels_flag(parser, "labels of --mask to render (default: all)")
    flags.add_material_flag(parser, default="that of the registration")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="siddon: exact and slow; fused: interpolated, seconds on a CPU (default: %(default)s)",
    )
    flags.add_device_flag(parser)
    return parser


def render_drr(
    renderer: ImageRenderer,
    camera: np.ndarray,
    detector: Detector,
    supersampling: int,
    rows_at_once: int,
) -> np.ndarray:
    """Return line integrals (H, W) float32, the mean of ``supersampling`` squared rays per pixel.

    ``camera`` is volume_from_camera (4, 4). Strips of ``rows_at_once`` rows limit the memory.
    """
    fine = detector.supersampled(supersampling)
    drr = np.empty((detector.height, detector.width), np.float32)
    with Track(total=detector.height, what="rendering", unit="row") as progress:
        for top in range(0, detector.height, rows_at_once):
            rows = min(rows_at_once, detector.height - top)
            strip = fine.cropped(top * supersampling, 0, rows * supersampling, fine.width)
            rays = renderer.render(camera[None], strip)[0]
            drr[top : top + rows] = block_mean(rays, (supersampling, supersampling), np.float64)
            progress.update(rows)
    return drr


def rows_per_strip(shape: tuple[int, int, int], width: int, supersampling: int) -> int:
    """Return the number of image rows whose rays fit into `STRIP_BYTES`."""
    row_bytes = width * supersampling**2 * (sum(shape) + 3) * BYTES_PER_CROSSING
    return max(1, int(STRIP_BYTES / row_bytes))


def write_png16(path: str | Path, drr: np.ndarray) -> None:
    """Write a DRR (H, W) from its lowest to its highest value; both are stored as text."""
    from common.files import pictures
    from common.xray.grey_values import stretch

    low, high = float(drr.min()), float(drr.max())
    text = {
        name: f"{value:.6g}"
        for name, value in zip(drr_files.LINE_INTEGRALS, (low, high), strict=True)
    }
    grey = np.round(stretch(drr, low, high) * 65535).astype(np.uint16)
    pictures.write_png(Path(path), grey, text)


def run(args: argparse.Namespace) -> int | None:
    from common.volume import label_names, nifti

    volume_path = files.existing_input(args.volume, nifti.CT)
    pose_path = files.existing_file(args.pose_path, "parameters.pt of registration.py")
    mask_path = files.existing_input(args.mask, nifti.LABELMAP) if args.mask else None
    check_flags(args)
    labels = label_names.resolve(args.labels, mask_path) if args.labels and mask_path else None
    inputs = [path for path in (volume_path, pose_path, mask_path) if path]
    files.check_outputs([args.output_path], args.overwrite, inputs)

    from common.drr import siddon
    from common.drr.renderer import SaturatingImages, choose_device, make_renderer
    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume import attenuation
    from common.volume.materials import is_metal, rendered_above_hu

    result = parameters_file.load(pose_path)
    ct = nifti.load_ct(volume_path, material=args.material or result.material)
    camera = world_from_registered(result, ct) @ result.volume_from_camera()
    if result.drr.get("mask") and mask_path is None:
        logger.info(
            f"registered with the structures of {result.drr['mask']} only; this DRR shows the whole"
            " CT; use --mask to render structures"
        )
    labelmap = nifti.load_labelmap(mask_path, ct) if mask_path else None
    volume = attenuation.select_structures(ct, labelmap, labels, rendered_above_hu(ct.lineage))
    device = choose_device(args.device)
    make = siddon.SiddonRenderer if args.method == "siddon" else make_renderer
    renderer = make(volume, centre_mm=ct.isocentre_mm, device=device)
    if args.method == "siddon" and is_metal(ct.lineage):
        renderer = SaturatingImages(renderer)
    logger.info(geometry_text(result, camera, ct))
    began = time.monotonic()
    rows = rows_per_strip(volume.shape, result.detector.width, args.supersampling)
    drr = render_drr(renderer, camera, result.detector, args.supersampling, rows)
    if np.ptp(drr) == 0:
        raise InputError(
            volume_path,
            "projects outside the detector at this pose",
            "a CT in the frame of the registered volume",
            "check that both files belong together",
        )
    write_png16(args.output_path, drr)
    logger.info(
        f"{args.method}, {args.supersampling} x {args.supersampling} rays per pixel: line integrals"
        f" {drr.min():.3g} to {drr.max():.3g}, {time.monotonic() - began:.0f} s"
    )
    print(args.output_path)
    return None


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError if a flag is out of range or lacks another."""
    if not args.output_path.lower().endswith(".png"):
        raise InputError(
            args.output_path,
            "not a PNG file name",
            "a name ending in .png (16 bit)",
            "change --output_path",
        )
    if not 1 <= args.supersampling <= MAX_SUPERSAMPLING:
        raise InputError(
            f"--supersampling {args.supersampling}",
            "out of range",
            f"1 to {MAX_SUPERSAMPLING} rays per pixel along each axis",
            "correct it",
        )
    if args.labels and not args.mask:
        raise InputError("--labels", "given without --mask", "both", "add --mask FILE")


def geometry_text(result: Result, camera: np.ndarray, ct: Volume) -> str:
    """Return the detector and the position of the source in words."""
    detector = result.detector
    source = " ".join(f"{x:.1f}" for x in camera[:3, 3])
    return (
        f"geometry: {detector.width} x {detector.height} pixels of {detector.pixel_mm[0]:.4g} x"
        f" {detector.pixel_mm[1]:.4g} mm, SDD {detector.sdd_mm:.1f} mm, principal point"
        f" ({detector.principal_px[0]:.1f}, {detector.principal_px[1]:.1f}), source at ({source})"
        f" mm RAS of {ct.name}"
    )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
