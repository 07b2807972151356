# PYTHON_ARGCOMPLETE_OK
"""Write the distances that registration needs to the header of a DICOM X-ray.

Many exports lack the source-to-detector distance (SDD). Without it, and without a calibration,
distances in the image are unknown. Measure the SDD, or ask the manufacturer.

reads   a DICOM X-ray with pixels
writes  a copy of it, in which these elements are set:
          (0018,1110) DistanceSourceToDetector  --sdd, mm
          (0018,1111) DistanceSourceToPatient   --source_to_patient, mm, if given
          (0018,1164) ImagerPixelSpacing        --pixel_spacing, mm at the detector, if given;
                                                DICOM stores the spacing of rows first
        and these, which the standard requires of a derived object (PS3.3 C.7.6.1.1):
          (0008,0018) SOPInstanceUID            new, also in the meta information (0002,0003)
          (0008,0008) ImageType                 first value DERIVED, the others unchanged
          (0008,2111) DerivationDescription     what was set, after the previous description
          (0008,2112) SourceImageSequence       class and instance of the original
        All other elements are unchanged, private ones and the pixel data byte for byte, in the same
        transfer syntax. The meta information also names pydicom, which writes the file.
step    before registration.py (step 7)

example
  python add_dicom_data.py --i xray.dcm --o xray_with_sdd.dcm --sdd 1020.0
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import files
from common.command_line import script
from common.errors import InputError, reading

if TYPE_CHECKING:
    import pydicom

logger = logging.getLogger("common.script")

DISTANCE_MM = (50.0, 10_000.0)
PIXEL_MM = (0.005, 20.0)
LONGEST_DESCRIPTION = 1024  # characters of a DICOM short text (ST)


@dataclass(frozen=True)
class Distances:
    """Distances to write, mm; None leaves an element unchanged."""

    sdd_mm: float
    source_to_patient_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--i", "--input", dest="input", required=True, metavar="IN", help="DICOM X-ray"
    )
    parser.add_argument(
        "-o",
        "--o",
        "--output",
        dest="output",
        required=True,
        metavar="OUT",
        help="DICOM file to write; not the input",
    )
    parser.add_argument(
        "--sdd", type=float, required=True, metavar="MM", help="source-to-detector distance, mm"
    )
    parser.add_argument(
        "--source_to_patient",
        type=float,
        metavar="MM",
        help="distance from the source to the patient's isocentre, mm",
    )
    parser.add_argument(
        "--pixel_spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="pixel spacing at the detector, mm: one number, or width and height",
    )
    return parser


def add_distances(dataset: pydicom.FileDataset, distances: Distances) -> list[str]:
    """Set the distances in a dataset, in place, and mark it as derived.

    Return one description per element that was set.
    """
    changes = [_set(dataset, "DistanceSourceToDetector", distances.sdd_mm)]
    if distances.source_to_patient_mm is not None:
        changes.append(_set(dataset, "DistanceSourceToPatient", distances.source_to_patient_mm))
    if distances.pixel_mm is not None:
        changes.append(_set(dataset, "ImagerPixelSpacing", list(distances.pixel_mm[::-1])))
    mark_derived(dataset, "; ".join(changes))
    return changes


def mark_derived(dataset: pydicom.FileDataset, description: str) -> None:
    """Give a changed dataset a new identity and name its source, in place."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import generate_uid

    source, meta = Dataset(), dataset.file_meta
    source.ReferencedSOPClassUID = dataset.get("SOPClassUID") or meta.get(
        "MediaStorageSOPClassUID", ""
    )
    source.ReferencedSOPInstanceUID = dataset.get("SOPInstanceUID") or meta.get(
        "MediaStorageSOPInstanceUID", ""
    )
    if source.ReferencedSOPInstanceUID:
        dataset.SourceImageSequence = Sequence([source])
    dataset.SOPInstanceUID = generate_uid()
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    image_type = dataset.get("ImageType") or ["", "PRIMARY"]
    kinds = [image_type] if isinstance(image_type, str) else list(image_type)
    dataset.ImageType = ["DERIVED", *(kinds[1:] or ["PRIMARY"])]
    previous = dataset.get("DerivationDescription")
    whole = f"{previous}; {description}" if previous else description
    dataset.DerivationDescription = whole[-LONGEST_DESCRIPTION:]


def _set(dataset: pydicom.FileDataset, keyword: str, value: float | list[float]) -> str:
    """Set an element and describe the change."""
    before = dataset.get(keyword)
    new = [_decimal(v) for v in value] if isinstance(value, list) else _decimal(value)
    setattr(dataset, keyword, new)
    old = "missing" if before in (None, "") else str(before)
    return f"{keyword} {old} -> {getattr(dataset, keyword)} mm"


def _decimal(value: float) -> str:
    """Return a DICOM decimal string, at most 16 characters."""
    return f"{value:.10g}"


def run(args: argparse.Namespace) -> int | None:
    distances = Distances(args.sdd, args.source_to_patient, _pixel_pair(args.pixel_spacing))
    _check(distances)
    source, output = files.existing_file(args.input, "a DICOM X-ray"), Path(args.output)
    if output.exists() and output.samefile(source):
        raise InputError(
            output,
            "is the input",
            "another file name",
            "change --o, an X-ray is never changed in place",
        )
    files.check_outputs([output], args.overwrite, [source])
    from common.xray import dicom

    dataset = dicom.open_dataset(source)
    with reading(source, "elements that pydicom can write again", "export it again"), dicom.quiet():
        changes = add_distances(dataset, distances)
        with files.writing(output) as stream:
            dataset.save_as(stream)
    for change in changes:
        logger.info(change)
    print(output)
    return None


def _pixel_pair(values: list[float] | None) -> tuple[float, float] | None:
    """Return width and height of --pixel_spacing. Raises InputError for more than two numbers."""
    if values is None:
        return None
    if len(values) > 2:
        raise InputError(
            "--pixel_spacing",
            f"{len(values)} numbers",
            "one, or two (width, height)",
            "correct it",
        )
    return values[0], values[-1]


def _check(distances: Distances) -> None:
    """Raise InputError if a distance is out of range."""
    named = [
        ("--sdd", distances.sdd_mm, DISTANCE_MM),
        ("--source_to_patient", distances.source_to_patient_mm, DISTANCE_MM),
    ]
    named += [("--pixel_spacing", value, PIXEL_MM) for value in distances.pixel_mm or ()]
    for flag, value, (low, high) in named:
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InputError(
                f"{flag} {value:g}",
                "out of range",
                f"{low:g} to {high:g} mm",
                "correct it, it may be in centimetres",
            )
    to_patient = distances.source_to_patient_mm
    if to_patient is not None and to_patient >= distances.sdd_mm:
        raise InputError(
            f"--source_to_patient {to_patient:g}",
            f"is not below --sdd {distances.sdd_mm:g}",
            "the patient between source and detector",
            "correct them",
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
