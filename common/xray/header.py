"""Geometry and grey-value tags of an X-ray's header, with the contradictions between them.

Tags that contradict each other are reported, never averaged: the message names the one used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from common.xray.tags import number, numbers, pair, source_to_patient

SAME = 0.02  # relative difference below which two distances or pixel spacings agree


@dataclass(frozen=True)
class Header:
    """Geometry and grey-value tags of one image; None or empty if a tag is missing.

    An image that is not DICOM has an empty header, or the geometry of its ``NAME.json``.
    """

    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height, at the detector
    principal_px: tuple[float, float] | None = None  # (column, row)
    source_to_patient_mm: float | None = None
    # a viewer shows low values bright: MONOCHROME1, PresentationLUTShape, negative RescaleSlope
    inverted: bool = False
    relationship: str | None = None  # PixelIntensityRelationship
    sign: float | None = None  # of that relationship
    padding: float | None = None
    # direction of columns and of rows: letters of A, P, L, R, H, F
    patient_orientation: tuple[str, str] | None = None
    laterality: str | None = None  # left or right
    view_position: str | None = None  # AP, PA, LL, RL and others
    flipped_after_detector: bool = False  # FieldOfViewHorizontalFlip
    remarks: tuple[str, ...] = ()  # how the pixels were read, and what the header says of it
    # contradictions and doubts: what was found; what is used; what to do
    findings: tuple[str, ...] = ()


class Reading(TypedDict, total=False):
    """How an X-ray was read, in plain types; kept in parameters.pt."""

    bone: str  # bright or dark in the stored grey values
    decided_by: str
    linearised: str
    geometry: str  # origin of SDD, pixel spacing and principal point
    assumed: list[str]  # values taken from the checkpoint
    findings: list[str]  # those of the header, and its contradictions with stated values
    patient_orientation: list[str] | None
    laterality: str | None  # of the header, left or right
    view_position: str | None
    flipped_after_detector: bool
    bone_shown: str  # bright or dark as a viewer shows the file
    source_to_patient_mm: float | None
    sdd_sd_percent: float  # standard deviation of the SDD, or of its ratio to the pixel spacing


def header_of(dataset: Any) -> Header:
    """Return the geometry and grey-value tags of a pydicom dataset.

    Raises ValueError if a tag is not a number.
    """
    findings: list[str] = []
    sdd = number(dataset, "DistanceSourceToDetector")
    patient, patient_tag = source_to_patient(dataset)
    if sdd and patient and sdd <= patient:
        findings.append(
            f"{patient_tag} {patient:g} mm is not below DistanceSourceToDetector {sdd:g} mm; the"
            " latter is used; correct the header with add_dicom_data.py"
        )
        patient = None
    pixel = _pixel_mm(dataset, sdd, patient, findings)
    if dataset.get("BurnedInAnnotation") == "YES":
        findings.append(
            "BurnedInAnnotation states that text is part of the image, perhaps the patient's name;"
            " it goes into gt.png and the figures; export the image without it"
        )
    padding = numbers(dataset, "PixelPaddingValue")
    return Header(
        sdd_mm=sdd,
        pixel_mm=pixel,
        principal_px=_principal_px(dataset, pixel, findings),
        source_to_patient_mm=patient,
        inverted=_shown_inverted(dataset),
        relationship=dataset.get("PixelIntensityRelationship"),
        sign=number(dataset, "PixelIntensityRelationshipSign"),
        padding=padding[0] if padding else None,
        patient_orientation=_patient_orientation(dataset),
        laterality=_laterality(dataset),
        view_position=str(dataset.get("ViewPosition") or "").strip().upper() or None,
        flipped_after_detector=dataset.get("FieldOfViewHorizontalFlip") == "YES",
        remarks=_remarks(dataset),
        findings=tuple(findings),
    )


def _shown_inverted(dataset: Any) -> bool:
    """Return whether a viewer shows low stored values bright.

    MONOCHROME1 and PresentationLUTShape INVERSE state one inversion (PS3.3 C.8.11.3.1.2); a
    negative RescaleSlope comes before it.
    """
    last = (
        dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    return last != ((number(dataset, "RescaleSlope") or 1.0) < 0)


def _laterality(dataset: Any) -> str | None:
    """Return the side of the patient that the header states, left or right."""
    for tag in ("ImageLaterality", "FrameLaterality", "Laterality"):
        letter = str(dataset.get(tag) or "").strip().upper()
        if letter in ("L", "R"):
            return "left" if letter == "L" else "right"
    return None


def _remarks(dataset: Any) -> tuple[str, ...]:
    """Return what the header says of how the picture lies and which way grey runs."""
    said = []
    orientation = _patient_orientation(dataset)
    if orientation:
        said.append(f"columns run to {orientation[0]}, rows to {orientation[1]}")
    if laterality := _laterality(dataset):
        said.append(f"side {laterality}")
    if dataset.get("ViewPosition"):
        said.append(f"ViewPosition {dataset.ViewPosition}")
    if dataset.get("FieldOfViewHorizontalFlip") == "YES":
        said.append("flipped left to right after the detector")
    if turn := number(dataset, "FieldOfViewRotation"):
        said.append(f"turned by {turn:g} degrees after the detector")
    said.append(str(dataset.get("PhotometricInterpretation") or "no PhotometricInterpretation"))
    return tuple(said)


def _patient_orientation(dataset: Any) -> tuple[str, str] | None:
    """Return the directions of columns and rows; None if they are not both stated."""
    orientation = dataset.get("PatientOrientation")
    if orientation is None or len(orientation) != 2 or not all(orientation):
        return None
    return str(orientation[0]), str(orientation[1])


def _pixel_mm(
    dataset: Any, sdd: float | None, patient: float | None, findings: list[str]
) -> tuple[float, float] | None:
    """Return the pixel spacing (width, height) at the detector, mm.

    ImagerPixelSpacing is at the detector and is used if present. Without it, PixelSpacing is
    multiplied by the stated magnification; else, if PixelSpacingCalibrationType says that it holds
    at the patient, by the ratio of the two distances; else it is used as it is.
    """
    imager, spacing = pair(dataset, "ImagerPixelSpacing"), pair(dataset, "PixelSpacing")
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
    doubt = _spacing_doubt(imager, spacing, scale, calibrated)
    if doubt:
        findings.append(doubt)
    if imager:
        return imager
    return (spacing[0] * (scale or 1.0), spacing[1] * (scale or 1.0)) if spacing else None


def _spacing_doubt(
    imager: tuple[float, float] | None,
    spacing: tuple[float, float] | None,
    scale: float | None,
    calibrated: str | None,
) -> str | None:
    """Return a doubt about the pixel spacing, with what is used and what to do, or None.

    ``imager`` is ImagerPixelSpacing, ``spacing`` PixelSpacing, ``scale`` the magnification.
    """
    if not spacing:
        return None
    if imager and scale:
        at_detector = (np.array(spacing) * factor for factor in (scale, 1.0))
        if not any(np.allclose(each, imager, rtol=SAME) for each in at_detector):
            return (
                f"PixelSpacing {_mm(spacing)} mm at a magnification of {scale:.3g} does not give"
                f" ImagerPixelSpacing {_mm(imager)} mm; the latter is used; set `pixel_spacing` to"
                " overrule it"
            )
    elif imager:
        if not np.allclose(spacing, imager, rtol=SAME):
            return (
                f"PixelSpacing {_mm(spacing)} mm differs from ImagerPixelSpacing {_mm(imager)} mm"
                " without a magnification; the latter is used; set `pixel_spacing` to overrule it"
            )
    elif calibrated and not scale:
        return (
            f"PixelSpacing {_mm(spacing)} mm is calibrated at the patient ({calibrated}), but the"
            " header states no magnification; used as the spacing at the detector; set"
            " `pixel_spacing`"
        )
    elif not scale:
        return (
            f"PixelSpacing {_mm(spacing)} mm without ImagerPixelSpacing; used as the spacing at the"
            " detector; set `pixel_spacing` if it holds at the patient"
        )
    return None


def _principal_px(
    dataset: Any, pixel: tuple[float, float] | None, findings: list[str]
) -> tuple[float, float] | None:
    """Return the centre of the detector's active area, the principal point, as (column, row).

    DICOM states the area in elements of the physical detector (DetectorActiveOrigin,
    DetectorActiveDimensions), and FieldOfViewOrigin of the part that was read out. That part was
    then rotated clockwise by FieldOfViewRotation and flipped. Returns None if tags are missing.
    """
    active, corner = pair(dataset, "DetectorActiveOrigin"), pair(dataset, "FieldOfViewOrigin")
    size = pair(dataset, "DetectorActiveDimensions")
    element = pair(dataset, "DetectorElementSpacing") or pair(
        dataset, "DetectorElementPhysicalSize"
    )
    if not (active and corner and size and element and pixel):
        if any(active or ()) or any(corner or ()):
            findings.append(
                "the image is a part of its detector (DetectorActiveOrigin, FieldOfViewOrigin), but"
                " the header does not state where the detector's centre is; the centre of the image"
                " is used as principal point; set `principal_point` to overrule it"
            )
        return None
    shape = np.array([int(dataset.Columns), int(dataset.Rows)])
    quarter = round((number(dataset, "FieldOfViewRotation") or 0) / 90) % 4
    # mm, before the rotation
    part = (shape[::-1] if quarter % 2 else shape) * (pixel[::-1] if quarter % 2 else pixel)
    # of the active area, mm from the corner of the physical detector (column, row)
    centre = np.array(active) * element + np.array(size) / 2
    offset = centre - (np.array(corner) * element + part / 2)
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
    """Return the differences between the header and the values that overrule it.

    Distance and pixel spacing of a calibration are nominal (``calibrated``), so it is compared by
    its focal length in pixels.
    """
    if calibrated:
        return _other_focal_length(header, sdd_mm, pixel_mm)
    found = []
    if sdd_mm and header.sdd_mm and abs(sdd_mm / header.sdd_mm - 1) > SAME:
        found.append(
            f"`sdd` {sdd_mm:g} mm overrules DistanceSourceToDetector {header.sdd_mm:g} mm; leave it"
            " out or correct the header"
        )
    if pixel_mm and header.pixel_mm and not np.allclose(pixel_mm, header.pixel_mm, rtol=SAME):
        found.append(
            f"`pixel_spacing` {_mm(pixel_mm)} mm overrules the header's {_mm(header.pixel_mm)} mm"
            " at the detector; leave it out or correct the header"
        )
    return found


def _other_focal_length(
    header: Header, sdd_mm: float | None, pixel_mm: tuple[float, float] | None
) -> list[str]:
    """Return the difference between the focal lengths of calibration and header, if any."""
    if not (header.sdd_mm and header.pixel_mm and sdd_mm and pixel_mm):
        return []
    of_header = header.sdd_mm / np.array(header.pixel_mm)
    of_calibration = sdd_mm / np.array(pixel_mm)
    if np.allclose(of_header, of_calibration, rtol=SAME):
        return []
    return [
        f"the calibration's focal length of {of_calibration[0]:.0f} pixels overrules the"
        f" {of_header[0]:.0f} of the header's distance and pixel spacing; check that it belongs to"
        " this camera"
    ]


def _mm(spacing: tuple[float, float]) -> str:
    return " x ".join(f"{value:.4g}" for value in spacing)
