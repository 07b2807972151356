# PYTHON_ARGCOMPLETE_OK
"""Draw a registered view in 3D: surface of the bone, X-ray source, detector with its image.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume, or the registered
        surface (STL, PLY, OBJ, VTP, GIFTI)
        parameters.pt of registration.py (step 7): pose, detector and X-ray
writes  OUT/scene.html, an interactive view for a browser; one file that needs no network
        OUT/scene.png, two views of the same scene at 300 dpi; with --format also scene.svg or
        scene.pdf
frame   the frame of --volume, millimetres, the same scale on all axes; R, A and S point to the
        patient's right, front and head
step    after registration.py (step 7)

example
  python visualize_3d_drr.py --volume P01_femur.nii.gz --parameters results/parameters.pt \\
    --output_dir results/3d
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import flags, script
from common.reports import figures, scene_figure, scene_page
from common.reports.scene_3d import Scene
from common.volume.hounsfield import BONE_SURFACE_HU
from common.volume.surface import extract_surface

if TYPE_CHECKING:
    from common.results.result import Result
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

TEXTURES = {"xray": "X-ray", "drr": "DRR"}
# voxels along the longest axis: about 100,000 and 40,000 triangles
HTML_SURFACE_VOXELS, PNG_SURFACE_VOXELS = 110, 80


def _ending(text: str) -> str:
    return "." + text.lower().removeprefix(".")


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--volume", required=True, metavar="CT", help="CT to show (.nii or .nii.gz)"
    )
    parser.add_argument(
        "--parameters", required=True, metavar="PT", help="parameters.pt of registration.py"
    )
    parser.add_argument(
        "--output_dir", required=True, metavar="OUT", help="folder for scene.html and scene.png"
    )
    parser.add_argument(
        "--texture",
        choices=tuple(TEXTURES),
        default="xray",
        help="image on the detector: the X-ray, or the DRR at the final pose (default: xray)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="HU",
        help=f"Hounsfield units of the surface (default: {BONE_SURFACE_HU:g}; of a registered"
        " surface, itself)",
    )
    parser.add_argument(
        "--format",
        type=_ending,
        choices=figures.FORMATS,
        default=".png",
        help="also write the figure as .svg or .pdf; surfaces remain pixels (default: .png only)",
    )
    flags.add_device_flag(parser)
    return parser


def image_on_detector(
    texture: str, ct: Volume, result: Result, camera: np.ndarray, device: str
) -> np.ndarray:
    """Return the X-ray, or the DRR of the CT at ``camera`` (volume_from_camera): (H, W) in 0..1."""
    if texture == "xray":
        return result.image / 255
    from common.drr.renderer import choose_device, make_renderer
    from common.volume.attenuation import select_structures
    from common.volume.materials import rendered_above_hu
    from common.xray import similarity

    attenuation = select_structures(ct, None, None, rendered_above_hu(ct.lineage))
    renderer = make_renderer(attenuation, choose_device(device))
    return similarity.normalise(renderer.render(camera[None], result.detector)[0])


def run(args: argparse.Namespace) -> int | None:
    from common.volume import nifti

    volume_path = files.existing_input(args.volume, nifti.CT)
    parameters = files.existing_file(args.parameters, "parameters.pt of registration.py")
    folder = files.output_folder(args.output_dir)
    page = folder / "scene.html"
    figure_paths = [folder / f"scene{ending}" for ending in dict.fromkeys((".png", args.format))]
    files.check_outputs([page, *figure_paths], args.overwrite, [volume_path, parameters])

    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume.materials import surface_hu

    result = parameters_file.load(parameters)
    ct = nifti.load_ct(volume_path, material=result.material)
    camera = world_from_registered(result, ct) @ result.volume_from_camera()
    image = image_on_detector(args.texture, ct, result, camera, args.device)
    threshold = surface_hu(ct.lineage) if args.threshold is None else args.threshold
    surface = extract_surface(ct, threshold, HTML_SURFACE_VOXELS)
    scene = Scene.of(surface, camera, result.detector, image, TEXTURES[args.texture])
    xray_name = Path(str(result.xray["file"])).name
    title = f"{ct.name} and {xray_name}: registered pose, SDD {result.detector.sdd_mm:.0f} mm"
    files.write_text(page, scene_page.draw_page(scene, title))
    vertices, triangles = extract_surface(ct, threshold, PNG_SURFACE_VOXELS)
    with figures.style():
        figure = scene_figure.draw_figure(
            replace(scene, vertices=vertices, triangles=triangles), title
        )
    for path in figure_paths:
        figures.save(figure, path)
    source = " ".join(f"{x:.1f}" for x in scene.source)
    distance = np.linalg.norm(scene.source - scene.vertices.mean(axis=0))
    logger.info(
        f"{len(scene.triangles)} triangles at {threshold:g} HU; source at ({source}) mm RAS,"
        f" {distance:.0f} mm from the centre of the bone"
    )
    print(page, *figure_paths, sep="\n")
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
