"""Good files of a small patient and damaged ones: one function per kind, written once per run."""

import datetime
import gzip
import json
import pickle
import struct
from pathlib import Path

import helpers
import nibabel
import numpy as np
import scanner_files
import torch
from PIL import Image
from raw_nifti import make, nifti
from test_calibration import K, mayacam_2
from test_network import config
from test_xrays import GEOMETRY, bright, dicom

from common.geometry import translation
from common.volume import attenuation
from common.volume import nifti as nifti_module
from common.volume.lineage import Lineage
from common.volume.nifti import load_labelmap
from common.volume.volume import Volume

PROOF = "the code has run"


class RunsCode:
    """Makes a folder when it is unpickled in the ordinary way."""

    def __reduce__(self):
        import os

        return os.mkdir, (PROOF,)


def build(folder: Path) -> None:
    """Everything that the rows name, below ``folder``."""
    ct = helpers.small_ct(4.0)
    helpers.save_registration(folder / "result", ct)
    good(folder, ct)
    bad_cts(folder, ct)
    bad_lineages(folder, ct)
    bad_labelmaps(folder, ct)
    bad_pictures(folder)
    bad_dicoms(folder)
    bad_parameters(folder)
    bad_checkpoints(folder)
    bad_texts(folder)
    scanner_files.bad(folder, ct, PROOF)
    scanner_files.bad_dicom_cts(folder, ct)
    scanner_files.bad_contours(folder, ct)
    scanner_files.odd(folder, ct)
    scanner_files.odd_dicom(folder, ct)
    bad_surfaces(folder)


def bad_surfaces(folder: Path) -> None:
    """A ball, and how an export can go wrong."""
    import pyvista

    ball = pyvista.Sphere(radius=15.0)
    ball.save(folder / "ball.stl")
    ball.scale(0.001).save(folder / "metres.stl")
    ball.scale(1 / 25.4).save(folder / "inches.ply")
    ball.clip(normal="z").triangulate().save(folder / "open.stl")
    shifted = [ball.translate((shift, 0.0, 0.0)) for shift in (0.0, 1.0, 2.0)]
    (shifted[0] + shifted[1] + shifted[2]).save(folder / "crossing.stl")
    (folder / "text.stl").write_text("no surface")
    (folder / "empty.obj").write_text("# nothing\n")
    (folder / "text.gii").write_text("<not a surface>")
    damaged = (folder / "ball.stl").read_bytes()
    (folder / "cut.stl").write_bytes(damaged[: len(damaged) // 2])


def good(folder: Path, ct: Volume) -> None:
    nifti_module.save(folder / "ct.nii.gz", ct)
    labels = np.zeros(ct.shape, np.uint8)
    middle = ct.shape[0] // 2  # x falls along the first axis: its low half is the patient's right
    labels[:middle][ct.data[:middle] > 300], labels[middle:][ct.data[middle:] > 300] = 3, 4
    nifti_module.save(folder / "seg.nii.gz", Volume(labels, ct.affine, Lineage()))
    Image.fromarray(bright(8)).save(folder / "xray.png")
    dicom(
        folder / "xray.dcm",
        bright(),
        PixelIntensityRelationship="LOG",
        PatientName="Secret^Name",
        **GEOMETRY,
    )
    mayacam_2(folder / "cam.txt")
    patient = folder / "patient"
    nifti_module.save(make(patient / "ct.nii.gz"), ct)
    nifti_module.save(patient / "seg.nii.gz", Volume(labels, ct.affine, Lineage()))
    for name in ("P01", "P02"):
        nifti_module.save(make(folder / "cohort" / f"{name}.nii.gz"), ct)
    nifti_module.save(make(folder / "cohort_one_bad" / "P01.nii.gz"), ct)
    nifti_module.save(make(folder / "cohort_mixed" / "P01.nii.gz"), ct)
    (folder / "cohort_mixed" / "P02.nrrd").write_text("NRRD0004\n")
    (folder / "cohort_one_bad" / "P02.nii.gz").write_bytes(
        (folder / "ct.nii.gz").read_bytes()[:3000]
    )
    for ending in (".nii", ".nii.gz"):
        nifti_module.save(make(folder / "twice" / f"P01{ending}"), ct)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "notes.txt").write_text("no CT here")
    (folder / "copy").mkdir()
    Image.fromarray(bright(8)).save(folder / "copy" / "xray.png")
    (folder / "there.png").write_bytes(b"somebody's work")
    (folder / "there.json").write_text("{}")
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    (folder / "dangling.nii.gz").symlink_to("gone.nii.gz")
    (folder / "folder.nii.gz").mkdir()


# ------------------------------------------------------------------------------------- CT, labelmap


def bad_cts(folder: Path, ct: Volume) -> None:
    whole = (folder / "ct.nii.gz").read_bytes()
    data, affine = ct.data, ct.affine
    (folder / "empty.nii.gz").touch()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("dear colleague, please find attached")
    (folder / "text.nii").write_text("dear colleague, please find attached" * 20)
    (folder / "picture.nii.gz").write_bytes((folder / "xray.png").read_bytes())
    (folder / "unpacked.nii.gz").write_bytes(gzip.decompress(whole))
    (folder / "packed.nii").write_bytes(whole)
    nibabel.save(nibabel.MGHImage(data.astype(np.int32), affine), folder / "ct.mgz")
    nibabel.save(nibabel.Nifti1Pair(data, affine), folder / "pair.img")
    nifti(folder / "flat.nii.gz", data[:, :, 5], affine)
    nifti(folder / "single.nii.gz", data[:, :, 5:6], affine)
    nifti(folder / "series.nii.gz", np.stack([data, data], -1), affine)
    nifti(folder / "complex.nii.gz", data.astype(np.complex64), affine)
    nifti(
        folder / "colour.nii.gz",
        np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        affine,
    )
    nifti(folder / "overflow.nii.gz", data.astype(np.uint16), affine)  # -1000 became 64536
    nifti(folder / "raw.nii.gz", data + np.int16(1024), affine)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = data.astype(np.float32)
        broken[3, 3, 3] = value
        nifti(folder / f"{name}.nii.gz", broken, affine)
    nifti(folder / "zeros.nii.gz", np.zeros_like(data), affine)
    nifti(folder / "constant.nii.gz", np.full_like(data, -1000), affine)
    nifti(folder / "unit.nii.gz", ((data + 1000) / 2200).astype(np.float32), affine)
    nifti(folder / "per_mm.nii.gz", attenuation.attenuation(data), affine)
    nifti(
        folder / "zero_spacing.nii.gz",
        data,
        affine,
        srow_x=[0, 0, 0, 10],
        srow_y=[0, 2, 0, 0],
        qform_code=0,
    )
    nifti(
        folder / "parallel.nii.gz",
        data,
        affine,
        srow_x=[2, 2, 0, 10],
        srow_y=[2, 2, 0, 0],
        qform_code=0,
    )
    nifti(
        folder / "sheared.nii.gz",
        data,
        affine,
        srow_x=[2, 1, 0, 10],
        srow_y=[0, 2, 0, 0],
        qform_code=0,
    )
    nifti(folder / "nan_affine.nii.gz", data, affine, srow_x=[np.nan, 0, 0, 10], qform_code=0)
    nifti(
        folder / "kilometre.nii.gz",
        data,
        affine,
        srow_x=[1e6, 0, 0, 0],
        srow_y=[0, 1e6, 0, 0],
        srow_z=[0, 0, 1e6, 0],
        qform_code=0,
    )
    nifti(
        folder / "zero_pixdim.nii.gz", data, affine, sform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]
    )
    nifti(
        folder / "negative_pixdim.nii.gz",
        data,
        affine,
        sform_code=0,
        pixdim=[1, -4, -4, -4, 0, 0, 0, 0],
    )
    nifti(folder / "disagree.nii.gz", data, affine, qoffset_x=float(affine[0, 3]) + 40)
    nifti(folder / "nowhere.nii.gz", data, affine, sform_code=0, qform_code=0)
    nifti(folder / "low_offset.nii.gz", data, affine, vox_offset=0)
    nifti(folder / "metres.nii.gz", data, affine, xyzt_units=1)
    nifti(folder / "claim.nii", data[:2, :2, :2], affine, dim=[3, 3000, 3000, 400, 1, 1, 1, 1])
    nifti(folder / "bomb.nii.gz", data[:2, :2, :2], affine, dim=[3, 1500, 1500, 1500, 1, 1, 1, 1])
    million = nibabel.Nifti2Header()
    million.set_data_dtype(np.int16)
    million["dim"], million["vox_offset"] = [3, 10**6, 10**6, 10**6, 1, 1, 1, 1], 544
    (folder / "million.nii").write_bytes(million.binaryblock + bytes(100))


def bad_lineages(folder: Path, ct: Volume) -> None:
    def beside(name: str, text: str | None = None, **changes) -> None:
        nifti_module.save(folder / f"{name}.nii.gz", ct)
        content = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(
            text if text is not None else json.dumps(content | changes)
        )

    beside("lineage_torn", '{"schema": "ct-lin')
    beside("lineage_list", "[1, 2]")
    beside("lineage_later", schema="ct-lineage/99")
    beside(
        "lineage_skewed",
        scanner_from_volume=[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    )
    beside(
        "lineage_endless",
        '{"schema": "ct-lineage/1", "scanner_from_volume": ' + "[" * 100_000 + "]" * 100_000 + "}",
    )
    beside(
        "lineage_nan",
        scanner_from_volume=[[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    )
    beside("lineage_away", bone="../../../elsewhere")
    beside("lineage_short", image={})
    beside("lineage_other")
    nifti(folder / "lineage_other.nii.gz", ct.data[::-1].copy(), ct.affine)


def bad_labelmaps(folder: Path, ct: Volume) -> None:
    labels, affine = load_labelmap(folder / "seg.nii.gz").data, ct.affine
    nifti(folder / "seg_fractions.nii.gz", (labels * 0.3).astype(np.float32), affine)
    nifti(folder / "seg_nan.nii.gz", np.where(labels, np.nan, 0).astype(np.float32), affine)
    nifti(folder / "seg_huge.nii.gz", labels.astype(np.float32) * 1e12, affine)
    nifti(folder / "seg_negative.nii.gz", -labels.astype(np.int16), affine)
    nifti(folder / "seg_million.nii.gz", labels.astype(np.int32) * 1_000_000, affine)
    nifti(folder / "seg_nothing.nii.gz", np.zeros_like(labels), affine)
    nifti(folder / "seg_others.nii.gz", labels + np.uint8(90) * (labels > 0), affine)
    nifti(folder / "seg_shifted.nii.gz", labels, translation(np.array([300.0, 0, 0])) @ affine)
    nifti(folder / "seg_other_grid.nii.gz", labels[2:, 2:, 2:], affine)
    air = np.zeros_like(labels)
    air[:3, :3, :3], air[-3:, :3, :3] = 3, 4
    nifti(folder / "seg_in_air.nii.gz", air, affine)
    thin = np.where(ct.data > 300, 4, 0).astype(np.uint8)
    thin[10, 8:12, 10:14] = 3
    nifti(folder / "seg_thin.nii.gz", thin, affine)


# ------------------------------------------------------------------------------------------- X-rays


def bad_pictures(folder: Path) -> None:
    grey = bright(8)

    def save(name, array, **how):
        Image.fromarray(array).save(folder / name, **how)

    (folder / "empty.png").touch()
    (folder / "text.png").write_text("dear colleague")
    (folder / "text.jpg").write_text("dear colleague")
    (folder / "cut.png").write_bytes((folder / "xray.png").read_bytes()[:1500])
    save("one_colour.png", np.full_like(grey, 77))
    save("black.tif", np.zeros_like(grey))
    save("two_greys.png", np.where(grey > 90, 200, 40).astype(np.uint8))
    Image.fromarray(grey > 90).save(folder / "one_bit.png")
    colours = np.stack([grey, np.roll(grey, 40, 0), 255 - grey], -1)
    save("rgb.png", colours)
    save("rgba.png", np.dstack([colours, np.full_like(grey, 255)]))
    save("rgb.jpg", colours)
    Image.fromarray(colours).quantize(64).save(folder / "palette.png")
    save("tiny.png", grey[:8, :8])
    save("flat_gt.png", np.full((90, 110), 60, np.uint8))  # of the size of the result's
    holes = grey.astype(np.float32)
    holes[40, 40] = np.nan
    save("nan.tif", holes)
    Image.fromarray(grey).save(
        folder / "pages.tif", save_all=True, append_images=[Image.fromarray(grey)]
    )
    save("picture.gif", grey)
    save("wide.png", np.tile(grey, (1, 3)))
    (folder / "script.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(x) (w) file\n"
    )
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )
    saturated = np.full_like(grey, 255)
    saturated[40:42, 50:60] = np.arange(10, 30).reshape(2, 10)
    save("saturated.png", saturated)
    for name, content in (
        ("json_text", "x"),
        ("json_words", '{"sdd_mm": "far", "pixel_spacing_mm": [1, 1]}'),
        ("json_inf", '{"sdd_mm": 1e999, "pixel_spacing_mm": [1, 1]}'),
    ):
        save(f"{name}.png", grey)
        (folder / f"{name}.json").write_text(content)


def bad_dicoms(folder: Path) -> None:
    log = {"PixelIntensityRelationship": "LOG", "PatientName": "Secret^Name"}
    (folder / "text.dcm").write_text("dear colleague")
    (folder / "empty.dcm").touch()
    whole = (folder / "xray.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "head.dcm").write_bytes(whole[:200])
    dicom(folder / "no_sdd.dcm", bright(), ImagerPixelSpacing=["0.3", "0.2"], **log)
    dicom(
        folder / "zero_sdd.dcm",
        bright(),
        DistanceSourceToDetector="0",
        ImagerPixelSpacing=["0.3", "0.2"],
        **log,
    )
    dicom(
        folder / "negative_sdd.dcm",
        bright(),
        DistanceSourceToDetector="-1020",
        ImagerPixelSpacing=["0.3", "0.2"],
        **log,
    )
    dicom(folder / "no_spacing.dcm", bright(), DistanceSourceToDetector="1020", **log)
    dicom(
        folder / "zero_spacing.dcm",
        bright(),
        DistanceSourceToDetector="1020",
        ImagerPixelSpacing=["0", "0"],
        **log,
    )
    dicom(folder / "frames.dcm", np.stack([bright()] * 3), **GEOMETRY, **log)
    dicom(folder / "constant.dcm", np.full((96, 120), 900, np.uint16), **GEOMETRY, **log)
    dicom(folder / "colour.dcm", bright(), SamplesPerPixel=3, **GEOMETRY, **log)
    dicom(
        folder / "palette.dcm",
        bright(),
        PhotometricInterpretation="PALETTE COLOR",
        **GEOMETRY,
        **log,
    )
    dicom(folder / "many_frames.dcm", bright(), NumberOfFrames=2_000_000_000, **GEOMETRY, **log)
    dicom(folder / "wide.dcm", bright(), Columns=60_000, **GEOMETRY, **log)
    words = dicom(
        folder / "words.dcm",
        bright(),
        DistanceSourceToDetector="1020",
        ImagerPixelSpacing=["0.3", "0.2"],
        **log,
    )
    words.write_bytes(words.read_bytes().replace(b"1020", b"afar"))
    no_pixels = dicom(folder / "report.dcm", bright(), **GEOMETRY, **log)
    import pydicom

    dataset = pydicom.dcmread(no_pixels)
    del dataset.PixelData
    dataset.save_as(no_pixels)
    garbled = pydicom.dcmread(folder / "xray.dcm")
    garbled.compress(pydicom.uid.RLELossless)
    garbled.save_as(folder / "garbled.dcm")
    packed = bytearray((folder / "garbled.dcm").read_bytes())
    start = (
        packed.rindex(b"\xfe\xff\x00\xe0") + 8
    )  # of the one compressed frame: its table of segments
    packed[start : start + 64] = b"\xff" * 64
    (folder / "garbled.dcm").write_bytes(packed)


# ------------------------------------------------------------------------------- parameters, models


def hostile(path: Path) -> None:
    torch.save(
        {"schema": "registration/1", "model_state_dict": {}, "config": {}, "weights": RunsCode()},
        path,
    )


def bad_parameters(folder: Path) -> None:
    whole = (folder / "result" / "parameters.pt").read_bytes()
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("dear colleague")
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "picture.pt").write_bytes((folder / "xray.png").read_bytes())
    hostile(folder / "hostile.pt")
    torch.save(
        {"weights": RunsCode()}, folder / "hostile_legacy.pt", _use_new_zipfile_serialization=False
    )
    (folder / "hostile_pickle.pt").write_bytes(pickle.dumps(RunsCode()))
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.save({"schema": "registration/99"}, folder / "later.pt")

    def changed(name: str, change) -> None:
        content = torch.load(folder / "result" / "parameters.pt", weights_only=True)
        change(content)
        torch.save(content, folder / f"{name}.pt")

    changed("short", lambda c: c.pop("final_pose"))
    changed("nan_pose", lambda c: c["final_pose"].fill_(float("nan")))
    changed("sheared_pose", lambda c: c["final_pose"][0, 0].add_(0.3))
    changed("other_size", lambda c: c["drr"].update(height=91))
    changed("no_sdd", lambda c: c["drr"].update(sdd=0.0))
    changed("wide", lambda c: c["drr"].update(height=10**6, width=10**6))
    changed("no_orientation", lambda c: c["drr"].update(orientation="sideways"))
    changed("torn_trajectory", lambda c: c["trajectory"].update(r1=torch.zeros(2)))
    changed("words", lambda c: c["drr"].update(isocentre_mm="there"))
    changed("elsewhere", lambda c: c["drr"].update(points_mm=[[5000.0, 0, 0]]))


def bad_checkpoints(folder: Path) -> None:
    def checkpoint(name: str, drop: str = "", **changes) -> None:
        settings = {key: value for key, value in config(**changes).items() if key != drop}
        content = {
            "model_state_dict": {"w": torch.zeros(2)},
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "itr": 3,
            "date": datetime.datetime(2026, 1, 1),
            "config": settings,
        }
        torch.save(content, folder / f"{name}.pth")

    (folder / "empty.pth").touch()
    (folder / "text.pth").write_text("dear colleague")
    hostile(folder / "hostile.pth")
    torch.save({"state_dict": {}}, folder / "no_config.pth")
    checkpoint("other_weights")
    (folder / "cut.pth").write_bytes((folder / "other_weights.pth").read_bytes()[:700])
    checkpoint("no_height", drop="height")
    checkpoint("huge", height=10**9)
    checkpoint("nan_sdd", sdd=float("nan"))
    checkpoint("words", delx="two")
    checkpoint("downloads", model_name="hf_hub:somebody/model")
    checkpoint("no_backbone", model_name="resnet_of_tomorrow")
    checkpoint("sideways", orientation="sideways")
    checkpoint("no_range", alphamin=30.0, alphamax=-30.0)
    checkpoint("odd_range", alphamin="low")


# -------------------------------------------------------------------------------------------- texts


def bad_texts(folder: Path) -> None:
    good = (folder / "cam.txt").read_text()
    (folder / "cam_empty.txt").touch()
    (folder / "cam_words.txt").write_text("dear colleague\n" * 5)
    (folder / "cam_binary.txt").write_bytes((folder / "xray.png").read_bytes())
    (folder / "cam_cut.txt").write_text(good[: len(good) // 2])
    (folder / "cam_inf.txt").write_text(good.replace("1760,1520", "inf,1520"))
    mayacam_2(folder / "cam_flat.txt", matrix=K * 0)
    mayacam_2(folder / "cam_mirrored.txt", rotation=np.diag([1.0, 1, -1]))
    (folder / "cam_lens.json").write_text(
        json.dumps(
            {
                "K": K.tolist(),
                "R": np.eye(3).tolist(),
                "t": [0, 0, 900],
                "image_size": [120, 96],
                "distortion": [0.1],
            }
        )
    )
    (folder / "cam_short.json").write_text(json.dumps({"K": K.tolist()}))
    (folder / "cam_ragged.json").write_text(
        json.dumps(
            {"K": [[1, 2], [3]], "R": np.eye(3).tolist(), "t": [0, 0, 900], "image_size": [120, 96]}
        )
    )
    eye = np.eye(4).tolist()
    for name, content in (
        ("start_words", {"camera": "here"}),
        ("start_none", {}),
        ("start_scaled", {"camera": (2 * np.eye(4)).tolist()}),
        ("truth_none", {"pose": eye}),
        ("truth_scaled", {"camera": (2 * np.eye(4)).tolist()}),
        ("truth_labels", {"camera": eye, "fiducials": {"3": {"ras_in_ct": [[0, 0, 0]]}}}),
        ("truth_moved", {"camera": eye, "moved_bones": [{"bone": 3}]}),
        ("truth_points", {"camera": eye, "fiducials": [[0, 0]]}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
