"""X-rays in DICOM (XA, RF, DX, CR, enhanced XA and XRF): pixels of one frame, and what the header says about geometry and grey values.

Tags that contradict each other are reported, never averaged: the one that counts is named.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading

MAX_PIXELS = 200_000_000
SAME = 0.02  # relative: two statements of one distance or pixel size that differ by less agree
ANATOMY = {
    "R": (0, 1),
    "L": (0, -1),
    "A": (1, 1),
    "P": (1, -1),
    "H": (2, 1),
    "F": (2, -1),
}  # DICOM's letters: axis of RAS and sign
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
SOURCE_TO_PATIENT = (
    "DistanceSourceToPatient",
    "DistanceSourceToIsocenter",
)  # both end in the isocentre; the second is an enhanced object's
FRAME_GROUPS = (
    "XRayGeometrySequence",
    "FramePixelDataPropertiesSequence",
    "FieldOfViewSequence",
    "PositionerPositionSequence",
    "PatientOrientationInFrameSequence",
)


@dataclass(frozen=True)
class Header:
    """What the tags of one picture say; None or empty where they are silent. Other files have an empty one."""

    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height, at the detector
    principal_px: tuple[float, float] | None = None  # (column, row)
    source_to_patient_mm: float | None = None
    inverted: bool = False  # MONOCHROME1: a viewer shows low values bright
    relationship: str | None = None  # PixelIntensityRelationship
    sign: int | None = None  # of that relationship
    padding: float | None = None
    patient_orientation: tuple[str, str] | None = (
        None  # where columns and rows lead to: letters of A, P, L, R, H, F
    )
    findings: tuple[str, ...] = field(
        default=()
    )  # contradictions and doubts, each with what was done about it


def read(path: Path, frame: int | None) -> tuple[np.ndarray, Header]:
    """Grey values (H, W), float32, as stored, and the header. Raises InputError for colours, no pixels, an unclear frame, or tags that are no numbers.

    Nothing that names the patient is kept or told: of the header only what `Header` holds.
    """
    from pydicom.pixels import pixel_array

    dataset = open_dataset(path)
    with reading(path, "an X-ray with pixels", "export it again"), quiet():
        rows, columns, frames = (
            int(dataset.Rows),
            int(dataset.Columns),
            int(dataset.get("NumberOfFrames") or 1),
        )
        native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
        bits, samples, colours = (
            int(dataset.BitsAllocated),
            int(dataset.get("SamplesPerPixel", 1)),
            str(dataset.get("PhotometricInterpretation", GREY[1])),
        )
    if (
        min(rows, columns, frames) < 1
        or rows * columns * frames > MAX_PIXELS * 10
        or rows * columns > MAX_PIXELS
    ):
        raise InputError(
            path,
            f"its header claims {frames} frames of {columns} x {rows} pixels",
            f"at most {MAX_PIXELS:.0e} pixels a frame",
            "the header is damaged",
        )
    if samples != 1:
        raise InputError(
            path,
            f"has {samples} samples a pixel",
            "a grey X-ray",
            "export the original instead of a screenshot",
        )
    if colours not in GREY:
        raise InputError(
            path,
            f"is stored as {colours}",
            " or ".join(GREY),
            "export the original instead of a screenshot",
        )
    if native:
        files.check_claim(
            path,
            rows * columns * frames * bits // 8,
            dataset.file_meta.TransferSyntaxUID.is_deflated,
            "an X-ray with pixels",
        )
    if frames > 1 and frame is None:
        raise InputError(
            path, f"holds {frames} frames", "the number of one", f"give `frame` 0 to {frames - 1}"
        )
    if frame is not None and not 0 <= frame < frames:
        raise InputError(path, f"has no frame {frame}", f"0 to {frames - 1}", "correct `frame`")
    with reading(path, "readable pixel data", "export it uncompressed"), quiet():
        pixels = pixel_array(
            dataset, index=frame if frames > 1 else None, decoding_plugin=_decoder(dataset)
        ).astype(np.float32)
    if pixels.shape != (rows, columns):
        raise InputError(
            path,
            f"its pixels have shape {pixels.shape}, its header says {rows} x {columns}",
            "one grey picture",
            "export it again",
        )
    with (
        reading(path, "geometry tags that are numbers", "correct the header, or export it again"),
        quiet(),
    ):
        spread_frame(dataset, frame)
        return pixels, header_of(dataset)


def count_frames(path: Path) -> int:
    """Number of pictures in a DICOM file. Raises InputError where that is no number."""
    with reading(path, "a number of frames", "correct the header, or export it again"), quiet():
        return int(open_dataset(path).get("NumberOfFrames") or 1)


def open_dataset(path: Path) -> Any:
    """The elements of a DICOM file, as pydicom's dataset. Raises InputError for what is none, or would unpack to more than this machine holds."""
    import pydicom

    what = "a DICOM picture"
    with reading(path, what, "it is no DICOM file or a damaged one, export it again"), quiet():
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax is not None and syntax.is_deflated:
            files.check_claim(path, path.stat().st_size * files.DEFLATE_RATIO, True, what)
        dataset = pydicom.dcmread(path)
    if not any(keyword in dataset for keyword in PIXEL_ELEMENTS):
        raise InputError(
            path,
            "holds no pixels",
            "a DICOM X-ray",
            "this may be a report or a DICOMDIR, choose the picture",
        )
    return dataset


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings: they quote values, which may name the patient."""
    import pydicom

    logger = pydicom.config.logger
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


def _decoder(dataset: Any) -> str:
    """The one decoder for a file's pixels: pydicom would try all that are installed, and some end the program on damaged data."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return (
        "" if not syntax.is_encapsulated else "pydicom" if syntax.name == "RLE Lossless" else "gdcm"
    )


def spread_frame(dataset: Any, frame: int | None) -> None:
    """Set in the dataset itself, in place, what the functional groups of an enhanced object (PS3.3 C.7.6.16) say of a frame, or of all.

    What the dataset says itself stays: there the standard leaves it empty, and add_dicom_data.py writes it.
    """
    for sequence, number in (
        ("PerFrameFunctionalGroupsSequence", frame or 0),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        for group in (dataset.get(sequence) or [])[number : number + 1]:
            said = [
                element
                for name in FRAME_GROUPS
                for item in (group.get(name) or [])[:1]
                for element in item
            ]
            dataset.update(
                {
                    element.tag: element
                    for element in said
                    if element.tag not in dataset or dataset[element.tag].is_empty
                }
            )


def header_of(dataset: Any) -> Header:
    """The geometry and grey-value tags of a pydicom dataset."""
    findings: list[str] = []
    sdd, (patient, patient_tag) = (
        number(dataset, "DistanceSourceToDetector"),
        source_to_patient(dataset),
    )
    if sdd and patient and sdd <= patient:
        findings.append(
            f"{patient_tag} {patient:g} mm is not below DistanceSourceToDetector {sdd:g} mm; the"
            " latter counts; correct the header with add_dicom_data.py"
        )
        patient = None
    pixel = _pixel_mm(dataset, sdd, patient, findings)
    orientation = dataset.get("PatientOrientation")
    if dataset.get("BurnedInAnnotation") == "YES":
        findings.append(
            "BurnedInAnnotation says that text is burned into the picture, perhaps the patient's"
            " name; it goes into gt.png and the figures; export the picture without it"
        )
    padding = _numbers(dataset, "PixelPaddingValue")
    return Header(
        sdd_mm=sdd,
        pixel_mm=pixel,
        principal_px=_principal_px(dataset, pixel, findings),
        source_to_patient_mm=patient,
        inverted=dataset.get("PhotometricInterpretation") == "MONOCHROME1",
        relationship=dataset.get("PixelIntensityRelationship"),
        sign=number(dataset, "PixelIntensityRelationshipSign"),
        padding=padding[0] if padding else None,
        patient_orientation=(
            tuple(map(str, orientation))
            if orientation is not None and len(orientation) == 2 and all(orientation)
            else None
        ),
        findings=tuple(findings),
    )


def source_to_patient(dataset: Any) -> tuple[float | None, str]:
    """The distance in mm, and the tag that states it, or the one that could."""
    stated = [
        (value, tag) for tag in SOURCE_TO_PATIENT if (value := number(dataset, tag)) is not None
    ]
    return stated[0] if stated else (None, SOURCE_TO_PATIENT[0])


def _pixel_mm(
    dataset: Any, sdd: float | None, patient: float | None, findings: list[str]
) -> tuple[float, float] | None:
    """(width, height) at the detector. DICOM stores the spacing of rows first.

    ImagerPixelSpacing is at the detector and counts. Without it PixelSpacing does: scaled by the stated magnification, or by that of the two distances where
    PixelSpacingCalibrationType says that it holds at the patient, else as it is.
    """
    imager, spacing = _pair(dataset, "ImagerPixelSpacing"), _pair(dataset, "PixelSpacing")
    stated = number(dataset, "EstimatedRadiographicMagnificationFactor")
    measured = sdd / patient if sdd and patient else None
    if stated and measured and abs(stated / measured - 1) > SAME:
        findings.append(
            f"EstimatedRadiographicMagnificationFactor {stated:g} is not the {measured:.3g} of"
            " DistanceSourceToDetector / DistanceSourceToPatient; one of the three is wrong;"
            " correct the header"
        )
    calibrated = dataset.get("PixelSpacingCalibrationType")
    scale = stated or (measured if calibrated else None)
    if imager:
        if (
            spacing
            and scale
            and not any(
                np.allclose(np.array(spacing) * factor, imager, rtol=SAME)
                for factor in (scale, 1.0)
            )
        ):
            findings.append(
                f"PixelSpacing {_mm(spacing)} mm at a magnification of {scale:.3g} does not give"
                f" ImagerPixelSpacing {_mm(imager)} mm; the latter counts; --pixel_spacing"
                " overrules"
            )
        elif spacing and not scale and not np.allclose(spacing, imager, rtol=SAME):
            findings.append(
                f"PixelSpacing {_mm(spacing)} mm differs from ImagerPixelSpacing {_mm(imager)} mm"
                " without a magnification; the latter counts; --pixel_spacing overrules"
            )
        return imager
    if spacing and calibrated and not scale:
        findings.append(
            f"PixelSpacing {_mm(spacing)} mm is calibrated at the patient ({calibrated}), but the"
            " header states no magnification; taken as it is at the detector; give --pixel_spacing"
        )
    if spacing and not scale and not calibrated:
        findings.append(
            f"PixelSpacing {_mm(spacing)} mm without ImagerPixelSpacing: taken as it is at the"
            " detector; give --pixel_spacing if it holds at the patient"
        )
    return tuple(float(value * (scale or 1.0)) for value in spacing) if spacing else None


def _principal_px(
    dataset: Any, pixel: tuple[float, float] | None, findings: list[str]
) -> tuple[float, float] | None:
    """Where the middle of the detector's active area lies in the picture, (column, row): there the central ray is taken to hit.

    DICOM states both in elements of the physical detector: DetectorActiveOrigin with DetectorActiveDimensions, and FieldOfViewOrigin of the part that was read out, then
    turned clockwise by FieldOfViewRotation and flipped. None where the tags do not suffice.
    """
    active, corner = _pair(dataset, "DetectorActiveOrigin"), _pair(dataset, "FieldOfViewOrigin")
    size, element = (
        _pair(dataset, "DetectorActiveDimensions"),
        _pair(dataset, "DetectorElementSpacing") or _pair(dataset, "DetectorElementPhysicalSize"),
    )
    if not (active and corner and size and element and pixel):
        if any(active or ()) or any(corner or ()):
            findings.append(
                "the picture is a part of its detector (DetectorActiveOrigin, FieldOfViewOrigin),"
                " but the header does not say where its middle is; the principal point is taken in"
                " the middle of the picture; --principal_point overrules"
            )
        return None
    shape = np.array([int(dataset.Columns), int(dataset.Rows)])
    quarter = round((number(dataset, "FieldOfViewRotation") or 0) / 90) % 4
    part = (shape[::-1] if quarter % 2 else shape) * (
        pixel[::-1] if quarter % 2 else pixel
    )  # mm, before it was turned
    middle = (
        np.array(active) * element + np.array(size) / 2
    )  # of the active area, mm from the physical corner (column, row)
    offset = middle - (np.array(corner) * element + part / 2)
    for _ in range(quarter):
        offset = np.array([-offset[1], offset[0]])
    if dataset.get("FieldOfViewHorizontalFlip") == "YES":
        offset[0] *= -1
    column, row = (shape - 1) / 2 + offset / pixel
    return float(column), float(row)


def contradictions(
    header: Header,
    sdd_mm: float | None,
    pixel_mm: tuple[float, float] | None,
    calibrated: bool = False,
) -> list[str]:
    """Where the user's own numbers differ from the header's. A calibration is compared by its focal length in pixels: its distance and pixel size are nominal."""
    found = []
    if calibrated:
        if (
            header.sdd_mm
            and header.pixel_mm
            and not np.allclose(
                header.sdd_mm / np.array(header.pixel_mm), sdd_mm / np.array(pixel_mm), rtol=SAME
            )
        ):
            focal = [
                f"{sdd / pixel[0]:.0f}"
                for sdd, pixel in ((sdd_mm, pixel_mm), (header.sdd_mm, header.pixel_mm))
            ]
            found.append(
                f"the calibration's focal length of {focal[0]} pixels overrules the {focal[1]} of"
                " the header's distance and pixel size; check that it is this camera's"
            )
        return found
    if sdd_mm and header.sdd_mm and abs(sdd_mm / header.sdd_mm - 1) > SAME:
        found.append(
            f"--sdd {sdd_mm:g} mm overrules DistanceSourceToDetector {header.sdd_mm:g} mm; drop the"
            " flag or correct the header"
        )
    if pixel_mm and header.pixel_mm and not np.allclose(pixel_mm, header.pixel_mm, rtol=SAME):
        found.append(
            f"--pixel_spacing {_mm(pixel_mm)} mm overrules the header's {_mm(header.pixel_mm)} mm"
            " at the detector; drop the flag or correct the header"
        )
    return found


def _pair(dataset: Any, name: str) -> tuple[float, float] | None:
    """A tag of two numbers, (column, row) order: DICOM writes the row's first. A single number counts for both."""
    values = _numbers(dataset, name)
    return (values[-1], values[0]) if len(values) in (1, 2) else None


def number(dataset: Any, name: str) -> float | None:
    """The first value of a tag; None where it is absent or empty. Raises ValueError for what is no number."""
    values = _numbers(dataset, name)
    return values[0] if values else None


def _numbers(dataset: Any, name: str) -> list[float]:
    """Values of a tag; none where it is absent or empty. Raises ValueError, without the value, for what is no finite number."""
    try:
        value = dataset.get(name)
        values = (
            []
            if value in (None, "")
            else [float(value)]
            if np.isscalar(value)
            else [float(v) for v in value]
        )
    except Exception:  # pydicom converts on access
        values = [np.nan]
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is no number")
    return values


def _mm(pair: tuple[float, float]) -> str:
    return " x ".join(f"{value:.4g}" for value in pair)
