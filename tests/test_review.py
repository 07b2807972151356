"""The review without a browser: access, latest picture wins, crashes, corrections, disagreement."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from helpers import save_registration
from review_helpers import WRONG, Study, is_root, make_study, read_only, serving

from common import files, geometry
from common.command_line import script
from common.errors import InputError
from common.registration import recording
from common.results import decisions, parameters_file
from common.results.decisions import Decision
from common.review import (
    catalogue,
    disagreement,
    drafts,
    pictures,
    reopening,
    saving,
    session,
    solving,
    sources,
)
from pipeline import review

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Study:
    return make_study(tmp_path_factory.mktemp("study"), mirrored=True)


@pytest.fixture
def study(made, tmp_path) -> Study:
    """A copy of the results, which a test may change."""
    shutil.copytree(made.root, tmp_path / "results")
    return Study(tmp_path / "results", made.truth)


@pytest.fixture(scope="module")
def address(made):
    with serving(made.root, "--reviewer", "ab") as (found, _):
        yield found


# ------------------------------------------------------------------------------------------- access


def answer(url: str, headers: dict | None = None, data: bytes | None = None) -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def raw(address: str, path: str) -> bytes:
    """The answer to a path that no client would send."""
    host, port = address.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        found = b""
        while part := line.recv(65536):
            found += part
    return found


@pytest.mark.slow
def test_only_this_computers_browser_with_the_token_is_answered(address):
    base, token = address.rsplit("/", 2)[:2]
    port = base.rsplit(":", 1)[1]
    assert answer(address)[0] == 200
    assert answer(f"{address}api/list")[0] == 200
    for url in (
        f"{base}/",
        f"{base}/api/list",
        f"{base}/{token[:-1]}/",
        f"{base}/{token}x/api/list",
    ):
        assert answer(url)[0] == 403, url
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
        status, text = answer(address, {"Host": host})
        assert (status, "refused" in text) == (403, True), host
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert answer(address, headers)[0] == 403
    assert answer(address, {"Origin": base})[0] == 200


@pytest.mark.slow
def test_no_path_outside_the_page_or_the_folder_is_answered(address):
    for path in ("page/../session.py", "page/..%2fsession.py", "page/%2e%2e/session.py",
                 "page//etc/passwd", "api/item/../../etc/passwd", "api/item/..%2f..%2fetc%2fpasswd",
                 "page/.", "../../etc/passwd", "api/item/nothing/surface"):  # fmt: skip
        first = raw(address, "/" + address.split("/", 3)[3] + path).split(b"\r\n")[0]
        assert first.split()[1] in (b"404", b"403"), (path, first)


@pytest.mark.slow
def test_answers_forbid_everything_from_elsewhere(address):
    with urllib.request.urlopen(address) as response:
        policy = response.headers["Content-Security-Policy"]
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for path in (ROOT / "common/review/page").iterdir():
        for line in path.read_text().splitlines():
            assert "://" not in line or "www.w3.org/2000/svg" in line, (path.name, line)


@pytest.mark.slow
def test_a_decision_that_is_none_is_refused(address):
    item = json.loads(answer(f"{address}api/list")[1])["items"][0]["id"]
    url, kind = f"{address}api/item/{item}/decision", {"Content-Type": "application/json"}
    for body in (b"{", b"[]", b"\xff\xfe\x00"):
        assert answer(url, kind, body)[0] == 400
    assert answer(f"{address}api/item/{item}/xray/7")[0] == 404
    for content in ({"choice": "maybe"}, {"choice": "accept", "pose": [[1]]},
                    {"choice": "accept", "pose": np.diag([1, 1, -1, 1.0]).tolist()}):  # fmt: skip
        status, text = answer(url, kind, json.dumps(content).encode())
        assert (status, "error" in json.loads(text)) == (422, True)


# --------------------------------------------------------------------------------------- live line


async def talk(address: str, messages: list[dict], wanted) -> list:
    """Send messages at once, and return what comes back until ``wanted`` of it is true."""
    found = []
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{address}live", max_msg_size=0) as line,
        asyncio.timeout(60),
    ):
        for message in messages:
            await line.send_json(message)
        async for message in line:
            found.append(message.data)
            if wanted(found):
                return found
    return found


def number_of(picture: bytes) -> int:
    return int.from_bytes(picture[12:16], "little")


@pytest.mark.slow
def test_of_many_pictures_only_the_latest_are_rendered(address, made):
    every = json.loads(answer(f"{address}api/list")[1])["items"]
    item = next(each["id"] for each in every if each["name"] == ["walk", "f0"])
    pose = json.loads(answer(f"{address}api/item/{item}")[1])["pose"]
    messages = [
        {"type": "render", "item": item, "pose": pose, "px": 256, "number": number}
        for number in range(1, 201)
    ]
    found = asyncio.run(talk(address, messages, lambda got: number_of(got[-1]) == 200))
    assert len(found) < 100
    assert [number_of(one) for one in found] == sorted(number_of(one) for one in found)


@pytest.mark.slow
def test_nonsense_on_the_line_is_answered_with_an_error(address):
    wrong = [{"type": "render", "item": "x"}, {"a": 1}]
    found = asyncio.run(talk(address, wrong, lambda got: len(got) == 2))
    assert all("unknown request" in text for text in found)


# -------------------------------------------------------------------------------------- correction


@pytest.mark.slow
def test_a_correction_replaces_the_files_and_keeps_the_old_ones(study):
    folder = study.root / "ap/femur"
    old = (folder / "parameters.pt").read_bytes()
    files.write_json(folder / "evaluation.json", {"schema": "evaluation/1", "pictures": {}})
    opened = reopening.open_result(folder)
    pose = study.truth["ap/femur"]
    saving.save_correction(opened, pose, opened.pose, "ab")
    assert study.error("ap/femur").mtre_mm < 1e-6
    assert (folder / "revisions/parameters_001.pt").read_bytes() == old
    assert (folder / "revisions/evaluation_001.json").is_file()
    assert not (folder / "evaluation.json").exists()
    result = parameters_file.load(folder / "parameters.pt")
    assert result.settings["review"]["refined"] is True
    np.testing.assert_allclose(reopening.open_result(folder).pose, pose, atol=1e-9)
    assert [path.name for path in saving.revisions(folder)] == ["parameters_001.pt"]
    assert not (folder / saving.PENDING).exists()


@pytest.mark.slow
@pytest.mark.parametrize("moved", [0, 1, 2, 4])
def test_a_correction_that_was_interrupted_at_any_time_is_finished_at_the_next_start(
    study, monkeypatch, moved
):
    folder = study.root / "ap/femur"
    opened = reopening.open_result(folder)
    left, replace = [moved], os.replace

    def failing(source, target):
        if Path(source).parent.name == saving.PENDING and Path(target).parent == folder:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(saving.os, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            saving.save_correction(opened, study.truth["ap/femur"], opened.pose, "ab")
    saving.finish(folder)
    assert study.error("ap/femur").mtre_mm < 1e-6
    assert not (folder / saving.PENDING).exists()


@pytest.mark.slow
def test_a_correction_that_was_not_written_completely_leaves_the_old_result(study):
    folder = study.root / "ap/femur"
    old = (folder / "parameters.pt").read_bytes()
    (folder / saving.PENDING).mkdir()
    (folder / saving.PENDING / "gt.png").write_bytes(b"half")
    saving.finish(folder)
    assert (folder / "parameters.pt").read_bytes() == old
    assert not (folder / saving.PENDING).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ap/tibia", "biplane", "walk/f3"])
def test_a_result_is_opened_as_the_solver_saw_it(made, name):
    opened = reopening.open_result(made.root / name)
    result = parameters_file.load(made.root / name / "parameters.pt")
    np.testing.assert_allclose(opened.scanner_camera(opened.pose), result.scanner_pose[0].camera)
    np.testing.assert_allclose(
        opened.pose_from_scanner(result.scanner_pose[0].camera), opened.pose, atol=1e-9
    )
    assert np.abs(opened.views[0].xray.as_uint8().astype(int) - result.image).max() <= 1
    again = solving.assess(opened, opened.pose).verdict
    assert again.code == result.verdict.code
    assert again.similarity == pytest.approx(result.verdict.similarity, abs=0.01)
    if name != "ap/tibia":  # it was solved together with the femur
        assert again.in_plane_sd_mm == pytest.approx(result.verdict.in_plane_sd_mm, rel=0.3)


@pytest.mark.slow
def test_a_right_bone_in_its_flipped_xray_is_corrected_in_the_frame_of_the_scanner(study):
    folder, truth = study.root / "right", study.truth["right"]
    opened = reopening.open_result(folder)
    assert opened.views[0].xray.flipped
    assert opened.structure.ct.lineage.mirrored
    wrong = geometry.twist(WRONG, opened.structure.body.centre_mm) @ opened.pose
    found = solving.judged(opened, solving.refine(opened, wrong))
    assert found.verdict.code == "ok"
    saving.save_correction(opened, found.pose, wrong, "ab")
    result = parameters_file.load(folder / "parameters.pt")
    view = result.scanner_pose[0]
    placed = np.array(result.drr["scanner_from_volume"])
    points = geometry.apply(placed, result.points_mm)
    error = geometry.pose_error(view.camera, truth, points, view.detector)
    assert error.in_plane_mm < 0.2
    assert error.rotation_deg < 0.5
    np.testing.assert_allclose(opened.scanner_camera(found.pose), view.camera, atol=1e-9)


@pytest.mark.slow
def test_a_corrected_bone_is_renewed_in_the_result_of_the_other_and_decisions_on_that_hold(study):
    femur, tibia = study.root / "ap/femur", study.root / "ap/tibia"
    before = parameters_file.load(tibia / "parameters.pt")
    decisions.append(tibia, accepted(tibia, "ab", [0] * 6))
    transform = (tibia / "slicer/femur_motion_LPS.tfm").read_text()

    async def correct() -> list[dict]:
        told = []

        async def tell(content: dict) -> None:
            told.append(content)

        one = session.Session.start(study.root, "ab")
        one.tell = tell
        try:
            item = next(each for each in one.items.values() if each.folder == femur)
            described = await one.described(item)
            true = reopening.open_result(femur).pose_from_scanner(study.truth["ap/femur"])
            pose, start = true.tolist(), described["pose"]
            await one.decide(item, {"choice": "accept", "pose": pose, "start": start})
            await one.renewing
            other = next(each for each in one.items.values() if each.folder == tibia)
            assert one.listed(other)["decision"]["choice"] == "accept"
            await one.renew()  # nothing is stale any more
        finally:
            one.stop()
        return told

    (told,) = asyncio.run(correct())
    assert told["item"]["name"] == ["ap", "tibia"]
    after = parameters_file.load(tibia / "parameters.pt")
    np.testing.assert_array_equal(after.final_pose, before.final_pose)
    assert after.verdict == before.verdict
    _, beside = after.scanner_pose[0].bones
    corrected = parameters_file.load(femur / "parameters.pt").scanner_pose[0].camera
    np.testing.assert_allclose(beside.motion @ corrected, after.scanner_pose[0].camera, atol=1e-9)
    stale = before.scanner_pose[0].bones[1].motion
    assert np.abs(beside.motion - stale).max() > 1e-3
    assert (tibia / "slicer/femur_motion_LPS.tfm").read_text() != transform
    assert after.pose_uncertainty.bones == ("tibia",)  # the femur has another one now
    (decided,) = decisions.standing(tibia, after)
    assert decided.choice == "accept"
    kept = parameters_file.load(tibia / "revisions/parameters_001.pt")
    np.testing.assert_array_equal(kept.scanner_pose[0].bones[1].motion, stale)


@pytest.mark.slow
def test_a_stale_motion_that_a_crash_left_is_renewed_at_the_next_start(study):
    opened = reopening.open_result(study.root / "ap/femur")
    saving.save_correction(opened, study.truth["ap/femur"], opened.pose, "ab")

    def motion() -> np.ndarray:
        return parameters_file.load(study.root / "ap/tibia/parameters.pt").scanner_pose[0].bones[1]

    stale = motion().motion
    with serving(study.root, "--reviewer", "ab"):
        until = time.monotonic() + 60
        while np.array_equal(motion().motion, stale):
            assert time.monotonic() < until
            time.sleep(0.2)


@pytest.mark.slow
def test_the_rival_that_the_solver_kept_is_stored_with_the_result(made):
    opened = reopening.open_result(made.root / "walk/f3")
    other = geometry.twist(np.r_[0.2, 0, 0, 5, 0, 0], np.zeros(3)) @ opened.pose
    one = solving.registration_at(opened, opened.pose, opened.pose)
    rival = solving.registration_at(opened, other, other).solution.fit
    one = dataclasses.replace(one, solution=dataclasses.replace(one.solution, runner_up=rival))
    stored = recording.as_result([one], {}, None, {})
    (found,) = stored.rival_poses
    np.testing.assert_allclose(opened.pose_of(found), other, atol=1e-9)


@pytest.mark.slow
def test_the_doubtful_come_first_and_bones_and_frames_find_each_other(made):
    items, problems = catalogue.read_catalogue(made.root)
    every = list(items.values())
    assert problems == []
    assert every[0].name == ("ap", "femur")
    named = {"/".join(item.name): item for item in every}
    assert [each.name for each in catalogue.neighbours_of(every[0], every)] == [("ap", "tibia")]
    frames = catalogue.frames_of(named["walk/f2"], every)
    assert [frame.name[-1] for frame in frames] == ["f0", "f1", "f2", "f3", "f4"]
    assert catalogue.frames_of(every[0], every) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_a_server_that_is_stopped_at_once_or_in_the_middle_of_opening_ends_without_an_error(made):
    for begun in (False, True):
        with serving(made.root) as (address, process):
            if begun:
                item = json.loads(answer(f"{address}api/list")[1])["items"][0]["id"]
                asked = threading.Thread(target=_unanswered, args=(f"{address}api/item/{item}",))
                asked.start()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert not re.search("Traceback|Exception|Warning", process.stderr.read())
            if begun:
                asked.join()


def _unanswered(url: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # the server is stopped
        urllib.request.urlopen(url).read()


# ------------------------------------------------------------------------------------ disagreement


def accepted(folder: Path, reviewer: str, twist) -> Decision:
    view = parameters_file.load(folder / "parameters.pt").scanner_pose[0]
    camera = view.camera @ geometry.twist(np.array(twist, float), np.zeros(3))
    sha256 = files.sha256(folder / "parameters.pt")
    return Decision(reviewer, "accept", "", decisions.now(), sha256, camera.tolist(), "person")


def test_the_disagreement_of_two_reviewers_is_in_the_axes_of_the_camera(tmp_path, capsys):
    save_registration(tmp_path / "results/knee")
    folder = tmp_path / "results/knee"
    decisions.append(folder, accepted(folder, "ab", [0, 0, 0, 0, 0, 0]))
    decisions.append(folder, accepted(folder, "ab", [0, 0, 0, 0.3, 0.4, 0]))
    decisions.append(folder, accepted(folder, "cd", [0, 0, 0, 0.3, 0.4, 2]))
    rows, problems = disagreement.table(tmp_path / "results")
    assert problems == []
    inter, intra = rows
    assert (inter.kind, inter.first, inter.second) == ("inter", "ab", "cd")
    assert (inter.in_plane_mm, inter.depth_mm) == pytest.approx((0, 2), abs=1e-9)
    assert (intra.kind, intra.first, intra.second) == ("intra", "ab", "ab")
    assert (intra.in_plane_mm, intra.depth_mm, intra.rotation_deg) == pytest.approx(
        (0.5, 0, 0), abs=1e-6
    )
    table = tmp_path / "table.csv"
    assert review.main([str(tmp_path / "results"), "--table", str(table)]) == 0
    assert capsys.readouterr().out.strip() == str(table)
    assert table.read_text().splitlines()[0].startswith("result,kind,first,second,in_plane_mm")
    (first,) = (each for each in disagreement.summary(rows) if each["kind"] == "inter")
    assert first["depth_mm"] == pytest.approx({"mean": 2, "sd": 0, "largest": 2})


@pytest.mark.slow
def test_a_decision_on_a_result_that_has_changed_meanwhile_is_not_recorded(study):
    folder = study.root / "walk/f1"

    async def decide() -> None:
        one = session.Session.start(study.root, "ab")
        try:
            item = next(each for each in one.items.values() if each.folder == folder)
            stored = parameters_file.load(folder / "parameters.pt")
            again = dataclasses.replace(stored, final_pose=stored.init_pose)
            parameters_file.save(folder / "parameters.pt", again)
            with pytest.raises(InputError, match="has changed since it was shown"):
                await one.decide(item, {"choice": "accept", "seen": item.parameters_sha256})
            fresh = await one.described(item)
            await one.decide(one.item(item.id), {"choice": "accept", "seen": fresh["sha256"]})
        finally:
            one.stop()

    asyncio.run(decide())
    (decided,) = decisions.standing(folder, parameters_file.load(folder / "parameters.pt"))
    assert decided.choice == "accept"


@pytest.mark.slow
def test_a_blind_reviewer_sees_the_solvers_pose_and_writes_decisions_only(study):
    folder = study.root / "ap/femur"
    opened = reopening.open_result(folder)
    solver = opened.pose
    sha256 = saving.save_correction(opened, study.truth["ap/femur"], opened.pose, "ab")
    first = accepted(folder, "ab", [0, 0, 0, 0, 0, 0])
    decisions.append(folder, dataclasses.replace(first, parameters_sha256=sha256))
    stored = (folder / "parameters.pt").read_bytes()

    async def blind() -> tuple[dict, dict]:
        one = session.Session.start(study.root, "cd", blind=True)
        try:
            item = next(each for each in one.items.values() if each.folder == folder)
            described = await one.described(item)
            listed = await one.decide(item, {"choice": "accept", "pose": described["pose"]})
            return described, listed
        finally:
            one.stop()

    described, listed = asyncio.run(blind())
    np.testing.assert_allclose(described["pose"], solver, atol=1e-9)
    assert (described["others"], described["corrected_by"]) == ([], None)
    assert listed["decision"]["choice"] == "accept"
    assert (folder / "parameters.pt").read_bytes() == stored
    standing = decisions.standing(folder, parameters_file.load(folder / "parameters.pt"))
    assert [one.reviewer for one in standing] == ["ab"]
    (row,) = disagreement.table(study.root)[0]
    assert row.in_plane_mm > 5  # the corrected pose of one, the solver's of the other


# --------------------------------------------------------------------------------------- bad input


def test_a_wrong_command_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    for arguments, words in (
        ([tmp_path / "nowhere"], "not a folder"),
        ([tmp_path / "empty", "--no_browser"], "no parameters.pt in this folder or below"),
        ([tmp_path / "empty", "--port", port], f"--port {port}: cannot be used"),
        ([tmp_path / "empty", "--port", "99999"], "0 to 65535"),
        ([tmp_path / "empty", "--reviewer", "../x"], "--reviewer"),
        ([tmp_path / "empty", "--table", tmp_path / "t.csv"], "no pose was accepted twice"),
    ):
        assert review.main([str(each) for each in arguments]) == script.EXIT_BAD_INPUT
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, line
    taken.close()


def test_a_damaged_result_is_named_and_the_others_are_listed(tmp_path):
    save_registration(tmp_path / "a")
    save_registration(tmp_path / "b")
    (tmp_path / "b/parameters.pt").write_bytes(b"damaged")
    items, problems = catalogue.read_catalogue(tmp_path)
    assert [item.name for item in items.values()] == [("a",)]
    assert len(problems) == 1
    assert "b/parameters.pt" in problems[0]


def test_a_result_that_leads_out_of_the_folder_is_refused(tmp_path):
    save_registration(tmp_path / "outside")
    save_registration(tmp_path / "inside/a")
    (tmp_path / "inside/b").mkdir()
    (tmp_path / "inside/b/parameters.pt").symlink_to(tmp_path / "outside/parameters.pt")
    items, problems = catalogue.read_catalogue(tmp_path / "inside")
    assert len(items) == 1
    assert "leads out of the folder" in problems[0]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
@pytest.mark.skipif(is_root() and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_read_only_folder_can_be_looked_at_and_what_cannot_be_saved_is_said(study):
    before = {path: path.stat().st_mtime_ns for path in study.root.rglob("*")}
    with (
        read_only(study.root) as under,
        serving(study.root, "--reviewer", "ab", under=under) as (address, _),
    ):
        overview = json.loads(answer(f"{address}api/list")[1])
        assert overview["read_only"] == len(overview["items"])
        item = next(each for each in overview["items"] if each["name"] == ["walk", "f0"])
        pose = json.loads(answer(f"{address}api/item/{item['id']}")[1])["pose"]
        for content in ({"choice": "reject"}, {"choice": "accept", "pose": pose}):
            url = f"{address}api/item/{item['id']}/decision"
            status, text = answer(url, None, json.dumps(content).encode())
            assert status == 422
            assert re.search("cannot be written|not writable", json.loads(text)["error"]), text
        moved = geometry.twist(np.r_[0, 0, 0, 5, 0, 0], np.zeros(3)) @ np.array(pose)
        message = {"type": "draft", "item": item["id"], "pose": moved.tolist()}
        (told,) = asyncio.run(talk(address, [message], len))
        assert "cannot be written" in json.loads(told)["not_kept"]
        again = json.loads(answer(f"{address}api/item/{item['id']}")[1])
        np.testing.assert_allclose(again["draft"]["pose"], moved)  # as long as the server runs
        assert again["decision"] is None
    after = {path: path.stat().st_mtime_ns for path in study.root.rglob("*")}
    assert after == before


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_nothing_is_written_or_read_through_a_link_out_of_the_folder(tmp_path):
    save_registration(tmp_path / "a")
    outside = tmp_path / "outside.jsonl"
    outside.write_text("mine\n")
    for name in ("review_ab.jsonl", "draft_ab.jsonl"):
        (tmp_path / "a" / name).symlink_to(outside)
    with pytest.raises(InputError, match="cannot be written"):
        decisions.append(tmp_path / "a", accepted(tmp_path / "a", "ab", [0] * 6))
    with pytest.raises(InputError, match="cannot be written"):
        drafts.keep(tmp_path / "a", "ab", "one", None)
    assert outside.read_text() == "mine\n"
    shutil.copy(tmp_path / "a/gt.png", tmp_path / "private.png")
    (tmp_path / "a/gt.png").unlink()
    (tmp_path / "a/gt.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(InputError, match="leads out of the folder"):
        pictures.saved_pictures(tmp_path / "a", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["revisions", ".correction", "slicer"])
def test_a_correction_does_not_follow_a_link_out_of_its_folder(study, tmp_path, name):
    folder, outside = study.root / "ap/femur", tmp_path / "outside"
    outside.mkdir()
    opened = reopening.open_result(folder)
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(outside, target_is_directory=True)
    old = (folder / "parameters.pt").read_bytes()
    with pytest.raises(InputError, match="is a link"):
        saving.save_correction(opened, study.truth["ap/femur"], opened.pose, "ab")
    assert (folder / "parameters.pt").read_bytes() == old
    assert list(outside.iterdir()) == []
    if name == saving.PENDING:  # nor does the next start
        with pytest.raises(InputError, match="is a link"):
            saving.finish(folder)


@pytest.mark.slow
def test_every_file_that_was_registered_from_is_checked_for_changes(study, made):
    folder = made.root.parent
    changed = {
        "walk/f0": [folder / "femur.nii.gz", folder / "femur_mask.nii.gz", folder / "xrays/f0.png"],
        "biplane": [folder / "xrays/cam0.png", folder / "xrays/cam1.png"],
    }
    for name, paths in changed.items():
        reopening.open_result(study.root / name)
        for path in paths:
            kept = path.read_bytes()
            path.write_bytes(kept + b"x")
            with pytest.raises(InputError, match=f"{path.name}.*has changed since"):
                reopening.open_result(study.root / name)
            path.unlink()
            with pytest.raises(InputError, match=f"{path.name}.*is not there any more"):
                reopening.open_result(study.root / name)
            path.write_bytes(kept)


def test_sources_that_are_missing_or_changed_are_named(tmp_path):
    volume, result = save_registration(tmp_path / "a")
    with pytest.raises(InputError, match=r"xray\.png.*is not there any more"):
        reopening.open_result(tmp_path / "a")
    (tmp_path / "a/xray.png").write_bytes(b"")
    request = sources.request_of(result)
    result.drr["volume_sha256"] = "0" * 64
    with pytest.raises(InputError, match=r"ct\.nii\.gz.*has changed since"):
        sources.check_sources(request, result)
    volume.unlink()
    with pytest.raises(InputError, match=r"ct\.nii\.gz.*is not there any more"):
        sources.check_sources(request, result)


def test_the_help_imports_neither_torch_nor_the_server():
    code = (
        "import sys; from pipeline import review; review.build_parser().format_help();"
        " print(sorted({'torch', 'aiohttp', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
