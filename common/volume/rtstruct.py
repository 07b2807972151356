"""Contours of a DICOM RTSTRUCT as a labelmap on the grid of the CT that they were drawn on.

The slices of that CT have to be beside the file: contours alone have no grid. Contours of one slice
exclude each other, as a hole does; slices between contours are interpolated by their distance to
the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError, reading
from common.files.dicom_marks import is_bare
from common.files.pydicom_quiet import quiet
from common.geometry import RAS_FROM_LPS, apply, invert
from common.volume import dicom_series
from common.volume.dicom_slices import Slice, slices_in
from common.volume.segments import Labelled, joined

OUTLINES = ("body", "external", "skin")  # of the patient, around every bone
CLOSED = "CLOSED_PLANAR"
FLAT_VOXELS = 0.5  # how far the points of a contour may leave its slice
ONE_GAP = 1.5  # times the usual distance of contours, up to which slices are interpolated
SAME_SLICE = 0.01  # voxels
REMEDY = "export it again, or the segments as NIfTI or NRRD"


@dataclass(frozen=True)
class Region:
    """A region of interest: closed contours, each (N, 3) in RAS mm."""

    number: int
    name: str
    contours: tuple[np.ndarray, ...]


def names(path: Path) -> dict[str, int]:
    """Return the labels by name, without drawing the contours."""
    return {region.name: region.number for region in _regions(path)[0]}


def read(path: Path, what: str) -> tuple[Labelled, list[str]]:
    """Return the labelmap of the regions, and what was left out, in words.

    Raises InputError if the CT is not beside the file, if contours do not lie in its slices, or if
    regions overlap.
    """
    regions, left_out = _regions(path)
    if not regions:
        beside = " but the outline of the patient" if left_out else ""
        raise InputError(path, f"has no region with closed contours{beside}", what, REMEDY)
    series = dicom_series.volume_of(_slices_of(path), what, path)
    index_from_ras = invert(series.affine)
    masks = (
        (region.number, region.name, _drawn(path, region, series.data.shape, index_from_ras))
        for region in regions
    )
    data = joined(path, series.data.shape, masks)
    if not data.any():
        raise InputError(
            path, "its contours lie outside its CT", what, "choose the CT that they were drawn on"
        )
    found = {region.name: region.number for region in regions}
    return (data, series.affine, found), [*left_out, *series.warnings]


def _regions(path: Path) -> tuple[list[Region], list[str]]:
    """Return the regions with closed contours, and what is left out, in words."""
    import pydicom

    found, left_out = [], []
    with reading(path, "an RTSTRUCT", REMEDY), quiet():
        dataset = pydicom.dcmread(path, force=is_bare(path))
        named = {int(r.ROINumber): str(r.ROIName) for r in dataset.StructureSetROISequence}
        kinds = {
            int(each.ReferencedROINumber): str(each.get("RTROIInterpretedType") or "")
            for each in dataset.get("RTROIObservationsSequence") or []
        }
        for each in dataset.ROIContourSequence:
            number = int(each.ReferencedROINumber)
            name = named[number]
            contours = [
                apply(RAS_FROM_LPS, np.array(contour.ContourData, float).reshape(-1, 3))
                for contour in each.get("ContourSequence") or []
                if contour.get("ContourGeometricType") == CLOSED
            ]
            if kinds.get(number) == "EXTERNAL" or name.lower() in OUTLINES:
                left_out.append(f"{name} is left out, the outline of the patient")
            elif contours:
                found.append((name, tuple(contours)))
    regions = [Region(n, name, contours) for n, (name, contours) in enumerate(found, start=1)]
    return regions, left_out


def _slices_of(path: Path) -> list[Slice]:
    """Return the slices of the CT that contours were drawn on, from its folder or one beside it.

    Raises InputError if it is not there.
    """
    import pydicom

    wanted = set()
    with reading(path, "an RTSTRUCT", REMEDY), quiet():
        dataset = pydicom.dcmread(path, force=is_bare(path))
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
            for study in frame.get("RTReferencedStudySequence") or []:
                wanted |= {
                    str(one.SeriesInstanceUID)
                    for one in study.get("RTReferencedSeriesSequence") or []
                }
    folder = path.resolve().parent
    for places in (folder.rglob("*"), folder.parent.glob("*/*")):
        slices = slices_in(places)
        uids = {_uid(each) for each in slices}
        here = uids & wanted if wanted else uids
        if len(here) == 1:
            return [each for each in slices if _uid(each) in here]
    raise InputError(
        path,
        "the CT that its contours were drawn on is not in its folder or one beside it",
        "an RTSTRUCT with the slices of its CT",
        "copy both into one folder",
    )


def _uid(one: Slice) -> str:
    return str(one.header.get("SeriesInstanceUID"))


def _drawn(
    path: Path, region: Region, shape: tuple[int, ...], index_from_ras: np.ndarray
) -> np.ndarray:
    """Return the mask (I, J, K) of a region."""
    from skimage.draw import polygon

    planes: dict[float, np.ndarray] = {}
    for contour in region.contours:
        points = apply(index_from_ras, contour)
        if np.ptp(points[:, 2]) > FLAT_VOXELS:
            raise InputError(
                path,
                f"a contour of {region.name} does not lie in a slice of its CT",
                "contours in slices",
                REMEDY,
            )
        height = round(float(points[:, 2].mean()) / SAME_SLICE) * SAME_SLICE
        plane = planes.setdefault(height, np.zeros(shape[:2], bool))
        plane[polygon(points[:, 0], points[:, 1], shape[:2])] ^= True
    mask = np.zeros(shape, bool)
    for k, plane in _slices_between(planes):
        if 0 <= k < shape[2]:
            mask[:, :, k] = plane
    return mask


def _slices_between(planes: dict[float, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the masks (I, J) of whole slices from those at any heights.

    A gap that is wider than usual stays empty: it lies between two parts.
    """
    heights = np.array(sorted(planes))
    usual = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
    for k in range(int(np.ceil(heights[0] - 0.5)), int(np.floor(heights[-1] + 0.5)) + 1):
        nearest = heights[np.abs(heights - k).argmin()]
        if abs(nearest - k) <= SAME_SLICE:
            yield k, planes[nearest]
            continue
        after = int(np.searchsorted(heights, k))
        if 0 < after < len(heights):
            low, high = heights[after - 1], heights[after]
            if high - low <= ONE_GAP * usual:
                share = (k - low) / (high - low)
                yield k, _between(planes[low], planes[high], share)
                continue
        if abs(nearest - k) <= 0.5:
            yield k, planes[nearest]


def _between(low: np.ndarray, high: np.ndarray, share: float) -> np.ndarray:
    """Return the mask between two, by the distances to their edges."""
    from scipy.ndimage import distance_transform_edt

    def depth(mask: np.ndarray) -> Any:
        if not mask.any():
            return np.full(mask.shape, -1.0)
        return distance_transform_edt(mask) - distance_transform_edt(~mask)

    return (1 - share) * depth(low) + share * depth(high) >= 0
