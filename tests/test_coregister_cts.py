"""Step 3: landmarks of a cohort coincide, nothing is cut off, failures are reported.

The alignment itself is tested in test_alignment.py.
"""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

import coregister_cts
import crop_cts
import segmentation_preprocessing
from common.geometry import MIRROR, RAS_FROM_LPS, apply, invert, rotation_matrix, twist
from common.volume import itk, nifti
from common.volume.alignment import Alignment
from common.volume.lineage import Lineage
from common.volume.volume import Volume, same_grid


def test_the_new_grid_covers_every_voxel_of_the_ct_at_its_own_spacing(femur):
    ct, _ = femur
    motion = twist(np.array([0.4, -0.3, 0.9, 5, -60, 20]), ct.isocentre_mm)
    reference_affine = np.eye(4)
    reference_affine[:3, :3] = rotation_matrix([0.1, 0.2, 0.3]) @ np.diag([1.0, -1, 1])
    shape, affine = coregister_cts.covering_grid(ct, reference_affine, motion)
    corners = np.array(
        [
            [i, j, k]
            for i in (0, ct.shape[0] - 1)
            for j in (0, ct.shape[1] - 1)
            for k in (0, ct.shape[2] - 1)
        ]
    )
    index = apply(invert(affine) @ invert(motion) @ ct.affine, corners)
    assert index.min() > -1e-6
    assert (index <= np.array(shape) - 1 + 2e-3).all()
    np.testing.assert_allclose(
        affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0),
        reference_affine[:3, :3],
        atol=1e-12,
    )
    assert sorted(np.linalg.norm(affine[:3, :3], axis=0)) == pytest.approx(sorted(ct.spacing_mm))


def test_voxel_spacing_follows_the_axes_of_the_ct():
    """Sagittal slices 3 mm thick, aligned with an axial reference, stay 3 mm thick."""
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = 3, -0.5, -0.7, 1
    scan = Volume(np.zeros((30, 20, 10), np.int16), affine, Lineage())
    shape, grid = coregister_cts.covering_grid(scan, np.diag([-1.0, -1, 1, 1]), np.eye(4))
    np.testing.assert_allclose(grid[:3, :3], np.diag([-3, -0.5, 0.7]), atol=1e-12)
    assert shape == (10, 30, 20)


@pytest.fixture(scope="module")
def aligned(cohort, tmp_path_factory):
    """The cohort's left and mirrored right tibiae after the command.

    (exit code, input folder, output folder, landmarks in the scanner by name)
    """
    root = tmp_path_factory.mktemp("coregister")
    truths = {}
    for folder, name, truth in cohort:
        ct, seg = (
            nifti.load_ct(folder / f"{name}_ct.nii.gz"),
            nifti.load_labelmap(folder / "segmentations" / f"{name}_seg.nii.gz"),
        )
        segmentation_preprocessing.keep_largest_components(seg.data)
        for side, label, ending in (("left", 2, ""), ("right", 1, "_mirrored")):
            for kind, volume in zip(
                ("cts", "masks"), crop_cts.crop_bone(ct, seg, label, 6.0), strict=True
            ):
                moved = crop_cts.mirror(volume) if side == "right" else volume
                lineage = volume.lineage.then("crop_cts", {}, MIRROR if side == "right" else None)
                path = root / f"tibia_{kind}_cropped" / f"{name}_tibia{ending}.nii.gz"
                path.parent.mkdir(exist_ok=True)
                nifti.save(path, Volume(np.ascontiguousarray(moved.data), moved.affine, lineage))
            truths[f"{name}_tibia{ending}"] = np.array(
                list(truth["landmarks"][f"tibia {side}"].values())
            )
    source, out = root / "tibia_cts_cropped", root / "tibia_cts_aligned"
    code = coregister_cts.main(
        [
            "--input_dir",
            str(source),
            "--output_dir",
            str(out),
            "--reference_file",
            str(source / "P01_tibia.nii.gz"),
        ]
    )
    return code, source, out, truths


def in_volume(path, scanner_points):
    volume = nifti.load_ct(path)
    return apply(invert(volume.lineage.scanner_from_volume), scanner_points)


@pytest.mark.slow
def test_landmarks_of_a_cohort_coincide(aligned):
    """The rest is the difference of the shapes, up to 15 % in size; before: 4 to 25 mm."""
    code, source, out, truths = aligned
    assert code == 0
    reference = in_volume(out / "P01_tibia.nii.gz", truths["P01_tibia"])
    for name, points in truths.items():
        after = np.linalg.norm(in_volume(out / f"{name}.nii.gz", points) - reference, axis=1).mean()
        assert after < 4.0, name
    same_patient = np.linalg.norm(
        in_volume(out / "P01_tibia_mirrored.nii.gz", truths["P01_tibia_mirrored"]) - reference,
        axis=1,
    ).mean()
    assert same_patient < 0.3
    assert (
        np.linalg.norm(
            in_volume(source / "P01_tibia_mirrored.nii.gz", truths["P01_tibia_mirrored"])
            - reference,
            axis=1,
        ).mean()
        > 4
    )


@pytest.mark.slow
def test_the_reference_is_unchanged(aligned):
    _, source, out, _ = aligned
    before, after = (nifti.load_ct(folder / "P01_tibia.nii.gz") for folder in (source, out))
    np.testing.assert_array_equal(before.data, after.data)
    assert same_grid(before, after)
    np.testing.assert_array_equal(
        before.lineage.scanner_from_volume, after.lineage.scanner_from_volume
    )


@pytest.mark.slow
def test_labelmaps_follow_their_ct(aligned):
    _, _, out, truths = aligned
    for name, points in truths.items():
        mask = nifti.load_labelmap(out.with_name("tibia_masks_aligned") / f"{name}.nii.gz")
        assert same_grid(mask, nifti.load_ct(out / f"{name}.nii.gz"))
        index = np.rint(
            apply(invert(mask.lineage.scanner_from_volume @ mask.affine), points)
        ).astype(int)
        assert (mask.data[tuple(index.T)] > 0).mean() > 0.8


@pytest.mark.slow
def test_the_whole_bone_is_kept(aligned):
    _, source, out, truths = aligned
    for name in truths:
        before = nifti.load_labelmap(source.with_name("tibia_masks_cropped") / f"{name}.nii.gz")
        after = nifti.load_labelmap(out.with_name("tibia_masks_aligned") / f"{name}.nii.gz")
        volume_mm3 = [
            (v.data > 0).sum() * abs(np.linalg.det(v.affine[:3, :3])) for v in (before, after)
        ]
        assert volume_mm3[1] == pytest.approx(volume_mm3[0], rel=0.03)


@pytest.mark.slow
def test_the_tfm_maps_points_of_the_reference_to_the_ct_in_lps(aligned):
    """It is that of the lineage, so that resampling with it in ITK gives the aligned CT."""
    _, source, out, _ = aligned
    transform = sitk.ReadTransform(str(out / "P02_tibia.tfm"))
    before, after = (
        nifti.load_ct(source / "P02_tibia.nii.gz"),
        nifti.load_ct(out / "P02_tibia.nii.gz"),
    )
    point = np.array([11.0, -23, 37])
    there = RAS_FROM_LPS[:3, :3] @ transform.TransformPoint((RAS_FROM_LPS[:3, :3] @ point).tolist())
    np.testing.assert_allclose(
        apply(before.lineage.scanner_from_volume, there),
        apply(after.lineage.scanner_from_volume, point),
        atol=1e-6,
    )
    resampled = sitk.Resample(
        itk.to_sitk(before), itk.to_sitk(after), transform, sitk.sitkLinear, -1000.0
    )
    assert np.abs(itk.from_sitk(resampled, after.lineage).data.astype(int) - after.data).max() <= 1


@pytest.mark.slow
def test_the_table_has_a_row_per_ct(aligned):
    _, _, out, truths = aligned
    rows = list(csv.DictReader((out / "coregistration.csv").read_text().splitlines()))
    assert [row["scan"] for row in rows] == [f"{name}.nii.gz" for name in sorted(truths)]
    assert all(row["converged"] == "True" and float(row["correlation"]) > 0.9 for row in rows)
    settings = json.loads((out / "P03_tibia.json").read_text())["history"][-1]["settings"]
    assert settings["reference"]["name"] == "P01_tibia.nii.gz"
    assert settings["converged"] is True


def write_scan(path, data, spacing=3.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.save(
        path,
        Volume(
            data.astype(np.int16),
            np.diag([spacing] * 3 + [1]),
            Lineage(source={"name": path.name, "sha256": ""}),
        ),
    )


@pytest.mark.slow
def test_a_ct_that_does_not_converge_is_written_marked_and_sets_the_exit_code(
    femur, tmp_path, capsys
):
    ball = np.linalg.norm(np.stack(np.indices((30, 30, 30)), -1) - 14.5, axis=-1)
    nifti.save(tmp_path / "A.nii.gz", femur[0])
    write_scan(tmp_path / "B.nii.gz", np.where(ball < 9, 700, -20))
    out = tmp_path / "out"
    assert (
        coregister_cts.main(
            ["--input_dir", str(tmp_path), "--output_dir", str(out), "--reference_file", "A.nii.gz"]
        )
        == 3
    )
    captured = capsys.readouterr()
    assert "B.nii.gz" in captured.err
    assert "did not converge" in captured.err
    assert json.loads((out / "B.json").read_text())["history"][-1]["settings"]["converged"] is False
    assert (out / "B.tfm").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "no folder",
        "empty folder",
        "no reference",
        "no bone",
        "output is input",
        "mask of another grid",
    ],
)
def test_invalid_input_is_an_error_of_one_line(femur, tmp_path, capsys, wrong):
    folder, out = tmp_path / "a_cts", tmp_path / "out"
    folder.mkdir()
    nifti.save(folder / "A.nii.gz", femur[0])
    reference = "A.nii.gz"
    if wrong == "no folder":
        folder = tmp_path / "missing"
    elif wrong == "empty folder":
        folder = tmp_path / "empty"
        folder.mkdir()
    elif wrong == "no reference":
        reference = "missing.nii.gz"
    elif wrong == "no bone":
        write_scan(folder / "B.nii.gz", np.full((8, 8, 8), -50))
    elif wrong == "output is input":
        out = folder
    else:
        write_scan(tmp_path / "a_masks" / "A.nii.gz", np.ones((8, 8, 8)))
    assert (
        coregister_cts.main(
            [
                "--input_dir",
                str(folder),
                "--output_dir",
                str(out),
                "--reference_file",
                reference,
                "--quiet",
            ]
        )
        == 2
    )
    message = capsys.readouterr().err.strip()
    assert message.startswith("coregister_cts.py: ")
    assert "\n" not in message


def scans(table):
    return [row["scan"] for row in csv.DictReader(table.read_text().splitlines())]


def test_runs_for_several_patients_share_one_table(tmp_path, capsys):
    ball = np.where(
        np.linalg.norm(np.stack(np.indices((30, 30, 30)), -1) - 14.5, axis=-1) < 9, 700, -20
    )
    out, reference = tmp_path / "out", tmp_path / "P01" / "A.nii.gz"
    table = out / "coregistration.csv"

    def align(patient, *flags):
        return coregister_cts.main(
            [
                "--input_dir",
                str(tmp_path / patient),
                "--output_dir",
                str(out),
                "--reference_file",
                str(reference),
                *flags,
            ]
        )

    for patient, scan in (("P01", "A"), ("P02", "B")):
        write_scan(tmp_path / patient / f"{scan}.nii.gz", ball)
        assert align(patient) == 0
    assert [row["scan"] for row in csv.DictReader(table.read_text().splitlines())] == [
        "A.nii.gz",
        "B.nii.gz",
    ]
    assert align("P01") == 2  # its CT exists
    assert align("P01", "--overwrite") == 0
    assert [row["scan"] for row in csv.DictReader(table.read_text().splitlines())] == [
        "B.nii.gz",
        "A.nii.gz",
    ]
    table.write_text("name,score\n")
    capsys.readouterr()
    assert align("P02", "--overwrite") == 2
    assert "has the columns name, score" in capsys.readouterr().err
    assert table.read_text() == "name,score\n"


def test_the_columns_of_the_table_are_those_of_an_alignment():
    assert ["scan", *Alignment(np.eye(4), 0.0, 1.0, 1.0, 0.0).quality()] == coregister_cts.COLUMNS
