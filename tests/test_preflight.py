"""The preflight check: mistakes are found with their remedy; a consistent setup has no finding."""

from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from PIL import Image

import registration
from common import files, geometry
from common.command_line import log, script
from common.drr import joseph
from common.geometry import Detector
from common.registration import preflight
from common.volume import attenuation, nifti
from common.volume.lineage import Lineage
from common.xray import xray as xray_module
from common.xray.xray import Xray

DETECTOR = Detector(150, 140, 900.0, (1.2, 1.2), (75.0, 70.0))
# extrinsics near the centre of the image
CENTRAL = geometry.pose_from_angles([5.0, -4, 3], [2, 620, -3])


class Blank:
    """A renderer of nothing, for checks of geometry alone."""

    centre_mm = np.zeros(3)

    def render(self, cameras, detector):
        return np.zeros((len(cameras), detector.height, detector.width), np.float32)


def examine(detector=DETECTOR, camera=None, **reading):
    about = {"geometry": "settings", "bone": "bright", "decided_by": "stated polarity"}
    xray = empty_xray(detector, {**about, **reading})
    points = np.random.default_rng(0).uniform(-30, 30, (200, 3))
    return examine_xray(xray, points, camera=camera)


def empty_xray(detector=DETECTOR, reading=None):
    image = np.zeros((detector.height, detector.width), np.float32)
    return Xray(image, np.ones(image.shape, bool), detector, Path("x.png"), reading=reading or {})


def examine_xray(xray, points, fit=None, camera=None):
    camera = geometry.camera_from_pose(CENTRAL) if camera is None else camera
    return preflight.examine(xray, Blank(), points, camera, Lineage(), fit)


def test_a_consistent_geometry_has_no_finding_and_its_numbers_are_in_the_table():
    report = examine()
    assert report.findings == []
    rows = dict(report.rows)
    depth = geometry.apply(geometry.invert(geometry.camera_from_pose(CENTRAL)), np.zeros(3))[2]
    assert rows["magnification"] == f"{900 / depth:.3f}"
    assert (
        rows["field at the isocentre"]
        == f"{140 * 1.2 * depth / 900:.0f} x {150 * 1.2 * depth / 900:.0f} mm"
    )
    assert rows["bone in view"] == "100 %"
    assert "nothing to change" in preflight.table([report])
    assert not preflight.impossible([report])


@pytest.mark.parametrize(
    ("detector", "what"),
    [
        (replace(DETECTOR, sdd_mm=4000.0), "SDD 4000 mm"),
        (replace(DETECTOR, pixel_mm=(0.01, 0.01)), "pixels of 0.01 x 0.01 mm"),
        (replace(DETECTOR, pixel_mm=(0.2, 0.2)), "the detector measures 28 x 30 mm"),
        (replace(DETECTOR, pixel_mm=(1.2, 0.9)), "1.33 times as wide as high"),
        (replace(DETECTOR, principal_px=(400.0, 70.0)), "principal point (400, 70) lies outside"),
    ],
)
def test_an_implausible_detector_is_likely_a_mistake(detector, what):
    findings = [finding for finding in examine(detector).findings if what in finding.what]
    assert [finding.severity for finding in findings] == ["likely"]
    assert "`" in findings[0].change


@pytest.mark.parametrize(
    ("detector", "camera", "what"),
    [
        (replace(DETECTOR, sdd_mm=600.0), None, "the detector only 600 mm"),
        (
            DETECTOR,
            geometry.camera_from_pose(CENTRAL) @ np.diag([1.0, -1, -1, 1]),
            "behind the source",
        ),
        (
            DETECTOR,
            geometry.translation([400, 0, 0]) @ geometry.camera_from_pose(CENTRAL),
            "nothing of the bone is inside",
        ),
    ],
)
def test_a_bone_that_cannot_be_seen_makes_registration_impossible(detector, camera, what):
    report = examine(detector, camera)
    assert any(
        what in finding.what and finding.severity == "impossible" for finding in report.findings
    )
    assert preflight.impossible([report])


def test_a_contradiction_of_the_header_is_reported_with_its_remedy():
    found = "`sdd` 900 mm overrules DistanceSourceToDetector 1020 mm"
    change = "leave it out or correct the header"
    (finding,) = examine(findings=[f"{found}; {change}"]).findings
    assert (finding.what, finding.change) == (found, change)


@pytest.mark.parametrize(
    ("stated", "found"), [(["L", "F"], 0), (["R", "F"], 1), (["L", "H"], 1), (["A", "F"], 0)]
)
def test_a_patient_orientation_opposite_to_the_start_pose_is_found(stated, found):
    """In an antero-posterior view, columns run to the patient's left and rows to the foot."""
    findings = examine(patient_orientation=stated).findings
    assert len([each for each in findings if "PatientOrientation" in each.what]) == found


@pytest.mark.parametrize(("stated", "found"), [(620, 0), (560, 0), (900, 1), (400, 1)])
def test_a_distance_to_the_patient_far_from_that_of_the_start_pose_is_found(stated, found):
    findings = examine(source_to_patient_mm=stated).findings
    assert len([each for each in findings if "DistanceSourceToPatient" in each.what]) == found


def test_a_guessed_polarity_is_mentioned():
    (finding,) = examine(decided_by="guess from centre and border").findings
    assert "guessed to be bright" in finding.what


def test_a_report_is_worded_for_a_command_line():
    report = examine(replace(DETECTOR, sdd_mm=4000.0))
    worded = report.worded(lambda text: log.with_flags(text, frozenset({"sdd"})))
    assert report.findings[0].change == "correct `sdd` or the header; is it in centimetres?"
    assert worded.findings[0].change == "correct --sdd or the header; is it in centimetres?"
    assert worded.rows == report.rows


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotated_x_ray_has_its_landmarks_at_their_rotated_positions(quarters):
    detector = Detector(40, 60, 900.0, (1.0, 1.5), (20.0, 13.0))
    image = np.zeros((40, 60), np.float32)
    image[11, 37] = 1
    turned = xray_module.turned(Xray(image, image == 0, detector, Path("x.png")), quarters)
    row, column = np.argwhere(turned.image)[0]
    before = (np.array([37.0, 11]) - detector.principal_px) * detector.pixel_mm
    after = np.array([column, row]) - turned.detector.principal_px
    roll = geometry.rotation_matrix(np.array([0, 0, -np.pi / 2 * quarters]))
    expected = roll @ [*before, detector.sdd_mm]
    np.testing.assert_allclose(after * turned.detector.pixel_mm, expected[:2], atol=1e-9)


def test_orientations_are_tried_only_until_the_x_ray_fits():
    def tried(fit):
        xray = empty_xray(Detector.centred(40, 60, 900, 1))
        return list(preflight.orientation_fits(xray, fit))

    assert tried(lambda xray: 0.9) == [preflight.AS_IT_IS]
    assert len(tried(lambda xray: 0.2)) == 10
    mirrored = tried(lambda xray: 0.9 if xray.flipped else 0.2)
    assert mirrored == [preflight.AS_IT_IS, "inverted", "mirrored"]


@pytest.mark.parametrize(
    ("right", "change"),
    [
        (lambda xray: xray.flipped, "set `flip` to yes, or check `side`"),
        (
            lambda xray: xray.image.shape == (140, 150) and xray.image[-1, 0] == 1,
            "rotate the file by 90 degrees anticlockwise, with its principal point;"
            " no setting does",
        ),
        (
            lambda xray: xray.image[0, 0] == 0 and xray.image[-1, -1] > 0.4,
            "give `bone` with the other value",
        ),
    ],
    ids=["mirrored", "rotated", "inverted"],
)
def test_a_wrong_orientation_is_found_with_its_remedy(right, change):
    image = np.zeros((DETECTOR.height, DETECTOR.width), np.float32)
    image[:40] = 0.5
    image[0, 0] = 1  # rotated anticlockwise, this corner is at the lower left
    xray = Xray(image, np.ones(image.shape, bool), DETECTOR, Path("x.png"), reading={})
    report = examine_xray(xray, np.zeros((1, 3)), lambda other: 0.9 if right(other) else 0.3)
    assert change in [finding.change for finding in report.findings]


def test_an_x_ray_that_fits_in_no_orientation_is_a_note_about_bone_and_range():
    (finding,) = examine_xray(empty_xray(), np.zeros((1, 3)), lambda xray: 0.3).findings
    assert (finding.severity, "pose range" in finding.change) == ("note", True)


def test_orientation_is_not_checked_while_the_geometry_is_wrong():
    """With a quarter of the true pixel spacing, the image is a corner of the bone."""
    xray = empty_xray(replace(DETECTOR, pixel_mm=(0.3, 0.3)))
    points = np.random.default_rng(0).uniform(-30, 30, (200, 3))
    report = examine_xray(xray, points, lambda other: 0.2 if other is xray else 0.9)
    assert report.fits == {}
    # size of the detector, share in view
    assert [finding.severity for finding in report.findings] == ["likely", "likely"]


# ------------------------------------------------------------------------- registration.py --check


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    ct = helpers.small_ct(2.5)
    nifti.save(folder / "ct.nii.gz", ct)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(CENTRAL)
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
    )
    image = renderer.render(camera[None], DETECTOR)[0]
    Image.fromarray((image / image.max() * 250).round().astype(np.uint8)).save(folder / "xray.png")
    files.write_json(folder / "start.json", {"camera": camera.tolist()})
    return folder


def check(
    folder,
    out,
    *more,
    geometry_flags=("--sdd", "900", "--pixel_spacing", "1.2", "--principal_point", "75", "70"),
):
    fixed = ["--init", "fixed", "--init_pose", str(folder / "start.json")]
    return registration.main(
        [
            str(folder / "xray.png"),
            "-v",
            str(folder / "ct.nii.gz"),
            "-o",
            str(out),
            "--check",
            *geometry_flags,
            *fixed,
            *more,
        ]
    )


def test_a_consistent_setup_writes_one_image_and_prints_a_table(patient, tmp_path, capsys):
    assert check(patient, tmp_path / "out", "--bone", "bright") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["check.png"]
    assert np.asarray(Image.open(tmp_path / "out" / "check.png")).ndim == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "out" / "check.png")
    assert "nothing to change" in lines


@pytest.mark.slow
def test_an_inverted_x_ray_is_found(patient, tmp_path, capsys):
    assert check(patient, tmp_path, "--bone", "dark") == 0
    assert "LIKELY: the X-ray fits when inverted" in (out := capsys.readouterr().out)
    assert "Give --bone with the other value." in out


def test_a_detector_before_the_bone_is_impossible(patient, tmp_path, capsys):
    near = ("--sdd", "260", "--pixel_spacing", "0.35")
    code = check(patient, tmp_path, "--bone", "bright", geometry_flags=near)
    assert code == script.EXIT_BAD_INPUT
    out = capsys.readouterr().out
    assert "IMPOSSIBLE: the isocentre is" in out
    assert "is it in centimetres?" in out


def test_the_check_does_not_change_earlier_results(patient, tmp_path):
    (tmp_path / "parameters.pt").write_text("mine")
    assert check(patient, tmp_path, "--bone", "bright") == 0
    assert (tmp_path / "parameters.pt").read_text() == "mine"


def test_each_of_several_x_rays_is_checked_into_its_own_folder(patient, tmp_path, capsys):
    """The geometry of the second one is impossible, which gives the exit code."""
    image = np.asarray(Image.open(patient / "xray.png"))
    for name, sdd in (("a", 900), ("b", 260)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        files.write_json(
            tmp_path / f"{name}.json",
            {"sdd_mm": sdd, "pixel_spacing_mm": [1.2, 1.2], "principal_point_px": [75, 70]},
        )
    fixed = ["--init", "fixed", "--init_pose", str(patient / "start.json"), "--bone", "bright"]
    assert (
        registration.main(
            [
                str(tmp_path / "a.png"),
                str(tmp_path / "b.png"),
                "-v",
                str(patient / "ct.nii.gz"),
                "-o",
                str(tmp_path / "out"),
                "--check",
                *fixed,
            ]
        )
        == script.EXIT_BAD_INPUT
    )
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("check.png")) == ["a", "b"]
    assert "nothing to change" in capsys.readouterr().out
