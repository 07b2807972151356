# PYTHON_ARGCOMPLETE_OK
"""Step 4: move every volume's isocentre to the origin and give it cubic voxels.

"Isometric" in the name of this script means isotropic. The isocentre is the centre of the volume.
The directions of the patient are kept, and the new grid is along them (RAS+) for every orientation
of the file. Axes that become coarser are smoothed first, so that nothing aliases. Voxels are
interpolated linearly, which, unlike splines, does not overshoot at cortical bone. In 3D Slicer,
"Center volume" and "Resample Scalar Volume" do the same.

reads   a CT (any format of docs/formats.md; a folder of DICOM slices is one CT) or a folder of CTs
        labelmaps: --mask, or the sibling masks folder if it exists (femur_cts_aligned has
        femur_masks_aligned)
writes  OUT/NAME.nii.gz with its lineage OUT/NAME.json; for one CT, OUT may also be the output file
        (.nii.gz or .nii); air outside the previous field
        labelmaps, by nearest neighbour, in the sibling masks folder of OUT (OUT_masks if OUT has no
        _cts in its name)
frame   isocentre at the origin
units   RAS mm
before  coregister_cts.py (step 3), or crop_cts.py for a single patient
next    agnostic.py, finetuned.py, registration.py (steps 5 to 7)

example
  python center_isometric.py -i P/femur_cts_aligned -o P/femur_cts --spacing 1.0
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files
from common.command_line import script
from common.errors import InputError, going_on, raise_all
from common.geometry import apply, translation
from common.progress import track

if TYPE_CHECKING:
    from common.volume.volume import Volume

logger = logging.getLogger("common.script")

SPACING_MM = 1.0
SPACING_RANGE_MM = (0.05, 50)
ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Item:
    """A CT to centre, with its labelmap and output files."""

    ct: Path
    mask: Path | None
    ct_out: Path
    mask_out: Path

    @property
    def outputs(self) -> list[Path]:
        return [self.ct_out, *([self.mask_out] if self.mask else [])]


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="CT",
        help="a CT (docs/formats.md), or a folder of CTs",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="output folder, or output file for one CT",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        default=SPACING_MM,
        metavar="MM",
        help="voxel spacing in mm (default: %(default)s)",
    )
    parser.add_argument(
        "--mask",
        metavar="SEG",
        help="labelmap of the CT, or folder of labelmaps of the same names (default: the sibling"
        " masks folder, if it exists)",
    )
    return parser


def centred_grid(volume: Volume, spacing_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return shape and affine (4x4, RAS mm) of a cubic-voxel RAS+ grid around the origin.

    It covers the volume, including the edges of its voxels, once the isocentre is at the origin.
    """
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in volume.shape])))
    extent = np.ptp(apply(volume.affine, corners), axis=0)
    shape = np.maximum(np.ceil(extent / spacing_mm - 1e-3), 2).astype(int)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (shape - 1) / 2
    return (int(shape[0]), int(shape[1]), int(shape[2])), affine


def blur_for(volume: Volume, spacing_mm: float) -> np.ndarray | None:
    """Return the blur of the axes that become coarser: standard deviations (3,) in voxels.

    Returns None if no axis becomes coarser. The full width at half maximum of the Gaussian is
    sqrt(new^2 - old^2), so that the point spread of a voxel becomes that of the new voxel
    (Cardoso et al., Scale factor point spread function matching, MICCAI 2015).
    """
    old = volume.spacing_mm
    width = np.sqrt(np.maximum(spacing_mm**2 - old**2, 0))
    sigma = np.where(spacing_mm > 1.01 * old, width / (2 * np.sqrt(2 * np.log(2))) / old, 0)
    return sigma if sigma.any() else None


def center_isometric(volume: Volume, spacing_mm: float, labels: bool = False) -> Volume:
    """Return the volume with its isocentre at the origin, on cubic voxels along RAS+.

    The data type is kept, and the lineage has one more step. ``labels`` is for labelmaps.
    """
    from common.volume import attenuation, resampling

    new_from_old = translation(-volume.isocentre_mm)
    old_from_new = translation(volume.isocentre_mm)
    shape, affine = centred_grid(volume, spacing_mm)
    if labels:
        moved = resampling.resample(volume, shape, affine, old_from_new, nearest=True)
    else:
        moved = resampling.resample(
            volume,
            shape,
            affine,
            old_from_new,
            outside=attenuation.air_hu(volume.data),
            blur_voxels=blur_for(volume, spacing_mm),
        )
    settings = {"spacing_mm": spacing_mm, "new_from_old": new_from_old.tolist()}
    return replace(moved, lineage=volume.lineage.then("center_isometric", settings, old_from_new))


def centre_and_save(item: Item, spacing_mm: float) -> None:
    """Write the centred CT and labelmap. Raises InputError if their grids differ."""
    from common.volume import nifti
    from common.volume.volume import same_grid

    ct = nifti.load_ct(item.ct)
    labelmap = nifti.load_labelmap(item.mask, ct) if item.mask else None
    if labelmap and not same_grid(ct, labelmap):
        raise InputError(
            item.mask,
            f"grid {labelmap.shape} differs from that of {item.ct} ({ct.shape})",
            "the labelmap on the grid of its CT",
            "create both with the same step",
        )
    centred = center_isometric(ct, spacing_mm)
    nifti.save(item.ct_out, centred)
    if labelmap:
        nifti.save(item.mask_out, center_isometric(labelmap, spacing_mm, labels=True))
    logger.info(
        f"{item.ct.name}: {' x '.join(map(str, ct.shape))} voxels of"
        f" {' x '.join(f'{s:.3g}' for s in ct.spacing_mm)} mm became"
        f" {' x '.join(map(str, centred.shape))} of {spacing_mm:g} mm"
    )


def run(args: argparse.Namespace) -> int | None:
    low, high = SPACING_RANGE_MM
    if not low <= args.spacing <= high:
        raise InputError(
            "--spacing",
            f"found {args.spacing} mm",
            f"{low:g} to {high:g} mm",
            "choose another spacing",
        )
    items = _items(Path(args.input), Path(args.output), args.mask)
    masks = [item.mask for item in items if item.mask]
    files.check_outputs(
        [path for item in items for path in item.outputs],
        args.overwrite,
        [*(item.ct for item in items), *masks],
    )
    if masks and not args.mask:
        logger.info(
            f"{len(masks)} of {len(items)} CTs have a labelmap in {masks[0].parent}; resampled into"
            f" {items[0].mask_out.parent}"
        )
    written: list[Path] = []
    problems: list[InputError] = []
    for item in track(items, what="CTs", unit="CT"):
        with going_on(problems):
            centre_and_save(item, args.spacing)
            written.append(item.ct_out)
    if written:
        print(*written, sep="\n")
    raise_all(problems)
    return None


def _items(source: Path, out: Path, mask: str | None) -> list[Item]:
    """Return the CTs to centre. Raises InputError if a file is missing or a folder is expected."""
    from common.volume import folders

    several = source.is_dir() and not folders.is_series(source)
    paths, outputs = _folder(source, out, mask) if several else _file(source, out)
    return [
        Item(
            path,
            _labelmap_of(path, mask),
            output,
            folders.masks_folder(output.parent) / output.name,
        )
        for path, output in zip(paths, outputs, strict=True)
    ]


def _folder(source: Path, out: Path, mask: str | None) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return inputs and outputs of a folder of CTs."""
    from common.volume import folders

    paths = folders.images_in(source)
    if mask and not Path(mask).is_dir():
        raise InputError(
            mask,
            "not a folder",
            f"a folder of labelmaps, since {source} is a folder of CTs",
            "name a folder",
        )
    if out.name.lower().endswith(ENDINGS):
        raise InputError(
            out, "is a file name", f"a folder, since {source} is a folder", "name a folder"
        )
    return paths, [out / f"{files.stem(path)}.nii.gz" for path in paths]


def _file(source: Path, out: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return input and output of a single CT."""
    from common.volume import nifti

    path = files.existing_input(source, nifti.CT)
    named = out.name.lower().endswith(ENDINGS) and not out.is_dir()
    return [path], [out if named else out / f"{files.stem(source)}.nii.gz"]


def _labelmap_of(ct: Path, mask: str | None) -> Path | None:
    """Return the labelmap given with --mask, or that in the sibling masks folder, or None."""
    from common.volume import folders

    if mask is None:
        return folders.labelmap_beside(ct)
    path = Path(mask) / ct.name if Path(mask).is_dir() else Path(mask)
    return files.existing_file(path, f"the labelmap of {ct.name}")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
