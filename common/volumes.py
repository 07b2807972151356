"""CT and labelmap files (NIfTI) with their lineage, their grid, and Hounsfield units as attenuation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common import cli, lineage
from common.geometry import apply, invert
from common.lineage import Lineage

MAX_VOXELS = 4_000_000_000  # a header that claims more is taken as damaged, before any memory is asked for
WATER_PER_MM = 0.0193  # linear attenuation of water at 70 keV, NIST XCOM (0.193 / cm)
SOFT_TISSUE_HU = 40.0
VOXEL_MM = (0.005, 100.0)  # edges of voxels that are believed
DENSE_HU = (100, 40_000)  # the densest voxel: some bone; metal at most, 30,710 in scanners' extended range
FORMS_MM = 1.0  # sform and qform that place a corner further apart contradict each other


@dataclass(frozen=True)
class Volume:
    """A 3-D image: ``data[i, j, k]``, its voxel-to-world affine (RAS millimetres), and where it came from."""

    data: np.ndarray
    affine: np.ndarray
    lineage: Lineage
    path: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape

    @property
    def spacing_mm(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def isocentre_mm(self) -> np.ndarray:
        """World position of the volume's middle, RAS millimetres."""
        return apply(self.affine, (np.array(self.shape) - 1) / 2)

    @property
    def name(self) -> str:
        return self.path.name if self.path else "volume"


def load_ct(path: str | Path) -> Volume:
    """Read a CT in Hounsfield units, as stored (integers stay integers and become signed, NaN is refused).

    Raises InputError for what is not a 3-D NIfTI volume with finite numbers, bone and a usable affine.
    """
    volume = _load(path, "a CT volume (NIfTI, .nii or .nii.gz)")
    low, high = volume.data.min(), volume.data.max()  # NaN passes through both
    if not (np.isfinite(low) and np.isfinite(high)):
        raise cli.InputError(f"{path}: holds NaN or infinite voxels; expected Hounsfield units; convert the CT again")
    if not DENSE_HU[0] <= high <= DENSE_HU[1] or low < -DENSE_HU[1]:
        raise cli.InputError(
            f"{path}: its values run from {low:g} to {high:g}; expected a bone, above {DENSE_HU[0]}, in Hounsfield units (air -1000, water 0); "
            + ("integers have overflowed, convert the CT again" if high > DENSE_HU[1] else "rescale it, or choose the CT")
        )
    if low >= 0:
        cli.warn(f"{volume.name}: holds no value below 0; expected Hounsfield units (air -1000, fat -100); if it holds the scanner's raw values, subtract 1024")
    if volume.data.dtype.kind == "u":  # what lies outside is air, and unsigned numbers would wrap it round
        volume = replace(volume, data=volume.data.astype(np.int16 if high < 2**15 else np.int32))
    return volume


def load_labelmap(path: str | Path) -> Volume:
    """Read a labelmap. Whole numbers stored as floats are accepted and become integers.

    Raises InputError for fractions, negative labels or what is not a 3-D NIfTI volume.
    """
    volume = _load(path, "a labelmap (NIfTI, .nii or .nii.gz)")
    data = volume.data
    if data.dtype.kind == "f":
        if not np.isfinite(data).all() or not np.array_equal(data, np.rint(data)) or abs(data).max() > np.iinfo(np.int32).max:
            raise cli.InputError(f"{path}: holds fractions, NaN or numbers beyond all labels; expected whole-number labels; is this a CT or a probability map?")
        data = data.astype(np.int32)
    if data.dtype.kind not in "ui" or data.min(initial=0) < 0:
        raise cli.InputError(f"{path}: holds {data.dtype} values from {data.min()}; expected labels of 0 and above; is this a CT?")
    return Volume(data, volume.affine, volume.lineage, volume.path)


def _load(path: str | Path, what: str) -> Volume:
    import nibabel

    path = cli.existing_file(path, what)
    with cli.reading(path, what, "convert or copy the file again"), _no_remarks():
        image = nibabel.load(path)
        shape, stored, offset = image.shape, image.get_data_dtype(), int(image.dataobj.offset)
    if not isinstance(image, nibabel.Nifti1Image):
        raise cli.InputError(f"{path}: is a {type(image).__name__}; expected {what}; convert it")
    with cli.reading(path, what, "convert or copy the file again"), nibabel.openers.ImageOpener(path) as stream:
        sizes = np.array(type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4], float)  # as they lie on disk: nibabel replaces those of 0 and below
    if len(shape) > 3 and all(n == 1 for n in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise cli.InputError(f"{path}: has shape {image.shape}; expected {what} of three dimensions with at least 2 slices each; choose one 3-D volume")
    if stored.kind not in "uif":
        raise cli.InputError(f"{path}: holds {stored} voxels; expected {what} of numbers; convert it")
    if offset < image.header.single_vox_offset:
        raise cli.InputError(f"{path}: its voxels begin at byte {offset} by its header, inside of it; expected {what}; the header is damaged, convert the file again")
    count = int(np.prod(shape, dtype=object))
    if count > MAX_VOXELS:
        raise cli.InputError(f"{path}: its header claims {shape} voxels; expected at most {MAX_VOXELS:.0e}; the header is damaged")
    cli.check_claim(path, offset + count * stored.itemsize, path.name.lower().endswith(".gz"), what)
    if image.header["qform_code"] > 0 and not (np.isfinite(sizes).all() and min(sizes) > 0):
        raise cli.InputError(f"{path}: states voxel sizes (pixdim) of {sizes.tolist()} mm; expected sizes above 0; repair the header, or convert it again")
    affine = np.array(image.affine, float)
    check_affine(path, affine)
    _check_placing(path, image.header, shape)
    scaling = (image.dataobj.slope, image.dataobj.inter)  # nibabel would scale to 64 bits
    with cli.reading(path, what, "the file is truncated or damaged, copy it again"):
        data = (np.asanyarray(image.dataobj) if scaling == (1, 0) else np.asanyarray(image.dataobj, dtype=np.float32)).reshape(shape)
    return Volume(data, affine, lineage.read(path, shape, affine), path)


@contextlib.contextmanager
def _no_remarks() -> Iterator[None]:
    """nibabel logs what it corrects in headers; what matters of it is checked here."""
    import nibabel

    logger = nibabel.imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _check_placing(path: Path, header, shape: tuple[int, int, int]) -> None:
    """InputError where the header does not say where the voxels lie, says it twice and differently, or in another unit."""
    with cli.reading(path, "a header that says how the voxels lie", "it is damaged, convert the file again"):
        unit = header.get_xyzt_units()[0]
        qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
    if unit in ("meter", "micron"):
        raise cli.InputError(f"{path}: states its lengths in {unit}s; expected millimetres; convert it")
    if qform is None and sform is None:
        raise cli.InputError(f"{path}: does not say how it lies in the patient (sform and qform codes are 0); expected left and right to be known; convert it from DICOM again")
    if qform is not None and sform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
        apart = np.linalg.norm(apply(qform, corners) - apply(sform, corners), axis=1).max()
        if not apart <= FORMS_MM:
            raise cli.InputError(f"{path}: its sform and qform lie {apart:.3g} mm apart; expected one place; set the code of the wrong one to 0")


def check_affine(path: str | Path, affine: np.ndarray) -> None:
    """InputError unless the affine is finite, invertible and free of shear."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not (VOXEL_MM[0] <= lengths.min() and lengths.max() <= VOXEL_MM[1]):
        raise cli.InputError(
            f"{path}: its affine is singular or not finite (voxel sizes {np.round(lengths, 4).tolist()} mm); expected voxel sizes of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm; repair the header"
        )
    directions = axes / lengths
    if abs(np.linalg.det(directions)) < 1e-3:
        raise cli.InputError(f"{path}: its affine is singular (two axes are parallel); expected three axes; repair the header")
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        raise cli.InputError(f"{path}: its axes are not perpendicular (sheared or gantry-tilted); expected a rectangular grid; resample the CT first")


def save(path: str | Path, volume: Volume) -> Path:
    """Write the volume and its lineage, each under a temporary name first; where the image is, its lineage is. Returns the path."""
    import nibabel

    path = Path(path)
    image = nibabel.Nifti1Image(volume.data, volume.affine, dtype=volume.data.dtype)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(volume.affine, 1)
    image.set_sform(volume.affine, 1)
    with cli.atomic(path) as partial:
        nibabel.save(image, partial)
        # before the image has its name: without its lineage a mirrored bone would pass for an original
        lineage.write(path, volume.lineage, volume.data.shape, volume.affine, cli.sha256(partial))
    return path


def stored_dtype(path: str | Path) -> np.dtype:
    """Data type of the voxels on disk."""
    import nibabel

    return nibabel.load(path).get_data_dtype()


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether two volumes share shape and affine to a thousandth of a millimetre at the corners."""
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape])).reshape(3, -1).T
    return bool(np.allclose(apply(a.affine, corners), apply(b.affine, corners), atol=1e-3))


def air_hu(data: np.ndarray) -> float:
    """What to put outside a CT's field: the CT's own padding where it has one (a lowest value below every scanner's air), else air."""
    lowest = float(data.min())
    return lowest if lowest < -1024 else -1000.0


def images_in(folder: str | Path) -> list[Path]:
    """The .nii.gz and .nii files of a folder by name; InputError where there is none, or two would have one output."""
    folder = Path(folder)
    if not folder.is_dir():
        raise cli.InputError(f"{folder}: is not a folder; expected a folder of .nii.gz or .nii files; check the path")
    paths = sorted(path for path in folder.iterdir() if path.name.lower().endswith((".nii.gz", ".nii")) and not path.name.startswith("."))
    if not paths:
        raise cli.InputError(f"{folder}: holds no .nii.gz or .nii file; expected cropped or aligned CTs; check the path")
    names = [cli.stem(path) for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise cli.InputError(f"{folder}: holds both {name}.nii and {name}.nii.gz; expected one file a scan; move one away")
    return paths


def masks_folder(folder: str | Path) -> Path:
    """The folder of labelmaps that belongs to a folder of CTs: femur_cts_cropped has femur_masks_cropped, aligned has aligned_masks."""
    folder = Path(folder).absolute()
    return folder.with_name(folder.name.replace("_cts", "_masks", 1) if "_cts" in folder.name else folder.name + "_masks")


def labelmap_beside(ct: Path) -> Path | None:
    """The labelmap of the CT's file name in the sibling masks folder, where there is one."""
    beside = masks_folder(ct.parent) / ct.name
    return beside if beside.exists() else None


def attenuation(hu: np.ndarray, above_hu: float = -1000.0) -> np.ndarray:
    """Linear attenuation in 1/mm, float32, in excess of a material of ``above_hu``.

    The definition of the Hounsfield unit, mu = mu_water (1 + HU / 1000), clipped at zero. ``above_hu`` = -1000 is the
    whole attenuation; `SOFT_TISSUE_HU` leaves what bone adds to the tissue that it displaces, which is what a
    single bone contributes to a picture of the whole limb.
    """
    mu = hu.astype(np.float32)
    mu -= np.float32(above_hu)
    np.clip(mu, 0, None, out=mu)
    mu *= np.float32(WATER_PER_MM / 1000)
    return mu


def index_box(mask: np.ndarray, pad: np.ndarray | int = 0) -> tuple[slice, slice, slice]:
    """Bounding box of the true voxels, grown by ``pad`` voxels (one number or three) and clipped to the array."""
    pad = np.broadcast_to(pad, 3)
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(inside[0]) - int(pad[axis])), min(mask.shape[axis], int(inside[-1]) + 1 + int(pad[axis]))))
    return tuple(box)


def affine_of_box(affine: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """Affine of ``data[box]``."""
    moved = affine.copy()
    moved[:3, 3] = apply(affine, np.array([b.start for b in box]))
    return moved


def points_of(volume: Volume, mask: np.ndarray | None = None, count: int = 500, seed: int = 0) -> np.ndarray:
    """(count, 3) world points of the masked voxels (or of voxels denser than muscle), drawn at random, RAS millimetres."""
    inside = np.flatnonzero(mask if mask is not None else volume.data > 150)
    if not inside.size:
        inside = np.arange(volume.data.size)
    chosen = np.random.default_rng(seed).choice(inside, min(count, inside.size), replace=False)
    return apply(volume.affine, np.stack(np.unravel_index(chosen, volume.shape), 1))


def world_from_world(affine_new: np.ndarray, affine_old: np.ndarray) -> np.ndarray:
    """new_from_old of two affines of one voxel grid."""
    return affine_new @ invert(affine_old)
