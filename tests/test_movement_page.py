"""The page of a movement: its numbers, gaps and suspect frames, and that it contains everything."""

import dataclasses
import json
import re

import nibabel
import numpy as np
import pytest
from PIL import Image
from test_kinematics import CAMERA, SIX, command, save, scene, template, tibia_camera
from test_report import browser, relevant, tab

from common import geometry
from common.kinematics.joint_coordinates import knee_coordinates
from common.reports import charts
from pipeline import kinematics

__all__ = ["browser", "scene", "tab", "template"]  # fixtures
LISTS = ("f1", "f2", "f10", "f11", "f12")


def written(scene, template, *more: str) -> str:
    """Write the page of five frames, of which f11 has no pose and f12 is suspect."""
    for name, code in (("f11", "failed"), ("f12", "suspect")):
        save(template, scene / name / "femur", "femur", CAMERA, name)
        save(template, scene / name / "tibia", "tibia", tibia_camera(SIX[1]), name, code=code)
    flags = ["--format", "html", "--fps", "10", "--name", "P01 <squat>", *more]
    assert kinematics.main([*command(scene, LISTS, LISTS), *flags]) == 0
    return (scene / "knee/kinematics.html").read_text()


def store_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="movement">(.*?)</script>', page, re.S)
    return json.loads(found.group(1))


def test_the_page_has_the_numbers_the_gap_and_the_suspect_frame(scene, template):
    page = written(scene, template)
    assert "<h1>P01 &lt;squat&gt;: movement</h1>" in page
    assert "No pose: f11." in page
    assert "possibly wrong by any amount: f12." in page
    store = store_of(page)
    assert store["names"][1] == "f2, 0.100 s"
    assert store["rows"][1][0].startswith("25.00 ± 0.")
    assert (store["rows"][3], store["poses"][3]) == (None, None)
    assert store["verdicts"][4] == [["femur", "ok"], ["tibia", "suspect"]]
    pose = np.vstack([np.reshape(store["poses"][2], (3, 4)), [0, 0, 0, 1]])
    np.testing.assert_allclose(knee_coordinates(np.eye(4), pose, "left"), SIX[2], atol=1e-3)
    # the range is that of the frames with a pose; 60 and 90 degrees are not reached
    row = re.search(r"flexion / °</th>(.*?)</tr>", page, re.S).group(1)
    cells = re.findall(r'<td class="number">(.*?)</td>', row)
    assert cells[:2] == ["5.0", "50.0"]
    assert cells[-2:] == ["", ""]
    # six charts with the gap between two runs, a ring at the suspect frame, a cursor
    drawn = re.findall(r'<svg class="chart".*?</svg>', page, re.S)
    assert len(drawn) == 6
    assert drawn[0].count("<polyline") == 2
    assert drawn[0].count('class="suspect"') == 1
    cursor = re.search(r'class="cursor" data-at="(.*?)"', drawn[0]).group(1)
    assert len(cursor.split()) == 5


def test_the_page_contains_everything_it_shows(scene, template):
    page = written(scene, template)
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', page)
    assert len(store_of(page)["images"]) == 5
    assert all(image.startswith("data:image/webp") for image in store_of(page)["images"])
    assert "no 3D scene" in page  # no CT is at the paths of these results


def test_bones_are_drawn_in_their_anatomical_frames(scene, template):
    (scene / "volumes").mkdir()
    data = np.full((24, 24, 24), -1000, np.int16)
    data[6:18, 8:16, 4:20] = 1200
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (6, -64, 476)  # around the origin of the anatomical frames
    for bone, camera in (("femur", CAMERA), ("tibia", tibia_camera(SIX[0]))):
        path = scene / "volumes" / f"{bone}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(data, affine), path)
        placed = dataclasses.replace(
            template, drr={**template.drr, "scanner_from_volume": np.eye(4).tolist()}
        )
        save(placed, scene / f"v1/{bone}", bone, camera, "v1", volume=path)
        picture = np.zeros((90, 110), np.uint8)
        picture[30:60, 40:80] = 200
        Image.fromarray(picture).save(scene / f"v1/{bone}/final_img.png")
    assert kinematics.main([*command(scene, ("v1",), ("v1",)), "--format", "html"]) == 0
    page = (scene / "knee/kinematics.html").read_text()
    store = store_of(page)
    assert "Plotly" in page
    vertices = np.reshape(store["meshes"][0]["vertices"], (-1, 3))
    # X is the scanner's y, Y its z and Z its x; the frame's origin is (30, -40, 500)
    voxels = np.array([[6, 8, 4], [17, 15, 19]])
    corners = geometry.apply(affine, voxels) - [30, -40, 500]
    np.testing.assert_allclose(vertices.min(axis=0), corners[0][[1, 2, 0]], atol=2.2)
    np.testing.assert_allclose(vertices.max(axis=0), corners[1][[1, 2, 0]], atol=2.2)
    assert [mesh["name"] for mesh in store["meshes"]] == ["femur", "tibia"]
    path = np.array(re.findall(r"[\d.]+ [\d.]+", store["outlines"][0][0])[0].split(), float)
    assert 38 <= path[0] <= 82
    assert 28 <= path[1] <= 62


def test_a_chart_with_gaps_has_a_band_for_each_run():
    values = np.array([0.0, 1, np.nan, 3, 4, np.nan])
    curve = charts.Curve(values, np.full(6, 0.5))
    svg = charts.banded(np.arange(6.0), {"a": curve}, "x", "y", "curve", suspect=[1, 2])
    assert svg.count("<polygon") == 2
    assert svg.count('class="suspect"') == 1  # none in a gap
    empty = charts.Curve(np.full(3, np.nan))
    assert "<polyline" not in charts.banded(np.arange(3.0), {"a": empty}, "x", "y", "curve")


def test_the_page_states_smoothing_and_alignment(scene, template):
    names = tuple(f"h{number}" for number in range(8))
    for number, name in enumerate(names):
        six = np.array([8.0 * number, 3, -4 + number, 1, 2, 3])
        save(template, scene / name / "femur", "femur", CAMERA, name)
        save(template, scene / name / "tibia", "tibia", tibia_camera(six), name)
    flags = ["--format", "html", "--fps", "10", "--align", "reframe", "--smooth"]
    assert kinematics.main([*command(scene, names, names), *flags]) == 0
    page = (scene / "knee/kinematics.html").read_text()
    assert "The table has smoothed numbers" in page
    assert "after functional alignment (REFRAME), which turns a frame by up to" in page
    assert page.count("smoothed</span>") == 6  # in the legends


@pytest.mark.browser
@pytest.mark.slow
def test_the_slider_moves_numbers_and_cursors_by_keyboard_and_says_where_no_pose_is(
    tab, scene, template
):
    from axe_playwright_python.sync_playwright import Axe

    written(scene, template)
    page, messages = tab
    page.goto((scene / "knee/kinematics.html").as_uri())
    slider, numbers = page.get_by_role("slider"), page.locator("#numbers")
    assert slider.get_attribute("aria-valuetext") == "f1, 0.000 s"
    assert "5.00" in numbers.locator("tr").first.inner_text()
    cursor = page.locator(".cursor").first
    before = cursor.get_attribute("x1")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "f2, 0.100 s"
    assert "25.00" in numbers.inner_text()
    assert float(cursor.get_attribute("x1")) > float(before)
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "no pose" in numbers.inner_text()
    assert Axe().run(page).response["violations"] == []
    assert relevant(messages) == []
