"""Findings about the setup: detector, distances, and the bone at the start pose."""

from __future__ import annotations

import numpy as np

from common.geometry import Detector
from common.registration.header_says import contradictions
from common.registration.preflight.report import Finding
from common.volume.lineage import Lineage
from common.xray.xray import Xray

# clinical and laboratory X-rays of limbs and trunk
SDD_MM, PIXEL_MM, DETECTOR_MM = (500.0, 2500.0), (0.05, 1.5), (60.0, 600.0)
MAGNIFICATION = (1.02, 3.0)
PIXEL_RATIO = (0.9, 1.1)  # width over height
LEAST_IN_VIEW, LIKELY_IN_VIEW = 0.05, 0.5  # share in view
# relative difference of distances that agree: the header's point is only near the bone, and one
# view constrains depth poorly
SAME_DISTANCE = 0.2


def detector_findings(detector: Detector) -> list[Finding]:
    """Return findings about distance, pixels, size and principal point of a detector."""
    return [*_size_findings(detector), *_layout_findings(detector)]


def _size_findings(detector: Detector) -> list[Finding]:
    """Return findings about distance, pixel spacing and size."""
    findings = []
    if not SDD_MM[0] <= detector.sdd_mm <= SDD_MM[1]:
        findings.append(
            Finding(
                "likely",
                f"SDD {detector.sdd_mm:g} mm; expected {SDD_MM[0]:g} to {SDD_MM[1]:g} mm",
                "correct `sdd` or the header; is it in centimetres?",
            )
        )
    width, height = detector.pixel_mm
    if not all(PIXEL_MM[0] <= mm <= PIXEL_MM[1] for mm in (width, height)):
        findings.append(
            Finding(
                "likely",
                f"pixels of {width:.4g} x {height:.4g} mm;"
                f" expected {PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm",
                "correct `pixel_spacing` or the header",
            )
        )
    if not all(DETECTOR_MM[0] <= size <= DETECTOR_MM[1] for size in detector.size_mm):
        findings.append(
            Finding(
                "likely",
                f"the detector measures {detector.size_mm[0]:.0f} x {detector.size_mm[1]:.0f} mm;"
                f" expected {DETECTOR_MM[0]:g} to {DETECTOR_MM[1]:g} mm per side",
                "correct `pixel_spacing`; was the image resized?",
            )
        )
    return findings


def _layout_findings(detector: Detector) -> list[Finding]:
    """Return findings about the shape of the pixels and the principal point."""
    findings = []
    width, height = detector.pixel_mm
    if not PIXEL_RATIO[0] < width / height < PIXEL_RATIO[1]:
        findings.append(
            Finding(
                "likely",
                f"pixels are {width / height:.2f} times as wide as high",
                "check the order of `pixel_spacing`: width, then height",
            )
        )
    column, row = detector.principal_px
    off = np.abs([column - (detector.width - 1) / 2, row - (detector.height - 1) / 2])
    if (off / [detector.width, detector.height]).max() > 0.5:
        findings.append(
            Finding(
                "likely",
                f"the principal point ({column:.0f}, {row:.0f}) lies outside the image",
                "check `principal_point`: column, then row, in pixels from 0",
            )
        )
    return findings


def depth_findings(detector: Detector, depth_mm: float) -> list[Finding]:
    """Return findings about the depth of the isocentre at the start pose, and magnification."""
    if depth_mm <= 0:
        return [
            Finding(
                "impossible",
                f"the bone is {-depth_mm:.0f} mm behind the source at the start pose",
                "check the start pose, or use `init` search",
            )
        ]
    magnification = detector.sdd_mm / depth_mm
    if magnification < MAGNIFICATION[0]:
        return [
            Finding(
                "impossible",
                f"the isocentre is {depth_mm:.0f} mm from the source, the detector only"
                f" {detector.sdd_mm:.0f} mm",
                "raise `sdd`, or lower `ty` (distance from source to isocentre)",
            )
        ]
    if magnification > MAGNIFICATION[1]:
        return [
            Finding(
                "likely",
                f"the magnification is {magnification:.1f}",
                "check `sdd` and the distance from source to isocentre (`ty`)",
            )
        ]
    return []


def view_findings(share_in_view: float) -> list[Finding]:
    """Return findings about the share in view at the start pose."""
    if share_in_view < LEAST_IN_VIEW:
        return [
            Finding(
                "impossible",
                "nothing of the bone is inside the image at the start pose",
                "check pixel spacing and principal point, or use `init` search with a wider range",
            )
        ]
    if share_in_view < LIKELY_IN_VIEW:
        return [
            Finding(
                "likely",
                f"only {100 * share_in_view:.0f} % of the bone is inside the image at the start"
                " pose",
                "check pixel spacing, the distances and `mask`",
            )
        ]
    return []


def distance_findings(xray: Xray, depth_mm: float) -> list[Finding]:
    """Return a finding if DistanceSourceToPatient differs from the depth at the start pose."""
    stated = xray.reading.get("source_to_patient_mm")
    if not stated or abs(depth_mm / stated - 1) < SAME_DISTANCE:
        return []
    return [
        Finding(
            "likely",
            f"DistanceSourceToPatient is {stated:.0f} mm, but at the start pose the bone is"
            f" {depth_mm:.0f} mm from the source",
            "check pixel spacing and `sdd`, and whether the range of `ty` contains the header's"
            " distance",
        )
    ]


def patient_findings(xray: Xray, camera: np.ndarray, lineage: Lineage) -> list[Finding]:
    """Return findings about what the header says of how the X-ray lies, against the start pose.

    ``camera`` is volume_from_camera (4, 4) of the X-ray as registered.
    """
    return [
        Finding("likely", what, change) for what, change in contradictions(xray, camera, lineage)
    ]
