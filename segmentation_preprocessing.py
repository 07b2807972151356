# PYTHON_ARGCOMPLETE_OK
"""Step 1: keep the largest connected component of every label of a segmentation.

Automatic segmentations leave small islands away from the bone, which would make its bounding box
(step 2) far too large. Voxels that touch at a face, an edge or a corner (26 neighbours) are
connected. A large piece that is removed is warned of with its size and place: it may be the other
part of a fractured bone, the bone beyond a lost slice, or a second bone under the same label.

reads   a labelmap: whole-number labels, 0 for background (NIfTI, NRRD, MHA, DICOM SEG, RTSTRUCT, or
        a folder of one mask per bone); labels are numbers or the names that it states
writes  OUT/NAME_cleaned.nii.gz on the same grid and in the same data type
        OUT/NAME_cleaned.json, its lineage
        Labels that are not requested are unchanged.
frame   that of the file; nothing is moved
next    crop_cts.py (step 2)

example
  python segmentation_preprocessing.py -i P01/segmentations/P01_seg.nii.gz \\
    -o P01/segmentations -l 1 2 3 4
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError
from common.geometry import apply
from common.progress import track
from common.volume.label_names import number_or_name
from common.volume.volume import affine_of_box

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

MAX_LABEL = 1_000_000  # larger values indicate a CT or a damaged file
# a piece above either size is no artefact: share of the label, and volume
LARGE_SHARE, LARGE_MM3 = 0.05, 1000.0
LEAST_PIECE_VOXELS = 50  # of a coarse labelmap, in which an island has a large share


@dataclass(frozen=True)
class Piece:
    """A large component of a label beside the largest one."""

    voxels: int
    share: float  # of the voxels of the label
    mm3: float
    gap_mm: float  # to the largest component
    centre_mm: tuple[float, float, float]  # RAS mm in the frame of the file
    kept: bool


@dataclass(frozen=True)
class LabelReport:
    """What was removed from one label."""

    label: int
    voxels_kept: int
    islands_removed: int
    voxels_removed: int
    large: tuple[Piece, ...] = ()


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input", required=True, metavar="SEG", help="labelmap to clean (docs/formats.md)"
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for NAME_cleaned.nii.gz"
    )
    parser.add_argument(
        "-l",
        "-labels",
        "--labels",
        nargs="+",
        type=number_or_name,
        metavar="N",
        help="labels to clean, numbers or names (default: all labels of the file)",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        type=number_or_name,
        default=[],
        metavar="N",
        help="labels of which large pieces are kept too, as of a fractured bone (above"
        f" {100 * LARGE_SHARE:g} %% of the label or {LARGE_MM3 / 1000:g} cm3)",
    )
    return parser


def keep_largest_components(
    data: np.ndarray,
    labels: Iterable[int] | None = None,
    affine: np.ndarray | None = None,
    keep: Iterable[int] = (),
) -> list[LabelReport]:
    """Set to 0, in place, all but the largest 26-connected component of each label.

    ``data`` is (I, J, K) integers, changed in place because the labelmap of a whole body is large.
    ``labels`` defaults to all labels; missing ones get no report. Of components of the same size,
    the first in slice order is kept. ``affine`` (4x4, RAS mm, default: the identity) is for sizes
    and places of large pieces, which stay in the labels of ``keep``.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(data)
    present = [label for label, box in enumerate(boxes, 1) if box is not None]
    chosen = (
        present
        if labels is None
        else [label for label in dict.fromkeys(labels) if label in present]
    )
    affine, kept_labels = np.eye(4) if affine is None else affine, set(keep)
    reports = []
    for label in track(chosen, what="labels", unit="label"):
        part = data[boxes[label - 1]]  # a view
        runs = find_runs(part, label)
        component = connect_runs(runs, part.shape)
        sizes = np.bincount(component, weights=runs[:, 3] - runs[:, 2]).astype(int)
        large = _large_pieces(sizes, affine)
        stays = np.zeros(len(sizes), bool)
        stays[sizes.argmax()] = True
        if label in kept_labels:
            stays[large] = True
        for k, j, start, stop in runs[~stays[component]]:
            part[start:stop, j, k] = 0
        voxels_kept = int(sizes[stays].sum())
        here = affine_of_box(affine, boxes[label - 1])
        pieces = [
            _describe(runs, component, piece, sizes, here, bool(stays[piece])) for piece in large
        ]
        removed = int(sizes.sum()) - voxels_kept
        reports.append(LabelReport(label, voxels_kept, int((~stays).sum()), removed, tuple(pieces)))
    return reports


def _large_pieces(sizes: np.ndarray, affine: np.ndarray) -> list[int]:
    """Return the numbers of the components, but the largest, that are too large for artefacts."""
    mm3 = sizes * abs(np.linalg.det(affine[:3, :3]))
    large = (sizes > LARGE_SHARE * sizes.sum()) & (sizes >= LEAST_PIECE_VOXELS)
    large |= mm3 > LARGE_MM3
    large[sizes.argmax()] = False
    return [int(piece) for piece in np.flatnonzero(large)]


def _describe(
    runs: np.ndarray,
    component: np.ndarray,
    piece: int,
    sizes: np.ndarray,
    affine: np.ndarray,
    kept: bool,
) -> Piece:
    """Return size and place of a component of `connect_runs`; ``affine`` is that of the runs."""
    from scipy.spatial import KDTree

    def ends(number: int) -> np.ndarray:
        k, j, start, stop = runs[component == number].T
        return apply(affine, np.concatenate([np.c_[start, j, k], np.c_[stop - 1, j, k]]))

    k, j, start, stop = runs[component == piece].T
    middle = np.average(np.c_[(start + stop - 1) / 2, j, k], axis=0, weights=stop - start)
    gap_mm = KDTree(ends(int(sizes.argmax()))).query(ends(piece))[0].min()
    return Piece(
        voxels=int(sizes[piece]),
        share=float(sizes[piece] / sizes.sum()),
        mm3=float(sizes[piece] * abs(np.linalg.det(affine[:3, :3]))),
        gap_mm=float(gap_mm),
        centre_mm=tuple(np.round(apply(affine, middle), 1).tolist()),
        kept=kept,
    )


def find_runs(data: np.ndarray, label: int) -> np.ndarray:
    """Return the runs of a label, (N, 4) rows (k, j, start, stop), sorted.

    ``data[start:stop, j, k]`` is ``label``. Runs need a tenth of the memory of a component number
    per voxel, because the bounding box of islands far apart is as large as the volume.
    """
    runs = []
    for k in range(data.shape[2]):
        plane = (data[:, :, k] == label).T
        if plane.any():
            steps = np.diff(plane.astype(np.int8), axis=1, prepend=0, append=0)
            j, start = np.nonzero(steps == 1)
            runs.append(np.stack([np.full_like(j, k), j, start, np.nonzero(steps == -1)[1]], 1))
    return np.concatenate(runs)


def connect_runs(runs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the component number (N,) of each run of `find_runs`.

    ``shape`` is that of the data. Runs of neighbouring rows are connected if they touch, also at
    corners.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    k, j, start, stop = runs.T
    # one sorted number line for all rows, with a gap between rows so that their runs do not touch
    width = shape[0] + 1
    row = k * (shape[1] + 2) + j
    starts, stops = row * width + start, row * width + stop
    here, there = [], []
    # half of the neighbouring rows; the others are reached from their side
    for offset in (1, *(shape[1] + 2 + dj for dj in (-1, 0, 1))):
        first = np.searchsorted(stops, starts + offset * width, "left")
        count = np.searchsorted(starts, stops + offset * width, "right") - first
        here.append(np.repeat(np.arange(len(runs)), count))
        there.append(np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count))
    touching = np.concatenate(here), np.concatenate(there)
    graph = coo_array((np.ones(len(touching[0]), bool), touching), (len(runs), len(runs)))
    return connected_components(graph, directed=False)[1]


def clean(
    labelmap: Volume,
    labels: Sequence[int] | None,
    keep: Sequence[int] = (),
    names: dict[str, int] | None = None,
) -> tuple[Volume, list[LabelReport]]:
    """Return the cleaned labelmap with its lineage, and a report per label.

    Large pieces stay in the labels of ``keep``. ``names`` of labels are recorded. Raises
    InputError if the labelmap has none of the labels.
    """
    # a memory-mapped file is read-only
    data = labelmap.data if labelmap.data.flags.writeable else np.array(labelmap.data)
    reports = keep_largest_components(data, labels, labelmap.affine, keep)
    if not reports:
        present = [int(label) for label in np.unique(data) if label]
        raise InputError(
            labelmap.path,
            "contains none of the labels requested",
            f"labels {list(labels)}" if labels else "at least one label above 0",
            f"choose from the labels in the file, {present}",
        )
    settings: dict[str, Any] = {
        "connectivity": 26,
        "labels": [asdict(report) for report in reports],
    }
    if names:
        settings["names"] = names
    lineage = labelmap.lineage.then("segmentation_preprocessing", settings)
    return replace(labelmap, data=data, lineage=lineage), reports


def run(args: argparse.Namespace) -> int | None:
    from common.volume import label_names, nifti

    source = files.existing_input(args.input, nifti.LABELMAP)
    labels = label_names.resolve(args.labels, source) if args.labels else None
    keep = label_names.resolve(args.keep, source)
    if labels and min(labels) < 1:
        raise InputError(
            "--labels",
            f"found {min(labels)}",
            "labels of 1 and above (0 is background)",
            "leave it out",
        )
    output = Path(args.output_dir) / f"{files.stem(source)}_cleaned.nii.gz"
    files.check_outputs([output], args.overwrite, [source])
    labelmap = nifti.load_labelmap(source)
    if labelmap.data.max() > MAX_LABEL:
        raise InputError(
            source,
            f"contains the value {labelmap.data.max()}",
            f"labels up to {MAX_LABEL}",
            "choose a labelmap, not a CT",
        )
    cleaned, reports = clean(labelmap, labels, keep, label_names.names_of(source))
    for missing in sorted(set(labels or ()) - {report.label for report in reports}):
        logger.warning(f"{source.name}: label {missing} is missing; it is skipped")
    for report in reports:
        logger.info(
            f"label {report.label}: {report.voxels_kept} voxels kept, {report.islands_removed}"
            f" islands with {report.voxels_removed} voxels removed"
        )
        _warn_of_large_pieces(source, report)
    stored = nifti.stored_dtype(source)
    if stored.kind == "f":
        cleaned = replace(cleaned, data=cleaned.data.astype(stored))
    nifti.save(output, cleaned)
    print(output)
    return None


def _warn_of_large_pieces(source: Path, report: LabelReport) -> None:
    for piece in report.large:
        x, y, z = piece.centre_mm
        what = (
            f"{source.name}: label {report.label} has a second piece of {100 * piece.share:.0f} %"
            f" ({piece.mm3 / 1000:.1f} cm3), {piece.gap_mm:.0f} mm away, at"
            f" R {x:.0f}, A {y:.0f}, S {z:.0f} mm"
        )
        if piece.kept:
            logger.info(f"{what}; kept (--keep)")
        else:
            logger.warning(
                f"{what}; removed: a fracture, a lost slice, or two bones under one label? To keep"
                f" it: --keep {report.label}; two bones need two labels"
            )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
