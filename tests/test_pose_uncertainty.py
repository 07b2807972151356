"""The covariance of a pose in parameters.pt, in the scanner frame, with other bones of a solve."""

import dataclasses

import numpy as np
import pytest
from helpers import save_registration

from common import geometry
from common.errors import InputError
from common.registration.uncertainty import own_first
from common.results import parameters_file
from common.results.pose_uncertainty import PoseUncertainty

TURNED = geometry.twist(np.array([0.3, -0.5, 0.9, 40, -20, 300]), np.array([3.0, 2, 1]))


def random_covariance(bones: int) -> np.ndarray:
    root = np.random.default_rng(bones).normal(size=(6 * bones, 6 * bones))
    return root @ root.T


@pytest.mark.parametrize("scanner_from_volume", [TURNED, TURNED @ geometry.MIRROR])
def test_a_twist_in_the_volume_is_the_carried_twist_in_the_scanner(scanner_from_volume):
    centre, twist = np.array([10.0, 20, 30]), np.array([0.02, -0.01, 0.03, 1, 2, -3])
    found = PoseUncertainty.in_scanner(
        np.outer(twist, twist), centre[None], scanner_from_volume[None], ("femur",)
    )
    moved = scanner_from_volume @ geometry.twist(twist, centre)
    moved = moved @ geometry.invert(scanner_from_volume)
    scale = np.sqrt(np.trace(found.own))
    carried = np.linalg.eigh(found.own)[1][:, -1] * scale
    both = [geometry.twist(sign * carried, found.centres_mm[0]) for sign in (1, -1)]
    assert min(abs(each - moved).max() for each in both) < 1e-9


def test_each_bone_is_carried_by_its_own_volume():
    covariance = random_covariance(2)
    places = np.stack([TURNED, geometry.MIRROR])
    found = PoseUncertainty.in_scanner(covariance, np.zeros((2, 3)), places, ("femur", "tibia"))
    alone = PoseUncertainty.in_scanner(covariance[6:, 6:], np.zeros((1, 3)), places[1:], ("tibia",))
    np.testing.assert_allclose(found.covariance[6:, 6:], alone.covariance)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(found.covariance), np.linalg.eigvalsh(covariance), rtol=1e-6, atol=1e-9
    )


def test_the_block_of_a_bone_moves_to_the_front_with_its_correlations():
    joint = random_covariance(3)
    moved = own_first(joint, 1)
    np.testing.assert_array_equal(moved[:6, :6], joint[6:12, 6:12])
    np.testing.assert_array_equal(moved[:6, 6:12], joint[6:12, :6])
    np.testing.assert_array_equal(moved[12:, 12:], joint[12:, 12:])


def test_what_is_saved_is_loaded_and_older_files_have_none(tmp_path):
    _, result = save_registration(tmp_path)
    assert parameters_file.load(tmp_path / "parameters.pt").pose_uncertainty is None
    stated = PoseUncertainty(random_covariance(2), np.eye(2, 3), ("femur", "tibia"))
    with_it = dataclasses.replace(result, pose_uncertainty=stated)
    parameters_file.save(tmp_path / "parameters.pt", with_it)
    loaded = parameters_file.load(tmp_path / "parameters.pt").pose_uncertainty
    assert loaded is not None
    assert loaded.bones == ("femur", "tibia")
    np.testing.assert_array_equal(loaded.covariance, stated.covariance)
    np.testing.assert_array_equal(loaded.centres_mm, stated.centres_mm)


@pytest.mark.parametrize(
    "wrong", [{"covariance": np.eye(5)}, {"covariance": np.full((6, 6), np.nan)}, {"bones": ()}]
)
def test_a_damaged_covariance_is_refused(tmp_path, wrong):
    _, result = save_registration(tmp_path)
    sound = PoseUncertainty(np.eye(6), np.zeros((1, 3)), ("femur",))
    damaged = dataclasses.replace(sound, **wrong)
    parameters_file.save(
        tmp_path / "parameters.pt", dataclasses.replace(result, pose_uncertainty=damaged)
    )
    with pytest.raises(InputError, match="incomplete"):
        parameters_file.load(tmp_path / "parameters.pt")
