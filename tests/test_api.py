"""The Python API: a bone is registered, rendered, saved and read without a command line."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_registration
from test_registration import DETECTOR, patient  # noqa: F401

from common import api, geometry
from common.synthetic import phantom, xray_simulation
from common.volume import cropping, nifti

ROOT = Path(__file__).resolve().parents[1]

GEOMETRY = {"sdd_mm": 900.0, "pixel_spacing_mm": 1.2, "principal_point_px": (75.0, 70.0)}


@pytest.fixture(scope="module")
def loaded(patient):
    folder, camera = patient
    structure = api.load_structure(folder / "ct.nii.gz")
    return structure, api.load_xray(folder / "xray.png", bone="bright", **GEOMETRY), camera


@pytest.fixture(scope="module")
def found(loaded):
    structure, xray, camera = loaded
    start = geometry.twist(np.r_[0.05, -0.06, 0.04, 5, -6, 4], camera[:3, 3]) @ camera
    return api.register(xray, structure, start_camera=start)


@pytest.mark.slow
def test_the_true_pose_is_found_and_nothing_is_printed(loaded, found, capfd):
    structure, xray, camera = loaded
    assert [one.verdict.code for one in found] == ["ok"]
    points = structure.body.points
    error = api.pose_error(found[0].camera(), camera, points, xray.xray.detector)
    assert error.in_plane_mm < 0.2
    np.testing.assert_allclose(found[0].scanner_view().camera, found[0].camera(), atol=1e-9)
    api.register(xray, structure, start_camera=found[0].camera())
    assert capfd.readouterr() == ("", "")


def test_the_drr_at_the_final_pose_is_the_xray(loaded, found):
    structure, xray, _ = loaded
    drr = api.render(structure, found[0].camera(), xray.xray.detector)
    assert drr.shape == xray.xray.image.shape
    assert np.corrcoef(drr.ravel(), xray.xray.image.ravel())[0, 1] > 0.98


def test_a_saved_result_is_read_and_not_overwritten(found, tmp_path):
    (path,) = api.save(found, tmp_path / "out")
    assert path == tmp_path / "out" / "parameters.pt"
    result = api.read_result(tmp_path / "out")
    np.testing.assert_allclose(result.volume_from_camera(), found[0].camera(), atol=1e-9)
    assert result.verdict == found[0].verdict
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "final_img.png",
        "gt.png",
        "init_image.png",
        "parameters.pt",
        "slicer",
    ]
    with pytest.raises(api.InputError, match="already exists"):
        api.save(found, tmp_path / "out")


@pytest.mark.slow
def test_the_command_line_and_the_api_find_the_same_pose(patient, loaded, tmp_path):
    folder, _ = patient
    structure, xray, _ = loaded
    assert test_registration.register(folder, tmp_path / "out") == 0
    stored = api.read_result(tmp_path / "out")
    start = stored.scanner_pose[0].camera_init
    (again,) = api.register(xray, structure, start_camera=start)
    np.testing.assert_allclose(again.camera(), stored.volume_from_camera(), atol=1e-3)


@pytest.mark.parametrize(
    ("call", "path", "found"),
    [
        (
            lambda s, x: api.load_structure("no_such_file.nii.gz"),
            "no_such_file.nii.gz",
            "not found",
        ),
        (
            lambda s, x: api.load_structure("ct.nii.gz", attenuation="bone"),
            "`attenuation`",
            "'bone'",
        ),
        (lambda s, x: api.load_xray("x.png", bone="white"), "`bone`", "is 'white'"),
        (
            lambda s, x: api.load_xray("x.png", pixel_spacing_mm=(1, 2, 3)),
            "`pixel_spacing_mm`",
            "(1, 2, 3)",
        ),
        (lambda s, x: api.register([], s), "`xrays`", "is empty"),
        (lambda s, x: api.register(x, [x]), "`structures`", "contains View"),
        (lambda s, x: api.register(x, s, init="guess"), "`init`", "is 'guess'"),
        (lambda s, x: api.register(x, s, init="model"), "`init`", "without a pose network"),
        (lambda s, x: api.register(x, s, init="fixed"), "`init`", "without a start pose"),
        (lambda s, x: api.register(x, s, start_camera=np.eye(3)), "`start_camera`", "(3, 3)"),
        (lambda s, x: api.render(s, np.eye(3), DETECTOR), "`camera`", "(3, 3)"),
        (lambda s, x: api.save([], "out"), "`registrations`", "is empty"),
        (lambda s, x: api.read_result("no_such_folder"), "no_such_folder", "not found"),
    ],
)
def test_an_invalid_argument_raises_an_error_with_fields(loaded, call, path, found, capfd):
    structure, xray, _ = loaded
    with pytest.raises(api.InputError) as caught:
        call(structure, xray)
    assert (str(caught.value.path), found in caught.value.found) == (path, True)
    assert caught.value.expected
    assert caught.value.remedy
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_readmes_example_runs(tmp_path, monkeypatch, capsys):
    """Its files are those of a phantom whose left femur and tibia are labels 4 and 2."""
    text = (ROOT / "README.md").read_text()
    example = re.search(r"<!-- api -->.*?```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    knees = phantom.make(seed=3, spacing_mm=2.5)
    for bone, label in (("femur", 4), ("tibia", 2)):
        nifti.save(tmp_path / f"{bone}.nii.gz", knees.ct)
        only = (knees.segmentation.data == label).astype(np.uint8)
        nifti.save(tmp_path / f"{bone}_mask.nii.gz", replace(knees.segmentation, data=only))
    detector = api.Detector.centred(128, 128, 1020.0, 2.0)
    camera = xray_simulation.view(knees.ct.isocentre_mm, [10.0, 4.0, -5.0], 850.0, [-60.0, 0.0])
    image = xray_simulation.simulate(
        xray_simulation.render_strips(knees.ct, camera, detector),
        2.0,
        xray_simulation.Effects(photons=1e6, scatter=0.0),
        np.random.default_rng(0),
    )
    xray_simulation.write_dicom(tmp_path / "knee.dcm", image, detector, with_sdd=True)
    exec(compile(example, "README.md", "exec"), {})
    results = [api.read_result(path) for path in (tmp_path / "results").glob("*/parameters.pt")]
    assert [result.verdict.code for result in results] == ["ok", "ok"]


@pytest.mark.slow
def test_a_crop_is_registered_with_the_whole_ct_rendered_around_it(loaded, patient, tmp_path):
    folder, camera = patient
    structure, xray, _ = loaded
    ct = structure.ct
    labels = np.zeros(ct.shape, np.uint8)
    labels[:, :, : ct.shape[2] * 3 // 4] = 1
    crop, mask = cropping.crop_bone(ct, replace(ct, data=labels), 1, 0.0)
    nifti.save(tmp_path / "crop.nii.gz", crop)
    nifti.save(tmp_path / "mask.nii.gz", mask)
    around = api.load_structure(
        tmp_path / "crop.nii.gz", tmp_path / "mask.nii.gz", context=folder / "ct.nii.gz"
    )
    drr = around.body.renderer.render(camera[None], DETECTOR)[0]
    whole = structure.body.renderer.render(camera[None], DETECTOR)[0]
    np.testing.assert_allclose(drr, whole, atol=1e-3 * whole.max())
    assert around.body.alone.render(camera[None], DETECTOR)[0].sum() < 0.9 * whole.sum()
    (found,) = api.register(xray, around, start_camera=camera)
    points = around.body.points
    assert api.pose_error(found.camera(), camera, points, DETECTOR).in_plane_mm < 0.2


def test_the_ct_of_another_patient_is_no_context(loaded, tmp_path):
    structure, *_ = loaded
    far = replace(structure.ct, affine=geometry.translation((500, 0, 0)) @ structure.ct.affine)
    nifti.save(tmp_path / "far.nii.gz", far)
    nifti.save(tmp_path / "ct.nii.gz", structure.ct)
    with pytest.raises(api.InputError, match=r"far\.nii\.gz: does not contain ct\.nii\.gz"):
        api.load_structure(tmp_path / "ct.nii.gz", context=tmp_path / "far.nii.gz")
