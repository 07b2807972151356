"""A CT as one of the DICOM series of a folder: found, listed, and chosen by words of its header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError, reading
from common.files.dicom_marks import is_bare
from common.files.pydicom_quiet import quiet
from common.volume.dicom_slices import Slice, hounsfield, slices_in
from common.volume.dicom_stack import as_grid, stack_of

LEAST_SLICES = 5  # fewer are a localizer or a dose report
UNTILTED = 0.999  # of an image axis along a body axis
# what a series is chosen by: whole words, and words in which one is found; the description is not
# shown, since it may name the patient
NUMBERS = ("SeriesNumber", "StackID", "SeriesInstanceUID")
TEXTS = ("BodyPartExamined", "ConvolutionKernel", "SeriesDescription")


@dataclass(frozen=True)
class Series:
    """A series as one volume."""

    data: np.ndarray  # (I, J, K) int16, Hounsfield units
    affine: np.ndarray  # (4, 4) RAS mm
    remark: str
    warnings: tuple[str, ...] = ()


def sop_class(path: Path) -> str:
    """Return the kind of a DICOM file, SOPClassUID."""
    import pydicom

    with reading(path, "a DICOM file", "export it again"), quiet():
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=is_bare(path)
        )
        return str(header.get("SOPClassUID"))


def read(path: Path, what: str, shown: Path, words: Sequence[str] = ()) -> Series:
    """Read the CT series of a folder, or that of one of its files; ``shown`` is named in messages.

    All ``words`` must be the number or UID of the series, or be found in its body part, kernel or
    description. Raises InputError if there is none or several, or if slices are missing.
    """
    return volume_of(_chosen(path, what, shown, words), what, shown)


def file_of(path: Path, what: str, words: Sequence[str]) -> Path:
    """Return a file of the CT series of a folder that has the ``words``. Raises as `read`."""
    return _chosen(path, what, path, words)[0].path


def volume_of(slices: Sequence[Slice], what: str, shown: Path) -> Series:
    """Return slices as a volume. Raises InputError as `read`."""
    stack = stack_of(shown, slices)
    ordered = [slices[number] for number in stack.order]
    data, affine, said = as_grid(stack, hounsfield(ordered, what))
    stated = ordered[0].header.get("GantryDetectorTilt") or 0
    with reading(shown, "a gantry tilt that is a number", "correct the header"):
        untold = abs(float(stated)) > 1 and not said and np.abs(stack.axes).max(0).min() > UNTILTED
    if untold:
        said.append(
            f"the header states a gantry tilt of {float(stated):g} degrees, which neither the"
            " positions nor the orientation of its slices show; they are used as they are"
        )
    return Series(data, affine, f"DICOM series, {_described(ordered)}", tuple(said))


def series_in(folder: Path) -> list[list[Slice]]:
    """Return the CT series below a folder, without localizers."""
    return _series_of(slices_in(folder.rglob("*")))


def _chosen(path: Path, what: str, shown: Path, words: Sequence[str]) -> list[Slice]:
    """Return the slices of the series that is read. Raises InputError if there is not one."""
    if path.is_dir():
        found = series_in(path)
    else:
        path = path.resolve()  # the other slices are beside the file, not beside a link to it
        own = slices_in([path])
        several = bool(own) and own[0].frame is not None
        found = _series_of(own if several else slices_in(path.parent.glob("*")))
        found = [slices for slices in found if path in [each.path for each in slices]]
    if not found:
        raise InputError(
            shown,
            f"contains no CT series of {LEAST_SLICES} slices or more",
            what,
            "choose the folder of the slices, or convert it (dcm2niix)",
        )
    fitting = [slices for slices in found if all(_has(slices[0], word) for word in words)]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(_described(slices) for slices in found)
    if words:
        said = f"{len(fitting) or 'none'} of them with {' '.join(words)}"
        raise InputError(
            shown,
            f"contains {len(found)} CT series, {said} ({listed})",
            "one with these words",
            "choose other words of number, body part, kernel or description",
        )
    raise InputError(
        shown,
        f"contains {len(found)} CT series ({listed})",
        "one",
        ("name one file of it instead of the folder, or " if path == shown else "")
        + "choose by its words (`series` of crop_cts.py and registration.py)",
    )


def _has(one: Slice, word: str) -> bool:
    """Return whether a word is the number, stack or UID of a series, or is found in its texts."""
    if any(word == _text(one, tag) for tag in NUMBERS):
        return True
    return not word.isdigit() and any(word.lower() in _text(one, tag).lower() for tag in TEXTS)


def _text(one: Slice, tag: str) -> str:
    """Return the text of a tag; several values in a row."""
    value = one.header.get(tag)
    several = value is not None and not isinstance(value, str) and np.ndim(value) == 1
    return " ".join(map(str, value)) if several else "" if value is None else str(value)


def _series_of(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return slices by series, and those of an enhanced CT by stack; without short ones."""
    found: dict[tuple[str, str], list[Slice]] = {}
    for each in slices:
        key = str(each.header.get("SeriesInstanceUID")), each.stack
        found.setdefault(key, []).append(each)
    return [each for each in found.values() if len(each) >= LEAST_SLICES]


def _described(slices: Sequence[Slice]) -> str:
    """Return a series in words, without what identifies the patient."""
    first = slices[0]
    said = [_text(first, tag) for tag in ("SeriesNumber", "BodyPartExamined", "ConvolutionKernel")]
    if thickness := _text(first, "SliceThickness"):
        said.append(f"{float(thickness):g} mm thick")
    if first.frame is not None:
        said.append("frames of one file" + (f", stack {first.stack}" if first.stack else ""))
    listed = ", ".join(filter(None, said))
    return f"{first.path.name}: {len(slices)} slices, {listed or 'not described'}"
