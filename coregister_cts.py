# PYTHON_ARGCOMPLETE_OK
"""Step 3: align every cropped CT onto one reference, rigidly (CT to CT, 3D/3D).

A pose model learns from many patients; it needs their bones in one position and orientation. Each scan is moved, not deformed. Bones of different
patients are compared by shape (the distance to the bone's surface), which bears differences in size and density better than grey values. The start is
searched over many rotations about the bones' centres; a refinement in three resolutions follows. The bone is its labelmap, where one lies in the sibling
masks folder (femur_cts_cropped has femur_masks_cropped), and the labelmap follows its CT; without labelmaps it is everything above 200 HU.

reads   every .nii.gz and .nii in --input_dir, their labelmaps of the same name, and the reference (one of them, as a rule)
writes  OUT/NAME.nii.gz   the aligned CT with its lineage OUT/NAME.json. It keeps the whole scan: the scan's own voxel size, the reference's axes.
                          The reference itself stays as it is
        OUT/NAME.tfm      ITK transform (LPS millimetres) that takes points of the reference to points of the scan, as ITK resamples;
                          in 3D Slicer, load it and apply it to the scan of --input_dir: it moves onto the reference
        OUT/coregistration.csv   per scan: correlation, overlap, surface distance, rotation, shift, converged; a loop over patients fills one table
        the labelmaps into OUT's own sibling masks folder (OUT_masks where OUT's name has no _cts)
frame   aligned CTs are in the reference's frame; millimetres, RAS
before  crop_cts.py (step 2)
next    center_isometric.py (step 4)
exit    3 when a scan did not converge: correlation of the shapes below 0.8, less than half of the reference's bone inside the scan, or a mean
        distance between the bones' surfaces above 5 mm. Its files are written all the same, marked "converged": false.

example
  python coregister_cts.py --input_dir P/femur_cts_cropped --output_dir P/femur_cts_aligned --reference_file P/femur_cts_cropped/P01_femur.nii.gz
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError, going_on, raise_all, reading
from common.geometry import apply, invert
from common.progress import track

if TYPE_CHECKING:
    from common.volume.alignment import Alignment
    from common.volume.bone_shape import BoneShape as Bone
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")


COLUMNS = [
    "scan",
    "correlation",
    "overlap",
    "surface_mm",
    "rotation_deg",
    "shift_mm",
    "converged",
]  # of coregistration.csv


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument("--input_dir", required=True, metavar="DIR", help="folder of cropped CTs")
    parser.add_argument(
        "--output_dir", required=True, metavar="OUT", help="folder for the aligned CTs"
    )
    parser.add_argument(
        "--reference_file",
        required=True,
        metavar="REF",
        help="the CT that the others are aligned to; a name alone is looked up in DIR",
    )
    return parser


def covering_grid(
    moving: Volume, reference_affine: np.ndarray, moving_from_reference: np.ndarray
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the grid along the reference's axes that holds every voxel of the moving scan, at the scan's own voxel sizes."""
    axes = reference_affine[:3, :3] / np.linalg.norm(reference_affine[:3, :3], axis=0)
    # which axis of the scan lies along which axis of the reference
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
    return tuple(int(n) for n in np.ceil((high - low) / spacing - 1e-3) + 1), affine


def carry(
    scan: Volume,
    alignment: Alignment,
    grid: tuple[tuple[int, int, int], np.ndarray],
    about: dict,
    nearest: bool = False,
    outside: float = 0.0,
) -> Volume:
    """The scan resampled on ``grid`` (shape and affine) in the reference's frame, its lineage with the quality of the alignment."""
    from common.volume import resampling

    settings = {
        **about,
        **alignment.quality(),
        "moving_from_reference": alignment.moving_from_reference.tolist(),
    }
    moved = resampling.resample(scan, *grid, alignment.moving_from_reference, nearest, outside)
    return replace(
        moved,
        lineage=scan.lineage.then("coregister_cts", settings, alignment.moving_from_reference),
    )


def earlier_rows(report: Path) -> list[dict[str, str]]:
    """Rows of the table that earlier runs left. Raises InputError for a table that is not this step's."""
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


def run(args: argparse.Namespace) -> int | None:
    from common.volume import folders, nifti
    from common.volume.bone_shape import BoneShape as Bone
    from common.volume.hounsfield import BONE_HU

    folder, out = Path(args.input_dir), Path(args.output_dir)
    scans = folders.images_in(folder)
    reference_path = Path(args.reference_file)
    if not reference_path.exists() and (folder / reference_path).exists():
        reference_path = folder / reference_path
    files.existing_file(reference_path, "the reference CT (NIfTI, .nii or .nii.gz)")
    masks = {
        path: mask for path in {*scans, reference_path} if (mask := folders.labelmap_beside(path))
    }
    unlabelled = sorted(path.name for path in {*scans, reference_path} - set(masks))
    if unlabelled:
        where = folders.masks_folder(folder)
        logger.info(
            f"no labelmap in {where} for {', '.join(unlabelled)}; all scans are aligned by what is"
            f" above {BONE_HU} HU"
        )
    outputs = {
        path: (
            out / f"{files.stem(path)}.nii.gz",
            folders.masks_folder(out) / f"{files.stem(path)}.nii.gz",
        )
        for path in scans
    }
    report = out / "coregistration.csv"
    files.check_outputs(
        [
            *(ct for ct, _ in outputs.values()),
            *(ct.with_name(files.stem(ct) + ".tfm") for ct, _ in outputs.values()),
            *(outputs[path][1] for path in scans if path in masks),
        ],
        args.overwrite,
        [*scans, reference_path, *masks.values()],
    )
    files.check_outputs([report], overwrite=True)  # a loop over patients fills one table
    earlier = earlier_rows(report)

    reference_ct = nifti.load_ct(reference_path)
    reference = Bone(
        reference_ct, None if unlabelled else _load_mask(masks[reference_path], reference_ct)
    )
    reference_affine = reference_ct.affine
    del reference_ct  # a large CT is not held beside each of the others
    about = {
        "reference": {"name": reference_path.name, "sha256": files.sha256(reference_path)},
        "bone": f"above {BONE_HU} HU" if unlabelled else "labelmap",
    }
    rows, written, problems = [], [], []
    for path in track(scans, what="scans", unit="scan"):
        with going_on(problems):
            same = path.resolve() == reference_path.resolve()
            alignment = _align_and_save(
                path,
                masks.get(path),
                None if same else reference,
                reference_affine,
                bool(unlabelled),
                about,
                outputs[path],
            )
            written.append(outputs[path][0])
            rows.append({"scan": path.name, **alignment.quality()})
            _tell(rows[-1])
    if rows:
        done = {row["scan"] for row in rows}
        files.write_text(
            report,
            files.as_csv([*(row for row in earlier if row["scan"] not in done), *rows], COLUMNS),
        )
        print(*written, report, sep="\n")
    raise_all(problems)
    return None if all(row["converged"] for row in rows) else script.EXIT_NOT_CONVERGED


def _align_and_save(
    path: Path,
    mask_path: Path | None,
    reference: Bone | None,
    reference_affine: np.ndarray,
    unlabelled: bool,
    about: dict,
    outputs: tuple[Path, Path],
) -> Alignment:
    """One scan from file to files; a function of its own, so that its CT is gone before the next one is read. ``reference`` is None where the scan is the reference itself."""
    from common.volume import attenuation, itk, nifti
    from common.volume.alignment import Alignment, align
    from common.volume.bone_shape import BoneShape as Bone

    ct = nifti.load_ct(path)
    mask = _load_mask(mask_path, ct) if mask_path else None
    alignment = (
        align(reference, Bone(ct, None if unlabelled else mask))
        if reference
        else Alignment(np.eye(4), 0.0, 1.0, 1.0, 0.0)
    )
    grid = (
        covering_grid(ct, reference_affine, alignment.moving_from_reference)
        if reference
        else (ct.shape, ct.affine)
    )
    ct_out, mask_out = outputs
    nifti.save(ct_out, carry(ct, alignment, grid, about, outside=attenuation.air_hu(ct.data)))
    if mask is not None:
        nifti.save(mask_out, carry(mask, alignment, grid, about, nearest=True))
    itk.write_transform(
        ct_out.with_name(files.stem(path) + ".tfm"), alignment.moving_from_reference
    )
    return alignment


def _load_mask(path: Path, ct: Volume) -> Volume:
    from common.volume import nifti, volume

    mask = nifti.load_labelmap(path)
    if not volume.same_grid(mask, ct):
        raise InputError(
            path,
            f"grid {mask.shape} is not that of {ct.path} ({ct.shape})",
            "the labelmap on its CT's grid",
            "run crop_cts.py again or move the labelmap away",
        )
    return mask


def _tell(row: dict) -> None:
    from common.volume.alignment import MAX_SURFACE_MM, MIN_CORRELATION, MIN_OVERLAP

    numbers = (
        f"{row['scan']}: correlation {row['correlation']:.3f}, overlap {row['overlap']:.0%},"
        f" surfaces {row['surface_mm']:.2f} mm apart, turned {row['rotation_deg']:.1f} deg, shifted"
        f" {row['shift_mm']:.1f} mm"
    )
    if row["converged"]:
        logger.info(numbers)
    else:
        logger.warning(
            f"{numbers}: did not converge (expected correlation of {MIN_CORRELATION} or more,"
            f" overlap of {MIN_OVERLAP:.0%} or more, surfaces within {MAX_SURFACE_MM} mm); look at"
            " it before training on it"
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
