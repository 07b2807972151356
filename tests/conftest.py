"""Phantom knees shared by the tests: coarse, made once per session. Tests must not change them."""

import json
import os
import shutil
import tempfile
from dataclasses import replace

import numpy as np
import pytest

import crop_cts
import segmentation_preprocessing
from common.registration.scene import Structure
from common.registration.structures import load_structure
from common.synthetic import phantom
from common.volume import nifti


def pytest_configure(config):
    """One cache of template banks per run, shared by its processes, never the user's."""
    if "BONE_CACHE" not in os.environ:
        config.bone_cache = os.environ["BONE_CACHE"] = tempfile.mkdtemp(prefix="bone-cache-")


def pytest_unconfigure(config):
    if hasattr(config, "bone_cache"):
        shutil.rmtree(config.bone_cache, ignore_errors=True)
        del os.environ["BONE_CACHE"]


def pytest_collection_modifyitems(config, items):
    """Leave out browser tests without Chromium; continuous integration must have it (.ci/run)."""
    if shutil.which("chromium"):
        return
    if os.environ.get("CI"):
        raise pytest.UsageError(
            "no chromium on this machine: the reports would go untested; apt-get install chromium"
        )
    left_out = [item for item in items if item.get_closest_marker("browser")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_report_header():
    return (
        None
        if shutil.which("chromium")
        else "no chromium: the reports are not tried in a browser (apt-get install chromium)"
    )


@pytest.fixture(scope="session")
def knees() -> phantom.Phantom:
    """One patient in memory, 3 mm voxels, a tilted left-handed grid."""
    return phantom.make(seed=1, spacing_mm=3.0, axes="LAS", tilt_deg=4.0)


@pytest.fixture(scope="session")
def thigh(tmp_path_factory) -> Structure:
    """A phantom's femur, which no flip makes look like itself."""
    folder = tmp_path_factory.mktemp("femur")
    knees = phantom.make(seed=5, spacing_mm=2.5, axes="LPS")
    only = (knees.segmentation.data == 4).astype(np.uint8)
    mask = nifti.save(folder / "mask.nii.gz", replace(knees.segmentation, data=only))
    return load_structure(nifti.save(folder / "ct.nii.gz", knees.ct), mask)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Three patients on disk at about 2.5 mm: a list of (folder, name, truth)."""
    root = tmp_path_factory.mktemp("cohort")
    patients = []
    for number, name in enumerate(("P01", "P02", "P03")):
        paths = phantom.write(
            phantom.cohort_member(number, seed=0, spacing_mm=2.5), root / name, name
        )
        patients.append((root / name, name, json.loads(paths[2].read_text())))
    return patients


@pytest.fixture(scope="session")
def femur():
    """A left femur's crop and its labelmap, 2.5 mm, no islands."""
    knees = phantom.make(seed=5, spacing_mm=2.5, axes="LPS")
    segmentation_preprocessing.keep_largest_components(knees.segmentation.data)
    return crop_cts.crop_bone(knees.ct, knees.segmentation, 4, 7.0)
