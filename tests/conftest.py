"""Phantom knees shared by the tests: coarse, made once a session. Tests must not change them."""

import json

import pytest

import crop_cts
import segmentation_preprocessing
from common import phantom


@pytest.fixture(scope="session")
def knees() -> phantom.Phantom:
    """One patient in memory, 3 mm voxels, a tilted left-handed grid."""
    return phantom.make(seed=1, spacing_mm=3.0, axes="LAS", tilt_deg=4.0)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Three patients on disk at about 2.5 mm: a list of (folder, name, truth)."""
    root = tmp_path_factory.mktemp("cohort")
    patients = []
    for number, name in enumerate(("P01", "P02", "P03")):
        paths = phantom.write(phantom.cohort_member(number, seed=0, spacing_mm=2.5), root / name, name)
        patients.append((root / name, name, json.loads(paths[2].read_text())))
    return patients


@pytest.fixture(scope="session")
def femur():
    """A left femur's crop and its labelmap, 2.5 mm, no islands."""
    knees = phantom.make(seed=5, spacing_mm=2.5, axes="LPS")
    segmentation_preprocessing.keep_largest_components(knees.segmentation.data)
    return crop_cts.crop_bone(knees.ct, knees.segmentation, 4, 7.0)
