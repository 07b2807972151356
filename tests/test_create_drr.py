"""Step 8 against DiffDRR alone, projections by hand and other voxel spacings of one CT."""

import dataclasses

import numpy as np
import pytest
from helpers import diffdrr_picture, gaussians, oblique_affine, picture, save_registration, small_ct
from PIL import Image

import create_drr
from common import geometry
from common.drr import joseph
from common.geometry import Detector
from common.results import parameters_file
from common.volume import attenuation, nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume
from common.xray import similarity


@pytest.fixture(scope="module")
def registration(tmp_path_factory):
    """(folder, path of the CT, result)."""
    folder = tmp_path_factory.mktemp("registration")
    return folder, *save_registration(folder)


QUICK = ("--method", "fused", "--supersampling", "1")


def make(folder, volume, *flags, name="drr.png") -> tuple[int, np.ndarray | None]:
    path = folder / name
    code = create_drr.main(
        [
            "--volume",
            str(volume),
            "--pose_path",
            str(folder / "parameters.pt"),
            "--output_path",
            str(path),
            "--overwrite",
            *flags,
        ]
    )
    return code, np.asarray(Image.open(path)).astype(float) if code == 0 else None


def read_final(folder) -> np.ndarray:
    return np.asarray(Image.open(folder / "final_img.png"))


@pytest.mark.slow
def test_the_drr_is_the_registered_one_in_16_bit(registration):
    folder, volume, result = registration
    code, drr = make(folder, volume)
    assert code == 0
    with Image.open(folder / "drr.png") as image:
        assert image.mode == "I;16"
        assert image.size == (result.detector.width, result.detector.height)
    assert (drr.min(), drr.max()) == (0, 65535)
    assert similarity.ncc(drr, read_final(folder)) > 0.999


def test_grey_values_are_line_integrals_between_the_two_in_the_text_chunks(registration):
    folder, volume, result = registration
    _, drr = make(folder, volume, *QUICK)
    text = Image.open(folder / "drr.png").text
    low, high = float(text["line integral at 0"]), float(text["line integral at 65535"])
    ct = attenuation.select_structures(
        nifti.load_ct(volume), None, None, attenuation.WHOLE_ATTENUATION_HU
    )
    expected = joseph.FusedRenderer(ct, ct.isocentre_mm).render(
        result.volume_from_camera()[None], result.detector
    )[0]
    np.testing.assert_allclose(low + drr / 65535 * (high - low), expected, atol=1e-4)


@pytest.mark.slow
def test_diffdrr_alone_renders_the_same_image_of_parameters_and_volume(registration):
    folder, volume, result = registration
    alone = diffdrr_picture(volume, result)
    assert similarity.ncc(alone, read_final(folder)) > 0.998
    assert similarity.ncc(alone, make(folder, volume)[1]) > 0.998


@pytest.mark.slow
def test_landmarks_agree_with_those_of_diffdrr_alone_to_a_tenth_of_a_pixel(tmp_path):
    ct = small_ct()
    centres = np.array(
        [(18, 26, 20), (30, 14, 36), (28, 26, 25)]
    )  # well inside the tissue: DiffDRR's densities bend at -800 HU
    beads = [gaussians(ct.shape, [c], [1.5], [2500]) for c in centres]

    def volume(present, name):
        hu = np.clip(ct.data, None, 300) + sum(beads[i] for i in present)
        return save_registration(
            tmp_path / name, dataclasses.replace(ct, data=hu.astype(np.float32))
        )

    path, result = volume(range(3), "all")
    full = diffdrr_picture(path, result)
    rows, columns = np.indices(full.shape)
    for bead in range(3):
        without = diffdrr_picture(
            volume([i for i in range(3) if i != bead], f"without{bead}")[0], result
        )
        shadow = np.clip(full - without, 0, None)
        centroid = np.array([(columns * shadow).sum(), (rows * shadow).sum()]) / shadow.sum()
        expected = geometry.project(
            geometry.apply(ct.affine, centres[bead][None]),
            result.detector,
            result.volume_from_camera(),
        )[0]
        np.testing.assert_allclose(centroid, expected, atol=0.1)


def test_a_finer_ct_of_the_same_frame_and_another_extent_gives_the_same_view(
    registration, tmp_path
):
    folder, volume, _ = registration
    fine = small_ct(spacing=1.0)
    coarse = nifti.load_ct(volume)
    # outer faces coincide: half a coarse voxel minus half a fine one
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = geometry.apply(coarse.affine, np.full(3, -0.25))
    padded = np.pad(fine.data, ((7, 0), (0, 11), (3, 0)), constant_values=-1000)
    affine[:3, 3] = geometry.apply(affine, np.array([-7, 0, -3]))
    path = nifti.save(tmp_path / "fine.nii.gz", Volume(padded, affine, Lineage()))
    path.with_name("fine.json").unlink()  # from elsewhere: no lineage
    code, drr = make(folder, path, *QUICK)
    assert code == 0
    agreement = [
        similarity.ncc(np.roll(drr, shift, axis), read_final(folder))
        for axis in (0, 1)
        for shift in (0, 1, -1)
    ]
    assert agreement[0] > 0.9995
    assert max(agreement[1:3] + agreement[4:]) < 0.999


@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("method", create_drr.METHODS)
def test_the_original_ct_is_moved_into_place_by_the_lineages(registration, capsys, mirror, method):
    folder, volume, _ = registration
    flags = ("--method", method, "--supersampling", "1")
    moved = geometry.twist(np.array([0.3, -0.2, 0.5, 80, -60, 20]), np.zeros(3)) @ np.diag(
        [mirror, 1, 1, 1]
    )
    ct = nifti.load_ct(volume)
    prepared = Lineage(scanner_from_volume=geometry.invert(moved)).then("center_isometric", {})
    path = nifti.save(folder / "moved.nii.gz", Volume(ct.data, moved @ ct.affine, prepared))
    code, drr = make(folder, path, *flags)
    assert code == 0
    assert "transferred by their lineages" in capsys.readouterr().err
    np.testing.assert_allclose(drr, make(folder, volume, *flags)[1], atol=0.005 * 65535)


def test_the_fused_method_agrees_with_siddon(registration):
    folder, volume, _ = registration
    siddon, fused = (
        make(folder, volume, "--supersampling", "1", "--method", method)[1]
        for method in create_drr.METHODS
    )
    assert np.abs(siddon - fused).max() < 0.02 * 65535


def test_strips_join_without_seams(registration, monkeypatch):
    folder, volume, _ = registration
    whole = make(folder, volume, *QUICK)[1]
    monkeypatch.setattr(create_drr, "STRIP_BYTES", 1)  # one row at a time
    np.testing.assert_allclose(make(folder, volume, *QUICK)[1], whole, atol=2)


def test_supersampling_averages_the_rays_inside_a_pixel():
    class Columns:
        """Renders the detector coordinate of each ray, mm; a pixel's mean is that of its centre."""

        def render(self, cameras, detector):
            x = (np.arange(detector.width) - detector.principal_px[0]) * detector.pixel_mm[0]
            y = (np.arange(detector.height) - detector.principal_px[1]) * detector.pixel_mm[1]
            return (x[None] + 1000 * y[:, None])[None]

    detector = Detector(7, 5, 1000.0, (0.5, 0.8), (1.2, 4.4))
    for rows in (1, 3, 7):
        image = create_drr.render_drr(Columns(), np.eye(4), detector, 3, rows)
        np.testing.assert_allclose(image, Columns().render(None, detector)[0], rtol=1e-6, atol=1e-3)


def test_only_the_masked_structure_is_rendered(registration):
    folder, volume, _ = registration
    ct = nifti.load_ct(volume)
    labels = np.zeros(ct.shape, np.uint8)
    labels[30:, :20, :] = 3
    seg = nifti.save(folder / "seg.nii.gz", dataclasses.replace(ct, data=labels))
    _, part = make(folder, volume, "--mask", str(seg), "--labels", "3", *QUICK)
    _, whole = make(folder, volume, *QUICK)
    assert 0.02 < (part > 0).mean() < 0.6 * (whole > 0).mean()
    assert make(folder, volume, "--mask", str(seg), "--labels", "4")[0] == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--supersampling", "0"),
        ("--labels", "1"),
        ("--mask", "absent.nii.gz"),
        ("--output_path", "drr.jpg"),
    ],
)
def test_bad_flags_are_one_line(registration, capsys, flags):
    folder, volume, _ = registration
    assert make(folder, volume, *flags)[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_ct_of_another_frame_is_refused(registration, tmp_path, capsys):
    folder, _, _ = registration
    elsewhere = nifti.save(
        tmp_path / "other.nii.gz",
        small_ct(affine=oblique_affine((2.0, 2, 2), origin=(900.0, 0, 0))),
    )
    assert make(folder, elsewhere)[0] == 2
    assert "in the frame of ct.nii.gz" in capsys.readouterr().err


def test_an_existing_image_is_kept_unless_overwrite_and_the_volume_is_never_replaced(
    registration,
):
    folder, volume, _ = registration
    make(folder, volume, *QUICK)
    before = (folder / "drr.png").read_bytes()
    arguments = [
        "--volume",
        str(volume),
        "--pose_path",
        str(folder / "parameters.pt"),
        "--output_path",
        str(folder / "drr.png"),
    ]
    assert create_drr.main(arguments) == 2
    assert (folder / "drr.png").read_bytes() == before


def test_a_checkpoint_is_not_a_pose(registration, tmp_path, capsys):
    import torch

    _, volume, _ = registration
    torch.save({"model_state_dict": {}}, tmp_path / "model.pth")
    assert (
        create_drr.main(
            [
                "--volume",
                str(volume),
                "--pose_path",
                str(tmp_path / "model.pth"),
                "--output_path",
                str(tmp_path / "d.png"),
            ]
        )
        == 2
    )
    assert "is a model checkpoint" in capsys.readouterr().err


def test_the_image_helper_spans_eight_bits():
    assert picture(np.array([[-1.0, 0], [1, 3]])).tolist() == [[0, 64], [128, 255]]


def test_the_stored_pose_and_camera_agree(registration):
    folder, _, result = registration
    loaded = parameters_file.load(folder / "parameters.pt")
    np.testing.assert_allclose(
        loaded.volume_from_camera(), loaded.scanner_pose[0].camera, atol=1e-9
    )
    np.testing.assert_allclose(loaded.final_pose, result.final_pose)
