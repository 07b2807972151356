"""C-arm angles in a DICOM header.

The image receptor is in the stated direction, the source is opposite, and the image is seen from
the side that the header implies.
"""

import helpers
import numpy as np
import pytest
from test_xrays import dicom

import registration
from common import geometry
from common.command_line import script
from common.drr import joseph
from common.geometry import Detector
from common.results import parameters_file
from common.volume import attenuation, nifti
from common.volume.volume import Volume
from common.xray import positioner

DETECTOR = Detector.centred(120, 140, 900.0, (1.3, 1.1))
LAO_DEG, CRA_DEG, DISTANCE_MM = 24.0, 11.0, 620.0
TAGS = {
    "DistanceSourceToDetector": "900",
    "ImagerPixelSpacing": ["1.1", "1.3"],
    "PixelIntensityRelationship": "LOG",
    "PixelIntensityRelationshipSign": -1,
}


def receptor_direction(lao_deg, cra_deg):
    """Direction from the isocentre to the image receptor, RAS.

    It starts in front of the chest, is turned to the left, then raised to the head.
    """
    lao, cra = np.radians([lao_deg, cra_deg])
    return np.array([-np.sin(lao) * np.cos(cra), np.cos(lao) * np.cos(cra), np.sin(cra)])


def camera_from_source(isocentre, lao_deg, cra_deg):
    """The camera of the image seen from the source, head up."""
    toward = receptor_direction(lao_deg, cra_deg)
    down = -(np.array([0, 0, 1.0]) - toward[2] * toward)
    down /= np.linalg.norm(down)
    camera = np.eye(4)
    camera[:3, :3] = np.stack([np.cross(down, toward), down, toward], axis=1)
    camera[:3, 3] = isocentre - DISTANCE_MM * toward
    return camera


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """An original CT, the same CT mirrored, and the true camera."""
    folder = tmp_path_factory.mktemp("carm")
    ct = helpers.small_ct()
    nifti.save(folder / "left.nii.gz", ct)
    nifti.save(
        folder / "right.nii.gz",
        Volume(
            ct.data,
            geometry.MIRROR @ ct.affine,
            ct.lineage.then("crop_cts", {}, geometry.MIRROR, side="right"),
        ),
    )
    return folder, ct, camera_from_source(ct.isocentre_mm, LAO_DEG, CRA_DEG)


def write_xray(path, ct, camera, seen_from_detector, **tags):
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
    )
    image = renderer.render(camera[None], DETECTOR)[0]
    image = (
        3000 + image / image.max() * 50_000 + np.random.default_rng(0).normal(0, 300, image.shape)
    )
    angles = {
        "PositionerPrimaryAngle": str(LAO_DEG - 4),
        "PositionerSecondaryAngle": str(CRA_DEG + 3),
        "DistanceSourceToPatient": str(DISTANCE_MM + 12),
    }
    image = image[:, ::-1] if seen_from_detector else image
    frames = tags.get("NumberOfFrames", 1)
    return dicom(path, np.stack([image] * frames) if frames > 1 else image, **TAGS | angles | tags)


@pytest.mark.parametrize(
    ("volume", "seen_from_detector", "tags"),
    [
        ("left.nii.gz", True, {}),
        ("right.nii.gz", True, {"PatientOrientation": ["L", "F"]}),
        ("left.nii.gz", False, {"PatientOrientation": ["R", "F"]}),
    ],
)
@pytest.mark.slow
def test_the_header_alone_starts_a_registration_that_finds_the_source(
    patient, tmp_path, volume, seen_from_detector, tags
):
    folder, ct, truth = patient
    xray = write_xray(tmp_path / "xa.dcm", ct, truth, seen_from_detector, **tags)
    assert (
        registration.main(
            [str(xray), "-v", str(folder / volume), "-o", str(tmp_path / "out"), "--init", "dicom"]
        )
        == 0
    )
    result = parameters_file.load(tmp_path / "out" / "parameters.pt")
    view = result.scanner_pose[0]
    on_disk = truth @ geometry.MIRROR if seen_from_detector else truth
    points = geometry.apply(
        np.array(result.drr["scanner_from_volume"]), np.array(result.drr["points_mm"])
    )
    error = geometry.pose_error(view.camera, on_disk, points, DETECTOR)
    assert error.in_plane_mm < 0.2
    assert error.depth_mm < 4
    start = view.camera_init[:3, 2]
    assert np.degrees(np.arccos(start @ receptor_direction(LAO_DEG - 4, CRA_DEG + 3))) < 0.01


def test_angles_of_zero_put_the_receptor_before_the_chest_and_the_source_behind_it(tmp_path):
    path = dicom(
        tmp_path / "x.dcm",
        np.ones((20, 20)),
        PositionerPrimaryAngle="0",
        PositionerSecondaryAngle="0",
        DistanceSourceToPatient="700",
    )
    camera, from_detector = positioner.positioner_camera(path)
    np.testing.assert_allclose(camera[:3, 3], [0, -700, 0], atol=1e-9)
    np.testing.assert_allclose(
        camera[:3, :3], np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), atol=1e-9
    )
    assert from_detector


@pytest.mark.parametrize(
    "moved",
    [
        {"PositionerMotion": "DYNAMIC"},
        {"PositionerPrimaryAngleIncrement": ["0", "2.5"]},  # of one frame
        {"PositionerSecondaryAngleIncrement": "1"},
        {"PositionerPrimaryAngleIncrement": ["0", "2.5", "1"], "NumberOfFrames": 3},
        {"PositionerPrimaryAngleIncrement": ["0", "2.5"], "NumberOfFrames": 3},
    ],
)
def test_a_c_arm_that_moved_during_the_run_is_refused(patient, tmp_path, capsys, moved):
    folder, ct, truth = patient
    xray = write_xray(tmp_path / "xa.dcm", ct, truth, True, **moved)
    words = [xray, "-v", folder / "left.nii.gz", "-o", tmp_path / "out", "--init", "dicom"]
    words += ["--frame", 1] if "NumberOfFrames" in moved else []
    assert registration.main([str(word) for word in words]) == script.EXIT_BAD_INPUT
    assert "the C-arm moved during the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("increments", "turned"),
    [
        (["0", "10", "20", "30"], [0, 10, 20, 30]),  # from the first frame
        (["0", "9.9", "20.2", "29.9"], [0, 9.9, 20.2, 29.9]),
        (["10", "20", "30", "40"], [0, 10, 20, 30]),
        (["0", "10", "10", "10"], [0, 10, 20, 30]),  # from the frame before
        (["0", "-9.9", "-10.2", "-9.9"], [0, -9.9, -20.1, -30]),
        ("10", [0, 10, 20, 30]),  # one step for all
        (["0", "0", "0", "0"], [0, 0, 0, 0]),
    ],
)
def test_each_frame_of_a_turning_c_arm_starts_from_its_own_angle(tmp_path, increments, turned):
    frames = np.stack([np.random.default_rng(0).integers(0, 9000, (40, 40), np.uint16)] * 4)
    about = dict(TAGS, PositionerSecondaryAngle="5", DistanceSourceToPatient=str(DISTANCE_MM))
    path = dicom(
        tmp_path / "run.dcm",
        frames,
        PositionerPrimaryAngle="-20",
        PositionerPrimaryAngleIncrement=increments,
        **about,
    )
    for frame, angle in enumerate(turned):
        one = dicom(
            tmp_path / "one.dcm", frames[0], PositionerPrimaryAngle=f"{angle - 20:.6g}", **about
        )
        expected, _ = positioner.positioner_camera(one)
        found, _ = positioner.positioner_camera(path, frame)
        np.testing.assert_allclose(found, expected, atol=1e-9)
