"""DICOM headers: the distances and the elements of a derived object change, nothing else does."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

import add_dicom_data

DERIVED = {"SOPInstanceUID", "ImageType", "DerivationDescription", "SourceImageSequence"}


def xray(path, syntax=ExplicitVRLittleEndian, **elements):
    """A 16-bit X-ray with a private element and a Latin-1 name; no distances."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax if not syntax.is_compressed else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName, dataset.ImageType = "Mül^Ø", ["ORIGINAL", "PRIMARY", "KNEE"]
    dataset.add_new((0x0019, 0x0010), "LO", "MAKER")
    dataset.add_new((0x0019, 0x1001), "UN", b"\x01\x02\x03\x04")
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (
        20,
        30,
        1,
        "MONOCHROME2",
    )
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        12,
        11,
        0,
    )
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = np.arange(600, dtype=np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax.is_compressed:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def add(source, *flags, sdd="1020.0", name="out.dcm"):
    output = source.parent / name
    code = add_dicom_data.main(["--i", str(source), "--o", str(output), "--sdd", sdd, *flags])
    return code, pydicom.dcmread(output) if code == 0 else None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_only_the_named_elements_change(tmp_path, syntax):
    source = xray(tmp_path / "in.dcm", syntax)
    code, after = add(source)
    before = pydicom.dcmread(source)
    assert code == 0
    changed = {e.keyword for e in after if e.tag not in before or before[e.tag] != e}
    assert changed == {"DistanceSourceToDetector", *DERIVED}
    assert {e.tag for e in before} <= {e.tag for e in after}
    assert after["PixelData"].value == before["PixelData"].value
    assert after.file_meta.TransferSyntaxUID == syntax
    assert float(after.DistanceSourceToDetector) == 1020.0


def test_pixel_bytes_in_the_file_are_the_same(tmp_path):
    source = xray(tmp_path / "in.dcm", RLELossless)
    add(source)
    before, after = source.read_bytes(), (tmp_path / "out.dcm").read_bytes()
    tag = b"\xe0\x7f\x10\x00OB"
    assert after[after.index(tag) :] == before[before.index(tag) :]


def test_the_copy_is_a_derived_object_that_names_its_source(tmp_path):
    source = xray(tmp_path / "in.dcm", DerivationDescription="cropped")
    before = pydicom.dcmread(source)
    _, after = add(source)
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert list(after.ImageType) == ["DERIVED", "PRIMARY", "KNEE"]
    assert after.DerivationDescription == "cropped; DistanceSourceToDetector missing -> 1020 mm"
    assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert after.SourceImageSequence[0].ReferencedSOPClassUID == before.SOPClassUID


def test_an_existing_distance_is_updated_and_the_old_one_is_reported(tmp_path, capsys):
    _, after = add(xray(tmp_path / "in.dcm", DistanceSourceToDetector="1800"))
    assert float(after.DistanceSourceToDetector) == 1020.0
    assert "DistanceSourceToDetector 1800 -> 1020 mm" in capsys.readouterr().err


def test_pixel_spacing_is_given_along_columns_first_and_stored_rows_first(tmp_path):
    source = xray(tmp_path / "in.dcm")
    _, after = add(source, "--pixel_spacing", "0.2", "0.3", "--source_to_patient", "850")
    assert list(map(float, after.ImagerPixelSpacing)) == [0.3, 0.2]
    assert float(after.DistanceSourceToPatient) == 850
    _, after = add(source, "--pixel_spacing", "0.139", name="square.dcm")
    assert list(map(float, after.ImagerPixelSpacing)) == [0.139, 0.139]


def test_the_x_ray_reader_uses_the_written_geometry(tmp_path):
    from common.xray import reading

    source = xray(tmp_path / "in.dcm")
    add(source, "--pixel_spacing", "0.2", "0.3")
    detector = reading.read(tmp_path / "out.dcm").detector
    assert (detector.sdd_mm, detector.pixel_mm) == (1020.0, (0.2, 0.3))


@pytest.mark.parametrize("flags", [("-i", "-o"), ("--input", "--output")])
def test_other_spellings_of_the_flags(tmp_path, flags):
    source = xray(tmp_path / "in.dcm")
    assert (
        add_dicom_data.main(
            [flags[0], str(source), flags[1], str(tmp_path / "o.dcm"), "--sdd", "1020"]
        )
        == 0
    )


def test_an_input_is_never_changed_in_place_not_even_through_a_link(tmp_path):
    source = xray(tmp_path / "in.dcm")
    content = source.read_bytes()
    (tmp_path / "soft.dcm").symlink_to(source)
    (tmp_path / "hard.dcm").hardlink_to(source)
    for name in ("in.dcm", "soft.dcm", "hard.dcm", "../" + tmp_path.name + "/in.dcm"):
        assert add(source, "--overwrite", name=name)[0] == 2
    assert source.read_bytes() == content


def test_an_existing_output_is_kept_unless_overwrite(tmp_path):
    source = xray(tmp_path / "in.dcm")
    (tmp_path / "out.dcm").write_text("mine")
    assert add(source)[0] == 2
    assert (tmp_path / "out.dcm").read_text() == "mine"
    assert add(source, "--overwrite")[0] == 0


@pytest.mark.parametrize("sdd", ["0", "-1020", "nan", "inf", "102000", "1.02"])
def test_impossible_distances_are_one_line(tmp_path, capsys, sdd):
    assert add(xray(tmp_path / "in.dcm"), sdd=sdd)[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "flags",
    [("--pixel_spacing", "0"), ("--pixel_spacing", "1", "2", "3"), ("--source_to_patient", "1020")],
)
def test_impossible_options_are_refused(tmp_path, flags):
    assert add(xray(tmp_path / "in.dcm"), *flags)[0] == 2


def test_files_without_pixels_and_other_files_are_refused(tmp_path, capsys):
    path = xray(tmp_path / "in.dcm")
    report = pydicom.dcmread(path)
    del report.PixelData
    report.save_as(tmp_path / "report.dcm")
    assert add(tmp_path / "report.dcm")[0] == 2
    assert "has no pixels" in capsys.readouterr().err
    (tmp_path / "picture.dcm").write_bytes(b"\x89PNG" + bytes(500))
    assert add(tmp_path / "picture.dcm")[0] == 2
    assert add(tmp_path / "absent.dcm")[0] == 2
