"""3D scenes: known surfaces and corners, a page without a network, a figure without a display."""

import json
import re

import numpy as np
import pytest
from helpers import oblique_affine, save_registration
from PIL import Image

import visualize_3d_drr
from common import geometry
from common.geometry import Detector
from common.reports import scene_3d, scene_figure, scene_page
from common.volume import surface
from common.volume.lineage import Lineage
from common.volume.volume import Volume


@pytest.fixture(scope="module")
def registration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registration")
    return folder, *save_registration(folder, steps=2)


def visualize(folder, *flags) -> int:
    arguments = [
        "--volume",
        folder / "ct.nii.gz",
        "--parameters",
        folder / "parameters.pt",
        "--output_dir",
        folder / "3d",
        "--overwrite",
    ]
    return visualize_3d_drr.main([str(a) for a in (*arguments, *flags)])


def ball(affine, shape=(60, 50, 40), centre_mm=(25.0, -5, 70), radius_mm=12.0) -> Volume:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(geometry.apply(affine, grid) - centre_mm, axis=-1)
    return Volume(
        np.clip(-1000 + 2000 * (radius_mm + 1 - distance) / 2, -1000, 1000).astype(np.float32),
        affine,
        Lineage(),
    )


@pytest.mark.parametrize("longest", [200, 30])
@pytest.mark.parametrize("left_handed", [False, True])
def test_the_surface_of_a_ball_lies_on_it_facing_outwards_on_any_grid(left_handed, longest):
    centre = np.array([25.0, -5, 70])
    affine = oblique_affine((1.0, 1.2, 1.5), left_handed=left_handed)
    affine[:3, 3] += centre - geometry.apply(affine, np.array([30, 25, 20]))
    vertices, triangles = surface.extract_surface(ball(affine), 0.0, longest)
    radius = np.linalg.norm(vertices - centre, axis=1)
    np.testing.assert_allclose(radius, 12, atol=0.4 if longest == 200 else 1.5)
    np.testing.assert_allclose(vertices.mean(axis=0), centre, atol=0.5)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    outwards = (np.cross(b - a, c - a) * ((a + b + c) / 3 - centre)).sum(axis=1)
    assert (outwards > 0).mean() > 0.99


def test_bone_at_the_border_is_closed_and_no_bone_is_an_error():
    from common.errors import InputError

    block = Volume(np.full((10, 10, 10), 500, np.int16), np.eye(4), Lineage())
    vertices, _ = surface.extract_surface(block, 250.0, 100)
    assert vertices.min() == pytest.approx(-0.5, abs=0.4)
    with pytest.raises(InputError, match="contains nothing above 900 HU"):
        surface.extract_surface(block, 900.0, 100)


def test_detector_corners_are_where_the_outer_pixel_edges_project_from():
    detector = Detector(90, 110, 900.0, (1.6, 1.8), (57.0, 41.0))
    camera = geometry.translation(np.array([10, 20, 30])) @ np.block(
        [
            [geometry.rotation_matrix(np.array([0.3, 1.0, -0.4])), np.zeros((3, 1))],
            [np.zeros((1, 3)), np.ones((1, 1))],
        ]
    )
    corners, foot = scene_3d.place_detector(camera, detector)
    np.testing.assert_allclose(
        geometry.project(corners, detector, camera),
        [(-0.5, -0.5), (109.5, -0.5), (109.5, 89.5), (-0.5, 89.5)],
        atol=1e-9,
    )
    assert np.linalg.norm(foot - camera[:3, 3]) == pytest.approx(900)
    np.testing.assert_allclose((corners - camera[:3, 3]) @ camera[:3, 2], 900)
    assert np.linalg.norm(corners[1] - corners[0]) == pytest.approx(110 * 1.6)


def test_the_image_has_the_right_orientation_on_the_detector():
    picture = np.zeros((20, 30))
    picture[3, 25] = 1  # upper right
    corners = np.array([(0.0, 0, 0), (30, 0, 0), (30, -20, 0), (0, -20, 0)])
    scene = scene_3d.Scene(
        np.zeros((1, 3)), np.zeros((0, 3), int), np.zeros(3), corners, np.zeros(3), picture, "X-ray"
    )
    small, grid = scene_3d.image_grid(scene, 256)
    assert grid.shape == (21, 31, 3)
    row, column = np.unravel_index(small.argmax(), small.shape)
    np.testing.assert_allclose(
        grid[row : row + 2, column : column + 2].mean(axis=(0, 1)), [25.5, -3.5, 0]
    )
    small, grid = scene_3d.image_grid(scene, 15)
    assert small.shape == (10, 15)
    np.testing.assert_allclose([grid[0, 0], grid[0, -1], grid[-1, -1], grid[-1, 0]], corners)


@pytest.mark.parametrize("texture", visualize_3d_drr.TEXTURES)
@pytest.mark.slow
def test_page_and_figure_are_written_without_a_display(registration, monkeypatch, capsys, texture):
    folder, _, _ = registration
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert visualize(folder, "--texture", texture) == 0
    assert capsys.readouterr().out.split() == [
        str(folder / "3d" / name) for name in ("scene.html", "scene.png")
    ]
    with Image.open(folder / "3d" / "scene.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert min(picture.size) > 700
    for wanted in (scene_3d.SOURCE, scene_3d.RAY):
        rgb = [int(wanted[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(colours.astype(int) - rgb).max(axis=1) < 12).sum() > 50, wanted


@pytest.mark.slow
def test_the_page_contains_everything_and_loads_nothing(registration):
    folder, _, result = registration
    visualize(folder)
    page = (folder / "3d" / "scene.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert len(page) > 3_000_000  # the library is inside
    assert all(
        f'"name":"{name}"' in page
        for name in ("bone", "X-ray", "frustum", "principal ray", "X-ray source")
    )
    assert all(
        json.dumps(title).replace("/", "\\u002f") in page for title in scene_page.AXIS_TITLES
    )
    assert '"aspectmode":"data"' in page
    x, y, z = result.volume_from_camera()[:3, 3]
    found = re.findall(r'"x":\[([-\d.e]+)\],"y":\[([-\d.e]+)\],"z":\[([-\d.e]+)\]', page)
    np.testing.assert_allclose([float(v) for v in found[0]], [x, y, z])


@pytest.mark.slow
def test_axes_are_equal_in_millimetres_and_hold_the_whole_scene(registration):
    _, _, result = registration
    bone = surface.extract_surface(ball(np.eye(4), centre_mm=(30, 25, 20)), 0, 40)
    scene = scene_3d.Scene.of(
        bone, result.volume_from_camera(), result.detector, result.image / 255, "X-ray"
    )
    low, high = scene_3d.limits(scene)
    for axis in scene_figure.draw_figure(scene, "$a title_").axes:
        np.testing.assert_allclose(
            axis.get_xlim() + axis.get_ylim() + axis.get_zlim(), np.c_[low, high].ravel()
        )
        sides = np.array(axis._box_aspect)
        np.testing.assert_allclose(sides / sides.max(), (high - low) / (high - low).max())


@pytest.mark.parametrize(
    "flags", [("--threshold", "9000"), ("--volume", "absent.nii.gz"), ("--parameters", "absent.pt")]
)
def test_bad_input_is_one_line(registration, capsys, flags):
    folder, _, _ = registration
    assert visualize(folder, *flags) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_existing_files_are_kept_unless_overwrite(registration):
    folder, _, _ = registration
    (folder / "mine").mkdir()
    (folder / "mine" / "scene.png").write_text("mine")
    assert (
        visualize_3d_drr.main(
            [
                "--volume",
                str(folder / "ct.nii.gz"),
                "--parameters",
                str(folder / "parameters.pt"),
                "--output_dir",
                str(folder / "mine"),
            ]
        )
        == 2
    )
    assert (folder / "mine" / "scene.png").read_text() == "mine"
