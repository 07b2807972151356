"""Files of scanners, cameras and segmentation programs: damaged ones, and unusual ones that hold
the same as the good ones.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_cts import dicom_series, enhanced, rtstruct
from PIL import Image
from raw_nifti import make, nifti
from scipy.io import savemat
from test_calibration import K
from test_image_files import png
from test_runs import dicomdir
from test_xrays import GEOMETRY, bright, dicom

from common.geometry import translation
from common.volume.itk import to_sitk
from common.volume.lineage import Lineage
from common.volume.nifti import load_labelmap
from common.volume.volume import Volume, affine_of_box


def bad(folder: Path, ct: Volume, proof: str) -> None:
    """Damaged files of the formats that cameras, scanners and segmentation programs write."""
    text = (folder / "cam.txt").read_text()
    (folder / "cam_section.txt").write_text(text + "\nundistortion\n-0.35,0.12,0,0,0,0,0,0\n")
    camera = {"K": K.tolist(), "R": np.eye(3).tolist(), "t": [0, 0, 900], "image_size": [120, 96]}
    for name, more in (
        ("cam_radial", {"radial": [0.1]}),
        ("cam_two_lenses", {"dist": [0.1, 0, 0, 0], "k1": 0.1}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(camera | more))
    np.save(folder / "cam_square.npy", np.eye(3))
    (folder / "cam_torn.npy").write_bytes((folder / "cam_square.npy").read_bytes()[:90])
    (folder / "cam_zero.txt").write_text("0 0 0 0\n" * 3)
    savemat(folder / "cam_none.mat", {"frames": np.arange(4)})
    (folder / "cam_short.yml").write_text("%YAML:1.0\n---\nimage_width: 120\n")
    code = f"!!python/object/apply:os.mkdir ['{proof}']"
    (folder / "cam_code.yml").write_text(f"%YAML:1.0\n---\ncamera_matrix: {code}\n")
    flat = {"camera-position": [0, 0, 9], "focal-point": [0, 0, 0], "view-up": [0, 1, 0]}
    flat |= {"view-angle": 0, "image-width": 120, "image-height": 96}
    (folder / "cam_flat.json").write_text(json.dumps(flat))
    grey = bright()
    png(folder / "colour16.png", [grey, grey // 2, grey], 2)
    (folder / "torn.avi").write_bytes(b"RIFF\x10\x00\x00\x00AVI LIST" + bytes(60))
    (folder / "torn.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(40))
    Image.fromarray(bright(8)).save(folder / "spelt.png")
    (folder / "spelt.json").write_text('{"sdd": 1020}')
    mixed = folder / "mixed"
    mixed.mkdir()
    Image.fromarray(bright(8)).save(mixed / "x.png")
    dicom(mixed / "x.dcm", bright(), **GEOMETRY)
    dicomdir(make(folder / "disc" / "x").parent, [["GONE"]])
    for ending in ("nrrd", "mha", "mhd", "zip"):
        (folder / f"torn.{ending}").write_text("dear colleague, please find attached" * 9)
    labels = load_labelmap(folder / "seg.nii.gz").data
    for name, masks in (
        ("masks_over", {"a": labels > 0, "b": labels == 4}),
        ("masks_grids", {"a": labels == 3, "b": (labels == 4)[1:]}),
        ("masks_empty", {"a": labels > 90}),
    ):
        for each, mask in masks.items():
            nifti(make(folder / name / f"{each}.nii.gz"), mask.astype(np.uint8), ct.affine)
    one_hot = np.stack([labels > 0, labels == 4], -1).astype(np.uint8)
    nifti(folder / "seg_over.nii.gz", one_hot, ct.affine)
    raw = np.where(ct.data < -900, 24, ct.data + 1024).astype(np.int16)
    raw[0] = raw[-1] = -2000
    nifti(folder / "raw_padded.nii.gz", raw, ct.affine)


def packed(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for each in folder.iterdir():
            made.write(each, each.name)


def edited(path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def bad_dicom_cts(folder: Path, ct: Volume) -> None:
    """Stacks that are no grid, series that cannot be told apart, damaged slices and frames."""
    small = Volume(ct.data[:, :, :8], ct.affine, Lineage())
    dicom_series(folder / "gap", small, lambda k: k + (k > 3))
    dicom_series(folder / "twice_slices", small, lambda k: k - (k == 5))
    dicom_series(folder / "slid", small, None, 9.0)
    dicom_series(folder / "series_two", small, SeriesNumber=2, ConvolutionKernel="B30f")
    dicom_series(
        folder / "series_two", small, SeriesNumber=3, SeriesInstanceUID="1.2.4",
        ConvolutionKernel="B70f",
    )  # fmt: skip
    packed(folder / "series_two.zip", folder / "series_two")

    def one_of(name, change):
        edited(next(iter(sorted(dicom_series(folder / name, small).iterdir()))), change)

    one_of("other_size", lambda d: setattr(d, "PixelSpacing", ["1", "1"]))
    one_of("nowhere", lambda d: delattr(d, "ImagePositionPatient"))
    one_of("no_pixels", lambda d: delattr(d, "PixelData"))
    torn = next(iter(sorted(dicom_series(folder / "torn_slice", small).iterdir())))
    torn.write_bytes(torn.read_bytes()[:-200])
    worded = next(iter(sorted(dicom_series(folder / "worded", small).iterdir())))
    worded.write_bytes(worded.read_bytes().replace(b"-1024.0", b"far off"))
    dicom_series(folder / "few", Volume(ct.data[:, :, :3], ct.affine, Lineage()))
    whole = enhanced(folder / "enhanced_torn.dcm", small)
    whole.write_bytes(whole.read_bytes()[:-300])
    enhanced(folder / "enhanced_stacks.dcm", ct, stack=lambda n: "AB"[n > 8])
    enhanced(folder / "enhanced_gap.dcm", small, order=[0, 1, 2, 4, 5, 6, 7])
    edited(
        enhanced(folder / "enhanced_nowhere.dcm", small),
        lambda d: delattr(d.PerFrameFunctionalGroupsSequence[2], "PlanePositionSequence"),
    )


def bad_contours(folder: Path, ct: Volume) -> None:
    """RTSTRUCTs beside the slices of their CT, or not."""
    labels = load_labelmap(folder / "seg.nii.gz").data
    study = folder / "study"
    dicom_series(study, ct)
    masks = {"femur": labels == 4}
    rtstruct(make(folder / "far" / "from" / "rs_alone.dcm"), ct, masks)
    rtstruct(study / "rs_other.dcm", ct, masks, uid="1.2.99")
    rtstruct(study / "rs_none.dcm", ct, {"nothing": labels > 90})
    rtstruct(study / "rs_over.dcm", ct, {"limb": labels > 0, "femur": labels == 4})
    rtstruct(study / "rs_outline.dcm", ct, {"BODY": labels > 0})
    turned = Volume(ct.data, ct.affine[:, [2, 0, 1, 3]], Lineage())
    rtstruct(study / "rs_turned.dcm", turned, masks)
    away = Volume(ct.data, translation(np.array([900.0, 0, 0])) @ ct.affine, Lineage())
    rtstruct(study / "rs_away.dcm", away, masks)
    whole = rtstruct(study / "rs_torn.dcm", ct, masks)
    whole.write_bytes(whole.read_bytes()[:900])
    edited(
        rtstruct(study / "rs_nameless.dcm", ct, masks),
        lambda d: delattr(d, "StructureSetROISequence"),
    )


def odd(folder: Path, ct: Volume) -> None:
    """Unusual files that hold the same: `good` ones, in other formats and codings."""
    labels = Volume(load_labelmap(folder / "seg.nii.gz").data, ct.affine, Lineage())
    for ending in ("nrrd", "mha", "mhd"):
        sitk.WriteImage(to_sitk(ct), folder / f"ct_odd.{ending}")
        sitk.WriteImage(to_sitk(labels), folder / f"seg_odd.{ending}")
    dicom_series(folder / "ct_slices", ct)
    packed(folder / "ct_slices.zip", folder / "ct_slices")
    for name, value in (("femur_right", 3), ("femur_left", 4)):
        mask = (labels.data == value).astype(np.uint8)
        nifti(make(folder / "seg_masks" / f"{name}.nii.gz"), mask, ct.affine)
    channels = np.stack([labels.data == 3, labels.data == 4], -1).astype(np.uint8)
    nifti(folder / "seg_channels.nii.gz", channels, ct.affine)
    for name, factor in (("low", 0.9999), ("high", 1.00001526)):
        nifti(folder / f"seg_{name}.nii.gz", np.float32(labels.data * factor), ct.affine)


def odd_dicom(folder: Path, ct: Volume) -> None:
    """The good CT and labelmap once more: as frames, among other series, with contours, boxed."""
    labels = Volume(load_labelmap(folder / "seg.nii.gz").data, ct.affine, Lineage())
    enhanced(folder / "ct_enhanced.dcm", ct, list(range(ct.shape[2]))[::-1])
    darker = Volume((ct.data // 2).astype(np.int16), ct.affine, Lineage())
    dicom_series(folder / "ct_two", darker, SeriesNumber=2, ConvolutionKernel="B30f")
    dicom_series(
        folder / "ct_two", ct, SeriesNumber=3, SeriesInstanceUID="1.2.4", ConvolutionKernel="B70f"
    )
    packed(folder / "ct_two.zip", folder / "ct_two")
    masks = {"femur_right": labels.data == 3, "femur_left": labels.data == 4}
    rtstruct(folder / "ct_slices" / "contours.dcm", ct, masks)
    tall = ct.affine.copy()
    tall[:3, 2] *= 2
    tilt_mm = float(ct.spacing_mm[1])  # a pixel per slice
    tilted = dicom_series(folder / "ct_tilted", Volume(ct.data, tall, Lineage()), None, tilt_mm)
    slid = tall.copy()
    slid[:3, 2] += ct.affine[:3, 1]
    rtstruct(tilted / "contours.dcm", Volume(ct.data, slid, Lineage()), masks)
    places = [k if k < 6 else 6 + 1.5 * (k - 6) for k in range(ct.shape[2])]
    dicom_series(folder / "ct_uneven", ct, lambda k: places[k])
    box = tuple(slice(each.min(), each.max() + 1) for each in np.nonzero(labels.data))
    boxed = Volume(labels.data[box], affine_of_box(ct.affine, box), Lineage())
    image = to_sitk(boxed)
    for number, (name, value) in enumerate((("femur_right", 3), ("femur_left", 4))):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, folder / "boxed.seg.nrrd")
