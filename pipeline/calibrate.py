# PYTHON_ARGCOMPLETE_OK
"""Calibrate the cameras of a rig from a known object, or undistort X-rays by a grid of beads.

The object is a phantom with beads or anything whose points are known, as a frame with markers. Each
camera needs six points or more that do not lie in one plane, in X-rays without distortion. Those of
an image intensifier are undistorted first, by the X-ray of a square grid that faces the detector.

reads   --points, a table (CSV) of the object: name, x, y, z in mm; and one table per view: name,
        column, row in pixels (integers at pixel centres, from 0)
        or --grid, the X-ray of a grid, and the X-rays to --undistort, of the same camera and size
writes  OUT/VIEW.json for each view, which registration.py --calibration reads: K, R, t and
        image_size, with the residuals
        or OUT/NAME.tif, the undistorted X-rays, 32 bit
frame   that of the object's points
units   mm and pixels
next    registration.py --views --calibration OUT/view1.json OUT/view2.json

examples
  python pipeline/calibrate.py --grid grid1.tif --undistort phantom1.tif knee1.tif -o undistorted
  python pipeline/calibrate.py --points phantom.csv --pixels view1.csv view2.csv --size 1024 1024 \\
    -o cameras
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError

if TYPE_CHECKING:
    from common.xray.camera_fit import CameraFit

logger = logging.getLogger("common.script")

LARGE_PX = 2.0  # residual of a point above which its place in the image is doubtful


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--points", type=Path, metavar="CSV", help="points of the object")
    parser.add_argument(
        "--pixels",
        nargs="+",
        type=Path,
        metavar="CSV",
        help="pixels of the points, a table per view",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("WIDTH", "HEIGHT"),
        help="size of the X-rays in pixels",
    )
    parser.add_argument(
        "--grid", type=Path, metavar="XRAY", help="X-ray of a square grid of beads or holes"
    )
    parser.add_argument(
        "--undistort", nargs="+", type=Path, metavar="XRAY", help="X-rays to undistort by --grid"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="output folder"
    )
    return parser


def read_table(path: Path, numbers: int) -> dict[str, np.ndarray]:
    """Return the numbers of each name in a table; a first line of words is a header.

    Raises InputError if a line has other than a name and ``numbers`` numbers, or a name is twice.
    """
    what = f"a table with a name and {numbers} numbers per line"
    found: dict[str, np.ndarray] = {}
    lines = [line for line in files.read_text(path, what).splitlines() if line.strip()]
    for number, fields in enumerate(csv.reader(line.replace(";", ",") for line in lines)):
        try:
            values = np.array([float(field) for field in fields[1:]])
        except ValueError:
            values = np.empty(0)
        if number == 0 and not values.size:
            continue
        name = fields[0].strip()
        if len(values) != numbers or not np.isfinite(values).all() or name in found:
            raise InputError(
                path, f"line {number + 1} is {','.join(fields)[:60]!r}", what, "correct the line"
            )
        found[name] = values
    if not found:
        raise InputError(path, "has no points", what, "choose another file")
    return found


def run(args: argparse.Namespace) -> int | None:
    cameras, grid = (args.points, args.pixels, args.size), (args.grid, args.undistort)
    if all(cameras) and not any(grid):
        calibrate(args)
    elif all(grid) and not any(cameras):
        undistort(args)
    else:
        raise InputError(
            None,
            "flags of two tasks, or only some of one",
            "--points, --pixels and --size, or --grid and --undistort",
            "correct the command",
        )
    return None


def undistort(args: argparse.Namespace) -> None:
    """Write X-rays undistorted by that of a grid."""
    import tifffile

    from common.xray import image_files
    from common.xray.bead_grid import fit_distortion

    outputs = [args.output / f"{files.stem(path)}.tif" for path in args.undistort]
    files.check_outputs(outputs, args.overwrite, [args.grid, *args.undistort])
    image = image_files.read(files.existing_file(args.grid, "the X-ray of a grid")).grey
    distortion = fit_distortion(args.grid, image)
    rms = float(np.sqrt((distortion.residuals_px**2).mean()))
    logger.info(f"{args.grid.name}: {len(distortion.residuals_px)} beads, {rms:.2f} pixels RMS")
    for path, output in zip(args.undistort, outputs, strict=True):
        xray = image_files.read(files.existing_file(path, "an X-ray of the same camera")).grey
        if xray.shape != image.shape:
            raise InputError(
                path,
                f"has {xray.shape[1]} x {xray.shape[0]} pixels",
                f"{image.shape[1]} x {image.shape[0]}, as the grid",
                "choose an X-ray of the same camera",
            )
        with files.writing(output) as stream:
            tifffile.imwrite(stream, distortion.undistort(xray))
    print(*outputs, sep="\n")


def calibrate(args: argparse.Namespace) -> None:
    """Write the camera of each view."""
    from common.xray.camera_fit import fit_camera, triangulate

    outputs = [args.output / f"{files.stem(path)}.json" for path in args.pixels]
    if len(set(outputs)) < len(outputs):
        raise InputError("--pixels", "tables of one name", "a different name per view", "rename")
    if min(args.size) < 16:
        raise InputError("--size", f"found {args.size}", "16 pixels or more", "correct --size")
    files.check_outputs(outputs, args.overwrite, [args.points, *args.pixels])
    points = read_table(args.points, 3)
    tables = [read_table(path, 2) for path in args.pixels]
    fits = []
    for path, table, output in zip(args.pixels, tables, outputs, strict=True):
        unknown = sorted(set(table) - set(points))
        if unknown:
            raise InputError(
                path, f"names {', '.join(unknown)[:80]}", f"points of {args.points.name}", "correct"
            )
        names = list(table)
        fit = fit_camera(
            path,
            np.array([points[name] for name in names]),
            np.array([table[name] for name in names]),
            (args.size[0], args.size[1]),
        )
        fits.append(fit)
        files.write_json(output, _entries(fit, names))
        camera = fit.camera
        logger.info(
            f"{path.name}: {len(names)} points, {fit.rms_px:.2f} pixels RMS, focal length"
            f" {camera.matrix[0, 0]:.0f} pixels, source {np.linalg.norm(camera.shift):.0f} mm from"
            " the origin"
        )
        for name, residual in zip(names, fit.residuals_px, strict=True):
            if residual > LARGE_PX:
                logger.warning(f"{path.name}: {name} is {residual:.1f} pixels off; check its place")
    shared = [name for name in points if all(name in table for table in tables)]
    if len(fits) > 1 and shared:
        pixels = np.array([[table[name] for name in shared] for table in tables])
        found = triangulate([fit.camera for fit in fits], pixels)
        apart = np.linalg.norm(found - [points[name] for name in shared], axis=1)
        logger.info(
            f"{len(shared)} points from all views: {np.sqrt((apart**2).mean()):.3f} mm RMS,"
            f" {apart.max():.3f} mm at most"
        )
    print(*outputs, sep="\n")


def _entries(fit: CameraFit, names: list[str]) -> dict[str, Any]:
    """Return what the file of a camera holds."""
    camera = fit.camera
    return {
        "K": camera.matrix.tolist(),
        "R": camera.rotation.tolist(),
        "t": camera.shift.tolist(),
        "image_size": [camera.width, camera.height],
        "rms_px": fit.rms_px,
        "residuals_px": dict(zip(names, np.round(fit.residuals_px, 3).tolist(), strict=True)),
    }


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
