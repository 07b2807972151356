"""The X-ray reader: formats, polarity, precedence of geometry, valid field and invalid files."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from common import geometry
from common.errors import InputError
from common.geometry import Detector
from common.xray import dicom as dicom_module
from common.xray import reading
from common.xray.dicom import is_dicom
from common.xray.grey_values import as_uint8, stretch
from common.xray.outline import silhouette
from common.xray.reading import StatedGeometry
from common.xray.xray import Xray

FLAGS = StatedGeometry(1000.0, (0.5, 0.5))


def thickness(height=96, width=120) -> np.ndarray:
    """A limb with a bone in it: line integrals (H, W) from 0 (open field) to about 3."""
    rows, columns = np.indices((height, width))
    limb = 1.6 * np.clip(1 - ((columns - width / 2) / (0.3 * width)) ** 2, 0, None)
    bone = 1.4 * np.clip(1 - ((columns - width / 2) / (0.1 * width)) ** 2, 0, None)
    return limb + bone * (rows > height / 3)


def counts(bits=16) -> np.ndarray:
    """Photon counts of a detector: bone dark."""
    noise = np.random.default_rng(0).normal(0, 0.002, thickness().shape)
    return np.round((np.exp(-thickness()) + noise).clip(0.001, 1.2) / 1.25 * (2**bits - 1)).astype(
        np.uint8 if bits == 8 else np.uint16
    )


def bright(bits=16) -> np.ndarray:
    """The same image as a viewer shows it: attenuation, bone bright."""
    noise = np.random.default_rng(0).normal(0, 0.004, thickness().shape)
    return np.round((thickness() + noise + 0.2).clip(0.01, None) / 4 * (2**bits - 1)).astype(
        np.uint8 if bits == 8 else np.uint16
    )


def save(path, pixels, **settings):
    Image.fromarray(pixels).save(path, **settings)
    return path


def dicom(path, pixels, syntax=ExplicitVRLittleEndian, **elements):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.5.1.4.1.1.1.1",
        generate_uid(),
    )
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype(np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax.is_compressed:
        dataset.compress(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


GEOMETRY = {"DistanceSourceToDetector": "1020", "ImagerPixelSpacing": ["0.3", "0.2"]}


def agreement(image, like) -> float:
    return float(np.corrcoef(image.ravel(), like.ravel())[0, 1])


# ------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_images_of_bright_bone_are_attenuation_up_to_scale(tmp_path, ending, bits):
    if ending == "jpg" and bits == 16:
        ending = "tiff"
    xray = reading.read(save(tmp_path / f"x.{ending}", bright(bits)), FLAGS)
    assert xray.reading["bone"] == "bright"
    assert agreement(xray.image, thickness()) > 0.998
    assert xray.image.dtype == np.float32
    assert xray.valid.all()


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_counts_with_dark_bone_are_linearised_to_the_line_integral(tmp_path, ending, bits):
    xray = reading.read(save(tmp_path / f"x.{ending}", counts(bits)), FLAGS)
    assert xray.reading["bone"] == "dark"
    assert agreement(xray.image, thickness()) > 0.995
    offset = xray.image - thickness()
    assert np.abs(offset - np.median(offset)).mean() < 0.05  # true to scale, not only in shape


def test_lzw_tiffs_and_grey_in_three_channels_are_read(tmp_path):
    plain = reading.read(save(tmp_path / "a.png", bright(8)), FLAGS)
    lzw = reading.read(save(tmp_path / "b.tif", bright(8), compression="tiff_lzw"), FLAGS)
    rgb = reading.read(save(tmp_path / "c.png", np.repeat(bright(8)[..., None], 3, -1)), FLAGS)
    np.testing.assert_array_equal(plain.image, lzw.image)
    np.testing.assert_allclose(plain.image, rgb.image, atol=1e-5)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_linear_dicom_has_dark_bone_and_a_logarithmic_one_bright_bone(tmp_path, syntax):
    linear = reading.read(
        dicom(
            tmp_path / "lin.dcm",
            counts(),
            syntax,
            PixelIntensityRelationship="LIN",
            PixelIntensityRelationshipSign=1,
            **GEOMETRY,
        )
    )
    logarithmic = reading.read(
        dicom(
            tmp_path / "log.dcm",
            bright(),
            syntax,
            PixelIntensityRelationship="LOG",
            PixelIntensityRelationshipSign=-1,
            **GEOMETRY,
        )
    )
    assert linear.reading["bone"] == "dark"
    assert logarithmic.reading["bone"] == "bright"
    for xray in (linear, logarithmic):
        assert "PixelIntensityRelationship" in xray.reading["decided_by"]
        assert agreement(xray.image, thickness()) > 0.99


@pytest.mark.parametrize(
    "relationship", [{}, {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 1}]
)
def test_monochrome1_counts_are_dark_in_the_file_and_shown_bright(tmp_path, relationship):
    path = dicom(
        tmp_path / "x.dcm",
        counts(),
        PhotometricInterpretation="MONOCHROME1",
        **relationship,
        **GEOMETRY,
    )
    assert agreement(reading.read(path).image, thickness()) > 0.99
    # `bone` is the polarity that a viewer shows
    assert reading.read(path, bone="bright").reading["bone"] == "dark"
    assert agreement(reading.read(path, bone="bright").image, thickness()) > 0.99


def test_the_user_overrules_the_polarity(tmp_path):
    path = save(tmp_path / "x.png", counts())
    assert agreement(reading.read(path, FLAGS, bone="dark").image, thickness()) > 0.99
    assert agreement(reading.read(path, FLAGS, bone="bright").image, thickness()) < -0.8


def test_a_frame_of_several_is_chosen_by_number(tmp_path):
    frames = np.stack([bright(), bright()[::-1]])
    path = dicom(tmp_path / "x.dcm", frames, PixelIntensityRelationship="LOG", **GEOMETRY)
    assert agreement(reading.read(path, frame=1).image, thickness()[::-1]) > 0.99
    with pytest.raises(InputError, match="has 2 frames"):
        reading.read(path)
    with pytest.raises(InputError, match="has no frame 2"):
        reading.read(path, frame=2)


# ----------------------------------------------------------------------------------------- geometry


def test_imager_pixel_spacing_is_rows_first_in_dicom_and_columns_first_here(tmp_path):
    detector = reading.read(dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)).detector
    assert detector.pixel_mm == (0.2, 0.3)
    assert detector.sdd_mm == 1020
    assert (detector.height, detector.width) == (96, 120)
    assert detector.principal_px == (59.5, 47.5)


def test_pixel_spacing_is_used_only_without_the_imagers_and_is_magnified(tmp_path):
    both = dicom(tmp_path / "a.dcm", bright(), PixelSpacing=["0.1", "0.1"], **GEOMETRY)
    assert reading.read(both).detector.pixel_mm == (0.2, 0.3)
    patient = dicom(
        tmp_path / "b.dcm",
        bright(),
        PixelSpacing=["0.2", "0.1"],
        EstimatedRadiographicMagnificationFactor="1.5",
        DistanceSourceToDetector="1020",
    )
    assert reading.read(patient).detector.pixel_mm == pytest.approx((0.15, 0.3))


def test_stated_values_overrule_the_header_one_by_one(tmp_path):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    only_sdd = reading.read(path, StatedGeometry(sdd_mm=990.0))
    assert (only_sdd.detector.sdd_mm, only_sdd.detector.pixel_mm) == (990, (0.2, 0.3))
    assert only_sdd.reading["geometry"] == "settings and DICOM header"
    everything = reading.read(path, StatedGeometry(990.0, (0.4, 0.6), (10.0, 20.5)))
    assert everything.detector == Detector(96, 120, 990.0, (0.4, 0.6), (10.0, 20.5))
    assert everything.reading["geometry"] == "settings"
    assert reading.read(path).reading["geometry"] == "DICOM header"


def test_an_sdd_that_someone_states_is_less_certain_than_a_measured_one(tmp_path):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    calibrated = StatedGeometry(990.0, (0.4, 0.6), calibrated=True)
    for stated, percent in ((None, 0.1), (calibrated, 0.1), (StatedGeometry(990.0), 0.5)):
        assert reading.read(path, stated).reading["sdd_sd_percent"] == percent


def test_an_image_without_geometry_has_the_fallbacks_and_that_is_warned_of(tmp_path, caplog):
    fallback = Detector.centred(256, 256, 1100.0, 1.2)
    xray = reading.read(save(tmp_path / "x.png", bright()), fallback=fallback)
    assert xray.detector.sdd_mm == 1100
    assert max(xray.detector.size_mm) == pytest.approx(256 * 1.2)
    assert "state a source-to-detector distance of 1100 mm and a pixel spacing of" in caplog.text
    assert xray.reading["geometry"] == "checkpoint's training geometry"
    assert len(xray.reading["assumed"]) == 2


def test_stated_values_are_kept_and_only_the_others_are_the_checkpoints(tmp_path, caplog):
    fallback = Detector.centred(256, 256, 1100.0, 1.2)
    xray = reading.read(save(tmp_path / "x.png", bright()), StatedGeometry(sdd_mm=1200.0), fallback)
    assert xray.detector.sdd_mm == 1200
    assert xray.reading["geometry"] == "settings and checkpoint's training geometry"
    assert [what.split(" of ")[0] for what in xray.reading["assumed"]] == ["pixel spacing"]
    assert "pixel spacing" in caplog.text
    assert "1200 mm and" not in caplog.text
    assert not reading.read(
        save(tmp_path / "y.png", bright()), StatedGeometry(1200.0, (0.5, 0.5)), fallback
    ).reading["assumed"]


def test_missing_geometry_names_what_is_missing_and_what_to_do(tmp_path):
    path = save(tmp_path / "x.png", bright())
    with pytest.raises(InputError, match=r"distance and no pixel spacing in .*add_dicom_data\.py"):
        reading.read(path)
    with pytest.raises(InputError, match=r"no pixel spacing in the file.*set `pixel_spacing`"):
        reading.read(path, StatedGeometry(sdd_mm=1000.0))
    with pytest.raises(InputError, match="source-to-detector distance"):
        reading.read(dicom(tmp_path / "x.dcm", bright(), ImagerPixelSpacing=["0.3", "0.2"]))


@pytest.mark.parametrize(
    "flags",
    [
        StatedGeometry(1.0, (0.5, 0.5)),
        StatedGeometry(1000.0, (0.5, 50.0)),
        StatedGeometry(1000.0, (-0.5, 0.5)),
        StatedGeometry(float("nan"), (0.5, 0.5)),
    ],
)
def test_impossible_geometry_is_refused(tmp_path, flags):
    with pytest.raises(InputError, match="expected 250 to 10000 mm"):
        reading.read(save(tmp_path / "x.png", bright()), flags)


def test_an_empty_distance_in_the_header_is_missing(tmp_path):
    path = dicom(
        tmp_path / "x.dcm", bright(), DistanceSourceToDetector="", ImagerPixelSpacing=["0.3", "0.2"]
    )
    with pytest.raises(InputError, match="no source-to-detector distance"):
        reading.read(path)


# -------------------------------------------------------------------------- field, flip and binning


@pytest.mark.parametrize("outside", [0, 65535])
@pytest.mark.parametrize("shape", ["round", "rectangle"])
def test_pixels_behind_a_collimator_are_not_valid(tmp_path, shape, outside):
    rows, columns = np.indices(thickness().shape)
    inside = (
        (rows - 48) ** 2 + (columns - 60) ** 2 < 42**2
        if shape == "round"
        else (rows > 12) & (rows < 80) & (columns > 9) & (columns < 100)
    )
    xray = reading.read(
        save(tmp_path / "x.png", np.where(inside, bright(), outside).astype(np.uint16)),
        FLAGS,
        bone="bright",
    )
    assert not xray.valid[~inside].any()
    assert 0.85 * inside.sum() < xray.valid.sum() < inside.sum()
    assert not xray.image[~xray.valid].any()
    assert agreement(xray.image[xray.valid], thickness()[xray.valid]) > 0.998


def test_the_headers_padding_value_is_not_valid(tmp_path):
    pixels = bright()
    pixels[:, :20] = 777
    path = dicom(
        tmp_path / "x.dcm",
        pixels,
        PixelPaddingValue=777,
        PixelIntensityRelationship="LOG",
        **GEOMETRY,
    )
    assert not reading.read(path).valid[:, :20].any()
    assert reading.read(path).valid[:, 22:].all()


def test_a_dark_patch_in_the_centre_is_valid(tmp_path):
    pixels = bright()
    pixels[40:60, 50:70] = 0
    assert reading.read(save(tmp_path / "x.png", pixels), FLAGS).valid.all()


def test_a_flip_moves_the_principal_point_with_the_image(tmp_path):
    flags = StatedGeometry(1000.0, (0.5, 0.7), (40.0, 30.0))
    xray = reading.read(save(tmp_path / "x.png", bright()), flags)
    flipped = xray.flip()
    assert flipped.flipped
    assert flipped.detector.principal_px == (119 - 40.0, 30.0)
    np.testing.assert_array_equal(flipped.image, xray.image[:, ::-1])
    again = flipped.flip()
    assert not again.flipped
    assert again.detector == xray.detector
    np.testing.assert_array_equal(again.image, xray.image)


@pytest.mark.parametrize("factor", [1, 2, 4, 5, 7])
def test_binning_keeps_where_a_landmark_is_projected(factor):
    detector = Detector(96, 120, 900.0, (0.5, 0.7), (40.25, 61.0))
    camera = geometry.translation([0, 0, -600])
    point = np.array([[7.3, -11.2, 5.0]])
    column, row = geometry.project(point, detector, camera)[0]
    image = np.zeros((96, 120), np.float32)
    rows, columns = np.indices(image.shape)
    image += np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / (2 * 6.0**2))
    xray = Xray(image, np.ones(image.shape, bool), detector, None).binned(factor)
    assert (
        xray.image.shape
        == (xray.detector.height, xray.detector.width)
        == (96 // factor, 120 // factor)
    )
    rows, columns = np.indices(xray.image.shape)
    centroid = (
        np.array([(columns * xray.image).sum(), (rows * xray.image).sum()]) / xray.image.sum()
    )
    np.testing.assert_allclose(
        centroid, geometry.project(point, xray.detector, camera)[0], atol=0.01
    )


def test_a_coarser_image_is_cached_for_one_x_ray_only():
    xray = Xray(
        np.ones((8, 8), np.float32), np.ones((8, 8), bool), Detector.centred(8, 8, 900.0, 1.0), None
    )
    assert xray.coarser(0.4) is xray
    assert xray.coarser(2.2) is xray.coarser(1.8)
    assert xray.coarser(2.2).detector.pixel_mm == (2.0, 2.0)
    assert replace(xray, image=3 * xray.image).coarser(2.2).image.max() == 3


def test_a_binned_pixel_is_valid_only_where_all_its_parts_are():
    valid = np.ones((8, 8), bool)
    valid[0, 5] = False
    image = np.where(valid, 2.0, 99.0).astype(np.float32)
    binned = Xray(image, valid, Detector.centred(8, 8, 900.0, 1.0), None).binned(4)
    assert binned.valid.tolist() == [[True, False], [True, True]]
    np.testing.assert_allclose(binned.image, 2.0)


def test_the_display_image_has_bright_bone_and_is_black_outside_the_field(tmp_path):
    pixels = bright()
    pixels[:, :15] = 0
    xray = reading.read(save(tmp_path / "x.png", pixels), FLAGS)
    shown = xray.as_uint8()
    assert shown.dtype == np.uint8
    assert shown.max() == 255
    assert not shown[:, :15].any()
    assert agreement(shown[xray.valid], thickness()[xray.valid]) > 0.998


def test_stretching_clips_and_has_no_range_of_zero():
    image = np.array([-1.0, 2, 3, 4, 9])
    np.testing.assert_array_equal(stretch(image, 2, 4), [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(as_uint8(stretch(image, 2, 4)), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(stretch(np.full(3, 7.0), 7, 7), 0)


def test_a_silhouette_is_what_exceeds_a_share_of_the_highest_line_integral():
    drr = np.array([[0.0, 3.0, 3.01, 100.0]])
    assert silhouette(drr, 0.03).tolist() == [[False, False, True, True]]
    assert not silhouette(np.zeros((2, 2)), 0.03).any()


@pytest.mark.parametrize(
    ("name", "start", "found"),
    [
        ("a", bytes(128) + b"DICM", True),
        ("a.DCM", b"", True),
        ("a.dicom", b"old", True),
        ("a.png", b"\x89PNG", False),
        ("a", b"DICM", False),
    ],
)
def test_dicom_is_recognised_by_its_magic_number_or_its_suffix(tmp_path, name, start, found):
    path = tmp_path / name
    path.write_bytes(start)
    assert is_dicom(path) == found


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((40, 40), 7, np.uint8), "single grey value"),
        (
            np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8),
            "is a colour image",
        ),
        (np.arange(100, dtype=np.uint8).reshape(10, 10), "at least 16 x 16"),
    ],
)
def test_images_that_are_not_x_rays_are_refused(tmp_path, pixels, message):
    with pytest.raises(InputError, match=message):
        reading.read(save(tmp_path / "x.png", pixels), FLAGS)


def test_a_saturated_image_is_refused(tmp_path):
    pixels = np.full((60, 60), 90, np.uint8)
    pixels[30, 30:32] = (80, 100)
    with pytest.raises(InputError, match="saturated"):
        reading.read(save(tmp_path / "x.png", pixels), FLAGS, bone="bright")


def test_nan_in_a_float_tiff_is_refused(tmp_path):
    pixels = (bright() / 16384).astype(np.float32)
    assert (
        agreement(
            reading.read(save(tmp_path / "fine.tif", pixels), FLAGS, bone="bright").image,
            thickness(),
        )
        > 0.998
    )
    pixels[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        reading.read(save(tmp_path / "x.tif", pixels), FLAGS)


def test_several_pages_colour_dicoms_and_torn_files_are_refused(tmp_path):
    page = Image.fromarray(bright(8))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match="2 frames"):
        reading.read(tmp_path / "pages.tif", FLAGS)
    with pytest.raises(InputError, match="header claims"):
        reading.read(
            dicom(tmp_path / "colour.dcm", bright(), SamplesPerPixel=3, PlanarConfiguration=0),
            FLAGS,
        )
    for name in ("x.png", "x.dcm", "x.jpg"):
        path = tmp_path / name
        (dicom if name.endswith("dcm") else save)(path, bright(8))
        path.write_bytes(path.read_bytes()[:700])
        with pytest.raises(InputError):
            reading.read(path, FLAGS)
    (tmp_path / "text.png").write_text("an X-ray, honestly")
    with pytest.raises(InputError, match="not an image"):
        reading.read(tmp_path / "text.png", FLAGS)


def test_a_dicom_without_the_suffix_is_recognised_by_its_magic_number(tmp_path):
    path = dicom(tmp_path / "IM0001", bright(), PixelIntensityRelationship="LOG", **GEOMETRY)
    assert reading.read(path).detector.sdd_mm == 1020
    assert pydicom.dcmread(path).Rows == 96


def test_a_header_that_claims_a_huge_image_is_refused(tmp_path):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(path)
    with pytest.raises(InputError, match="header is damaged"):
        reading.read(path)


def test_a_limb_at_the_side_of_a_large_open_field_is_dark(tmp_path):
    """Most of a round image intensifier shows the open beam, darker towards its rim."""
    rows, columns = np.indices((160, 160))
    radius = np.hypot(rows - 79.5, columns - 79.5)
    limb = 2.0 * np.clip(1 - ((columns - 40) / 16) ** 2, 0, None)
    pixels = (
        220 * np.exp(-limb) * np.where(radius > 66, 0.7, 1)
        + np.random.default_rng(0).normal(0, 1, limb.shape)
    ).clip(1, 255) * (radius < 78)
    xray = reading.read(save(tmp_path / "x.png", pixels.astype(np.uint8)), FLAGS)
    assert xray.reading["bone"] == "dark"
    assert agreement(xray.image[xray.valid], limb[xray.valid]) > 0.9


@pytest.mark.parametrize(("bone", "kept"), [(40, False), (10, True)])
def test_the_glare_around_a_round_field_is_left_out_unless_a_dense_limb_runs_into_it(
    tmp_path, bone, kept
):
    rows, columns = np.indices((200, 200))
    radius = np.hypot(rows - 99.5, columns - 99.5)
    limb = np.abs(columns - 100) < 25
    pixels = np.where(
        radius < 90, np.where(limb, bone, 220), np.where(radius < 94, 12, 0)
    ) + np.where(radius < 94, np.random.default_rng(0).uniform(0, 3, radius.shape), 0)
    valid = reading.read(
        save(tmp_path / "x.png", pixels.astype(np.uint8)), FLAGS, bone="dark"
    ).valid
    assert valid[limb & (radius < 85)].all()
    assert valid[(radius > 90) & (radius < 92)].any() == kept


# ------------------------------------------------------------------------- which way the grey runs


@pytest.mark.parametrize(
    ("sign", "dark"), [(1, True), (-1, False)], ids=["lower is less beam", "lower is more beam"]
)
def test_logarithms_run_as_their_sign_says_and_are_not_taken_again(tmp_path, sign, dark):
    stored = 65535 - bright() if dark else bright()
    tags = {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": sign}
    xray = reading.read(dicom(tmp_path / "x.dcm", stored, **tags, **GEOMETRY))
    assert xray.reading["bone"] == ("dark" if dark else "bright")
    assert xray.reading["decided_by"] == "DICOM PixelIntensityRelationship"
    assert xray.reading["linearised"] == "as stored"
    assert agreement(xray.image, thickness()) > 0.998


@pytest.mark.parametrize("dark", [True, False])
def test_logarithms_without_a_sign_are_guessed_and_the_note_says_so(tmp_path, dark, caplog):
    caplog.set_level("INFO")
    stored = 65535 - bright() if dark else bright()
    path = dicom(tmp_path / "x.dcm", stored, PixelIntensityRelationship="LOG", **GEOMETRY)
    xray = reading.read(path)
    assert xray.reading["decided_by"] == "guess from centre and border"
    assert agreement(xray.image, thickness()) > 0.998
    assert "overrules this" in caplog.text


@pytest.mark.parametrize(
    ("tags", "stored_dark"),
    [
        ({"PhotometricInterpretation": "MONOCHROME2"}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"RescaleSlope": "-1", "RescaleIntercept": "65535"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "-1"}, False),
    ],
)
def test_bone_bright_as_a_viewer_shows_it_counts_every_inversion(tmp_path, tags, stored_dark):
    stored = 65535 - bright() if stored_dark else bright()
    xray = reading.read(dicom(tmp_path / "x.dcm", stored, **tags, **GEOMETRY), bone="bright")
    assert xray.reading["bone"] == ("dark" if stored_dark else "bright")
    assert xray.reading["bone_shown"] == "bright"


@pytest.mark.parametrize("level", [255, 0])
def test_the_noisy_frame_of_a_digitised_film_is_no_part_of_the_field(tmp_path, level):
    grey = np.pad((0.1 + 0.2 * thickness()) * 255, 24, constant_values=level)
    noise = np.random.default_rng(0).normal(0, 2, grey.shape)
    film = (grey + noise).clip(0, 255).astype(np.uint8)
    xray = reading.read(save(tmp_path / "film.png", film), FLAGS)
    assert xray.reading["bone"] == "bright"
    assert not xray.valid[:24].any()
    assert not xray.valid[:, -24:].any()
    assert xray.valid[28:-28, 28:-28].all()
    assert agreement(xray.image[28:-28, 28:-28], thickness()[4:-4, 4:-4]) > 0.99


@pytest.mark.parametrize("pixels", [counts(8), bright(8)])
def test_the_open_field_around_a_limb_is_no_frame(tmp_path, pixels):
    assert reading.read(save(tmp_path / "x.png", pixels), FLAGS).valid.all()


# ----------------------------------------------------------------------------- how bits are stored


@pytest.mark.parametrize("high", [15, 13, 11])
def test_bits_that_stand_high_are_shifted_down(tmp_path, high, caplog):
    caplog.set_level("INFO")
    twelve = (bright() >> 4).astype(np.uint16)
    overlay = np.uint16(1 << (high - 12)) if high > 11 else np.uint16(0)  # unused bits hold one
    stored = (twelve << (high - 11)) | overlay
    path = dicom(tmp_path / "x.dcm", stored, BitsStored=12, HighBit=high, **GEOMETRY)
    pixels, _ = dicom_module.read(path, None)
    np.testing.assert_array_equal(pixels, twelve)
    if high > 11:
        reading.read(path)
        assert f"12 bit at the top of 16 (HighBit {high})" in caplog.text


def test_signed_bits_that_stand_high_keep_their_sign(tmp_path):
    values = (bright() >> 5).astype(np.int16) - 1000
    stored = ((values.astype(np.int32) & 0xFFF) << 4).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}
    pixels, _ = dicom_module.read(dicom(tmp_path / "x.dcm", stored, **tags, **GEOMETRY), None)
    np.testing.assert_array_equal(pixels, values)


@pytest.mark.parametrize(
    "tag", ["PixelRepresentation", "PhotometricInterpretation", "SamplesPerPixel", "BitsStored"]
)
def test_a_plain_tag_that_is_missing_gets_its_one_meaning_and_a_warning(tmp_path, tag, caplog):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    dataset = pydicom.dcmread(path)
    delattr(dataset, tag)
    dataset.save_as(path)
    np.testing.assert_array_equal(dicom_module.read(path, None)[0], bright())
    assert f"the header lacks tags; assumed {tag}" in caplog.text


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("name", ["x.dcm", "IM0001"])
def test_a_bare_data_set_is_dicom(tmp_path, implicit, name, caplog):
    dataset = pydicom.dcmread(dicom(tmp_path / "whole.dcm", bright(), **GEOMETRY))
    bare = Dataset()
    bare.update(dataset)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, bare)
    (tmp_path / name).write_bytes(buffer.getvalue())
    assert is_dicom(tmp_path / name)
    np.testing.assert_array_equal(dicom_module.read(tmp_path / name, None)[0], bright())
    assert "states no transfer syntax" in caplog.text


@pytest.mark.parametrize("torn", [True, False], ids=["torn file", "short element"])
@pytest.mark.parametrize(("short", "read"), [(2, True), (100, False)])
def test_pixel_data_that_is_a_few_bytes_short_is_filled_up(tmp_path, short, read, torn, caplog):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    if torn:
        path.write_bytes(path.read_bytes()[:-short])
    else:
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.PixelData[:-short]
        dataset.save_as(path)
    if not read:
        with pytest.raises(InputError, match=r"x\.dcm"):
            dicom_module.read(path, None)
        return
    pixels = dicom_module.read(path, None)[0]
    np.testing.assert_array_equal(pixels.ravel()[:-1], bright().ravel()[:-1])
    assert "2 bytes short" in caplog.text


def test_a_secondary_capture_in_three_equal_channels_is_grey(tmp_path):
    path = dicom(tmp_path / "x.dcm", bright(), **GEOMETRY)
    dataset = pydicom.dcmread(path)
    eight = bright(8)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration, dataset.BitsAllocated = 0, 8
    dataset.BitsStored, dataset.HighBit = 8, 7
    dataset.PixelData = np.stack([eight] * 3, -1).tobytes()
    dataset.save_as(path)
    np.testing.assert_array_equal(dicom_module.read(path, None)[0], eight)
    dataset.PixelData = np.stack([eight, eight // 2, eight], -1).tobytes()
    dataset.save_as(path)
    with pytest.raises(InputError, match="is a colour image"):
        dicom_module.read(path, None)


@pytest.mark.parametrize(("principal", "oblique"), [((800.0, 40.0), None), ((1500.0, 40.0), "36")])
def test_a_principal_point_that_no_tube_can_have_is_warned_of(tmp_path, caplog, principal, oblique):
    """An image of 60 x 48 mm, 1000 mm from the source."""
    path = save(tmp_path / "x.png", bright(8))
    xray = reading.read(path, replace(FLAGS, principal_px=principal))
    assert xray.detector.principal_px == principal
    said = [line for line in caplog.messages if "degrees off the perpendicular ray" in line]
    assert bool(said) == bool(oblique)
    assert all(f"is {oblique} degrees" in line for line in said)


@pytest.mark.parametrize("factor", [1, 3])
def test_noise_is_measured_beside_gradients_and_edges(factor):
    rows, columns = np.indices((240, 300)) / 300
    image = rows + columns**2 + 0.8 * (np.hypot(rows - 0.4, columns - 0.5) < 0.2)
    image += np.random.default_rng(3).normal(0, 0.02, image.shape)
    detector = Detector.centred(240, 300, 1000.0, 0.5)
    xray = Xray(image.astype(np.float32), np.ones(image.shape, bool), detector, None)
    inside = np.zeros((240 // factor, 300 // factor), bool)
    inside[5:-5, 10:-10] = True
    assert xray.noise_sd(inside, factor) == pytest.approx(0.02 / factor, rel=0.05)
    assert xray.noise_sd(inside & False, factor) == 0
