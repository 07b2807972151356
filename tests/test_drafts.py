"""Poses that are not decided on yet: the last one holds, for its file, also after a crash."""

import asyncio
import dataclasses
import json

import numpy as np
import pytest
from helpers import save_registration

from common import files, geometry
from common.errors import InputError
from common.review import catalogue, drafts
from common.review.drafts import Draft
from common.review.unsaved import Unsaved

POSE = geometry.twist(np.r_[0.1, 0, 0, 3.0, 0, 0], np.zeros(3)).tolist()
OTHER = geometry.twist(np.r_[0, 0.2, 0, 0, 4.0, 0], np.zeros(3)).tolist()


@pytest.fixture
def item(tmp_path):
    save_registration(tmp_path / "knee")
    return catalogue.read_item(tmp_path, tmp_path / "knee")


def lines(item) -> list[dict]:
    text = drafts.path_of(item.folder, "ab").read_text()
    return [json.loads(line)["draft"] for line in text.splitlines()]


def test_the_last_draft_of_a_reviewer_holds_for_the_file_that_it_is_about(tmp_path):
    drafts.keep(tmp_path, "ab", "one", Draft(POSE))
    drafts.keep(tmp_path, "ab", "one", Draft(OTHER, "solver", POSE, verdict={"verdict": "ok"}))
    drafts.keep(tmp_path, "ab", "two", Draft(POSE, key=True))
    drafts.keep(tmp_path, "cd", "one", Draft(POSE))
    found = drafts.last(tmp_path, "ab", ["one"])
    assert (found.pose, found.by, found.start) == (OTHER, "solver", POSE)
    assert found.verdict == {"verdict": "ok"}
    assert drafts.last(tmp_path, "ab", ["two"]).key
    assert drafts.last(tmp_path, "ab", ["three"]) is None
    drafts.keep(tmp_path, "ab", "one", None)
    assert drafts.last(tmp_path, "ab", ["one"]) is None
    assert drafts.last(tmp_path, "cd", ["one"]).pose == POSE


def test_a_line_that_a_crash_cut_short_leaves_the_draft_before_it(tmp_path):
    drafts.keep(tmp_path, "ab", "one", Draft(POSE))
    with open(drafts.path_of(tmp_path, "ab"), "a") as stream:
        stream.write('{"schema": "draft/1", "about": "one", "dra')
    assert drafts.last(tmp_path, "ab", ["one"]).pose == POSE
    drafts.keep(tmp_path, "ab", "one", Draft(OTHER))
    assert drafts.last(tmp_path, "ab", ["one"]).pose == OTHER


@pytest.mark.parametrize(
    "content",
    [
        {"pose": [[1, 2], [3, 4]]},
        {"pose": POSE, "by": "nobody"},
        {"hose": POSE},
        [1],
        {"pose": "x"},
    ],
)
def test_a_damaged_draft_is_named_and_skipped(tmp_path, caplog, content):
    drafts.keep(tmp_path, "ab", "one", Draft(POSE))
    line = {"schema": "draft/1", "about": "one", "draft": content}
    files.add_line(drafts.path_of(tmp_path, "ab"), line)
    assert drafts.last(tmp_path, "ab", ["one"]).pose == POSE
    assert "line 2 is damaged" in caplog.text


def test_a_pose_lasts_longer_than_its_session_and_is_dropped_where_it_is_the_stored_one(item):
    async def first() -> None:
        unsaved = Unsaved("ab", blind=False)
        unsaved.stored[item.id] = np.eye(4).tolist()
        await unsaved.set_pose(item, POSE, None)
        await unsaved.set_pose(item, POSE, None)  # nothing new: nothing is written

    async def second() -> Draft | None:
        unsaved = Unsaved("ab", blind=False)
        unsaved.read(item)
        kept = unsaved.drafts.get(item.id)
        unsaved.stored[item.id] = np.eye(4).tolist()
        await unsaved.set_pose(item, np.eye(4).tolist(), None)
        assert unsaved.drafts == {}
        return kept

    asyncio.run(first())
    assert len(lines(item)) == 1
    assert asyncio.run(second()).pose == POSE
    assert lines(item)[-1] is None
    fresh = Unsaved("ab", blind=False)
    fresh.read(item)
    assert fresh.drafts == {}


def test_what_the_solver_found_is_kept_although_no_page_takes_it(item):
    async def answer() -> None:
        unsaved = Unsaved("ab", blind=False)
        unsaved.stored[item.id] = np.eye(4).tolist()
        found = Draft(OTHER, "solver", POSE, verdict={"verdict": "ok"})
        await unsaved.answered(item, found, found=True)

    asyncio.run(answer())
    unsaved = Unsaved("ab", blind=False)
    unsaved.read(item)
    kept = unsaved.drafts[item.id]
    assert (kept.pose, kept.start, kept.by) == (OTHER, POSE, "solver")
    assert kept.verdict == {"verdict": "ok"}


def test_a_verdict_alone_does_not_replace_the_pose_that_was_set_meanwhile(item):
    async def answer() -> None:
        unsaved = Unsaved("ab", blind=False)
        unsaved.stored[item.id] = np.eye(4).tolist()
        await unsaved.set_pose(item, POSE, None)
        await unsaved.answered(item, Draft(OTHER, "solver", verdict={"verdict": "ok"}), found=False)
        assert unsaved.drafts[item.id].pose == POSE
        await unsaved.answered(item, Draft(POSE, "solver", verdict={"verdict": "ok"}), found=False)
        assert unsaved.drafts[item.id].verdict == {"verdict": "ok"}

    asyncio.run(answer())


def test_a_key_pose_that_is_accepted_stays_one_and_other_drafts_end_with_the_decision(item):
    async def decide() -> None:
        unsaved = Unsaved("ab", blind=False)
        unsaved.stored[item.id] = np.eye(4).tolist()
        await unsaved.set_key(item, POSE)
        assert unsaved.drafts[item.id].key
        await unsaved.decided(item, "accept", POSE)
        assert unsaved.drafts[item.id] == Draft(POSE, changed=False, key=True)
        await unsaved.set_key(item, None)
        assert unsaved.drafts == {}
        await unsaved.set_pose(item, OTHER, None)
        await unsaved.decided(item, "reject", None)
        assert unsaved.drafts == {}

    asyncio.run(decide())


def test_a_draft_of_a_file_that_was_registered_again_is_none(item):
    drafts.keep(item.folder, "ab", item.parameters_sha256, Draft(POSE))
    again = dataclasses.replace(item, parameters_sha256="0" * 64)
    unsaved = Unsaved("ab", blind=False)
    unsaved.read(again)
    assert unsaved.drafts == {}
    renewed = dataclasses.replace(again, same_pose_as=(item.parameters_sha256,))
    unsaved.read(renewed)  # the same pose in a new file
    assert unsaved.drafts[item.id].pose == POSE


def test_a_draft_that_cannot_be_written_lasts_as_long_as_the_server(item):
    drafts.path_of(item.folder, "ab").mkdir()

    async def keep() -> None:
        unsaved = Unsaved("ab", blind=False)
        with pytest.raises(InputError, match="cannot be written"):
            await unsaved.set_pose(item, POSE, None)
        assert unsaved.drafts[item.id].pose == POSE

    asyncio.run(keep())
