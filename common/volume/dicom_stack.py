"""A stack of slices as a rectangular grid: a tilted gantry and uneven distances are resampled.

A tilted gantry moves each slice within its own plane, so that only lines within slices are
interpolated; uneven distances interpolate between neighbouring slices. Lost and double slices are
refused: nothing is known of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError, reading
from common.geometry import RAS_FROM_LPS
from common.volume.dicom_slices import WHAT, Slice

# deviation of the distances of slices from their median, mm, and of a stack from its normal, deg
UNEVEN_MM, TILT_DEG = 0.05, 0.2
MOST_TILT_DEG = 45.0  # of gantries: 30
# share of the distances, and their number, that may be wide for them to be gaps of lost slices
FEW_GAPS, FEW = 0.1, 2
STEP_PERCENT = 10  # of uneven distances, that of the resampled slices
DCM2NIIX = "convert it with dcm2niix"
PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")


@dataclass(frozen=True)
class Stack:
    """Places of slices in LPS mm, sorted along their normal."""

    order: np.ndarray  # (N,) of the slices as they came
    positions: np.ndarray  # (N, 3) of the first pixel
    axes: np.ndarray  # (3, 3) columns: directions of image columns, of image rows, and the normal
    spacing_mm: tuple[float, float]  # of columns and of rows

    @property
    def heights(self) -> np.ndarray:
        """Distance of each slice along the normal, (N,) mm."""
        return self.positions @ self.axes[:, 2]

    @property
    def tilt_deg(self) -> float:
        """Angle between the normal and the line through the slices."""
        along = self.positions[-1] - self.positions[0]
        cosine = along @ self.axes[:, 2] / max(float(np.linalg.norm(along)), 1e-9)
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def shifts_px(self) -> np.ndarray:
        """How far each slice lies beside the first one, (N, 2) in columns and rows."""
        return (self.positions - self.positions[0]) @ self.axes[:, :2] / self.spacing_mm


def stack_of(shown: Path, slices: Sequence[Slice]) -> Stack:
    """Return the sorted places of slices; ``shown`` is the file or folder for messages.

    Raises InputError if they do not lie in parallel planes of one size, if one is missing or
    double, or if they slide away by more than any gantry tilts.
    """
    headers = [each.header for each in slices]
    for tag in PLACES:
        lacking = sum(not header.get(tag) for header in headers)
        if lacking:
            raise InputError(
                shown, f"{lacking} of its {len(headers)} slices have no {tag}", WHAT, DCM2NIIX
            )
    with reading(shown, WHAT, DCM2NIIX):
        positions = np.array([h.ImagePositionPatient for h in headers], float)
        axes = np.array([h.ImageOrientationPatient for h in headers], float)
        spacings = np.array([h.PixelSpacing for h in headers], float)
        sizes = {(int(h.Rows), int(h.Columns)) for h in headers}
    if len(sizes) > 1 or np.ptp(axes, axis=0).max() > 1e-3 or np.ptp(spacings, axis=0).max() > 1e-3:
        raise InputError(
            shown,
            "its slices differ in size, orientation or pixel spacing",
            "slices of one stack",
            DCM2NIIX,
        )
    across, down = axes[0, :3], axes[0, 3:]
    normal = np.cross(across, down)
    order = np.argsort(positions @ normal, kind="stable")
    row_mm, column_mm = spacings[0]
    stack = Stack(
        order, positions[order], np.stack([across, down, normal], axis=1), (column_mm, row_mm)
    )
    _check(shown, stack)
    return stack


def _check(shown: Path, stack: Stack) -> None:
    """Raise InputError as `stack_of`, for places of slices."""
    heights = stack.heights
    steps = np.diff(heights)
    step_mm = float(np.median(steps))
    if step_mm <= 0 or steps.min() < UNEVEN_MM:
        raise InputError(
            shown,
            f"{int((steps < UNEVEN_MM).sum()) + 1} slices lie at one place",
            "one slice at each place",
            "name one file of the series, or remove other phases and copies",
        )
    if stack.tilt_deg > MOST_TILT_DEG:
        raise InputError(
            shown,
            f"its slices slide away by {stack.tilt_deg:.1f} degrees",
            f"a gantry tilted by at most {MOST_TILT_DEG:g} degrees",
            DCM2NIIX,
        )
    gaps = _wide(steps)
    lost = round(float(steps[gaps].sum() / step_mm)) - len(gaps)
    multiple = np.allclose(steps[gaps] / step_mm, np.rint(steps[gaps] / step_mm), atol=0.05)
    if len(gaps) and multiple and lost > 0 and len(gaps) <= max(FEW, FEW_GAPS * len(steps)):
        raise InputError(
            shown,
            f"{lost} slices are missing",
            f"a slice every {step_mm:.4g} mm",
            f"copy the series again; the first gap is after {heights[gaps[0]]:.1f} mm",
        )


def _wide(steps: np.ndarray) -> np.ndarray:
    """Return which distances of slices differ from the usual one."""
    usual = np.median(steps)
    return np.flatnonzero(np.abs(steps - usual) > max(UNEVEN_MM, 0.01 * usual))


def as_grid(stack: Stack, hu: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return voxels (I, J, K), their affine (4, 4) RAS mm, and what was resampled, in words.

    ``hu`` (N, H, W) are the slices in the order of the stack.
    """
    said, first = [], stack.positions[0]
    if stack.tilt_deg > TILT_DEG:
        corner, hu = _upright(hu, stack.shifts_px)
        first = first + stack.axes[:, :2] @ (corner * stack.spacing_mm)
        said.append(
            f"its gantry was tilted by {stack.tilt_deg:.1f} degrees; the slices were moved within"
            " their planes onto an upright grid"
        )
    steps = np.diff(stack.heights)
    step_mm = float(np.median(steps))
    if len(_wide(steps)):
        step_mm = float(np.percentile(steps, STEP_PERCENT))
        hu = _even(hu, stack.heights, step_mm)
        said.append(
            f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart; interpolated to"
            f" {step_mm:.3g} mm, and less certain where they are far apart"
        )
    lps = np.eye(4)
    lps[:3, :3] = stack.axes * [*stack.spacing_mm, step_mm]
    lps[:3, 3] = first
    return hu.transpose(2, 1, 0), RAS_FROM_LPS @ lps, said


def _upright(hu: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place (2,) of the first pixel of a grid in which slices are moved, and the slices.

    ``shifts`` (N, 2) are in columns and rows; what no slice covers gets the lowest value.
    """
    from scipy.ndimage import shift

    low = np.floor(shifts.min(axis=0)).astype(int)
    beyond = np.ceil(shifts.max(axis=0)).astype(int) - low
    lowest = int(hu.min())
    moved = np.full((len(hu), hu.shape[1] + beyond[1], hu.shape[2] + beyond[0]), lowest, np.int16)
    for number, (columns, rows) in enumerate(shifts - low):
        here = np.full(moved.shape[1:], lowest, np.float32)
        here[: hu.shape[1], : hu.shape[2]] = hu[number]
        moved[number] = np.rint(shift(here, (rows, columns), order=1, cval=lowest))
    return low, moved


def _even(hu: np.ndarray, heights: np.ndarray, step_mm: float) -> np.ndarray:
    """Return slices every ``step_mm``, interpolated between those at ``heights`` (N,)."""
    places = np.arange(heights[0], heights[-1] + 1e-3, step_mm)
    below = np.clip(np.searchsorted(heights, places, side="right") - 1, 0, len(heights) - 2)
    share = np.clip((places - heights[below]) / np.diff(heights)[below], 0, 1)
    even = np.empty((len(places), *hu.shape[1:]), np.int16)
    for number, (lower, part) in enumerate(zip(below, share, strict=True)):
        even[number] = np.rint((1 - part) * hu[lower] + part * hu[lower + 1])
    return even
