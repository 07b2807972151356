"""The table of a cohort, unfinished stages of a registration, and the phantom cohort."""

import numpy as np
import pytest

from common.command_line import script
from common.errors import InputError
from common.geometry import Detector
from common.results import cohort, workflow_files
from common.xray import reading
from pipeline import make_cohort

HEAD = "patient,ct,segmentation,xray,side,sdd_mm\n"


def write_table(folder, text):
    for name in ("ct.nii.gz", "seg.nii.gz", "a.dcm", "b.png"):
        (folder / name).write_bytes(b"x")
    path = folder / "patients.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_of_one_patient_become_xrays_with_paths_relative_to_the_table(tmp_path):
    table = write_table(
        tmp_path,
        HEAD
        + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,1020\n"
        + "P01,ct.nii.gz,seg.nii.gz,b.png,right,\n"
        + "P02,ct.nii.gz,seg.nii.gz,,,\n",
    )
    first, second = cohort.read_table(table)
    assert [(x.view, x.side, x.sdd_mm, x.gets_header) for x in first.xrays] == [
        ("a", "left", 1020.0, True),
        ("b", "right", None, False),
    ]
    assert first.ct == tmp_path / "ct.nii.gz"
    assert second.xrays == ()


def test_a_table_from_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path):
    assert (
        cohort.read_table(
            write_table(tmp_path, "\ufeff" + HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,1020\n")
        )[0].name
        == "P01"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,ct\nP01,ct.nii.gz\n", "expected patient, ct, segmentation"),
        (HEAD.replace("side", "sied") + "P01,ct.nii.gz,seg.nii.gz,,,\n", "has the columns"),
        (HEAD, "no patients"),
        (HEAD + "P 1,ct.nii.gz,seg.nii.gz,,,\n", "line 2: patient 'P 1'"),
        (HEAD + "P01,ct.nii.gz,,,,\n", "no segmentation"),
        (HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,L,\n", "side 'L'"),
        (HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,far\n", "sdd_mm 'far'"),
        (HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,-3\n", "sdd_mm '-3'"),
        (
            HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,\nP01,ct.nii.gz,seg.nii.gz,a.dcm,left,\n",
            "two X-rays called a",
        ),
        (HEAD + "P01,ct.nii.gz,seg.nii.gz,,,\nP01,b.png,seg.nii.gz,,,\n", "another CT"),
        (HEAD + "P01,ct.nii.gz,seg.nii.gz,gone.dcm,left,\n", "1 files not found"),
    ],
)
def test_an_invalid_table_is_rejected_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        cohort.read_table(write_table(tmp_path, text))


def test_the_first_unfinished_stage_names_itself_with_the_last_line_of_its_log(tmp_path):
    xray = cohort.CohortXray(tmp_path / "a.dcm", "left")
    names = {"patient": "P01", "bone": "femur", "side": "left", "view": "a"}

    def unfinished():
        return workflow_files.unfinished_stage(tmp_path, "P01", "femur", xray)

    assert unfinished() == ("crop", "not run yet")
    for rule, stage in workflow_files.STAGES.items():
        if rule == "register":
            break
        path = tmp_path / stage.output.format(**names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ok\n")
    log = tmp_path / "logs/register/P01.log"  # of all X-rays of the patient
    log.parent.mkdir(parents=True)
    log.write_text("registration.py: a.dcm: is a cat\nregistration.py: b.dcm: is a dog\n")
    assert unfinished() == (
        "register",
        "registration.py: a.dcm: is a cat",
    )
    log.write_text("a note\nKilled\n")
    assert unfinished() == ("register", "Killed")
    (tmp_path / "patients/P01/crop.txt").write_text("failed\n")
    assert unfinished() == (
        "crop",
        "not run yet",
    )


def test_a_registration_without_training_is_finished_without_a_model(tmp_path):
    xray = cohort.CohortXray(tmp_path / "a.png", "left")
    fields = {"patient": "P01", "bone": "femur", "side": "left", "view": "a"}
    for rule, stage in workflow_files.STAGES.items():
        if rule not in workflow_files.TRAINING:
            path = tmp_path / stage.output.format(**fields)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("ok\n")
    assert workflow_files.unfinished_stage(tmp_path, "P01", "femur", xray) is None
    log = tmp_path / workflow_files.STAGES["agnostic"].log.format(**fields)
    log.parent.mkdir(parents=True)
    log.write_text("agnostic.py: no CTs\n")
    unfinished = workflow_files.unfinished_stage(tmp_path, "P01", "femur", xray)
    assert unfinished == ("agnostic", "agnostic.py: no CTs")


@pytest.mark.slow
def test_a_made_cohort_has_a_table_that_reads_back_and_xrays_that_need_its_distance(tmp_path):
    assert (
        make_cohort.main(
            [
                "-o",
                str(tmp_path),
                "--patients",
                "2",
                "--views",
                "1",
                "--spacing",
                "4",
                "--size",
                "48",
                "--quiet",
            ]
        )
        == 0
    )
    patients = cohort.read_table(tmp_path / "patients.csv")
    assert [(p.name, [x.view for x in p.xrays]) for p in patients] == [
        ("P01", ["left_1", "right_1"]),
        ("P02", ["left_1", "right_1"]),
    ]
    first = patients[0].xrays[0]
    with pytest.raises(InputError, match="no source-to-detector distance"):
        reading.read(first.path)
    flags = reading.StatedGeometry(first.sdd_mm, None, None)
    assert reading.read(first.path, flags).detector == Detector.centred(
        48, 48, 1020.0, make_cohort.FIELD_MM / 48
    )
    assert make_cohort.main(["-o", str(tmp_path), "--patients", "2"]) == script.EXIT_BAD_INPUT


def test_drawn_views_lie_in_the_default_pose_range():
    from common.geometry.pose_range import PoseRange

    low, high = PoseRange().limits
    for seed in range(20):
        angles, distance, shift = make_cohort.draw_view(np.random.default_rng(seed))
        drawn = np.array([*angles, shift[0], distance, shift[1]])
        assert ((low < drawn) & (drawn < high)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("knee.nii.gz", "P01_ct.nii.gz"),
        ("knee.NII", "P01_ct.NII"),
        ("knee.seg.nrrd", "P01_ct.nrrd"),
        ("study.zip", "P01_ct.zip"),
        ("1.2.826.0.1.77", "P01_ct"),
        ("IM0001", "P01_ct"),
        ("slices/", "P01_ct"),
        ("v2.0/", "P01_ct"),
    ],
)
def test_a_link_to_a_patients_file_keeps_the_ending_that_states_its_format(
    tmp_path, name, expected
):
    path = tmp_path / name.rstrip("/")
    path.mkdir() if name.endswith("/") else path.touch()
    assert workflow_files.link_name("P01", "ct", path) == expected
