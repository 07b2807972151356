"""The review page in a browser: a wrong pose is dragged near, refined, accepted, and kept."""

import os
import re
import shutil
import signal

import numpy as np
import pytest
from playwright.sync_api import expect
from review_helpers import Study, lines_of, make_study, serving
from test_report import browser, relevant  # noqa: F401

from common.results import parameters_file

expect.set_options(timeout=40_000)
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Study:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(made, tmp_path) -> Study:
    """A copy of the results, which a test may change."""
    shutil.copytree(made.root, tmp_path / "results")
    return Study(tmp_path / "results", made.truth)


@pytest.fixture
def tab(browser):
    """(open page of 1366 x 768, its console messages and errors)."""
    browser.set_offline(False)
    page, messages = browser.new_page(), []
    page.set_viewport_size({"width": 1366, "height": 768})
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page, messages
    page.close()
    browser.set_offline(True)


def show(page, address: str, name: str) -> None:
    """Open the page, and one of its results by name."""
    page.goto(address)
    page.locator("#list button", has_text=name).first.click()
    shown(page, name)


def shown(page, name: str) -> None:
    """Wait until a result and its DRR are shown."""
    expect(page.locator("#where")).to_have_text(name)
    ident = page.locator("#list [aria-current]").get_attribute("data-id")
    figure = page.locator("body:not(.loading) figure").first
    expect(figure).to_have_attribute("data-drawn", ident)


def drag(page, across: float, down: float) -> None:
    """Drag the bone from the middle of the picture, in CSS pixels."""
    box = page.locator("figure").first.bounding_box()
    x, y = box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2 - 60
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across / 2, y + down / 2, steps=4)
    page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up()


def offset_px(page, study: Study, name: str) -> np.ndarray:
    """How far the bone is from where it should be, in CSS pixels of the first picture."""
    from common import geometry

    result = parameters_file.load(study.root / name / "parameters.pt")
    centre = result.points_mm.mean(axis=0)
    pixels = [
        geometry.project(centre[None], result.detector, camera)[0]
        for camera in (result.volume_from_camera(), study.truth[name])
    ]
    scale = page.evaluate("review.views[0].picture.place().scale")
    return (pixels[1] - pixels[0]) * scale


def test_a_wrong_pose_is_dragged_near_refined_accepted_and_kept_when_the_server_is_killed(
    tab, study
):
    page, messages = tab
    assert study.error("ap/femur").in_plane_mm > 5
    before = (study.root / "ap/femur/parameters.pt").read_bytes()
    with serving(study.root, "--reviewer", "ab") as (address, process):
        show(page, address, "ap / femur")
        assert page.locator("#verdict .badge").text_content().strip().endswith("failed")
        drag(page, *offset_px(page, study, "ap/femur"))
        assert "mm in plane" in page.locator("#moved").text_content()
        page.get_by_role("button", name="Refine").click()
        expect(page.locator("#verdict .badge")).to_contain_text("ok")
        page.get_by_label("Note").fill("dragged to the condyles")
        page.locator("#accept").click()
        expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
        os.kill(process.pid, signal.SIGKILL)
    assert study.error("ap/femur").in_plane_mm < 0.2
    assert study.error("ap/femur").rotation_deg < 0.5
    (line,) = lines_of(study.root / "ap/femur", "ab")
    assert (line["choice"], line["set_by"]) == ("accept", "person")
    result = parameters_file.load(study.root / "ap/femur/parameters.pt")
    review = result.settings["review"]
    assert (review["start_set_by"], review["reviewer"]) == ("person", "ab")
    kept = study.root / "ap/femur" / review["supersedes"]["file"]
    assert kept.read_bytes() == before
    assert [message for message in relevant(messages) if "WebSocket" not in message] == []
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "ap / femur")
        assert page.locator("#progress").text_content() == "1 of 8 reviewed"
        assert re.match("You: accepted", page.locator("#decided").text_content())
        assert page.get_by_label("Note").input_value() == "dragged to the condyles"
