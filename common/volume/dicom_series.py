"""A CT as a series of DICOM slices: chosen, sorted, and checked for gaps and tilt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.files.pydicom_quiet import quiet
from common.geometry import RAS_FROM_LPS

LEAST_SLICES = 5  # fewer are a localizer or a dose report
# deviation of the distances of slices from their median, mm, and of a stack from its normal, deg
UNEVEN_MM, TILT_DEG = 0.05, 0.2
DCM2NIIX = "convert it with dcm2niix, which resamples such stacks"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
TAGS = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined",
    "ConvolutionKernel", "Modality", "ImageType", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SOPClassUID", "NumberOfFrames",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A series as one volume."""

    data: np.ndarray  # (I, J, K) int16, Hounsfield units
    affine: np.ndarray  # (4, 4) RAS mm
    remark: str


def is_segmentation(path: Path) -> bool:
    """Return whether a file is a DICOM SEG."""
    import pydicom

    with reading(path, "a DICOM file", "export it again"), quiet():
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return header.get("SOPClassUID") == SEGMENTATION


def read(path: Path, what: str, shown: Path) -> Series:
    """Read the CT series of a folder, or that of one of its files; ``shown`` is named in messages.

    Raises InputError if there is none or several, or if the slices make no rectangular grid.
    """
    found = _series_in(path.rglob("*") if path.is_dir() else path.parent.glob("*"))
    if path.is_file():
        found = {uid: slices for uid, slices in found.items() if path in [p for p, _ in slices]}
    if not found:
        raise InputError(
            shown,
            f"contains no CT series of {LEAST_SLICES} slices or more",
            what,
            "choose the folder of the slices, or convert it (dcm2niix)",
        )
    if len(found) > 1:
        listed = "; ".join(_described(slices) for slices in found.values())
        raise InputError(
            shown,
            f"contains {len(found)} CT series ({listed})",
            "one",
            "name one file of the series to read instead of the folder",
        )
    (slices,) = found.values()
    return _volume(shown, slices, what)


def _series_in(paths: Iterable[Path]) -> dict[str, list[tuple[Path, Any]]]:
    """Return the CT series of files, without localizers, by their UID."""
    import pydicom

    found: dict[str, list[tuple[Path, Any]]] = {}
    with quiet():
        for path in sorted(each for each in paths if each.is_file()):
            if path.name.startswith(".") or not _may_be_dicom(path):
                continue
            with reading(path, "a DICOM slice", "copy it again, or move it away"):
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            if header.get("Modality") == "CT" and "LOCALIZER" not in (
                header.get("ImageType") or ()
            ):
                found.setdefault(str(header.get("SeriesInstanceUID")), []).append((path, header))
    return {uid: slices for uid, slices in found.items() if len(slices) >= LEAST_SLICES}


def _may_be_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _described(slices: list[tuple[Path, Any]]) -> str:
    """Return a series in words, without what identifies the patient."""
    path, header = slices[0]
    said = [
        str(header.get(tag))
        for tag in ("SeriesNumber", "BodyPartExamined", "ConvolutionKernel")
        if header.get(tag)
    ]
    return f"{path.name}: {len(slices)} slices, {', '.join(said) or 'not described'}"


def _volume(shown: Path, slices: list[tuple[Path, Any]], what: str) -> Series:
    """Return sorted slices as a volume. Raises InputError if they make no rectangular grid."""
    with reading(shown, "slices with position, orientation and spacing", DCM2NIIX):
        positions = np.array([h.ImagePositionPatient for _, h in slices], float)
        axes = np.array([h.ImageOrientationPatient for _, h in slices], float)
        spacings = np.array([h.PixelSpacing for _, h in slices], float)
        sizes = {(int(h.Rows), int(h.Columns)) for _, h in slices}
    if len(sizes) > 1 or np.ptp(axes, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise InputError(
            shown,
            "its slices differ in size, orientation or pixel spacing",
            "slices of one stack",
            DCM2NIIX,
        )
    across, down = axes[0, :3], axes[0, 3:]
    normal = np.cross(across, down)
    order = np.argsort(positions @ normal)
    positions = positions[order]
    step_mm = _check_stack(shown, positions, normal)
    (rows, columns), (row_mm, column_mm) = sizes.pop(), spacings[0]
    files.check_claim(slices[0][0], rows * columns * 2, True, what)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([across * column_mm, down * row_mm, normal * step_mm], axis=1)
    lps[:3, 3] = positions[0]
    data = np.stack([_pixels(slices[number][0]) for number in order], axis=-1)
    remark = f"DICOM series, {_described(slices)}; {column_mm:g} x {row_mm:g} x {step_mm:.4g} mm"
    return Series(data.transpose(1, 0, 2), RAS_FROM_LPS @ lps, remark)


def _check_stack(shown: Path, positions: np.ndarray, normal: np.ndarray) -> float:
    """Return the distance of slices at sorted positions (N, 3), mm.

    Raises InputError if slices are missing, double or uneven, or if the gantry was tilted.
    """
    heights = positions @ normal
    steps = np.diff(heights)
    step_mm = float(np.median(steps))
    along = positions[-1] - positions[0]
    cosine = np.clip(along @ normal / max(np.linalg.norm(along), 1e-9), -1, 1)
    tilt = float(np.degrees(np.arccos(cosine)))
    if step_mm <= 0 or steps.min() < UNEVEN_MM:
        raise InputError(
            shown,
            f"{int((steps < UNEVEN_MM).sum()) + 1} slices lie at one place",
            "one slice at each place",
            "name one file of the series, or remove other phases and copies",
        )
    if tilt > TILT_DEG:
        raise InputError(
            shown, f"its gantry was tilted by {tilt:.1f} degrees", "an upright stack", DCM2NIIX
        )
    wide = np.flatnonzero(np.abs(steps - step_mm) > max(UNEVEN_MM, 0.01 * step_mm))
    if len(wide):
        first = wide[0]
        lost = round(float(steps[wide].sum() / step_mm)) - len(wide)
        multiple = np.allclose(steps[wide] / step_mm, np.rint(steps[wide] / step_mm), atol=0.05)
        raise InputError(
            shown,
            f"{lost} slices are missing"
            if multiple and lost > 0
            else f"{len(wide)} of {len(steps)} distances of slices are uneven"
            f" ({steps.min():.3g} to {steps.max():.3g} mm)",
            f"a slice every {step_mm:.4g} mm",
            f"copy the series again; the first gap is after {heights[first]:.1f} mm"
            if multiple and lost > 0
            else DCM2NIIX,
        )
    return step_mm


def _pixels(path: Path) -> np.ndarray:
    """Return the Hounsfield units (H, W) int16 of a slice."""
    import pydicom

    with reading(path, "a CT slice", "copy it again, or uncompress it"), quiet():
        dataset = pydicom.dcmread(path)
        slope = float(dataset.get("RescaleSlope", 1) or 1)
        intercept = float(dataset.get("RescaleIntercept", 0) or 0)
        values = dataset.pixel_array * slope + intercept
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)
