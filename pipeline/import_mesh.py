# PYTHON_ARGCOMPLETE_OK
"""Convert surfaces of bones and implants to volumes that every script of the suite reads.

registration.py, create_drr.py and the figures read surfaces themselves; this step is for surfaces
in another unit than mm, and for the steps that read NIfTI only.

reads   closed surfaces of triangles: STL, PLY, OBJ, VTP or GIFTI
        Small gaps are closed and a surface that is inside out is turned, with a warning. An open
        surface, one that crosses itself, and one of a size that no bone or implant has are refused.
writes  OUT/NAME.nii.gz in Hounsfield units, each voxel by the share of it that is inside, in soft
        tissue; and its lineage OUT/NAME.json, which records file, unit and material
frame   that of the surface, in RAS unless the file states SPACE=LPS, which the lineage then undoes
units   mm
next    registration.py (step 7), which compares metal by its silhouette and edges

example
  python pipeline/import_mesh.py -i femoral_component.stl --material metal -o volumes
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line import script
from common.errors import InputError
from common.volume.materials import MATERIALS
from common.volume.mesh import SURFACE, UNITS_MM, is_surface

logger = logging.getLogger("common.script")

VOXEL_RANGE_MM = (0.1, 5.0)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input", required=True, nargs="+", type=Path, metavar="SURFACE", help="surfaces"
    )
    parser.add_argument(
        "--material",
        required=True,
        choices=MATERIALS,
        help="metal hides what is behind it; cortical-shell: a bone with a dense shell, as"
        " segmented from MRI; bone: of one density",
    )
    parser.add_argument(
        "--unit",
        choices=tuple(UNITS_MM),
        help="unit of the files (default: mm, if their size is that of a bone or implant)",
    )
    parser.add_argument(
        "--voxel_mm",
        type=float,
        metavar="MM",
        help="voxel spacing (default: 0.5 mm, more for large parts)",
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, type=Path, metavar="OUT", help="output folder"
    )
    return parser


def run(args: argparse.Namespace) -> int | None:
    low, high = VOXEL_RANGE_MM
    if args.voxel_mm is not None and not low <= args.voxel_mm <= high:
        raise InputError(
            "--voxel_mm",
            f"found {args.voxel_mm:g} mm",
            f"{low:g} to {high:g} mm",
            "choose another spacing",
        )
    for path in args.input:
        files.existing_file(path, SURFACE)
        if not is_surface(path):
            raise InputError(path, f"ends in {path.suffix}", SURFACE, "export it as one of these")
    outputs = [args.output_dir / f"{files.stem(path)}.nii.gz" for path in args.input]
    if len(set(outputs)) < len(outputs):
        raise InputError("-i", "files of the same name", "different names", "rename one")
    files.check_outputs(outputs, args.overwrite, args.input)
    files.output_folder(args.output_dir)

    from common.volume import nifti
    from common.volume.voxelise import load_surface

    for path, output in zip(args.input, outputs, strict=True):
        volume = load_surface(path, args.material, args.voxel_mm, args.unit)
        settings = volume.lineage.history[-1]["settings"]
        logger.info(
            f"{path.name}: {settings['triangles']} triangles, {settings['volume_mm3'] / 1000:.1f}"
            f" ml of {args.material} in {' x '.join(map(str, volume.shape))} voxels of"
            f" {settings['voxel_mm']:.2g} mm"
        )
        print(nifti.save(output, volume))
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
