"""Show a registered view in space: the CT's bone, the X-ray source, the detector with its picture, frustum and principal ray.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume
        parameters.pt of registration.py (step 7): pose, detector and X-ray
writes  OUT/scene.html, to turn and zoom in a browser; everything is inside the file, no network is needed
        OUT/scene.png, two views of the same scene
frame   the world of --volume, millimetres, equal on all axes; R, A, S point to the patient's right, front and head
step    after registration.py (step 7)

example
  python visualize_3d_drr.py --volume P01_femur.nii.gz --parameters results/parameters.pt --output_dir results/3d
"""

from __future__ import annotations

import argparse
import html
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import cli, geometry
from common.geometry import Detector

if TYPE_CHECKING:
    from common.volumes import Volume

TEXTURES = ("xray", "drr")
BONE_HU = 250.0
HTML_SURFACE_VOXELS, PNG_SURFACE_VOXELS = 110, 80  # along the longest axis: some 100,000 and 40,000 triangles
HTML_TEXTURE_PX, PNG_TEXTURE_PX = 256, 110  # longest side of the detector's picture
BONE, SOURCE, RAY, FRAME = "#e8dcc0", "#d55e00", "#0072b2", "#555555"  # Okabe and Ito's palette, for all eyes
PNG_VIEWS = ((15, 62), (25, 18))  # degrees of elevation, and of turn away from the source: from the side, and over the source's shoulder


@dataclass(frozen=True)
class Scene:
    """What is drawn, all in the volume's world, millimetres."""

    vertices: np.ndarray  # (V, 3) of the bone
    triangles: np.ndarray  # (T, 3) indices
    source: np.ndarray  # (3,)
    corners: np.ndarray  # (4, 3) outer corners of the detector: top left, top right, bottom right, bottom left of the picture
    foot: np.ndarray  # (3,) where the principal ray meets the detector
    picture: np.ndarray  # (H, W) in 0..1, shown on the detector
    picture_is: str


def build_parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(__doc__)
    parser.add_argument("--volume", required=True, metavar="CT", help="CT to show (.nii or .nii.gz)")
    parser.add_argument("--parameters", required=True, metavar="PT", help="parameters.pt of registration.py")
    parser.add_argument("--output_dir", required=True, metavar="OUT", help="folder for scene.html and scene.png")
    parser.add_argument("--texture", choices=TEXTURES, default=TEXTURES[0], help="what lies on the detector: the X-ray, or the DRR at the final pose (default: xray)")
    parser.add_argument("--threshold", type=float, default=BONE_HU, metavar="HU", help=f"Hounsfield units of the surface (default: {BONE_HU:g})")
    cli.add_device_flag(parser)
    return parser


# ---------------------------------------------------------------------------------------------------- scene


def extract_surface(volume: Volume, threshold_hu: float, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, 3) vertices in world millimetres and (T, 3) triangles (counterclockwise seen from outside) of an iso-surface of the volume averaged to about ``longest`` voxels an axis.

    Raises InputError where no voxel lies above the threshold.
    """
    from skimage.measure import marching_cubes

    from common.rendering import block_average
    from common.volumes import Volume

    extent = volume.spacing_mm * volume.shape
    voxel_mm = extent.max() / longest
    factors = tuple(max(1, int(np.ceil(voxel_mm / mm - 1e-6))) for mm in volume.spacing_mm)
    # zeros fill the last blocks, so air is what lies outside
    above_air = Volume(np.maximum(volume.data.astype(np.float32), -1000) + 1000, volume.affine, volume.lineage, volume.path)
    coarse = block_average(above_air, factors)
    level = threshold_hu + 1000
    if not (coarse.data > level).any():
        raise cli.InputError(f"{volume.name}: holds nothing above {threshold_hu:g} HU; expected bone; lower --threshold (the densest is {volume.data.max():g} HU)")
    vertices, triangles, _, _ = marching_cubes(np.pad(coarse.data, 1), level)
    # scikit-image winds triangles clockwise seen from outside; a left-handed grid turns that round
    counterclockwise = triangles[:, ::-1] if np.linalg.det(coarse.affine) > 0 else triangles
    return geometry.apply(coarse.affine, vertices - 1), counterclockwise


def place_detector(camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Outer corners (4, 3) of the detector, in the order of `Scene.corners`, and the foot of the principal ray, world millimetres."""
    left, top, right, bottom = -0.5, -0.5, detector.width - 0.5, detector.height - 0.5
    pixels = np.array([(left, top), (right, top), (right, bottom), (left, bottom), detector.principal_px])
    points = np.c_[(pixels - detector.principal_px) * detector.pixel_mm, np.full(5, detector.sdd_mm)]
    world = geometry.apply(camera, points)
    return world[:4], world[4]


def picture_grid(scene: Scene, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The detector's picture with at most ``longest`` pixels a side, (h, w), and the world corners of its pixels, (h + 1, w + 1, 3)."""
    from skimage.transform import resize

    height, width = scene.picture.shape
    scale = min(1.0, longest / max(height, width))
    size = max(2, round(height * scale)), max(2, round(width * scale))
    small = np.clip(resize(scene.picture, size, order=1, anti_aliasing=True), 0, 1) if scale < 1 else scene.picture
    rows, columns = (np.linspace(0, 1, n + 1) for n in small.shape)
    top_left, top_right, _, bottom_left = scene.corners
    return small, top_left + columns[None, :, None] * (top_right - top_left) + rows[:, None, None] * (bottom_left - top_left)


def lines_of(scene: Scene) -> dict[str, tuple[np.ndarray, str]]:
    """{name: ((N, 3) polyline with NaN between its parts, colour)}: frustum, detector's edge and principal ray."""
    gap = np.full(3, np.nan)
    edges = [point for corner in scene.corners for point in (scene.source, corner, gap)]
    return {
        "frustum": (np.array(edges), FRAME),
        "detector": (scene.corners[[0, 1, 2, 3, 0]], FRAME),
        "principal ray": (np.stack([scene.source, scene.foot]), RAY),
    }


def limits(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of everything drawn, with 3 % to spare."""
    points = np.vstack([scene.vertices, scene.corners, scene.source])
    spare = 0.03 * np.ptp(points, axis=0).max()
    return points.min(axis=0) - spare, points.max(axis=0) + spare


# --------------------------------------------------------------------------------------------------- output


def draw_html(scene: Scene, title: str) -> str:
    """A page with the scene and the plotting library inside."""
    import plotly.graph_objects as go

    x, y, z = scene.vertices.T.round(2)
    i, j, k = scene.triangles.T
    light = {"ambient": 0.35, "diffuse": 0.8, "specular": 0.2, "roughness": 0.6}
    parts = [go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, color=BONE, lighting=light, name="bone", showlegend=True, hoverinfo="name")]
    picture, grid = picture_grid(scene, HTML_TEXTURE_PX)
    # a surface is coloured at its vertices: the pixels' centres
    centres = ((grid[:-1, :-1] + grid[1:, 1:]) / 2).round(2)
    flat = {"ambient": 1, "diffuse": 0, "specular": 0}
    parts.append(
        go.Surface(x=centres[..., 0], y=centres[..., 1], z=centres[..., 2], surfacecolor=picture.round(3), colorscale="Gray", cmin=0, cmax=1, showscale=False, lighting=flat, name=scene.picture_is, showlegend=True, hoverinfo="name")
    )  # fmt: skip
    for name, (line, colour) in lines_of(scene).items():
        parts.append(
            go.Scatter3d(x=line[:, 0], y=line[:, 1], z=line[:, 2], mode="lines", line={"color": colour, "width": 5 if name == "principal ray" else 3}, name=name, hoverinfo="name")
        )
    parts.append(go.Scatter3d(x=[scene.source[0]], y=[scene.source[1]], z=[scene.source[2]], mode="markers", marker={"color": SOURCE, "size": 6}, name="X-ray source"))
    low, high = limits(scene)
    axes = {f"{axis}axis": {"title": {"text": text}, "range": [low[n], high[n]]} for n, (axis, text) in enumerate(zip("xyz", AXIS_TITLES, strict=True))}
    figure = go.Figure(parts)
    figure.update_layout(title=html.escape(title), scene={**axes, "aspectmode": "data"}, legend={"itemsizing": "constant"}, margin={"l": 0, "r": 0, "b": 0, "t": 40})
    return figure.to_html(include_plotlyjs=True, full_html=True)


AXIS_TITLES = ("to the right (R) / mm", "to the front (A) / mm", "to the head (S) / mm")


def draw_png(scene: Scene, title: str) -> Any:
    """The scene from two sides. Returns a matplotlib Figure; needs no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7.5))
    figure.subplots_adjust(left=0.05, right=0.95, bottom=0.06, top=0.98, wspace=0.15)
    figure.suptitle(title, parse_math=False)
    back = scene.source - scene.foot
    for number, (elevation, turn) in enumerate(PNG_VIEWS, 1):
        axis = figure.add_subplot(1, 2, number, projection="3d", computed_zorder=False)
        axis.view_init(elevation, np.degrees(np.arctan2(back[1], back[0])) + turn)
        _draw_axes(axis, scene)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names))
    return figure


def _draw_axes(axis: Any, scene: Scene) -> None:
    from matplotlib.ticker import MultipleLocator

    low, high = limits(scene)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axis.set_box_aspect(high - low, zoom=0.98)
    for name, text in zip("xyz", AXIS_TITLES, strict=True):
        getattr(axis, f"set_{name}label")(text, fontsize=8, labelpad=8)
        getattr(axis, f"{name}axis").set_major_locator(MultipleLocator(100 if (high - low).max() < 800 else 200))
    axis.tick_params(labelsize=7)
    picture, grid = picture_grid(scene, PNG_TEXTURE_PX)
    grey = np.repeat(picture[..., None], 3, -1)
    towards_eye = _towards_eye(axis)
    detector_in_front = float((scene.corners.mean(axis=0) - scene.vertices.mean(axis=0)) @ towards_eye) > 0
    axis.plot_surface(*np.moveaxis(grid, -1, 0), rstride=1, cstride=1, facecolors=grey, shade=False, antialiased=False, zorder=3 if detector_in_front else 1)
    axis.plot_trisurf(*scene.vertices.T, triangles=scene.triangles, color=BONE, linewidth=0, antialiased=False, shade=True, zorder=2)
    for name, (line, colour) in lines_of(scene).items():
        axis.plot(*line.T, color=colour, linewidth=2 if name == "principal ray" else 0.8, label=name, zorder=4)
    axis.scatter(*scene.source[:, None], color=SOURCE, s=40, label="X-ray source", zorder=5)


def _towards_eye(axis: Any) -> np.ndarray:
    elevation, azimuth = np.radians([axis.elev, axis.azim])
    return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def run(args: argparse.Namespace) -> int | None:
    volume_path = cli.existing_file(args.volume, "a CT volume (NIfTI)")
    parameters = cli.existing_file(args.parameters, "parameters.pt of registration.py")
    folder = cli.output_folder(args.output_dir)
    page, png = folder / "scene.html", folder / "scene.png"
    cli.check_outputs([page, png], args.overwrite, [volume_path, parameters])

    from common import rendering, results, similarity, volumes

    result = results.load(parameters)
    ct = volumes.load_ct(volume_path)
    camera = results.world_from_registered(result, ct) @ result.volume_from_camera()
    picture = result.picture / 255
    if args.texture == "drr":
        attenuation = rendering.select_structures(ct, None, None, rendering.WHOLE_ATTENUATION_HU)
        renderer = rendering.make_renderer(attenuation, rendering.choose_device(args.device))
        picture = similarity.normalise(renderer.render(camera[None], result.detector)[0])
    vertices, triangles = extract_surface(ct, args.threshold, HTML_SURFACE_VOXELS)
    corners, foot = place_detector(camera, result.detector)
    scene = Scene(vertices, triangles, camera[:3, 3], corners, foot, picture, {"xray": "X-ray", "drr": "DRR"}[args.texture])
    title = f"{ct.name} and {Path(str(result.xray['file'])).name}: registered pose, SDD {result.detector.sdd_mm:.0f} mm"
    cli.write_text(page, draw_html(scene, title))
    lighter = replace(scene, **dict(zip(("vertices", "triangles"), extract_surface(ct, args.threshold, PNG_SURFACE_VOXELS), strict=True)))
    with cli.writing(png) as stream:
        draw_png(lighter, title).savefig(stream, format="png", dpi=130)
    source = " ".join(f"{x:.1f}" for x in scene.source)
    cli.note(
        f"{len(triangles)} triangles at {args.threshold:g} HU; source at ({source}) mm RAS, {np.linalg.norm(scene.source - vertices.mean(axis=0)):.0f} mm from the bone's middle"
    )
    print(page, png, sep="\n")
    return None


main = cli.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
