"""Geometry in DICOM headers, compressed pixels, contradictions, and the JSON next to an image."""

import json

import gdcm
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from test_xrays import FLAGS, GEOMETRY, agreement, bright, counts, save, thickness
from test_xrays import dicom as write_dicom

from common.errors import InputError
from common.xray import dicom, positioner, reading
from common.xray.header import header_of
from common.xray.reading import StatedGeometry

LOG = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}


def header(**tags):
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 96, 120
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return header_of(dataset)


def transcoded(path, syntax):
    """The file with its pixels compressed, by another program than the reader."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    out = path.with_name("compressed.dcm")
    writer.SetFileName(str(out))
    assert writer.Write()
    return out


# ------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    "syntax",
    [
        gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        gdcm.TransferSyntax.JPEGLSLossless,
        gdcm.TransferSyntax.JPEG2000Lossless,
        gdcm.TransferSyntax.RLELossless,
    ],
)
def test_compressed_pixels_are_the_uncompressed_ones(tmp_path, syntax):
    plain = write_dicom(tmp_path / "x.dcm", bright(), **LOG, **GEOMETRY)
    np.testing.assert_array_equal(dicom.read(transcoded(plain, syntax), None)[0], bright())


def test_one_frame_of_a_compressed_run_is_read(tmp_path):
    path = transcoded(
        write_dicom(
            tmp_path / "x.dcm", np.stack([bright(), bright()[::-1], counts()]), **LOG, **GEOMETRY
        ),
        gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    )
    np.testing.assert_array_equal(dicom.read(path, 1)[0], bright()[::-1])


def test_an_image_with_a_colour_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="stored as PALETTE COLOR"):
        reading.read(
            write_dicom(
                tmp_path / "x.dcm", bright(), PhotometricInterpretation="PALETTE COLOR", **GEOMETRY
            )
        )


@pytest.mark.parametrize("modality", ["XA", "RF", "DX", "CR"])
def test_every_modality_is_read_the_same_way(tmp_path, modality):
    xray = reading.read(
        write_dicom(tmp_path / "x.dcm", bright(), Modality=modality, **LOG, **GEOMETRY)
    )
    assert agreement(xray.image, thickness()) > 0.99
    assert (xray.detector.sdd_mm, xray.detector.pixel_mm) == (1020, (0.2, 0.3))


# --------------------------------------------------------------------------------- enhanced objects


def groups(**macros):
    """One functional group: macro's name to its tags."""
    group = Dataset()
    for name, tags in macros.items():
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(group, name, [item])
    return group


def enhanced(path, **more):
    """A run of two frames, the detector nearer in the second, the C-arm turned further."""
    shared = groups(FramePixelDataPropertiesSequence={"ImagerPixelSpacing": ["0.3", "0.2"], **LOG})
    frames = [
        groups(
            XRayGeometrySequence={
                "DistanceSourceToDetector": sdd,
                "DistanceSourceToIsocenter": 700.0,
            },
            PositionerPositionSequence={
                "PositionerPrimaryAngle": angle,
                "PositionerSecondaryAngle": "0",
            },
            PatientOrientationInFrameSequence={"PatientOrientation": ["R", "F"]},
        )
        for sdd, angle in (("1100", "0"), ("980", "90"))
    ]
    return write_dicom(
        path,
        np.stack([bright(), bright()]),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **more,
    )


@pytest.mark.parametrize(("frame", "sdd_mm"), [(0, 1100), (1, 980)])
def test_the_geometry_of_an_enhanced_run_is_its_frames(tmp_path, frame, sdd_mm):
    xray = reading.read(enhanced(tmp_path / "x.dcm"), frame=frame)
    assert (xray.detector.sdd_mm, xray.detector.pixel_mm) == (sdd_mm, (0.2, 0.3))
    assert xray.reading["decided_by"] == "DICOM PixelIntensityRelationship"
    assert xray.reading["source_to_patient_mm"] == 700
    assert xray.reading["patient_orientation"] == ["R", "F"]
    assert agreement(xray.image, thickness()) > 0.99


@pytest.mark.parametrize(
    ("frame", "source", "behind"), [(0, [0, -700, 0], False), (1, [700, 0, 0], True)]
)
def test_the_c_arm_of_an_enhanced_run_stands_where_its_frame_says(tmp_path, frame, source, behind):
    """From behind the patient, columns run to the patient's right, as the header states.

    From the side the header's letters do not decide, and the standard's rule applies.
    """
    camera, from_detector = positioner.positioner_camera(enhanced(tmp_path / "x.dcm"), frame)
    np.testing.assert_allclose(camera[:3, 3], source, atol=1e-9)
    assert from_detector == behind


def test_a_distance_that_was_added_overrules_an_enhanced_runs_own(tmp_path):
    import add_dicom_data

    assert (
        add_dicom_data.main(
            [
                "-i",
                str(enhanced(tmp_path / "x.dcm")),
                "-o",
                str(tmp_path / "y.dcm"),
                "--sdd",
                "1234",
            ]
        )
        == 0
    )
    assert reading.read(tmp_path / "y.dcm", frame=1).detector.sdd_mm == 1234


def test_a_functional_group_that_is_damaged_is_one_clear_line(tmp_path):
    broken = groups(
        XRayGeometrySequence={
            "DistanceSourceToDetector": ["1000", "1100"],
            "DistanceSourceToIsocenter": float("nan"),
        }
    )
    with pytest.raises(InputError, match=r"x\.dcm.*geometry tags that are numbers"):
        reading.read(
            write_dicom(
                tmp_path / "x.dcm", bright(), SharedFunctionalGroupsSequence=[broken], **LOG
            ),
            None,
        )


# --------------------------------------------------------------------------------------- pixel size


def test_a_calibrated_pixel_spacing_is_magnified_by_the_two_distances():
    said = header(
        DistanceSourceToDetector="1200",
        DistanceSourceToPatient="800",
        PixelSpacing=["0.2", "0.1"],
        PixelSpacingCalibrationType="GEOMETRY",
    )
    assert said.pixel_mm == pytest.approx((0.15, 0.3))
    assert not said.findings


def test_an_uncalibrated_pixel_spacing_is_used_at_the_detector_with_a_finding():
    said = header(
        DistanceSourceToDetector="1200", DistanceSourceToPatient="800", PixelSpacing=["0.2", "0.1"]
    )
    assert said.pixel_mm == (0.1, 0.2)
    assert "used as the spacing at the detector" in said.findings[0]


@pytest.mark.parametrize(
    ("tags", "finding"),
    [
        (
            {"DistanceSourceToDetector": "900", "DistanceSourceToPatient": "950"},
            "is not below DistanceSourceToDetector 900",
        ),
        (
            {
                "ImagerPixelSpacing": ["0.3", "0.3"],
                "PixelSpacing": ["0.25", "0.25"],
                "EstimatedRadiographicMagnificationFactor": "1.5",
            },
            "does not give ImagerPixelSpacing",
        ),
        (
            {"ImagerPixelSpacing": ["0.3", "0.3"], "PixelSpacing": ["0.2", "0.2"]},
            "differs from ImagerPixelSpacing",
        ),
        (
            {
                "DistanceSourceToDetector": "1200",
                "DistanceSourceToPatient": "800",
                "EstimatedRadiographicMagnificationFactor": "1.2",
            },
            "is not the 1.5",
        ),
        (
            {"PixelSpacing": ["0.2", "0.2"], "PixelSpacingCalibrationType": "FIDUCIAL"},
            "states no magnification",
        ),
        (
            {"DetectorActiveOrigin": ["12", "0"], "ImagerPixelSpacing": ["0.3", "0.3"]},
            "a part of its detector",
        ),
        ({"BurnedInAnnotation": "YES"}, "perhaps the patient's name; it goes into gt.png"),
    ],
)
def test_tags_that_contradict_each_other_are_found(tags, finding):
    (found,) = header(**tags).findings
    assert finding in found


@pytest.mark.parametrize(
    "tags",
    [
        {
            "DistanceSourceToDetector": "1200",
            "DistanceSourceToPatient": "800",
            "EstimatedRadiographicMagnificationFactor": "1.5",
            "ImagerPixelSpacing": ["0.3", "0.3"],
        },
        {
            "ImagerPixelSpacing": ["0.3", "0.3"],
            "PixelSpacing": ["0.2", "0.2"],
            "EstimatedRadiographicMagnificationFactor": "1.5",
        },
        {
            "ImagerPixelSpacing": ["0.3", "0.3"],
            "PixelSpacing": ["0.3", "0.3"],
            "EstimatedRadiographicMagnificationFactor": "1.5",
        },  # both at the detector: not calibrated
        {"DetectorActiveOrigin": ["0", "0"], "ImagerPixelSpacing": ["0.3", "0.3"]},
    ],
)
def test_tags_that_agree_are_no_finding(tags):
    assert header(**tags).findings == ()


def test_findings_are_warned_of_and_kept_with_the_reading(tmp_path, caplog):
    xray = reading.read(
        write_dicom(
            tmp_path / "x.dcm", bright(), DistanceSourceToPatient="1100", **LOG, **GEOMETRY
        ),
        StatedGeometry(sdd_mm=990.0),
    )
    assert xray.detector.sdd_mm == 990
    first, second = xray.reading["findings"]
    assert "DistanceSourceToPatient 1100" in first
    assert "`sdd` 990 mm overrules DistanceSourceToDetector 1020 mm" in second
    assert "x.dcm: `sdd` 990 mm overrules" in caplog.text


@pytest.mark.parametrize(("sdd_mm", "found"), [(2040.0, 0), (1530.0, 1)])
def test_a_calibration_is_compared_by_its_focal_length(tmp_path, sdd_mm, found):
    """Its SDD is nominal: twice the header's with twice the pixel spacing is the same camera."""
    flags = StatedGeometry(sdd_mm, (0.4, 0.6), (50.0, 40.0), calibrated=True)
    xray = reading.read(write_dicom(tmp_path / "x.dcm", bright(), **LOG, **GEOMETRY), flags)
    assert xray.reading["geometry"] == "calibration"
    assert (
        len(
            [
                finding
                for finding in xray.reading["findings"]
                if "focal length of 3825 pixels overrules the 5100" in finding
            ]
        )
        == found
    )
    assert len(xray.reading["findings"]) == found


# ---------------------------------------------------------------------------------- principal point

PANEL = {
    "DetectorActiveDimensions": ["60", "80"],
    "DetectorElementSpacing": ["0.1", "0.1"],
    "ImagerPixelSpacing": ["0.2", "0.2"],
}  # 600 x 800 elements, binned by two


def test_the_centre_of_the_active_area_is_the_principal_point_of_a_part():
    # the image starts 150 elements down and 100 to the right, the active area 10 and 20; the centre
    # of the area is element edge (310, 420), which is pixel edge ((420 - 100) / 2, (310 - 150) / 2)
    said = header(DetectorActiveOrigin=["10", "20"], FieldOfViewOrigin=["150", "100"], **PANEL)
    assert said.principal_px == pytest.approx((160 - 0.5, 80 - 0.5))


def test_an_image_of_the_whole_active_area_has_its_principal_point_in_the_centre():
    said = header(
        DetectorActiveOrigin=["10", "20"],
        FieldOfViewOrigin=["10", "20"],
        **PANEL | {"DetectorActiveDimensions": ["19.2", "24"]},
    )
    assert said.principal_px == pytest.approx((59.5, 47.5))


def test_rotating_and_flipping_the_image_moves_the_principal_point_with_it():
    """A mark at the principal point of the original image, rotated and flipped as an array."""
    part = header(DetectorActiveOrigin=["10", "20"], FieldOfViewOrigin=["250", "320"], **PANEL)
    column, row = (round(p + 0.5) for p in part.principal_px)  # an edge of pixels: 50, 30
    assert (column, row) == (50, 30)
    marked = np.zeros((96, 120))
    marked[row, column] = 1
    turned = np.rot90(marked, -1)[:, ::-1]  # clockwise, then left to right
    dataset = {
        "Rows": 120,
        "Columns": 96,
        "FieldOfViewRotation": "90",
        "FieldOfViewHorizontalFlip": "YES",
    }
    said = header(
        DetectorActiveOrigin=["10", "20"], FieldOfViewOrigin=["250", "320"], **PANEL | dataset
    )
    at_row, at_column = np.argwhere(turned)[0]
    assert said.principal_px == pytest.approx((at_column - 0.5, at_row - 0.5))


def test_a_stated_principal_point_overrules_the_headers(tmp_path):
    tags = (
        {
            "DetectorActiveOrigin": ["10", "20"],
            "FieldOfViewOrigin": ["150", "100"],
            "DistanceSourceToDetector": "1020",
        }
        | PANEL
        | LOG
    )
    path = write_dicom(tmp_path / "x.dcm", bright(), **tags)
    assert reading.read(path).detector.principal_px == pytest.approx((159.5, 79.5))
    assert reading.read(path, StatedGeometry(principal_px=(1.0, 2.0))).detector.principal_px == (
        1.0,
        2.0,
    )


def test_patient_orientation_is_kept():
    assert header(PatientOrientation=["L", "FP"]).patient_orientation == ("L", "FP")
    assert header(PatientOrientation=["", ""]).patient_orientation is None


# ---------------------------------------------------------------------------- JSON next to an image


def beside(tmp_path, **content):
    path = save(tmp_path / "x.png", bright())
    (tmp_path / "x.json").write_text(json.dumps(content))
    return path


def test_a_json_next_to_an_image_states_its_geometry(tmp_path):
    xray = reading.read(
        beside(tmp_path, sdd_mm=990, pixel_spacing_mm=[0.4, 0.6], principal_point_px=[10, 20.5])
    )
    assert (xray.detector.sdd_mm, xray.detector.pixel_mm, xray.detector.principal_px) == (
        990,
        (0.4, 0.6),
        (10, 20.5),
    )
    assert xray.reading["geometry"] == "x.json"


def test_stated_values_overrule_the_json_one_by_one(tmp_path):
    xray = reading.read(
        beside(tmp_path, sdd_mm=990, pixel_spacing_mm=[0.4, 0.6]), StatedGeometry(sdd_mm=1000.0)
    )
    assert (xray.detector.sdd_mm, xray.detector.pixel_mm) == (1000, (0.4, 0.6))
    assert xray.reading["geometry"] == "settings and x.json"


def test_a_json_about_something_else_is_ignored(tmp_path):
    assert (
        reading.read(beside(tmp_path, patient="P01", knee="left"), FLAGS).reading["geometry"]
        == "settings"
    )


@pytest.mark.parametrize(
    "content",
    [
        {"sdd_mm": "far"},
        {"pixel_spacing_mm": "0.3"},
        {"pixel_spacing_mm": [0.3, 0.3, 0.3]},
        {"principal_point_px": [1, None]},
        {"principal_point_px": [float("nan"), 1]},
    ],
)
def test_a_json_with_broken_geometry_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"expected sdd_mm, a number, and pixel_spacing_mm"):
        reading.read(beside(tmp_path, **content), FLAGS)


def test_a_partial_geometry_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no pixel spacing"):
        reading.read(beside(tmp_path, sdd_mm=990))


def test_a_dicom_has_no_geometry_file(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", bright(), **LOG, **GEOMETRY)
    (tmp_path / "x.json").write_text(json.dumps({"sdd_mm": 990}))
    assert reading.read(path).detector.sdd_mm == 1020
    Image.fromarray(bright()).save(tmp_path / "x.png")
    assert (
        reading.read(tmp_path / "x.png", StatedGeometry(pixel_mm=(0.2, 0.3))).detector.sdd_mm == 990
    )


def test_one_number_is_the_spacing_of_square_pixels_and_a_byte_order_mark_is_no_matter(tmp_path):
    path = save(tmp_path / "x.png", bright(8))
    text = json.dumps({"sdd_mm": 1020, "pixel_spacing_mm": 0.3}).replace(", ", ",\r\n")
    for coding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "x.json").write_text(text, encoding=coding)
        detector = reading.read(path).detector
        assert (detector.sdd_mm, detector.pixel_mm) == (1020, (0.3, 0.3))


@pytest.mark.parametrize("stated", [True, False])
def test_a_distance_in_centimetres_is_refused_whatever_states_it(tmp_path, stated):
    tags = {**GEOMETRY, "DistanceSourceToDetector": "102"}
    path = write_dicom(tmp_path / "x.dcm", bright(), **LOG, **(GEOMETRY if stated else tags))
    with pytest.raises(InputError, match="is the distance in centimetres"):
        reading.read(path, StatedGeometry(sdd_mm=102) if stated else None)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("sdd", "sdd_mm"), ("SDD_mm", "sdd_mm"), ("pixel_spacing", "pixel_spacing_mm")],
)
def test_a_key_that_looks_misspelt_is_named(tmp_path, key, meant):
    with pytest.raises(InputError, match=f"has a key '{key}'.*is {meant} meant"):
        reading.read(beside(tmp_path, **{key: 1020}), FLAGS)
