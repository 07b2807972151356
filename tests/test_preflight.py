"""The check before slow work: every planted mistake is found, says what to change, and a sound set-up has nothing to change."""

from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from PIL import Image

import registration
from common import files, geometry
from common.command_line import script
from common.drr import joseph
from common.geometry import Detector
from common.registration import preflight
from common.volume import attenuation, nifti
from common.xray import xray as xray_module
from common.xray.xray import Xray

DETECTOR = Detector(150, 140, 900.0, (1.2, 1.2), (75.0, 70.0))
MIDDLE = geometry.pose_from_angles([5.0, -4, 3], [2, 620, -3])


class Blank:
    """A renderer that shows nothing: geometry alone is judged."""

    centre_mm = np.zeros(3)

    def render(self, cameras, detector):
        return np.zeros((len(cameras), detector.height, detector.width), np.float32)


def examine(detector=DETECTOR, camera=None, **reading):
    image = np.zeros((detector.height, detector.width), np.float32)
    xray = Xray(
        image,
        np.ones(image.shape, bool),
        detector,
        Path("x.png"),
        reading={"geometry": "flags", "bone": "bright", "decided_by": "--bone", **reading},
    )
    points = np.random.default_rng(0).uniform(-30, 30, (200, 3))
    return preflight.examine(
        xray,
        Blank(),
        points,
        geometry.camera_from_pose(MIDDLE) if camera is None else camera,
        np.eye(4),
    )


def test_a_sound_geometry_has_nothing_to_change_and_its_numbers_in_the_table():
    report = examine()
    assert report.findings == []
    rows = dict(report.rows)
    depth = geometry.apply(geometry.invert(geometry.camera_from_pose(MIDDLE)), np.zeros(3))[2]
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
def test_implausible_geometry_is_likely_a_mistake(detector, what):
    findings = [finding for finding in examine(detector).findings if what in finding.what]
    assert [finding.severity for finding in findings] == ["likely"]
    assert "--" in findings[0].change


@pytest.mark.parametrize(
    ("detector", "camera", "what"),
    [
        (replace(DETECTOR, sdd_mm=600.0), None, "the detector only 600 mm"),
        (
            DETECTOR,
            geometry.camera_from_pose(MIDDLE) @ np.diag([1.0, -1, -1, 1]),
            "behind the source",
        ),
        (
            DETECTOR,
            geometry.translation([400, 0, 0]) @ geometry.camera_from_pose(MIDDLE),
            "nothing of the bone is inside",
        ),
    ],
)
def test_what_cannot_work_is_impossible(detector, camera, what):
    report = examine(detector, camera)
    assert any(
        what in finding.what and finding.severity == "impossible" for finding in report.findings
    )
    assert preflight.impossible([report])


def test_what_the_header_contradicts_is_passed_on_with_its_remedy():
    (finding,) = examine(
        findings=[
            "--sdd 900 mm overrules DistanceSourceToDetector 1020 mm; drop the flag or correct the"
            " header"
        ]
    ).findings
    assert finding.what.endswith("1020 mm")
    assert finding.change == "drop the flag or correct the header"


@pytest.mark.parametrize(
    ("stated", "found"), [(["L", "F"], 0), (["R", "F"], 1), (["L", "H"], 1), (["A", "F"], 0)]
)
def test_a_patient_orientation_against_the_start_pose_is_found(stated, found):
    """An antero-posterior view: columns run to the patient's left, rows to the foot."""
    assert (
        len(
            [
                f
                for f in examine(patient_orientation=stated).findings
                if "PatientOrientation" in f.what
            ]
        )
        == found
    )


@pytest.mark.parametrize(("stated", "found"), [(620, 0), (560, 0), (900, 1), (400, 1)])
def test_a_headers_distance_to_the_patient_far_from_the_start_pose_is_found(stated, found):
    findings = [
        f
        for f in examine(source_to_patient_mm=stated).findings
        if "DistanceSourceToPatient" in f.what
    ]
    assert len(findings) == found


def test_a_guessed_polarity_is_mentioned():
    assert (
        "guessed to be bright"
        in examine(decided_by="guess from centre and border").findings[0].what
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_picture_has_its_landmarks_where_they_turned_to(quarters):
    detector = Detector(40, 60, 900.0, (1.0, 1.5), (20.0, 13.0))
    camera = geometry.camera_from_pose(MIDDLE)
    image = np.zeros((40, 60), np.float32)
    image[11, 37] = 1
    turned = xray_module.turned(Xray(image, image == 0, detector, Path("x.png")), quarters)
    (row, column), expected = (
        np.argwhere(turned.image)[0],
        (np.array([37.0, 11]) - detector.principal_px) * detector.pixel_mm,
    )
    rolled = geometry.rotation_matrix(np.array([0, 0, -np.pi / 2 * quarters])) @ [
        *expected,
        detector.sdd_mm,
    ]
    np.testing.assert_allclose(
        (np.array([column, row]) - turned.detector.principal_px) * turned.detector.pixel_mm,
        rolled[:2],
        atol=1e-9,
    )
    assert camera.shape == (4, 4)


def test_orientations_are_tried_only_where_the_picture_does_not_fit():
    xray = Xray(
        np.zeros((40, 60), np.float32),
        np.ones((40, 60), bool),
        Detector.centred(40, 60, 900, 1),
        Path("x.png"),
    )
    assert list(preflight.orientation_fits(xray, lambda picture: 0.9)) == [preflight.AS_IT_IS]
    assert len(preflight.orientation_fits(xray, lambda picture: 0.2)) == 10
    assert list(
        preflight.orientation_fits(xray, lambda picture: 0.9 if picture.flipped else 0.2)
    ) == [preflight.AS_IT_IS, "inverted", "mirrored"]


@pytest.mark.parametrize(
    ("right", "change"),
    [
        (lambda picture: picture.flipped, "give --flip yes, or check --side"),
        (
            lambda picture: picture.image.shape == (140, 150) and picture.image[-1, 0] == 1,
            (
                "turn the file itself by 90 degrees anticlockwise, and its principal point; no flag"
                " does"
            ),
        ),
        (
            lambda picture: picture.image[0, 0] == 0 and picture.image[-1, -1] > 0.4,
            "give --bone with the other value",
        ),
    ],
    ids=["mirrored", "turned", "inverted"],
)
def test_a_picture_the_wrong_way_round_is_told_what_to_change(right, change):
    image = np.zeros((DETECTOR.height, DETECTOR.width), np.float32)
    image[:40] = 0.5
    image[0, 0] = 1  # turned anticlockwise this corner is at the lower left
    xray = Xray(image, np.ones(image.shape, bool), DETECTOR, Path("x.png"), reading={})
    camera = geometry.camera_from_pose(MIDDLE)
    report = preflight.examine(
        xray,
        Blank(),
        np.zeros((1, 3)),
        camera,
        np.eye(4),
        lambda picture: 0.9 if right(picture) else 0.3,
    )
    assert change in [finding.change for finding in report.findings]


def test_a_picture_that_fits_in_no_way_is_a_note_about_bone_and_range():
    xray = Xray(
        np.zeros((150, 140), np.float32),
        np.ones((150, 140), bool),
        DETECTOR,
        Path("x.png"),
        reading={},
    )
    (finding,) = preflight.examine(
        xray,
        Blank(),
        np.zeros((1, 3)),
        geometry.camera_from_pose(MIDDLE),
        np.eye(4),
        lambda picture: 0.3,
    ).findings
    assert (finding.severity, "pose range" in finding.change) == ("note", True)


def test_orientation_is_not_judged_on_a_geometry_that_has_to_be_corrected_first():
    """A quarter of the right pixel size shows a corner of the bone, which fits many things."""
    detector = replace(DETECTOR, pixel_mm=(0.3, 0.3))
    xray = Xray(
        np.zeros((150, 140), np.float32),
        np.ones((150, 140), bool),
        detector,
        Path("x.png"),
        reading={},
    )
    points = np.random.default_rng(0).uniform(-30, 30, (200, 3))
    report = preflight.examine(
        xray,
        Blank(),
        points,
        geometry.camera_from_pose(MIDDLE),
        np.eye(4),
        lambda picture: 0.2 if picture is xray else 0.9,
    )
    assert report.fits == {}
    assert [finding.severity for finding in report.findings] == [
        "likely",
        "likely",
    ]  # size of the detector, bone in view


# --------------------------------------------------------------------------------------- registration.py --check


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    ct = helpers.small_ct(2.5)
    nifti.save(folder / "ct.nii.gz", ct)
    camera = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(MIDDLE)
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


def test_a_sound_set_up_writes_one_picture_and_a_table(patient, tmp_path, capsys):
    assert check(patient, tmp_path / "out", "--bone", "bright") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["check.png"]
    assert np.asarray(Image.open(tmp_path / "out" / "check.png")).ndim == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "out" / "check.png")
    assert "nothing to change" in lines


def test_an_inverted_picture_is_found(patient, tmp_path, capsys):
    assert check(patient, tmp_path, "--bone", "dark") == 0
    assert "LIKELY: the picture fits inverted" in capsys.readouterr().out


def test_a_distance_in_centimetres_is_impossible(patient, tmp_path, capsys):
    assert (
        check(
            patient,
            tmp_path,
            "--bone",
            "bright",
            geometry_flags=("--sdd", "90", "--pixel_spacing", "0.12"),
        )
        == script.EXIT_BAD_INPUT
    )
    out = capsys.readouterr().out
    assert "IMPOSSIBLE: the isocentre is" in out
    assert "is it in centimetres?" in out


def test_check_leaves_earlier_results_alone(patient, tmp_path):
    (tmp_path / "parameters.pt").write_text("mine")
    assert check(patient, tmp_path, "--bone", "bright") == 0
    assert (tmp_path / "parameters.pt").read_text() == "mine"


def test_each_of_several_pictures_is_checked_into_a_folder_of_its_own(patient, tmp_path, capsys):
    """The second one, whose geometry cannot be, gives the exit code."""
    picture = np.asarray(Image.open(patient / "xray.png"))
    for name, sdd in (("a", 900), ("b", 90)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
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
