"""Unusual inputs that are valid: names with blanks and any letters, links, read-only inputs.

Also a reader that closes the pipe; and that no patient's name gets out.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from test_bad_inputs import contents
from test_image_files import png

import add_dicom_data
import center_isometric
import create_drr
import crop_cts
import evaluation
import registration
import segmentation_preprocessing
from common.command_line import registration_inputs
from common.geometry import apply, invert
from common.training import sources
from common.volume import nifti
from common.xray import reading
from common.xray.stated_geometry import StatedGeometry

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["a b  c", "Größe—膝关节", 'quote\'s "x"', "-dash", "n" * 200, "dot.in.name"]
STEPS = [
    (segmentation_preprocessing, "seg.nii.gz", "-i {} -o out", "{}_cleaned.nii.gz"),
    (center_isometric, "ct.nii.gz", "-i {} -o out", "{}.nii.gz"),
    (
        create_drr,
        "ct.nii.gz",
        (
            "--volume {} --pose_path result/parameters.pt --output_path out/drr.png --method fused"
            " --supersampling 1 --device cpu"
        ),
        "drr.png",
    ),
    (add_dicom_data, "xray.dcm", "--i {} --o out/x.dcm --sdd 1020", "x.dcm"),
]


def run(script, command: str, path: str) -> int:
    return script.main([word.replace("{}", path) for word in shlex.split(command)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("script", "source", "command", "output"), STEPS, ids=[step[0].__name__ for step in STEPS]
)
def test_names_with_blanks_letters_of_all_kinds_and_great_length_are_just_names(
    here, script, source, command, output, name
):
    ending = source[source.index(".") :]
    path = here / f"{name}{ending}"
    path.write_bytes((here / source).read_bytes())
    assert run(script, command, str(path)) == 0
    assert (here / "out" / output.format(name)).stat().st_size > 0


@pytest.mark.parametrize(
    ("script", "source", "command", "output"), STEPS, ids=[step[0].__name__ for step in STEPS]
)
def test_read_only_inputs_behind_links_are_read_and_stay_as_they_were(
    here, script, source, command, output
):
    path = here / f"linked{source[source.index('.') :]}"
    path.symlink_to(source)
    (here / source).chmod(0o444)
    before = contents(here)
    assert run(script, command, str(path)) == 0
    assert (here / "out" / output.format("linked")).stat().st_size > 0
    assert {
        name: content for name, content in contents(here).items() if not name.startswith("out")
    } == before


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_bytes(here):
    for out in ("one", "two"):
        assert segmentation_preprocessing.main(["-i", "seg.nii.gz", "-o", out]) == 0
        shutil.copytree("patient", f"{out}/patient")
        assert (
            crop_cts.main(
                [
                    "--base_dir",
                    f"{out}/patient",
                    "--ct_filename",
                    "ct.nii.gz",
                    "--seg_filename",
                    "seg.nii.gz",
                ]
            )
            == 0
        )
        assert center_isometric.main(["-i", "cohort", "-o", f"{out}/centred"]) == 0
        assert (
            create_drr.main(
                [
                    "--volume",
                    "ct.nii.gz",
                    "--pose_path",
                    "result/parameters.pt",
                    "--output_path",
                    f"{out}/drr.png",
                    "--supersampling",
                    "1",
                    "--device",
                    "cpu",
                ]
            )
            == 0
        )
    assert contents(here / "one") == contents(here / "two")


def test_an_output_that_is_a_link_replaces_the_link_and_not_what_it_leads_to(here):
    Path("out").mkdir()
    Path("out/x.dcm").symlink_to("../there.png")
    assert add_dicom_data.main(["--i", "xray.dcm", "--o", "out/x.dcm", "--sdd", "1020"]) == 2
    assert (
        add_dicom_data.main(["--i", "xray.dcm", "--o", "out/x.dcm", "--sdd", "1020", "--overwrite"])
        == 0
    )
    assert Path("there.png").read_bytes() == b"somebody's work"
    Path("out/y.dcm").symlink_to("../xray.dcm")
    assert (
        add_dicom_data.main(["--i", "xray.dcm", "--o", "out/y.dcm", "--sdd", "1020", "--overwrite"])
        == 2
    )


@pytest.mark.slow
def test_bytes_in_a_file_name_that_are_no_text_are_carried_along(here):
    path = os.fsencode(here) + b"/b\xffd.nii.gz"
    shutil.copyfile(here / "seg.nii.gz", path)
    done = subprocess.run(
        [sys.executable, ROOT / "segmentation_preprocessing.py", "-i", path, "-o", "out"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == b"out/b\xffd_cleaned.nii.gz"
    assert json.loads(Path("out", os.fsdecode(b"b\xffd_cleaned.json")).read_text())["image"][
        "name"
    ].startswith("b")


@pytest.mark.parametrize(
    "script",
    ["read_pt.py result/parameters.pt", "segmentation_preprocessing.py -i seg.nii.gz -o out"],
)
@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(here, script):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} {ROOT}/{script} | head -c 0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The value length")
def test_the_patients_name_stays_in_the_dicom(here, capfd):
    dataset = pydicom.dcmread("xray.dcm")
    dataset.PatientID, dataset.PatientBirthDate, dataset.InstitutionName = (
        "Secret-ID",
        "19700101",
        "Secret Clinic",
    )
    dataset.ImagerPixelSpacing, dataset.StudyDescription = (
        ["1.5", "1.5"],
        "Secret" * 20,
    )  # longer than the standard allows: pydicom remarks on it
    dataset.save_as("named.dcm")
    assert add_dicom_data.main(["--i", "named.dcm", "--o", "out/x.dcm", "--sdd", "1020"]) == 0
    assert registration.main(
        ["named.dcm", "-v", "ct.nii.gz", "-o", "out/result", "--device", "cpu", "--init", "search"]
    ) in (0, 3)
    assert evaluation.main(["--data_dir", "out/result", "--output_name", "e.svg"]) == 0
    written = {
        name: content
        for name, content in contents(here / "out").items()
        if content is not None and not name.endswith(".dcm")
    }
    assert len(written) > 10
    for secret in ("Secret", "19700101"):
        assert not [name for name, content in written.items() if secret.encode() in content]
        assert secret not in "".join(capfd.readouterr())


ODD_CTS = [
    "ct_odd.nrrd", "ct_odd.mha", "ct_odd.mhd", "ct_slices", "ct_slices.zip", "ct_enhanced.dcm",
    "ct_two --series 3", "ct_two --series b70f", "ct_two.zip --series 1.2.4",
]  # fmt: skip
ODD_LABELMAPS = ["seg_odd.nrrd", "seg_odd.mha", "seg_odd.mhd", "seg_low.nii.gz", "seg_high.nii.gz"]


@pytest.mark.parametrize("ct", ODD_CTS)
@pytest.mark.parametrize("seg", ["seg.nii.gz", "seg_odd.nrrd"])
def test_a_ct_in_another_format_is_cropped_like_the_nifti(here, ct, seg):
    flags = ["--base_dir", ".", "--labels", "3", "4", "--bones", "femur", "--seg_filename"]
    for name, source, labels in (("plain", "ct.nii.gz", "seg.nii.gz"), ("odd", ct, seg)):
        more = ["--ct_filename", *source.split(), "--output_dir", name]
        assert crop_cts.main([*flags, labels, *more]) == 0
    for side in ("", "_mirrored"):
        (plain,) = Path("plain/femur_cts_cropped").glob(f"*_femur{side}.nii.gz")
        (odd,) = Path("odd/femur_cts_cropped").glob(f"*_femur{side}.nii.gz")
        expected, found = nifti.load_ct(plain, fill=False), nifti.load_ct(odd, fill=False)
        at = apply(invert(found.affine) @ expected.affine, np.argwhere(expected.data > -2000))
        values = found.data[tuple(np.rint(at).astype(int).T)]
        np.testing.assert_array_equal(values, expected.data.ravel())


@pytest.mark.parametrize("ct", ["ct_odd.nrrd", "ct_slices", "ct_slices.zip", "ct_enhanced.dcm"])
def test_a_ct_in_another_format_is_centred_like_the_nifti(here, ct):
    for name, source in (("plain.nii.gz", "ct.nii.gz"), ("odd.nii.gz", ct)):
        assert center_isometric.main(["-i", source, "-o", name, "--spacing", "5"]) == 0
    expected, found = (nifti.load_ct(f"{name}.nii.gz", fill=False) for name in ("plain", "odd"))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(found.data, expected.data, atol=1)


@pytest.mark.parametrize("seg", ODD_LABELMAPS)
def test_a_labelmap_in_another_format_is_cleaned_like_the_nifti(here, seg):
    for name, source in (("plain", "seg.nii.gz"), ("odd", seg)):
        assert segmentation_preprocessing.main(["-i", source, "-o", name, "-l", "3", "4"]) == 0
    (plain,), (odd,) = (list(Path(name).glob("*.nii.gz")) for name in ("plain", "odd"))
    expected, found = nifti.load_labelmap(plain), nifti.load_labelmap(odd)
    at = apply(invert(found.affine) @ expected.affine, np.argwhere(expected.data >= 0))
    values = found.data[tuple(np.rint(at).astype(int).T)]
    np.testing.assert_array_equal(values, expected.data.ravel())


@pytest.mark.parametrize(
    ("seg", "labels"),
    [
        ("seg_masks", ["femur_right", "femur_left"]),
        ("seg_masks", ["FEMUR_RIGHT", "1"]),
        ("seg_channels.nii.gz", ["1", "2"]),
        ("boxed.seg.nrrd", ["femur_right", "Femur_Left"]),
        ("ct_slices/contours.dcm", ["femur_right", "femur_left"]),
        ("ct_slices/contours.dcm", ["1", "2"]),
    ],
)
def test_masks_are_labels_by_name_or_number(here, seg, labels):
    flags = ["--base_dir", ".", "--ct_filename", "ct.nii.gz", "--seg_filename", seg]
    flags += ["--bones", "femur", "--output_dir", "out", "--labels", *labels]
    assert crop_cts.main(flags) == 0
    assert len(list(Path("out").rglob("*.nii.gz"))) == 4
    plain = [*flags[:5], "seg.nii.gz", "--bones", "femur", "--output_dir", "plain"]
    assert crop_cts.main([*plain, "--labels", "3", "4"]) == 0
    for path in Path("out").rglob("*masks*/*.nii.gz"):
        expected = nifti.load_labelmap(Path("plain", *path.parts[1:]))
        np.testing.assert_array_equal(nifti.load_labelmap(path).data > 0, expected.data > 0)


@pytest.mark.parametrize("ct", ["ct_tilted", "ct_uneven"])
def test_stacks_that_are_no_grid_are_resampled_with_a_warning(here, capfd, ct):
    seg = "ct_tilted/contours.dcm" if ct == "ct_tilted" else "seg_masks"
    flags = ["--base_dir", ".", "--ct_filename", ct, "--seg_filename", seg, "--quiet"]
    flags += ["--bones", "femur", "--labels", "femur_right", "femur_left", "--output_dir", "out"]
    assert crop_cts.main(flags) == 0
    assert {"ct_tilted": "gantry was tilted by", "ct_uneven": "interpolated to"}[
        ct
    ] in capfd.readouterr().err
    if ct == "ct_tilted":  # by whole pixels: the bone has the values of the upright CT
        plain, odd = (nifti.load_ct(path, fill=False) for path in ("ct.nii.gz", ct))
        labels = nifti.load_labelmap("seg.nii.gz").data
        found = nifti.load_labelmap(seg).data
        assert np.sort(odd.data[found == 2]).tolist() == np.sort(plain.data[labels == 4]).tolist()


MASKS = [
    ("seg_masks", "femur_left"),
    ("seg_masks", "1"),
    ("boxed.seg.nrrd", "femur_left"),
    ("boxed.seg.nrrd", "4"),
    ("ct_slices/contours.dcm", "femur_left"),
    ("cropped/femur_masks_cropped/ct_femur.nii.gz", "femur"),
]


@pytest.mark.parametrize(("mask", "label"), MASKS)
def test_a_structure_by_its_name_renders_like_its_number(here, mask, label):
    flags = ["--pose_path", "result/parameters.pt", "--device", "cpu", "--method", "fused"]
    flags += ["--supersampling", "1", "--volume"]
    ct, plain = "ct.nii.gz", ["--mask", "seg.nii.gz", "--labels", "4"]
    if mask.startswith("cropped"):
        crop = ["--base_dir", ".", "--output_dir", "cropped", "--ct_filename", ct, "--padding", "9"]
        crop += ["--seg_filename", "seg.nii.gz", "--bones", "femur", "--labels", "3", "4"]
        assert crop_cts.main(crop) == 0
        ct = "cropped/femur_cts_cropped/ct_femur.nii.gz"
        plain = ["--mask", mask]
    for name, which in (("plain", plain), ("odd", ["--mask", mask, "--labels", label])):
        assert create_drr.main([*flags, ct, *which, "--output_path", f"{name}.png"]) == 0
    assert Path("plain.png").read_bytes() == Path("odd.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ("-v ct.nii.gz --mask seg_masks --labels femur_left", [(1,)]),
        ("-v ct.nii.gz --mask boxed.seg.nrrd --labels FEMUR_LEFT femur_right", [(4, 3)]),
        (
            "-v ct.nii.gz ct_odd.mha --mask seg_masks boxed.seg.nrrd --labels femur_left 3",
            [(1,), (3,)],
        ),
    ],
)
def test_a_registration_is_requested_with_the_numbers_of_names(here, arguments, labels):
    flags = f"xray.png -o out --sdd 900 --pixel_spacing 1 {arguments}"
    args = registration.build_parser().parse_args(shlex.split(flags))
    (planned,) = registration_inputs.plan(args, None)
    assert [each.labels for each in planned.request.structures] == labels


def test_words_of_a_series_become_a_file_of_it_that_a_result_can_record(here):
    flags = "xray.png -o out --sdd 900 --pixel_spacing 1 -v ct_two --series B70f"
    args = registration.build_parser().parse_args(shlex.split(flags))
    (planned,) = registration_inputs.plan(args, None)
    (structure,) = planned.request.structures
    assert structure.volume.name.endswith("_1.2.4")
    expected = nifti.load_ct("ct_slices", fill=False)
    np.testing.assert_array_equal(nifti.load_ct(structure.volume, fill=False).data, expected.data)


@pytest.mark.parametrize("source", ["folder", "file"])
def test_training_takes_names_of_labels(here, source):
    ct, mask = Path("cohort/P01.nii.gz"), Path("boxed.seg.nrrd")
    if source == "folder":
        mask = Path("masks")
        mask.mkdir()
        shutil.copy("seg.nii.gz", mask / ct.name)
        (mask / "P01.csv").write_text("3,femur_right\n4,femur_left\n")
    assert sources.pair_mask(ct, mask, ["femur_left"]).labels == (4,)


ODD_XRAYS = {
    "bmp": lambda grey, path: Image.fromarray(grey).save(path),
    "jp2": lambda grey, path: Image.fromarray(grey).save(path, irreversible=False),
    "lzw.tif": lambda grey, path: Image.fromarray(grey).save(path, compression="tiff_lzw"),
    "32.tif": lambda grey, path: tifffile.imwrite(path, grey.astype(np.uint32) << 24),
    "64.tif": lambda grey, path: tifffile.imwrite(path, grey.astype(np.float64)),
    "white.tif": lambda grey, path: tifffile.imwrite(path, 255 - grey, photometric="miniswhite"),
    "rgba.png": lambda grey, path: Image.fromarray(grey).convert("RGBA").save(path),
    "16.png": lambda grey, path: png(Path(path), [grey.astype(np.uint16) << 8] * 3, 2),
}


@pytest.mark.parametrize("ending", ODD_XRAYS)
def test_an_xray_in_another_format_is_the_png(here, ending):
    ODD_XRAYS[ending](np.asarray(Image.open("xray.png")), f"odd.{ending}")
    stated = StatedGeometry(900.0, (1.0, 1.0))
    expected, found = (reading.read(path, stated) for path in ("xray.png", f"odd.{ending}"))
    np.testing.assert_allclose(found.image, expected.image, atol=1e-3)
