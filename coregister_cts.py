# PYTHON_ARGCOMPLETE_OK
"""Step 3: align every cropped CT with one reference, rigidly (CT to CT, 3D/3D).

A pose network is trained on many patients and needs their bones in one position and orientation.
Each CT is moved, not deformed. Bones of different patients are compared by shape (the distance to
the surface), which is less sensitive to differences in size and density than grey values. The start
is searched over many rotations about the centres of the bones; a refinement in three resolutions
follows. The bone is the labelmap in the sibling masks folder (femur_cts_cropped has
femur_masks_cropped), which is aligned with its CT; if a labelmap is missing, the bone of all CTs is
everything above 200 HU.

reads   every .nii.gz and .nii in --input_dir, their labelmaps of the same name, and the reference
        (usually one of them)
writes  OUT/NAME.nii.gz          the aligned CT at its own voxel spacing, along the axes of the
                                 reference; nothing is cut off, and the reference is unchanged
        OUT/NAME.json            its lineage
        OUT/NAME.tfm             ITK transform (LPS mm) from points of the reference to points of
                                 the CT, as ITK resamples; in 3D Slicer, applied to the CT of
                                 --input_dir, it moves that CT onto the reference
        OUT/coregistration.csv   per CT: correlation, overlap, surface distance, rotation, shift,
                                 converged; runs for several patients share the table
        the labelmaps in the sibling masks folder of OUT (OUT_masks if OUT has no _cts in its name)
frame   that of the reference
units   RAS mm
before  crop_cts.py (step 2)
next    center_isometric.py (step 4)
exit    3 if a CT did not converge: correlation of the shapes below 0.8, less than half of the
        reference bone inside the CT, or surfaces more than 5 mm apart on average. Its files are
        written with "converged": false.

example
  python coregister_cts.py --input_dir P/femur_cts_cropped --output_dir P/femur_cts_aligned \\
    --reference_file P/femur_cts_cropped/P01_femur.nii.gz
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError, going_on, raise_all, reading
from common.geometry import apply, invert
from common.progress import track
from common.volume.hounsfield import BONE_HU

if TYPE_CHECKING:
    from common.volume.alignment import Alignment
    from common.volume.bone_shape import BoneShape
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

TABLE = "coregistration.csv"
COLUMNS = [
    "scan",
    "correlation",
    "overlap",
    "surface_mm",
    "rotation_deg",
    "shift_mm",
    "converged",
]

Grid = tuple[tuple[int, int, int], np.ndarray]  # shape and affine


@dataclass(frozen=True)
class Item:
    """A CT to align, with its labelmap and output files."""

    ct: Path
    mask: Path | None
    ct_out: Path
    mask_out: Path

    @property
    def tfm_out(self) -> Path:
        return self.ct_out.with_name(files.stem(self.ct) + ".tfm")

    @property
    def outputs(self) -> list[Path]:
        return [self.ct_out, self.tfm_out, *([self.mask_out] if self.mask else [])]


@dataclass(frozen=True)
class Reference:
    """The bone that others are aligned with."""

    path: Path
    sha256: str
    affine: np.ndarray
    shape: BoneShape
    labelled: bool  # bones are labelmaps, else everything above `BONE_HU`

    @property
    def about(self) -> dict[str, Any]:
        """What the lineage of the aligned CTs records of it."""
        return {
            "reference": {"name": self.path.name, "sha256": self.sha256},
            "bone": "labelmap" if self.labelled else f"above {BONE_HU} HU",
        }


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--input_dir", required=True, metavar="DIR", help="folder of cropped CTs")
    parser.add_argument(
        "--output_dir", required=True, metavar="OUT", help="folder for the aligned CTs"
    )
    parser.add_argument(
        "--reference_file",
        required=True,
        metavar="REF",
        help="CT that the others are aligned with; a file name without folder is searched in DIR",
    )
    return parser


def covering_grid(
    moving: Volume, reference_affine: np.ndarray, moving_from_reference: np.ndarray
) -> Grid:
    """Return the grid along the axes of the reference that contains every voxel of the moving CT.

    Its voxel spacing is that of the moving CT. The result is shape and affine (4x4, RAS mm in the
    reference frame).
    """
    axes = reference_affine[:3, :3] / np.linalg.norm(reference_affine[:3, :3], axis=0)
    # which axis of the CT is closest to which axis of the reference
    alike = np.abs(
        axes.T @ moving_from_reference[:3, :3].T @ moving.affine[:3, :3] / moving.spacing_mm
    )
    order = max(itertools.permutations(range(3)), key=lambda order: alike[range(3), order].sum())
    spacing = moving.spacing_mm[list(order)]
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in moving.shape])))
    along = apply(invert(moving_from_reference) @ moving.affine, corners) @ axes
    low, high = along.min(0), along.max(0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, axes @ low
    i, j, k = (int(n) for n in np.ceil((high - low) / spacing - 1e-3) + 1)
    return (i, j, k), affine


def carry(
    volume: Volume,
    alignment: Alignment,
    grid: Grid,
    about: dict[str, Any],
    nearest: bool = False,
    outside: float = 0.0,
) -> Volume:
    """Return a volume resampled on ``grid`` in the reference frame.

    Its lineage records ``about`` and the quality of the alignment. ``nearest`` is for labelmaps,
    ``outside`` fills voxels outside the volume.
    """
    from common.volume import resampling

    settings = {
        **about,
        **alignment.quality(),
        "moving_from_reference": alignment.moving_from_reference.tolist(),
    }
    moved = resampling.resample(volume, *grid, alignment.moving_from_reference, nearest, outside)
    lineage = volume.lineage.then("coregister_cts", settings, alignment.moving_from_reference)
    return replace(moved, lineage=lineage)


def align_and_save(item: Item, reference: Reference) -> Alignment:
    """Align one CT and write its files.

    A function of its own, so that the CT is freed before the next one is read.
    """
    from common.volume import attenuation, itk, nifti
    from common.volume.alignment import Alignment, align
    from common.volume.bone_shape import BoneShape

    ct = nifti.load_ct(item.ct)
    mask = _load_mask(item.mask, ct) if item.mask else None
    if item.ct.resolve() == reference.path.resolve():
        alignment = Alignment(np.eye(4), 0.0, 1.0, 1.0, 0.0)
        grid = ct.shape, ct.affine
    else:
        alignment = align(reference.shape, BoneShape(ct, mask if reference.labelled else None))
        grid = covering_grid(ct, reference.affine, alignment.moving_from_reference)
    about = reference.about
    nifti.save(item.ct_out, carry(ct, alignment, grid, about, outside=attenuation.air_hu(ct.data)))
    if mask is not None:
        nifti.save(item.mask_out, carry(mask, alignment, grid, about, nearest=True))
    itk.write_transform(item.tfm_out, alignment.moving_from_reference)
    return alignment


def run(args: argparse.Namespace) -> int | None:
    from common.volume import folders

    folder, out = Path(args.input_dir), Path(args.output_dir)
    paths = folders.images_in(folder)
    reference_path = _find_reference(Path(args.reference_file), folder)
    masks = {
        path: mask for path in {*paths, reference_path} if (mask := folders.labelmap_beside(path))
    }
    items = [_item(path, masks.get(path), out) for path in paths]
    report = out / TABLE
    outputs = [path for item in items for path in item.outputs]
    files.check_outputs(outputs, args.overwrite, [*paths, reference_path, *masks.values()])
    files.check_outputs([report], overwrite=True)  # runs for several patients share the table
    earlier = earlier_rows(report)
    unlabelled = sorted(path.name for path in {*paths, reference_path} - set(masks))
    if unlabelled:
        logger.info(
            f"no labelmap in {folders.masks_folder(folder)} for {', '.join(unlabelled)};"
            f" the bone of all CTs is everything above {BONE_HU} HU"
        )

    reference = load_reference(reference_path, None if unlabelled else masks[reference_path])
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    problems: list[InputError] = []
    for item in track(items, what="CTs", unit="CT"):
        with going_on(problems):
            alignment = align_and_save(item, reference)
            written.append(item.ct_out)
            rows.append({"scan": item.ct.name, **alignment.quality()})
            _log_row(rows[-1])
    if rows:
        done = {row["scan"] for row in rows}
        kept = [row for row in earlier if row["scan"] not in done]
        files.write_text(report, files.as_csv([*kept, *rows], COLUMNS))
        print(*written, report, sep="\n")
    raise_all(problems)
    return None if all(row["converged"] for row in rows) else script.EXIT_NOT_CONVERGED


def _find_reference(path: Path, folder: Path) -> Path:
    """Return the path of the reference, which may be given relative to the folder of CTs."""
    if not path.exists() and (folder / path).exists():
        path = folder / path
    return files.existing_file(path, "the reference CT (NIfTI, .nii or .nii.gz)")


def _item(path: Path, mask: Path | None, out: Path) -> Item:
    from common.volume import folders

    name = f"{files.stem(path)}.nii.gz"
    return Item(path, mask, out / name, folders.masks_folder(out) / name)


def load_reference(path: Path, mask: Path | None) -> Reference:
    """Read the reference CT and keep its shape; without ``mask``, the bone is above `BONE_HU`."""
    from common.volume import nifti
    from common.volume.bone_shape import BoneShape

    ct = nifti.load_ct(path)
    shape = BoneShape(ct, _load_mask(mask, ct) if mask else None)
    return Reference(path, files.sha256(path), ct.affine, shape, labelled=mask is not None)


def _load_mask(path: Path, ct: Volume) -> Volume:
    from common.volume import nifti, volume

    mask = nifti.load_labelmap(path)
    if not volume.same_grid(mask, ct):
        raise InputError(
            path,
            f"grid {mask.shape} differs from that of {ct.path} ({ct.shape})",
            "the labelmap on the grid of its CT",
            "run crop_cts.py again or move the labelmap away",
        )
    return mask


def earlier_rows(report: Path) -> list[dict[str, str]]:
    """Return the rows of the table that earlier runs wrote.

    Raises InputError if the file is not the table of this step.
    """
    if not report.exists():
        return []
    with (
        reading(report, "the table of this step", "move it away"),
        report.open(newline="", encoding="utf-8") as stream,
    ):
        table = csv.DictReader(stream)
        rows = list(table)
    if table.fieldnames != COLUMNS:
        raise InputError(
            report,
            f"has the columns {', '.join(table.fieldnames or [])}",
            ", ".join(COLUMNS),
            "move it away",
        )
    return rows


def _log_row(row: dict[str, Any]) -> None:
    from common.volume.alignment import MAX_SURFACE_MM, MIN_CORRELATION, MIN_OVERLAP

    numbers = (
        f"{row['scan']}: correlation {row['correlation']:.3f}, overlap {row['overlap']:.0%},"
        f" surfaces {row['surface_mm']:.2f} mm apart, rotated by {row['rotation_deg']:.1f} deg,"
        f" shifted by {row['shift_mm']:.1f} mm"
    )
    if row["converged"]:
        logger.info(numbers)
    else:
        logger.warning(
            f"{numbers}: did not converge; expected correlation of at least {MIN_CORRELATION},"
            f" overlap of at least {MIN_OVERLAP:.0%}, surfaces within {MAX_SURFACE_MM} mm;"
            " inspect it before training"
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
