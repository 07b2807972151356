# PYTHON_ARGCOMPLETE_OK
"""Step 4: centre every volume on the world's origin and give it cubic voxels ("isometric" here means isotropic).

The isocentre (the middle of the volume) moves to the origin; the patient's directions stay, and the new grid lies along them (RAS+), whatever the
file's own axes were. Axes that become coarser are smoothed first, so that nothing aliases; then voxels are interpolated linearly, which, unlike splines,
does not overshoot at cortical bone. It is what "Center volume" and "Resample Scalar Volume" do by hand in 3D Slicer.

reads   one CT or a folder of them, and labelmaps: --mask, or the sibling masks folder where there is one (femur_cts_aligned has femur_masks_aligned)
writes  OUT/NAME.nii.gz with its lineage OUT/NAME.json; where the input is one file, OUT may be the output file itself (.nii.gz or .nii)
        labelmaps, resampled by nearest neighbour, into OUT's own sibling masks folder (OUT_masks where its name has no _cts)
        outside the old field there is air
frame   millimetres, RAS, isocentre at the origin
before  coregister_cts.py (step 3), or crop_cts.py for a patient alone
next    agnostic.py, finetuned.py, registration.py (steps 5 to 7)

example
  python center_isometric.py -i P/femur_cts_aligned -o P/femur_cts --spacing 1.0
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from dataclasses import replace
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
ENDINGS = (".nii.gz", ".nii")


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-i", "--input", required=True, metavar="CT", help="a CT or a folder of CTs"
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
        help="edge of the cubic voxels in mm (default: %(default)s)",
    )
    parser.add_argument(
        "--mask",
        metavar="SEG",
        help=(
            "the labelmap of the CT, or the folder of labelmaps of the same names (default: the"
            " sibling masks folder, where there is one)"
        ),
    )
    return parser


def centred_grid(volume: Volume, spacing_mm: float) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the cubic-voxel RAS+ grid around the origin that covers the volume, voxel edges included, once its isocentre lies there."""
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in volume.shape])))
    extent = np.ptp(apply(volume.affine, corners), axis=0)
    shape = np.maximum(np.ceil(extent / spacing_mm - 1e-3), 2).astype(int)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (shape - 1) / 2
    return tuple(int(n) for n in shape), affine


def blur_for(volume: Volume, spacing_mm: float) -> np.ndarray | None:
    """Standard deviations (3,), in voxels, of the blur along the axes that ``spacing_mm`` makes coarser; None where there is none.

    The Gaussian's full width at half maximum is sqrt(new^2 - old^2), so that a voxel's point spread becomes that of the new voxel
    (Cardoso et al., Scale factor point spread function matching, MICCAI 2015).
    """
    old = volume.spacing_mm
    width = np.sqrt(np.maximum(spacing_mm**2 - old**2, 0))
    sigma = np.where(spacing_mm > 1.01 * old, width / (2 * np.sqrt(2 * np.log(2))) / old, 0)
    return sigma if sigma.any() else None


def center_isometric(volume: Volume, spacing_mm: float, labels: bool = False) -> Volume:
    """The volume with its isocentre at the origin, on cubic voxels along RAS+, in its own data type; its lineage has one step more."""
    from common.volume import attenuation, resampling

    new_from_old = translation(-volume.isocentre_mm)
    old_from_new = translation(volume.isocentre_mm)
    how = (
        {"nearest": True}
        if labels
        else {
            "outside": attenuation.air_hu(volume.data),
            "blur_voxels": blur_for(volume, spacing_mm),
        }
    )
    moved = resampling.resample(volume, *centred_grid(volume, spacing_mm), old_from_new, **how)
    settings = {"spacing_mm": spacing_mm, "new_from_old": new_from_old.tolist()}
    return replace(moved, lineage=volume.lineage.then("center_isometric", settings, old_from_new))


def run(args: argparse.Namespace) -> int | None:
    from common.volume import folders, nifti
    from common.volume.volume import same_grid

    if not 0.05 <= args.spacing <= 50:
        raise InputError(
            "--spacing", f"found {args.spacing} mm", "0.05 to 50 mm", "give another voxel size"
        )
    source, out = Path(args.input), Path(args.output)
    if source.is_dir():
        scans = folders.images_in(source)
        if args.mask and not Path(args.mask).is_dir():
            raise InputError(
                args.mask,
                "is not a folder",
                f"a folder of labelmaps, since {source} is one of CTs",
                "name a folder",
            )
        outputs = [out / f"{files.stem(path)}.nii.gz" for path in scans]
        if out.name.lower().endswith(ENDINGS):
            raise InputError(
                out, "is a file name", f"a folder, since {source} is one", "name a folder"
            )
    else:
        scans = [files.existing_file(source, "a CT volume (NIfTI, .nii or .nii.gz)")]
        outputs = [
            (
                out
                if out.name.lower().endswith(ENDINGS) and not out.is_dir()
                else out / f"{files.stem(source)}.nii.gz"
            )
        ]
    masks = [_labelmap_of(path, args.mask) for path in scans]
    mask_outputs = [folders.masks_folder(path.parent) / path.name for path in outputs]
    given = [mask for mask in masks if mask]
    files.check_outputs(
        [*outputs, *(path for path, mask in zip(mask_outputs, masks, strict=True) if mask)],
        args.overwrite,
        [*scans, *given],
    )
    if given and not args.mask:
        logger.info(
            f"{len(given)} of {len(scans)} scans have a labelmap in {given[0].parent}; resampled"
            f" into {mask_outputs[0].parent}"
        )

    written, problems = [], []
    for path, output, mask, mask_output in track(
        list(zip(scans, outputs, masks, mask_outputs, strict=True)), what="scans", unit="scan"
    ):
        with going_on(problems):
            ct = nifti.load_ct(path)
            labelmap = nifti.load_labelmap(mask) if mask else None
            if labelmap and not same_grid(ct, labelmap):
                raise InputError(
                    mask,
                    f"grid {labelmap.shape} is not that of {path} ({ct.shape})",
                    "the labelmap on its CT's grid",
                    "make both with the same step",
                )
            nifti.save(output, centred := center_isometric(ct, args.spacing))
            if labelmap:
                nifti.save(mask_output, center_isometric(labelmap, args.spacing, labels=True))
            written.append(output)
            logger.info(
                f"{path.name}: {' x '.join(map(str, ct.shape))} voxels of"
                f" {' x '.join(f'{s:.3g}' for s in ct.spacing_mm)} mm became"
                f" {' x '.join(map(str, centred.shape))} of {args.spacing:g} mm"
            )
    if written:
        print(*written, sep="\n")
    raise_all(problems)
    return None


def _labelmap_of(scan: Path, mask: str | None) -> Path | None:
    """The labelmap given with --mask, or the one of the same name in the sibling masks folder, or None."""
    from common.volume import folders

    if mask is None:
        return folders.labelmap_beside(scan)
    path = Path(mask) / scan.name if Path(mask).is_dir() else Path(mask)
    return files.existing_file(path, f"the labelmap of {scan.name}")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
