# PYTHON_ARGCOMPLETE_OK
"""Step 1: keep the largest connected piece of every label of a segmentation.

Automatic segmentations leave small islands away from the bone; a bounding box taken around them (step 2) would be
far too large. Voxels that touch at a face, an edge or a corner (26 neighbours) count as connected.

reads   a labelmap (NIfTI), whole-number labels, 0 is background
writes  OUT/NAME_cleaned.nii.gz on the same grid and in the same data type, and its lineage OUT/NAME_cleaned.json
        labels that are not asked for stay as they are
frame   the file's own; nothing moves
next    crop_cts.py (step 2)

example
  python segmentation_preprocessing.py -i P01/segmentations/P01_seg.nii.gz -o P01/segmentations -l 1 2 3 4
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError
from common.progress import track

logger = logging.getLogger("common.script")


MAX_LABEL = 1_000_000  # larger numbers are no label but a CT or a damaged file


@dataclass(frozen=True)
class LabelReport:
    """What cleaning did to one label."""

    label: int
    voxels_kept: int
    islands_removed: int
    voxels_removed: int


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input", required=True, metavar="SEG", help="labelmap to clean (.nii or .nii.gz)"
    )
    parser.add_argument(
        "-o", "--output_dir", required=True, metavar="OUT", help="folder for NAME_cleaned.nii.gz"
    )
    parser.add_argument(
        "-l",
        "-labels",
        "--labels",
        nargs="+",
        type=int,
        metavar="N",
        help="labels to clean (default: every label present)",
    )
    return parser


def keep_largest_components(
    data: np.ndarray, labels: Iterable[int] | None = None
) -> list[LabelReport]:
    """Set to 0, in place, all but the largest 26-connected component of each label.

    ``data`` is a 3-D integer array; it is changed in place because a whole-body labelmap is large. ``labels`` defaults to every label present;
    those that are absent get no report. Of equally large components the first in slice order stays.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(data)
    present = [label for label, box in enumerate(boxes, 1) if box is not None]
    chosen = (
        present
        if labels is None
        else [label for label in dict.fromkeys(labels) if label in present]
    )
    reports = []
    for label in track(chosen, what="labels", unit="label"):
        part = data[boxes[label - 1]]  # a view
        runs = find_runs(part, label)
        component = connect_runs(runs, part.shape)
        sizes = np.bincount(component, weights=runs[:, 3] - runs[:, 2]).astype(int)
        largest = int(sizes.argmax())
        for k, j, start, stop in runs[component != largest]:
            part[start:stop, j, k] = 0
        reports.append(
            LabelReport(
                label, int(sizes[largest]), len(sizes) - 1, int(sizes.sum() - sizes[largest])
            )
        )
    return reports


def find_runs(data: np.ndarray, label: int) -> np.ndarray:
    """(N, 4) rows (k, j, start, stop): ``data[start:stop, j, k]`` is ``label``; sorted by k, j, start.

    Runs instead of a component image: islands far apart make a bounding box as large as the volume, and a component number for each of its voxels
    took ten times the memory of the labelmap.
    """
    runs = []
    for k in range(data.shape[2]):
        plane = (data[:, :, k] == label).T
        if plane.any():
            steps = np.diff(plane.astype(np.int8), axis=1, prepend=0, append=0)
            j, start = np.nonzero(steps == 1)
            runs.append(np.stack([np.full_like(j, k), j, start, np.nonzero(steps == -1)[1]], 1))
    return np.concatenate(runs)


def connect_runs(runs: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Component number (N,) of each run of `find_runs`; runs of neighbouring rows connect where they touch, corners included."""
    from scipy import sparse

    k, j, start, stop = runs.T
    # one sorted number line for all rows; a gap between rows, so that none touches the next one's voxels
    width = shape[0] + 1
    row = k * (shape[1] + 2) + j
    starts, stops = row * width + start, row * width + stop
    here, there = [], []
    for offset in (
        1,
        *(shape[1] + 2 + dj for dj in (-1, 0, 1)),
    ):  # the other half of the neighbours is met from their side
        first = np.searchsorted(stops, starts + offset * width, "left")
        count = np.searchsorted(starts, stops + offset * width, "right") - first
        here.append(np.repeat(np.arange(len(runs)), count))
        there.append(np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count))
    here, there = np.concatenate(here), np.concatenate(there)
    graph = sparse.coo_array((np.ones(len(here), bool), (here, there)), (len(runs), len(runs)))
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def run(args: argparse.Namespace) -> int | None:
    from common.volume import nifti

    source = files.existing_file(args.input, "a labelmap (NIfTI, .nii or .nii.gz)")
    if args.labels and min(args.labels) < 1:
        raise InputError(
            "--labels",
            f"found {min(args.labels)}",
            "labels of 1 and above (0 is background)",
            "leave it out",
        )
    output = Path(args.output_dir) / f"{files.stem(source)}_cleaned.nii.gz"
    files.check_outputs([output], args.overwrite, [source])
    labelmap = nifti.load_labelmap(source)
    if labelmap.data.max() > MAX_LABEL:
        raise InputError(
            source,
            f"holds the value {labelmap.data.max()}",
            f"labels up to {MAX_LABEL}",
            "is this a CT?",
        )

    # a memory-mapped file is read-only
    data = labelmap.data if labelmap.data.flags.writeable else np.array(labelmap.data)
    reports = keep_largest_components(data, args.labels)
    if not reports:
        wanted = f"labels {args.labels}" if args.labels else "at least one label above 0"
        raise InputError(
            source,
            "holds none of the labels asked for",
            wanted,
            f"look at the labels that are there, {_present(labelmap.data)}",
        )
    for absent in sorted(set(args.labels or ()) - {report.label for report in reports}):
        logger.warning(f"{source.name}: label {absent} is absent; nothing to clean")
    for report in reports:
        logger.info(
            f"label {report.label}: {report.voxels_kept} voxels kept, {report.islands_removed}"
            f" islands with {report.voxels_removed} voxels removed"
        )

    settings = {"connectivity": 26, "labels": [asdict(report) for report in reports]}
    stored = nifti.stored_dtype(source)
    data = data.astype(stored) if stored.kind == "f" else data
    nifti.save(
        output,
        replace(
            labelmap,
            data=data,
            lineage=labelmap.lineage.then("segmentation_preprocessing", settings),
        ),
    )
    print(output)
    return None


def _present(data: np.ndarray) -> list[int]:
    return [int(label) for label in np.unique(data) if label]


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
