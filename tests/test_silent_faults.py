"""Files that are flipped, inverted, shifted or masked: found from nothing, no wrong pose is ok.

Each file shows the same femur at the same pose. Whatever the file is, a pose that is ok lies within
its own bounds, and what contradicts a header is suspect for that reason.
"""

import nibabel
import numpy as np
import pydicom
import pytest

import crop_cts
import registration
from common import geometry
from common.results import parameters_file
from common.results.truth import read_truth
from pipeline import make_phantom, make_xray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A phantom, its femur cropped from the whole CT and from one of the bones alone, an X-ray."""
    folder = tmp_path_factory.mktemp("study")
    assert make_phantom.main(["-o", str(folder), "--patients", "1", "--spacing", "1.2"]) == 0
    patient = folder / "P01"
    ct, seg = patient / "P01_ct.nii.gz", patient / "segmentations/P01_seg.nii.gz"
    flags = ["--ct", str(ct), "--mask", str(seg), "--labels", "4", "--angles", "10", "4", "-5"]
    flags += ["--size", "240", "240", "--pixel", "1.28", "-o", str(folder / "knee.dcm")]
    assert make_xray.main(flags) == 0
    image = nibabel.load(ct)
    masked = np.where(np.asanyarray(nibabel.load(seg).dataobj) > 0, image.dataobj, -1000)
    nibabel.save(nibabel.Nifti1Image(masked.astype(np.int16), image.affine), folder / "bone.nii.gz")
    for name, source in (("whole", ct), ("bone", folder / "bone.nii.gz")):
        flags = ["--base_dir", str(folder), "--ct_filename", str(source), "--bones", "femur"]
        flags += ["--seg_filename", str(seg), "--labels", "3", "4"]
        assert crop_cts.main([*flags, "--output_dir", str(folder / name)]) == 0
    return folder


def edited(folder, change=lambda dataset: None, pixels=lambda grey: grey):
    dataset = pydicom.dcmread(folder / "knee.dcm")
    dataset.PixelData = np.ascontiguousarray(pixels(dataset.pixel_array)).tobytes()
    change(dataset)
    dataset.save_as(folder / "edited.dcm")
    return folder / "edited.dcm"


def stating(**tags):
    return lambda dataset: [setattr(dataset, tag, value) for tag, value in tags.items()]


def high_bits(folder):
    change = stating(BitsStored=12, HighBit=15)
    return edited(folder, change, lambda grey: (grey >> 4) << 4)


def inverted(folder):
    change = stating(PixelIntensityRelationshipSign=1, PhotometricInterpretation="MONOCHROME1")
    return edited(folder, change, lambda grey: 65535 - grey)


def flipped(folder, **tags):
    return edited(folder, stating(**tags), lambda grey: grey[:, ::-1])


FILES = {
    "12 bits at the top of 16": (high_bits, "ok"),
    "LOG with sign 1": (inverted, "ok"),
    "flipped, and says so": (
        lambda folder: flipped(folder, PatientOrientation=["R", "F"]),
        "flipped left to right, as its header states (PatientOrientation R/F)",
    ),
}


def registered(study, xray, kind, out):
    (ct,) = (study / kind / "femur_cts_cropped").glob("*_femur.nii.gz")
    mask = study / kind / "femur_masks_cropped" / ct.name
    flags = [str(xray), "-v", str(ct), "--mask", str(mask), "--labels", "femur", "-o", str(out)]
    assert registration.main([*flags, "--device", "cpu"]) == 0
    return parameters_file.load(out / "parameters.pt")


def check_pose(study, result):
    """The pose lies within the stated bounds; a flipped file has a flipped camera."""
    truth = read_truth(study / "knee_truth.json", None)
    camera = np.asarray(result.scanner_pose[0].camera, float)
    if np.linalg.det(camera[:3, :3]) * np.linalg.det(truth.camera[:3, :3]) < 0:
        camera = camera @ geometry.MIRROR
    error = geometry.pose_error(camera, truth.camera, truth.points_mm, result.detector)
    assert error.in_plane_mm < result.verdict.in_plane_95_mm
    assert error.depth_mm < result.verdict.depth_95_mm
    assert error.rotation_deg < result.verdict.rotation_95_deg


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lies_otherwise_gives_the_right_pose_or_says_why_not(study, tmp_path, name):
    make, expected = FILES[name]
    result = registered(study, make(study), "whole", tmp_path)
    check_pose(study, result)
    if expected == "ok":
        assert result.verdict.code == "ok"
    else:
        assert result.verdict.code == "suspect"
        assert any(expected in reason for reason in result.verdict.reasons)


def test_a_ct_of_the_bones_alone_gives_the_pose_of_the_whole_ct_within_its_bounds(study, tmp_path):
    result = registered(study, study / "knee.dcm", "bone", tmp_path)
    check_pose(study, result)
    assert result.verdict.code == "ok"
