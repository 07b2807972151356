"""CTs and labelmaps as they come: one volume has the same voxels at one place in every format."""

import shutil
import zipfile

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_cts import AFFINE, NAMES, ct, dicom_series, labels, same
from pydicom.sr.codedict import codes
from scipy.spatial.distance import cdist

import crop_cts
import segmentation_preprocessing
from common.errors import InputError
from common.geometry import apply
from common.volume import foreign, label_names, nifti
from common.volume.itk import to_sitk
from common.volume.lineage import Lineage
from common.volume.volume import Volume

# ---------------------------------------------------------------------------------------------- CTs


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha", "ct.mhd", "ct.nhdr"])
def test_nrrd_and_mha_are_the_nifti(tmp_path, name):
    sitk.WriteImage(to_sitk(ct()), tmp_path / name)
    same(nifti.load_ct(tmp_path / name, fill=False), ct())


def test_a_dicom_folder_is_sorted_and_in_hounsfield_units(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = dicom_series(tmp_path / "slices", ct(), ConvolutionKernel="B70f")
    (folder / "notes.txt").write_text("no slice")
    same(nifti.load_ct(folder, fill=False), ct())
    assert "8 slices, B70f" in caplog.text
    assert "Secret" not in caplog.text


def test_a_zip_and_one_file_of_the_series_are_the_folder(tmp_path):
    folder = dicom_series(tmp_path / "slices", ct())
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"a/../{path.name}")
    same(nifti.load_ct(tmp_path / "ct.zip", fill=False), ct())
    same(nifti.load_ct(next(folder.iterdir()), fill=False), ct())


def test_a_folder_without_a_ct_and_slices_of_two_sizes_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no CT series"):
        nifti.load_ct(tmp_path / "empty")
    folder = dicom_series(tmp_path / "slices", ct())
    path = next(folder.iterdir())
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = ["2", "2"]
    dataset.save_as(path)
    with pytest.raises(InputError, match="differ in size, orientation or pixel spacing"):
        nifti.load_ct(folder)


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha", "x.zip"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("dear colleague, please find attached" * 20)
    with pytest.raises(InputError, match=name):
        nifti.load_ct(tmp_path / name)


# --------------------------------------------------------------------------------------- labelmaps


def seg_nrrd(path, layered=False):
    image = to_sitk(labels())
    if layered:
        array = labels().data.transpose(2, 1, 0)
        parts = [(labels().data == n).astype(np.uint8) for n in (3, 5)]
        image = sitk.Compose(*[to_sitk(Volume(part, AFFINE, Lineage())) for part in parts])
        assert array.shape == image.GetSize()[::-1]
    for number, (name, value) in enumerate(NAMES.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", "1" if layered else str(value))
        image.SetMetaData(f"Segment{number}_Layer", str(number) if layered else "0")
    sitk.WriteImage(image, path)
    return path


def masks(folder):
    folder.mkdir()
    for name, value in {**NAMES, "rib": 9}.items():
        data = (labels().data == value).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(data, AFFINE), folder / f"{name}.nii.gz")
    return folder


def totalsegmentator(path):
    image = nibabel.Nifti1Image(labels().data, AFFINE)
    table = "".join(f'<Label Key="{value}">{name}</Label>' for name, value in NAMES.items())
    content = f"<CaretExtension><LabelTable>{table}</LabelTable></CaretExtension>".encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, content))
    nibabel.save(image, path)
    return path


def with_table(path, text, ending):
    nibabel.save(nibabel.Nifti1Image(labels().data, AFFINE), path)
    path.with_name(f"seg{ending}").write_text(text, encoding="utf-8-sig")
    return path


def dicom_seg(folder):
    sources = sorted(dicom_series(folder / "source", ct()).iterdir())
    slices = sorted(map(pydicom.dcmread, sources), key=lambda d: float(d.ImagePositionPatient[2]))
    heights = apply(AFFINE, np.array([[0, 0, k] for k in range(8)]))[:, 2]
    order = np.argsort(heights)
    array = np.zeros((8, 10, 12, 2), np.uint8)
    for number, value in enumerate(NAMES.values()):
        array[..., number] = (labels().data == value).transpose(2, 1, 0)[order]
    described = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Bone, codes.SCT.Bone,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(NAMES, start=1)
    ]  # fmt: skip
    seg = highdicom.seg.Segmentation(
        slices, array, highdicom.seg.SegmentationTypeValues.BINARY, described, "1.2.77", 1,
        "1.2.78", 1, "made up", "made up", "1", "1",
    )  # fmt: skip
    seg.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


LABELMAPS = {
    "seg.nrrd": lambda folder: seg_nrrd(folder / "P01.seg.nrrd"),
    "layers": lambda folder: seg_nrrd(folder / "P01.seg.nrrd", layered=True),
    "masks": lambda folder: masks(folder / "masks"),
    "TotalSegmentator": lambda folder: totalsegmentator(folder / "seg.nii.gz"),
    "ctbl": lambda folder: with_table(
        folder / "seg.nii.gz", "# Slicer\n3 femur_left 1 2 3 255\n5 tibia_left 4 5 6 255\n", ".ctbl"
    ),
    "csv": lambda folder: with_table(
        folder / "seg.nii.gz", "label,name\n3,femur_left\n5,tibia_left\n", ".csv"
    ),
    "name first": lambda folder: with_table(
        folder / "seg.nii.gz", "femur_left\t3\r\ntibia_left\t5\r\n", ".txt"
    ),
    "DICOM SEG": dicom_seg,
}


@pytest.mark.parametrize("kind", LABELMAPS)
def test_a_labelmap_of_any_kind_has_its_bones_at_their_place_by_their_names(tmp_path, kind):
    path = LABELMAPS[kind](tmp_path)
    numbers = label_names.resolve(["Femur_Left", "tibia_left"], path)
    found = nifti.load_labelmap(path)
    for number, value in zip(numbers, NAMES.values(), strict=True):
        # a DICOM SEG stores the slices that hold a segment, and no others
        points, expected = (
            apply(volume.affine, np.argwhere(volume.data == label))
            for volume, label in ((found, number), (labels(), value))
        )
        assert len(points) == len(expected)
        assert cdist(points, expected).min(axis=1).max() < 1e-3
    with pytest.raises(InputError, match=r"has no label named .ulna.*femur_left"):
        label_names.resolve(["ulna"], path)


@pytest.mark.parametrize("kind", ["seg.nrrd", "masks"])
def test_names_stay_with_the_cleaned_labelmap_and_crop_uses_them(tmp_path, kind):
    path = LABELMAPS[kind](tmp_path)
    sitk.WriteImage(to_sitk(ct()), tmp_path / "P01_ct.nrrd")
    flags = ["-i", str(path), "-o", str(tmp_path / "out"), "--labels", "femur_left"]
    assert segmentation_preprocessing.main(flags) == 0
    cleaned = next((tmp_path / "out").glob("*_cleaned.nii.gz"))
    flags = ["--base_dir", str(tmp_path), "--output_dir", str(tmp_path / "cropped")]
    flags += ["--ct_filename", "P01_ct.nrrd", "--seg_filename", str(cleaned), "--bones", "femur"]
    assert crop_cts.main([*flags, "--labels", "99", "femur_left"]) == 0
    bone = nifti.load_labelmap(tmp_path / "cropped/femur_masks_cropped/P01_femur.nii.gz")
    assert (bone.data > 0).sum() == (labels().data == 3).sum()


def test_masks_on_two_grids_and_masks_that_overlap_are_refused(tmp_path):
    folder = masks(tmp_path / "masks")
    whole = nibabel.Nifti1Image(np.ones((12, 10, 8), np.uint8), AFFINE)
    nibabel.save(whole, folder / "whole.nii.gz")
    with pytest.raises(InputError, match=r"whole shares .* voxels"):
        nifti.load_labelmap(folder)
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 5, 5), np.uint8), AFFINE), folder / "whole.nii.gz")
    with pytest.raises(InputError, match="another grid than the other masks"):
        nifti.load_labelmap(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 5, 5), np.uint8), AFFINE), folder / "a.nii.gz")
    with pytest.raises(InputError, match="holds empty masks only"):
        nifti.load_labelmap(folder)


@pytest.mark.parametrize("background", [True, False])
def test_masks_along_a_fourth_dimension_are_labels(tmp_path, background):
    order = [0, 3, 5] if background else [3, 5]
    data = np.stack([(labels().data == value) for value in order], -1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "seg.nii.gz")
    expected = np.select([labels().data == 3, labels().data == 5], [1, 2])
    np.testing.assert_array_equal(nifti.load_labelmap(tmp_path / "seg.nii.gz").data, expected)
    data[5, 5, 2] = 1
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "seg.nii.gz")
    with pytest.raises(InputError, match="1 voxels belong to several"):
        nifti.load_labelmap(tmp_path / "seg.nii.gz")


@pytest.mark.parametrize("factor", [0.9999, 2.9999998 / 3, 1.00001526])
def test_labels_that_a_round_trip_changed_a_little_are_whole(tmp_path, factor):
    data = (labels().data * np.float64(factor)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), tmp_path / "seg.nii.gz")
    found = nifti.load_labelmap(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(found.data, labels().data)
    assert foreign.is_foreign(tmp_path)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "slices"])
def test_one_line_says_what_was_read_and_to_where_its_axes_run(tmp_path, caplog, name):
    caplog.set_level("INFO")
    straight = Volume(ct().data, np.diag([-0.8, -0.9, 1.5, 1.0]), Lineage())
    if name == "ct.nii.gz":
        nibabel.save(nibabel.Nifti1Image(straight.data, straight.affine), tmp_path / name)
    elif name == "ct.nrrd":
        sitk.WriteImage(to_sitk(straight), tmp_path / name)
    else:
        dicom_series(tmp_path / name, straight)
    nifti.load_ct(tmp_path / name, fill=False)
    (line,) = [text for text in caplog.messages if "axes run to" in text]
    assert line.startswith(f"{name}: ")
    assert line.endswith("12 x 10 x 8 voxels of 0.8 x 0.9 x 1.5 mm, axes run to L P S")
