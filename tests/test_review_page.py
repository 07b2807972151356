"""The review page in a browser: a wrong pose is dragged near, refined, accepted, and kept."""

import dataclasses
import os
import re
import shutil
import signal

import numpy as np
import pytest
from playwright.sync_api import expect
from review_helpers import Study, lines_of, make_study, serving, spoil
from test_report import browser, relevant  # noqa: F401

from common import geometry
from common.results import parameters_file

expect.set_options(timeout=90_000)
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


@pytest.fixture(scope="module")
def served(made, tmp_path_factory):
    """A study that no test changes, and the address of its review."""
    root = tmp_path_factory.mktemp("served") / "results"
    shutil.copytree(made.root, root)
    with serving(root, "--reviewer", "ab") as (address, _):
        yield Study(root, made.truth), address


def camera_error(study: Study, name: str, pose: list) -> float:
    """In-plane distance of a volume_from_rig of a single view from the truth, mm."""
    result = parameters_file.load(study.root / name / "parameters.pt")
    error = geometry.pose_error(
        np.array(pose), study.truth[name], result.points_mm, result.detector
    )
    return error.in_plane_mm


def test_the_keyboard_alone_moves_turns_undoes_and_decides(tab, study):
    page, messages = tab
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "walk / f0")
        before = np.array(page.evaluate("review.pose"))
        page.locator("figure").first.focus()
        page.keyboard.press("Shift+ArrowRight")
        moved = np.array(page.evaluate("review.pose"))
        in_camera = geometry.invert(moved) @ before  # of a single view
        np.testing.assert_allclose(in_camera[:3, 3], [1, 0, 0], atol=1e-9)
        np.testing.assert_allclose(in_camera[:3, :3], np.eye(3), atol=1e-9)
        for _ in range(3):
            page.keyboard.press("ArrowUp")
        page.keyboard.press("PageDown")
        in_camera = geometry.invert(np.array(page.evaluate("review.pose"))) @ before
        np.testing.assert_allclose(in_camera[:3, 3], [1, -0.3, 0.1], atol=1e-9)
        page.keyboard.press("t")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press(".")
        turned = np.array(page.evaluate("review.pose"))
        angle = geometry.rotation_angle_deg(geometry.invert(turned)[:3, :3] @ moved[:3, :3])
        assert angle == pytest.approx(np.hypot(0.1, 0.1), abs=1e-3)
        while page.locator("#undo").is_enabled():
            page.keyboard.press("z")
        np.testing.assert_allclose(page.evaluate("review.pose"), before)
        page.keyboard.press("y")
        assert page.locator("#redo").is_disabled()
        page.keyboard.press("x")
        expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
    (line,) = lines_of(study.root / "walk/f0", "ab")
    assert (line["choice"], line["set_by"]) == ("reject", "solver")
    assert not (study.root / "walk/f0/revisions").exists()
    assert [text for text in relevant(messages) if "WebSocket" not in text] == []


def test_a_bone_that_is_dragged_in_the_second_view_moves_in_the_axes_of_that_view(tab, served):
    study, address = served
    page, _ = tab
    show(page, address, "biplane")
    assert page.locator("figure").count() == 2
    before = np.array(page.evaluate("review.pose"))
    page.locator("figure").nth(1).focus()
    page.keyboard.press("Shift+ArrowDown")
    after = np.array(page.evaluate("review.pose"))
    rig = np.array(page.evaluate("review.item.views[1].rig_from_camera"))
    in_camera = geometry.invert(after @ rig) @ before @ rig
    np.testing.assert_allclose(in_camera[:3, 3], [0, 1, 0], atol=1e-9)
    page.get_by_role("button", name="Refine").click()
    expect(page.locator("#verdict .badge")).to_contain_text("ok")
    result = parameters_file.load(study.root / "biplane/parameters.pt")
    found = np.array(page.evaluate("review.pose")) @ geometry.invert(before)
    camera = found @ result.volume_from_camera()
    error = geometry.pose_error(camera, study.truth["biplane"], result.points_mm, result.detector)
    assert error.in_plane_mm < 0.2
    assert error.depth_mm < 0.3


def test_frames_between_two_key_poses_are_tracked_from_both_sides_and_marked(tab, study):
    page, _ = tab
    for number in (1, 2, 3):
        spoil(study.root / f"walk/f{number}")
    assert study.error("walk/f2").in_plane_mm > 5
    with serving(study.root, "--reviewer", "ab") as (address, _):
        page.goto(address)
        page.locator("#sort").select_option("name")
        for name in ("walk / f0", "walk / f4"):
            page.locator("#list button", has_text=name).first.click()
            shown(page, name)
            page.locator("#key").click()
            expect(page.locator(".frames [aria-current]")).to_have_class(re.compile("key"))
        page.locator("#track").click()
        expect(page.locator("#strip-state")).to_have_text("3 frames changed")
        assert page.locator(".frames .changed").count() == 3
        assert page.locator("#list .mark.changed").count() == 3
        assert study.error("walk/f2").in_plane_mm > 5  # nothing is stored yet
        page.locator("#accept-changed").click()
        expect(page.locator("#progress")).to_have_text("3 of 8 reviewed")
        expect(page.locator(".frames .changed")).to_have_count(0)
    for number in (1, 2, 3):
        error = study.error(f"walk/f{number}")
        assert error.in_plane_mm < 0.2, number


def test_search_again_finds_the_bone_and_next_best_shows_the_rival_of_the_solver(tab, study):
    page, _ = tab
    stored = parameters_file.load(study.root / "ap/tibia/parameters.pt")
    rival = geometry.twist(np.r_[0, 0, 0.2, 4, 0, 3], np.zeros(3)) @ stored.final_pose
    parameters_file.save(
        study.root / "ap/tibia/parameters.pt", dataclasses.replace(stored, rival_poses=[rival])
    )
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "ap / tibia")
        page.locator("#next-best").click()
        camera = np.array(page.evaluate("review.pose"))
        np.testing.assert_allclose(camera, stored.volume_from_camera(rival), atol=1e-6)
        expect(page.locator("#verdict .badge")).to_contain_text("failed")
        page.locator("#search-again").click()
        expect(page.locator("#verdict .badge")).to_contain_text("ok", timeout=120_000)
        assert camera_error(study, "ap/tibia", page.evaluate("review.pose")) < 0.3


def test_the_picture_has_the_bits_of_its_file_and_is_compared_in_four_ways(tab, served):
    _, address = served
    page, messages = tab
    show(page, address, "walk / f2")
    greys = page.evaluate("new Set(review.views[0].picture.xray.grey).size")
    assert greys > 2000  # of a picture of 16 bit, and not 256
    canvas = page.locator("figure canvas").first
    looks = [canvas.screenshot()]
    for name in ("2", "4"):
        page.keyboard.press(name)
        page.wait_for_timeout(150)
        looks.append(canvas.screenshot())
    page.keyboard.press("1")
    page.locator("#blend").fill("100")
    page.wait_for_timeout(150)
    looks.append(canvas.screenshot())
    assert len(set(looks)) == 4
    window = page.evaluate("review.views[0].picture.window")
    page.keyboard.press("w")
    drag(page, 60, 0)
    wider = page.evaluate("review.views[0].picture.window")
    assert wider[1] - wider[0] > 1.2 * (window[1] - window[0])
    assert page.locator("#moved").text_content() == "As stored."
    zoom = page.evaluate("review.views[0].picture.zoom")
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(150)
    assert page.evaluate("review.views[0].picture.zoom") > zoom
    assert relevant(messages) == []


def test_the_other_bone_has_its_outline_after_its_ct_is_opened(tab, served):
    _, address = served
    page, messages = tab
    show(page, address, "ap / tibia")
    expect(page.locator("figure .neighbour")).to_have_count(1)
    assert page.locator("figure .neighbour title").text_content() == "femur"
    show(page, address, "walk / f2")
    expect(page.locator("figure .neighbour")).to_have_count(0)
    assert relevant(messages) == []


def changed(locator, before, timeout_s=15):
    """Return a screenshot that differs from ``before``; a scene without a GPU draws seldom."""
    for _ in range(10 * timeout_s):
        now = locator.screenshot()
        if now != before:
            return now
        locator.page.wait_for_timeout(100)
    return before


def settled(locator, quiet_ms=1500):
    """Return a screenshot once it stays the same: bones appear one after the other."""
    before = locator.screenshot()
    for _ in range(10):
        locator.page.wait_for_timeout(quiet_ms)
        now = locator.screenshot()
        if now == before:
            return now
        before = now
    raise AssertionError("the scene does not come to rest")


def test_the_scene_follows_the_pose(tab, served):
    _, address = served
    page, messages = tab
    show(page, address, "ap / tibia")
    page.locator("#space summary").click()
    page.wait_for_timeout(1500)
    scene = page.locator("#scene")
    first = settled(scene)
    page.locator("figure").first.focus()
    for _ in range(12):
        page.keyboard.press("Shift+ArrowRight")
    assert changed(scene, first) != first
    second = settled(scene)
    scene.focus()
    page.keyboard.press("ArrowLeft")
    assert changed(scene, second) != second
    assert relevant(messages) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_passes_the_accessibility_check_in_light_and_dark(tab, served, scheme):
    from axe_playwright_python.sync_playwright import Axe

    _, address = served
    page, _ = tab
    page.emulate_media(color_scheme=scheme)
    show(page, address, "walk / f2")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.locator("#show-help").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_ten_tabs_see_each_others_decisions(browser, study):
    browser.set_offline(False)
    with serving(study.root, "--reviewer", "ab") as (address, _):
        pages = [browser.new_page() for _ in range(10)]
        for page in pages:
            page.goto(address)
        for page in pages:
            expect(page.locator("figure[data-drawn]").first).to_be_visible()
        show(pages[0], address, "biplane")
        pages[0].locator("#accept").click()
        for page in pages:
            expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
            page.close()


def test_a_tab_that_closes_while_it_saves_loses_nothing_and_the_server_goes_on(tab, study, browser):
    page, _ = tab
    with serving(study.root, "--reviewer", "ab") as (address, process):
        show(page, address, "ap / femur")
        other = browser.new_page()
        show(other, address, "ap / femur")
        drag(other, *offset_px(other, study, "ap/femur"))
        other.locator("#refine").click()
        other.close(run_before_unload=False)  # goes away while the solver works
        page.locator("#note").fill("seen")
        page.evaluate("document.querySelector('#second').click()")
        page.wait_for_timeout(30)
        page.goto("about:blank")
        show(page, address, "ap / femur")
        expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
        assert process.poll() is None
    (line,) = lines_of(study.root / "ap/femur", "ab")
    assert (line["choice"], line["note"]) == ("second look", "seen")


def test_what_is_missing_or_changed_is_a_banner_and_can_still_be_decided_on(tab, study):
    page, _ = tab
    for name, change in (("walk/f0", "volume"), ("walk/f1", "hash")):
        path = study.root / name / "parameters.pt"
        stored = parameters_file.load(path)
        request = stored.settings["request"]
        if change == "volume":
            request["structures"][0]["volume"] = "/nowhere/femur.nii.gz"
        else:
            stored.drr["volume_sha256"] = "0" * 64
        parameters_file.save(path, stored)
    with serving(study.root, "--reviewer", "ab") as (address, _):
        page.goto(address)
        for name, words in (("f0", "is not there any more"), ("f1", "has changed since")):
            page.locator("#list button", has_text=name).first.click()
            expect(page.locator(".banner")).to_contain_text(words)
            expect(page.locator("#refine")).to_be_disabled()
            page.locator("#accept").click()
        expect(page.locator("#progress")).to_have_text("2 of 8 reviewed")
        show(page, address, "walk / f2")
        (study.root / "walk/f2/review_ab.jsonl").mkdir()  # cannot be written
        page.locator("#accept").click()
        expect(page.locator(".banner", has_text="Not saved")).to_contain_text("cannot be written")
        expect(page.locator("#progress")).to_have_text("2 of 8 reviewed")
