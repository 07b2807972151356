# PYTHON_ARGCOMPLETE_OK
"""Show a registered view in space: the CT's bone, the X-ray source, the detector with its picture, frustum and principal ray.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume
        parameters.pt of registration.py (step 7): pose, detector and X-ray
writes  OUT/scene.html, to turn and zoom in a browser; everything is inside the file, no network is needed
        OUT/scene.png, two views of the same scene at 300 dpi; with --format the same as scene.svg or scene.pdf
frame   the world of --volume, millimetres, equal on all axes; R, A, S point to the patient's right, front and head
step    after registration.py (step 7)

example
  python visualize_3d_drr.py --volume P01_femur.nii.gz --parameters results/parameters.pt --output_dir results/3d
"""

from __future__ import annotations

import argparse
import html
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.command_line import flags, script
from common.reports import figures
from common.reports.scene_3d import (
    BONE,
    SOURCE,
    Scene,
    limits,
    lines_of,
    picture_grid,
    place_detector,
)
from common.volume.surface import BONE_HU, extract_surface

logger = logging.getLogger("common.script")


TEXTURES = ("xray", "drr")
HTML_SURFACE_VOXELS, PNG_SURFACE_VOXELS = (
    110,
    80,
)  # along the longest axis: some 100,000 and 40,000 triangles
HTML_TEXTURE_PX, PNG_TEXTURE_PX = 256, 110  # longest side of the detector's picture
PNG_VIEWS = (
    (15, 62),
    (25, 18),
)  # degrees of elevation, and of turn away from the source: from the side, and over the source's shoulder


def _ending(text: str) -> str:
    return "." + text.lower().removeprefix(".")


def build_parser() -> argparse.ArgumentParser:
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
        choices=TEXTURES,
        default=TEXTURES[0],
        help="what lies on the detector: the X-ray, or the DRR at the final pose (default: xray)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=BONE_HU,
        metavar="HU",
        help=f"Hounsfield units of the surface (default: {BONE_HU:g})",
    )
    parser.add_argument(
        "--format",
        type=_ending,
        choices=figures.FORMATS,
        default=".png",
        help=(
            "also write the still picture as .svg or .pdf; its surfaces stay pixels (default: .png"
            " alone)"
        ),
    )
    flags.add_device_flag(parser)
    return parser


# --------------------------------------------------------------------------------------------------- output


def draw_html(scene: Scene, title: str) -> str:
    """A page with the scene and the plotting library inside."""
    import plotly.graph_objects as go

    x, y, z = scene.vertices.T.round(2)
    i, j, k = scene.triangles.T
    light = {"ambient": 0.35, "diffuse": 0.8, "specular": 0.2, "roughness": 0.6}
    parts = [
        go.Mesh3d(
            x=x,
            y=y,
            z=z,
            i=i,
            j=j,
            k=k,
            color=BONE,
            lighting=light,
            name="bone",
            showlegend=True,
            hoverinfo="name",
        )
    ]
    picture, grid = picture_grid(scene, HTML_TEXTURE_PX)
    # a surface is coloured at its vertices: the pixels' centres
    centres = ((grid[:-1, :-1] + grid[1:, 1:]) / 2).round(2)
    flat = {"ambient": 1, "diffuse": 0, "specular": 0}
    parts.append(
        go.Surface(x=centres[..., 0], y=centres[..., 1], z=centres[..., 2], surfacecolor=picture.round(3), colorscale="Gray", cmin=0, cmax=1, showscale=False, lighting=flat, name=scene.picture_is, showlegend=True, hoverinfo="name")
    )  # fmt: skip
    for name, (line, colour) in lines_of(scene).items():
        parts.append(
            go.Scatter3d(
                x=line[:, 0],
                y=line[:, 1],
                z=line[:, 2],
                mode="lines",
                line={"color": colour, "width": 5 if name == "principal ray" else 3},
                name=name,
                hoverinfo="name",
            )
        )
    parts.append(
        go.Scatter3d(
            x=[scene.source[0]],
            y=[scene.source[1]],
            z=[scene.source[2]],
            mode="markers",
            marker={"color": SOURCE, "size": 6},
            name="X-ray source",
        )
    )
    low, high = limits(scene)
    axes = {
        f"{axis}axis": {"title": {"text": text}, "range": [low[n], high[n]]}
        for n, (axis, text) in enumerate(zip("xyz", AXIS_TITLES, strict=True))
    }
    figure = go.Figure(parts)
    figure.update_layout(
        title=html.escape(title),
        scene={**axes, "aspectmode": "data"},
        legend={"itemsizing": "constant"},
        margin={"l": 0, "r": 0, "b": 0, "t": 40},
    )
    return figure.to_html(include_plotlyjs=True, full_html=True)


AXIS_TITLES = ("to the right (R) / mm", "to the front (A) / mm", "to the head (S) / mm")


def draw_png(scene: Scene, title: str) -> Any:
    """The scene from two sides. Returns a matplotlib Figure; needs no display."""
    from matplotlib.figure import Figure

    width, height = 7.1, 3.7  # of a page with two columns
    heading = figures.wrapped(title, width, figures.TITLE_PT)
    height += 0.13 * heading.count("\n")
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.06,
        right=0.95,
        bottom=0.09,
        top=1 - (0.13 * (heading.count("\n") + 1)) / height,
        wspace=0.12,
    )
    figure.suptitle(
        heading, y=1 - 0.05 / height, va="top", fontsize=figures.TITLE_PT, parse_math=False
    )
    back = scene.source - scene.foot
    for number, (elevation, turn) in enumerate(PNG_VIEWS, 1):
        axis = figure.add_subplot(1, 2, number, projection="3d", computed_zorder=False)
        axis.view_init(elevation, np.degrees(np.arctan2(back[1], back[0])) + turn)
        axis.patch.set_visible(False)  # it would hide the other view's labels
        _draw_axes(axis, scene)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="lower center",
        ncols=len(names),
        frameon=False,
        fontsize=figures.TEXT_PT,
    )
    return figure


def _draw_axes(axis: Any, scene: Scene) -> None:
    from matplotlib.ticker import MultipleLocator

    low, high = limits(scene)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axis.set_box_aspect(high - low, zoom=0.92)
    for name, text in zip("xyz", "RAS", strict=True):
        getattr(axis, f"set_{name}label")(f"{text} / mm", fontsize=figures.SMALL_PT, labelpad=1)
        getattr(axis, f"{name}axis").set_major_locator(
            MultipleLocator(100 if (high - low).max() < 800 else 200)
        )
    axis.tick_params(labelsize=figures.SMALL_PT, pad=-2)
    picture, grid = picture_grid(scene, PNG_TEXTURE_PX)
    grey = np.repeat(picture[..., None], 3, -1)
    towards_eye = _towards_eye(axis)
    detector_in_front = (
        float((scene.corners.mean(axis=0) - scene.vertices.mean(axis=0)) @ towards_eye) > 0
    )
    axis.plot_surface(
        *np.moveaxis(grid, -1, 0),
        rstride=1,
        cstride=1,
        facecolors=grey,
        shade=False,
        antialiased=False,
        rasterized=True,
        zorder=3 if detector_in_front else 1,
    )
    axis.plot_trisurf(
        *scene.vertices.T,
        triangles=scene.triangles,
        color=BONE,
        linewidth=0,
        antialiased=False,
        shade=True,
        rasterized=True,
        zorder=2,
    )
    for name, (line, colour) in lines_of(scene).items():
        axis.plot(
            *line.T,
            color=colour,
            linewidth=1.2 if name == "principal ray" else 0.5,
            label=name,
            zorder=4,
        )
    axis.scatter(*scene.source[:, None], color=SOURCE, s=14, label="X-ray source", zorder=5)


def _towards_eye(axis: Any) -> np.ndarray:
    elevation, azimuth = np.radians([axis.elev, axis.azim])
    return np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )


def run(args: argparse.Namespace) -> int | None:
    volume_path = files.existing_file(args.volume, "a CT volume (NIfTI)")
    parameters = files.existing_file(args.parameters, "parameters.pt of registration.py")
    folder = files.output_folder(args.output_dir)
    page = folder / "scene.html"
    still = [folder / f"scene{ending}" for ending in dict.fromkeys((".png", args.format))]
    files.check_outputs([page, *still], args.overwrite, [volume_path, parameters])

    from common.drr.renderer import choose_device, make_renderer
    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume import nifti
    from common.volume.attenuation import WHOLE_ATTENUATION_HU, select_structures
    from common.xray import similarity

    result = parameters_file.load(parameters)
    ct = nifti.load_ct(volume_path)
    camera = world_from_registered(result, ct) @ result.volume_from_camera()
    picture = result.picture / 255
    if args.texture == "drr":
        attenuation = select_structures(ct, None, None, WHOLE_ATTENUATION_HU)
        renderer = make_renderer(attenuation, choose_device(args.device))
        picture = similarity.normalise(renderer.render(camera[None], result.detector)[0])
    vertices, triangles = extract_surface(ct, args.threshold, HTML_SURFACE_VOXELS)
    corners, foot = place_detector(camera, result.detector)
    scene = Scene(
        vertices,
        triangles,
        camera[:3, 3],
        corners,
        foot,
        picture,
        {"xray": "X-ray", "drr": "DRR"}[args.texture],
    )
    title = (
        f"{ct.name} and {Path(str(result.xray['file'])).name}: registered pose, SDD"
        f" {result.detector.sdd_mm:.0f} mm"
    )
    files.write_text(page, draw_html(scene, title))
    lighter = replace(
        scene,
        **dict(
            zip(
                ("vertices", "triangles"),
                extract_surface(ct, args.threshold, PNG_SURFACE_VOXELS),
                strict=True,
            )
        ),
    )
    with figures.style():
        figure = draw_png(lighter, title)
    for picture_path in still:
        figures.save(figure, picture_path)
    source = " ".join(f"{x:.1f}" for x in scene.source)
    logger.info(
        f"{len(triangles)} triangles at {args.threshold:g} HU; source at ({source}) mm RAS,"
        f" {np.linalg.norm(scene.source - vertices.mean(axis=0)):.0f} mm from the bone's middle"
    )
    print(page, *still, sep="\n")
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
