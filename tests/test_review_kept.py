"""The review page when things go wrong: nothing that a person did is lost, one banner says why."""

import os
import re
import shutil
import signal
import socket

import numpy as np
import pytest
from playwright.sync_api import expect
from review_helpers import is_root, read_only, serving
from test_report import browser, relevant  # noqa: F401
from test_review_page import (  # noqa: F401
    camera_error,
    drag,
    made,
    offset_px,
    served,
    show,
    shown,
    study,
    tab,
)

from common import geometry
from common.results import parameters_file

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SIZES = [(1366, 768), (1920, 1080), (3840, 2160)]


def until(page, condition) -> None:
    """Wait until an expression is true in a page, or a condition in this process.

    The page's policy forbids conditions as a text, as Playwright would wait for.
    """
    for _ in range(900):
        if page.evaluate(condition) if isinstance(condition, str) else condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(condition)


def drafted(page) -> None:
    """Wait until the pose that is shown is marked as kept but not decided on."""
    expect(page.locator("#list [aria-current] .mark.unsaved")).to_be_visible()


def test_a_bone_that_was_moved_is_where_it_was_left_after_server_and_browser_are_killed(
    tab, study, browser
):
    page, _ = tab
    with serving(study.root, "--reviewer", "ab") as (address, process):
        show(page, address, "ap / femur")
        drag(page, *offset_px(page, study, "ap/femur"))
        drafted(page)
        left = page.evaluate("review.pose")
        os.kill(process.pid, signal.SIGKILL)
    page.goto("about:blank")
    fresh = browser.new_page()
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(fresh, address, "ap / femur")
        np.testing.assert_allclose(fresh.evaluate("review.pose"), left, atol=1e-9)
        drafted(fresh)
        fresh.locator("#undo").click()  # back to the stored pose, which ends the draft
        expect(fresh.locator("#list [aria-current] .mark.unsaved")).to_have_count(0)
        expect(fresh.locator("#moved")).to_have_text("As stored.")
        fresh.close()
    with serving(study.root, "--reviewer", "cd") as (address, _):
        show(page, address, "ap / femur")  # drafts are those of one reviewer
        expect(page.locator("#moved")).to_have_text("As stored.")


def test_what_the_solver_finds_for_a_browser_that_has_gone_is_shown_when_it_comes_back(
    tab, study, browser
):
    page, _ = tab
    with serving(study.root, "--reviewer", "ab") as (address, process):
        other = browser.new_page()
        show(other, address, "ap / femur")
        drag(other, *offset_px(other, study, "ap/femur"))
        other.locator("#refine").click()
        other.close(run_before_unload=False)  # goes away while the solver works
        path = study.root / "ap/femur/draft_ab.jsonl"
        until(page, lambda: path.is_file() and '"by": "solver"' in path.read_text())
        os.kill(process.pid, signal.SIGKILL)
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "ap / femur")
        assert camera_error(study, "ap/femur", page.evaluate("review.pose")) < 0.2
        expect(page.locator("#verdict .badge")).to_contain_text("ok")
        assert study.error("ap/femur").in_plane_mm > 5  # nothing was decided
        page.locator("#accept").click()
        expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
    assert study.error("ap/femur").in_plane_mm < 0.2
    review = parameters_file.load(study.root / "ap/femur/parameters.pt").settings["review"]
    assert review["refined"] is True  # from where a person had dragged it


def test_key_poses_and_tracked_frames_are_kept_and_not_tracked_over(tab, study):
    page, _ = tab
    with serving(study.root, "--reviewer", "ab") as (address, process):
        show(page, address, "walk / f2")
        page.locator("figure").first.focus()
        for _ in range(5):
            page.keyboard.press("Shift+ArrowRight")
        drafted(page)
        moved = page.evaluate("review.pose")
        for name in ("walk / f0", "walk / f4"):
            page.locator("#list button", has_text=name).first.click()
            shown(page, name)
            page.keyboard.press("k")
            expect(page.locator(".frames [aria-current]")).to_have_class(re.compile("key"))
        os.kill(process.pid, signal.SIGKILL)
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "walk / f2")
        assert page.locator(".frames .key").count() == 2
        page.locator("#track").click()
        expect(page.locator("#strip-state")).to_have_text("0 frames changed")
        np.testing.assert_allclose(page.evaluate("review.pose"), moved, atol=1e-9)


def test_next_best_shows_each_pose_that_the_solver_kept_and_then_its_own(tab, study):
    import dataclasses

    page, _ = tab
    path = study.root / "walk/f1/parameters.pt"
    stored = parameters_file.load(path)
    rivals = [
        geometry.twist(np.r_[0, 0, 0.2, 4 * n, 0, 3], np.zeros(3)) @ stored.final_pose
        for n in (1, 2, 3)
    ]
    parameters_file.save(path, dataclasses.replace(stored, rival_poses=rivals))
    with serving(study.root, "--reviewer", "ab") as (address, _):
        show(page, address, "walk / f1")
        for pose in [*rivals, stored.final_pose, rivals[0]]:
            expect(page.locator("#busy")).to_have_text("")
            page.locator("#next-best").click()
            np.testing.assert_allclose(
                page.evaluate("review.pose"), stored.volume_from_camera(pose), atol=1e-6
            )


@pytest.mark.skipif(is_root() and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_read_only_folder_is_a_banner_and_what_is_not_saved_is_said(tab, study):
    page, _ = tab
    with (
        read_only(study.root) as under,
        serving(study.root, "--reviewer", "ab", under=under) as (address, _),
    ):
        show(page, address, "walk / f0")
        expect(page.locator(".banner", has_text="cannot be written")).to_contain_text("8 of 8")
        page.locator("figure").first.focus()
        page.keyboard.press("Shift+ArrowRight")
        expect(page.locator(".banner", has_text="Lost when the server stops")).to_be_visible()
        page.locator("#accept").click()
        expect(page.locator(".banner", has_text="Not saved")).to_be_visible()
        expect(page.locator("#progress")).to_have_text("0 of 8 reviewed")


def test_a_ct_that_changed_since_is_named_and_its_saved_pictures_are_shown(tab, study, made):
    page, _ = tab
    ct = made.root.parent / "femur.nii.gz"
    kept = ct.read_bytes()
    ct.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with serving(study.root, "--reviewer", "ab") as (address, _):
            page.goto(address)
            page.locator("#list button", has_text="walk / f0").first.click()
            expect(page.locator(".banner")).to_contain_text("has changed since the registration")
            expect(page.locator("#refine")).to_be_disabled()
            until(page, "review.views[0].picture.drr && review.views[0].picture.xray")
            page.locator("#reject").click()
            expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
    finally:
        ct.write_bytes(kept)


def test_the_saved_pictures_are_shown_while_the_ct_is_opened_and_can_be_decided_on(tab, study):
    page, messages = tab
    with serving(study.root, "--reviewer", "ab") as (address, _):
        pattern = re.compile(r"/api/item/[0-9a-f]+$")
        held = []
        page.route(pattern, lambda route: held.append(route))  # a CT that takes long
        page.goto(address)
        until(page, "review.item?.glance && review.views[0].picture.drr")
        expect(page.locator("#where")).to_have_text("ap / femur")
        expect(page.locator("#refine")).to_be_disabled()
        expect(page.locator("#opening")).to_be_visible()
        for route in held:
            route.continue_()
        page.unroute(pattern)
        shown(page, "ap / femur")
        expect(page.locator("#refine")).to_be_enabled()
        expect(page.locator("#opening")).to_be_hidden()
        page.route(pattern, lambda route: held.append(route))
        page.locator("#list button", has_text="walk / f3").first.click()
        until(page, "review.item?.glance")
        page.keyboard.press("x")
        expect(page.locator("#progress")).to_have_text("1 of 8 reviewed")
        page.unroute(pattern)
    assert study.root.joinpath("walk/f3/review_ab.jsonl").is_file()
    assert [text for text in relevant(messages) if "WebSocket" not in text] == []


def test_every_request_goes_to_this_server(tab, served):
    _, address = served
    page, _ = tab
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda line: asked.append(line.url.replace("ws:", "http:")))
    show(page, address, "ap / tibia")
    page.locator("#space summary").click()
    page.wait_for_timeout(1500)
    page.locator("#refine").click()
    expect(page.locator("#verdict .badge")).to_contain_text("ok")
    assert len(asked) > 15
    assert [url for url in asked if not url.startswith((address, "data:"))] == []


def test_no_other_address_of_this_computer_is_listened_at(served):
    _, address = served
    port = int(address.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)):
        pass
    others = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), port)}
    others |= {"127.0.0.2", "::1"}
    for other in others - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|unreachable|assign|supported|timed out"):
            socket.create_connection((other, port), timeout=2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["walk / f2", "biplane"])
def test_everything_has_its_place_from_a_small_laptop_to_4k(tab, served, size, name):
    _, address = served
    page, _ = tab
    page.set_viewport_size({"width": size[0], "height": size[1]})
    show(page, address, name)
    across, down = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    assert (across, down) == size  # the page itself does not scroll
    for part in (
        "#accept",
        "#second",
        "#reject",
        "#refine",
        "#undo",
        "#show-help",
        "figure >> nth=0",
    ):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0, part
        assert box["x"] + box["width"] <= size[0], part
        assert box["y"] + box["height"] <= size[1], part
    figures = [
        page.locator("figure").nth(n).bounding_box() for n in range(page.locator("figure").count())
    ]
    assert sum(box["width"] * box["height"] for box in figures) > 0.4 * size[0] * size[1]
    text = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    assert text * 1366 / size[0] >= 9  # px on a screen of the same size as a small laptop's
