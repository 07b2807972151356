"""If a guessed polarity gives no certain pose, the other one is tried, kept if better, and said."""

import helpers
import numpy as np
import pytest
from PIL import Image
from test_refinement import DETECTOR, error, take_xray
from test_register import SEARCH, bone_of

from common import geometry
from common.registration.inputs import flipped, load_view, with_polarity
from common.registration.polarities import BOTH_TRIED, register_either
from common.registration.request import XrayRequest


@pytest.fixture(scope="module")
def scene():
    bone = bone_of()
    camera = geometry.camera_from_pose(
        geometry.pose_from_angles(helpers.TRUE_ANGLES, helpers.TRUE_OFFSET)
    )
    pose = geometry.translation(bone.body.centre_mm) @ camera
    return bone, pose, take_xray([bone.body], [pose]).image


def request(path, image):
    """Bright bone in a bright field, which looks like an open beam, so that dark is guessed."""
    grey = 225 + 30 * image / image.max()
    shade = np.indices(image.shape).min(axis=0) + 1  # of a collimator that is a little open
    grey *= np.clip(shade / 6, 0, 1)
    Image.fromarray(grey.round().astype(np.uint8)).save(path)
    return XrayRequest(path, None, None, DETECTOR.sdd_mm, DETECTOR.pixel_mm, DETECTOR.principal_px)


@pytest.mark.slow
def test_the_polarity_that_fits_is_kept_and_said_if_the_guess_was_wrong(tmp_path, scene, caplog):
    bone, pose, image = scene
    view = load_view(request(tmp_path / "x.png", image), "auto")
    assert view.xray.reading["bone_shown"] == "dark"  # the guess
    (found,) = register_either([view], [bone], SEARCH)
    assert found.views[0].xray.reading["bone_shown"] == "bright"
    assert found.views[0].xray.reading["decided_by"] == BOTH_TRIED
    assert error(found.pose, pose, bone.body).in_plane_mm < 0.5
    assert "read with bone bright as a viewer shows it, against the guess" in caplog.text


@pytest.mark.slow
def test_a_stated_polarity_is_not_questioned(tmp_path, scene):
    bone, _, image = scene
    view = load_view(request(tmp_path / "x.png", image), "dark")
    (found,) = register_either([view], [bone], SEARCH)
    assert found.views[0].xray.reading["bone_shown"] == "dark"
    assert found.verdict.code != "ok"


@pytest.mark.parametrize("flip", [False, True])
def test_another_polarity_changes_the_picture_and_nothing_else(tmp_path, scene, flip):
    _, _, image = scene
    asked = request(tmp_path / "x.png", image)
    views = [load_view(asked, bone) for bone in ("dark", "bright")]
    if flip:
        views = [flipped(view, True) for view in views]
    found = with_polarity(views[0], "bright")
    np.testing.assert_array_equal(found.xray.image, views[1].xray.image)
    assert found.xray.detector == views[1].xray.detector
    assert found.xray.flipped == flip
    assert found.request == asked
