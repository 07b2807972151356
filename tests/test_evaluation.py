"""The evaluation: known answers, ground truth in every form, and images of different shapes."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import save_registration
from PIL import Image

import create_drr
import evaluation
from common import geometry
from common.geometry import Detector
from common.reports import comparison, comparison_figure, figures
from common.results.scanner_view import ScannerView
from common.results.truth import Truth
from common.xray import outline, similarity


@pytest.fixture(scope="module")
def registration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, save_registration(folder)[1]


def evaluate(folder, *flags) -> tuple[int, dict]:
    code = evaluation.main(["--data_dir", str(folder), "--overwrite", *map(str, flags)])
    return code, json.loads((folder / "evaluation.json").read_text()) if code == 0 else {}


def truth_file(folder, **content):
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def write_pictures(folder, **pictures):
    for name, picture in pictures.items():
        Image.fromarray(np.asarray(picture)).save(folder / f"{name}.png")


def noise(shape=(60, 80), seed=0, bits=8) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .integers(1, 2**bits - 1, shape)
        .astype(np.uint8 if bits == 8 else np.uint16)
    )


@pytest.mark.slow
def test_the_same_picture_scores_perfectly_and_an_inverted_one_the_opposite(tmp_path, capsys):
    xray = noise()
    write_pictures(tmp_path, gt=xray, init_image=255 - xray, final_img=xray)
    code, found = evaluate(tmp_path)
    assert code == 0
    final, start = (
        found["pictures"]["final"]["similarity"],
        found["pictures"]["initial"]["similarity"],
    )
    assert final["MSE"] == 0
    assert final["SSIM"] == pytest.approx(1)
    assert final["NCC"] == pytest.approx(1)
    assert final["NMI"] == pytest.approx(2, abs=0.2)  # of 100 bins
    assert start["NCC"] == pytest.approx(-1)


@pytest.mark.slow
def test_figure_csv_and_json_contain_the_same_numbers(registration, capsys):
    folder, _ = registration
    assert (
        evaluation.main(
            ["--data_dir", str(folder), "--title_suffix", "(p8)", "--output_name", "p8.png"]
        )
        == 0
    )
    printed = capsys.readouterr().out.split()
    assert printed == [str(folder / name) for name in ("p8.csv", "p8.json", "p8.png")]
    found = json.loads((folder / "p8.json").read_text())
    rows = {
        row["picture"]: row for row in csv.DictReader((folder / "p8.csv").read_text().splitlines())
    }
    assert list(rows) == ["initial", "final"]
    for key, row in rows.items():
        for name in similarity.BETTER:
            assert float(row[name]) == pytest.approx(found["pictures"][key]["similarity"][name])
    with Image.open(folder / "p8.png") as figure:
        assert min(figure.size) > 800


@pytest.mark.slow
def test_the_final_pose_fits_better_by_every_measure(registration):
    _, found = evaluate(registration[0])
    start, final = (found["pictures"][key]["similarity"] for key in ("initial", "final"))
    assert final["MSE"] < start["MSE"]
    assert all(final[name] > start[name] for name in ("SSIM", "NMI", "NCC"))


@pytest.mark.parametrize("name", ["drr.png", "hq_drr.png"])
def test_a_high_quality_drr_is_found_and_resampled_from_16_bits(tmp_path, name):
    xray = noise((30, 40)).repeat(2, 0).repeat(2, 1)
    write_pictures(tmp_path, gt=xray, init_image=noise(seed=1), final_img=xray)
    Image.fromarray(xray.astype(np.uint16).repeat(2, 0).repeat(2, 1) * 200).save(tmp_path / name)
    code, found = evaluate(tmp_path)
    assert code == 0
    assert found["pictures"]["high_quality"]["file"] == name
    assert found["pictures"]["high_quality"]["similarity"]["NCC"] > 0.95


@pytest.mark.slow
def test_a_drr_of_any_name_is_known_by_its_line_integrals(tmp_path, capsys):
    xray = noise()
    write_pictures(tmp_path, gt=xray, init_image=xray, final_img=xray, figure=xray)
    create_drr.write_png16(tmp_path / "your_drr.png", xray.astype(float))
    code, found = evaluate(tmp_path)
    assert code == 0
    assert found["pictures"]["high_quality"]["file"] == "your_drr.png"
    create_drr.write_png16(tmp_path / "drr.png", xray.astype(float))
    assert evaluate(tmp_path)[1]["pictures"]["high_quality"]["file"] == "drr.png"
    assert "not your_drr.png; --drr_name selects another" in capsys.readouterr().err


def test_images_are_compared_without_scale_bars_if_parameters_are_of_another_program(
    tmp_path, capsys
):
    xray = noise()
    write_pictures(tmp_path, gt=xray, init_image=xray, final_img=xray)
    torch.save({"final_pose": torch.eye(4)}, tmp_path / "parameters.pt")
    assert evaluate(tmp_path)[0] == 0
    assert "no scale bars: " in capsys.readouterr().err


def test_other_names_for_x_ray_and_drr(tmp_path):
    xray = noise()
    write_pictures(tmp_path, ground_truth_xray=xray, init_image=xray, final_img=xray, exact=xray)
    assert (
        evaluate(tmp_path, "--gt_name", "ground_truth_xray.png", "--drr_name", "exact.png")[1][
            "pictures"
        ]["high_quality"]["file"]
        == "exact.png"
    )
    assert evaluate(tmp_path)[0] == 2
    assert (
        evaluate(tmp_path, "--gt_name", "ground_truth_xray.png", "--drr_name", "absent.png")[0] == 2
    )


def test_a_collimator_is_left_out_of_all_numbers(tmp_path):
    rows, columns = np.indices((100, 120))
    round_field = (rows - 50) ** 2 + (columns - 60) ** 2 < 45**2
    drr = noise((100, 120))
    write_pictures(
        tmp_path, gt=np.where(round_field, drr, 0).astype(np.uint8), init_image=drr, final_img=drr
    )
    found = evaluate(tmp_path)[1]
    assert found["pictures"]["final"]["similarity"]["MSE"] == 0
    assert 0.8 * round_field.mean() < found["field_fraction"] < round_field.mean()


def test_pose_errors_of_a_known_offset_in_the_cameras_frame(registration):
    folder, result = registration
    camera = result.scanner_pose[0].camera
    # along columns, rows, and towards the detector
    true = camera @ geometry.translation(np.array([1.0, -2.0, 5.0]))
    found = evaluate(folder, "--truth", truth_file(folder, camera=true.tolist()))[1]
    error = found["pictures"]["final"]["pose_error"]
    assert error["in_plane_mm"] == pytest.approx(np.hypot(1, 2))
    assert error["depth_mm"] == pytest.approx(5)
    assert error["mtre_mm"] == pytest.approx(np.sqrt(30))
    assert error["rotation_deg"] == pytest.approx(0, abs=1e-6)
    assert found["points"] == "registered structure"
    assert list(found["pictures"]["final"])[1] == "pose_error"  # before similarity


def test_a_turn_about_the_source_axis_is_that_rotation(registration):
    folder, result = registration
    turn = np.eye(4)
    turn[:3, :3] = geometry.rotation_matrix(np.array([0, 0, np.radians(3)]))
    true = result.scanner_pose[0].camera @ turn
    assert evaluate(folder, "--truth", truth_file(folder, C2W=true.tolist()))[1]["pictures"][
        "final"
    ]["pose_error"]["rotation_deg"] == pytest.approx(3)


def test_the_projection_error_is_that_of_hand_projected_fiducials_at_the_detector(registration):
    folder, result = registration
    camera = result.scanner_pose[0].camera
    points = camera[:3, 3] + np.array([[0, 0, 600.0], [40, -20, 550]]) @ camera[:3, :3].T
    true = camera @ geometry.translation(np.array([0.6, 0, 0]))
    found = evaluate(
        folder, "--truth", truth_file(folder, camera=true.tolist(), fiducials=points.tolist())
    )[1]
    assert found["points"] == "fiducials of the truth"
    assert found["pictures"]["final"]["pose_error"]["projection_mm"] == pytest.approx(
        np.mean([0.6 * 900 / 600, 0.6 * 900 / 550])
    )


@pytest.mark.slow
def test_another_registration_as_truth_gives_zero_for_itself_and_the_start_error(registration):
    folder, result = registration
    found = evaluate(folder, "--truth", folder / "parameters.pt")[1]["pictures"]
    assert found["final"]["pose_error"]["mtre_mm"] == 0
    start, end = (result.volume_from_camera(pose) for pose in (result.init_pose, result.final_pose))
    expected = geometry.pose_error(start, end, np.array(result.drr["points_mm"]), result.detector)
    assert found["initial"]["pose_error"]["mtre_mm"] == pytest.approx(expected.mtre_mm)
    assert expected.mtre_mm > 10


@pytest.mark.slow
def test_a_bone_that_moved_has_its_own_camera_and_fiducials(registration):
    folder, result = registration
    camera = result.scanner_pose[0].camera
    elsewhere = camera @ geometry.translation(np.array([30, 0, 0]))
    points = (camera[:3, 3] + 600 * camera[:3, 2]).reshape(1, 3).tolist()
    path = truth_file(
        folder,
        C2W=elsewhere.tolist(),
        moved_bones=[{"labels": [3, 10], "C2W_of_bone": camera.tolist()}],
        fiducials={"1": {"ras_in_ct": points}, "3": {"ras_in_ct": points}},
    )
    assert evaluate(folder, "--truth", path, "--label", 3)[1]["pictures"]["final"]["pose_error"][
        "mtre_mm"
    ] == pytest.approx(0, abs=1e-9)
    assert evaluate(folder, "--truth", path, "--label", 1)[1]["pictures"]["final"]["pose_error"][
        "mtre_mm"
    ] == pytest.approx(30)
    assert evaluate(folder, "--truth", path, "--label", 7)[0] == 2


def test_points_of_a_prepared_ct_go_through_its_lineage_to_the_scanner(tmp_path):
    from helpers import small_ct

    from common.volume import nifti, volume

    ct = small_ct()
    scanner_from_volume = geometry.twist(np.array([0.2, 0.1, -0.3, 50, 60, 70]), np.zeros(3))
    placed = dataclasses.replace(
        ct, lineage=ct.lineage.then("center_isometric", {}, scanner_from_volume)
    )
    path, result = save_registration(tmp_path, placed)
    truth = result.scanner_pose[0].camera
    points, points_from = comparison.choose_points(result, Truth(truth, None), nifti.load_ct(path))
    stored, _ = comparison.choose_points(result, Truth(truth, None), None)
    np.testing.assert_allclose(points, stored)
    assert points_from == "bone of ct.nii.gz"
    view = result.scanner_pose[0]
    detector = Detector(90, 110, 900.0, (1.6, 1.8), (57.0, 41.0))
    expected = geometry.project(volume.points_of(ct), detector, result.volume_from_camera())
    homogeneous = np.c_[points, np.ones(len(points))] @ view.projection.T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], expected, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"camera": [[1, 2], [3, 4]]},
        {"camera": "x"},
        {"camera": np.diag([2.0, 2, 2, 1]).tolist()},
        {"C2W": np.eye(4).tolist(), "fiducials": [[1, 2]]},
    ],
)
def test_an_unusable_ground_truth_is_an_error_of_one_line(registration, capsys, content):
    folder, _ = registration
    capsys.readouterr()
    assert evaluate(folder, "--truth", truth_file(folder, **content))[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_images_of_another_shape_are_rejected(tmp_path, capsys):
    write_pictures(tmp_path, gt=noise(), init_image=noise(), final_img=noise((60, 60)))
    assert evaluate(tmp_path)[0] == 2
    assert "final_img.png: has 60 x 60 pixels" in capsys.readouterr().err


def test_an_x_ray_with_dark_bone_is_warned_about(tmp_path, capsys):
    drr = noise()
    write_pictures(tmp_path, gt=255 - drr, init_image=drr, final_img=drr)
    assert evaluate(tmp_path)[0] == 0
    assert "expected bone bright" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ("--output_name", "x.bmp"),
        ("--label", "3"),
        ("--gt_name", "absent.png"),
        ("--output_name", "gt.png"),
    ],
)
def test_bad_flags_are_refused(registration, flags):
    assert evaluate(registration[0], *flags)[0] == 2


def test_an_absent_folder_and_an_existing_figure_are_refused(registration):
    folder, _ = registration
    assert evaluation.main(["--data_dir", str(folder / "absent")]) == 2
    evaluate(folder)
    assert evaluation.main(["--data_dir", str(folder)]) == 2


@pytest.mark.parametrize("suffix", ["", "(p8)", "$x_1^", "a title that goes on " * 12, "w" * 400])
def test_no_texts_overlap_or_leave_the_figure_at_any_title_length(registration, suffix):
    folder, _ = registration
    xray = np.asarray(Image.open(folder / "gt.png")).astype(float)
    error = geometry.PoseError(123.45, 123.45, 123.45, 123.45, 123.45)
    metrics = dict.fromkeys(similarity.BETTER, -0.12345)
    panels = [
        comparison.ComparedDrr(
            str(i), "high-quality DRR", "f", xray + i * np.eye(*xray.shape), metrics, error
        )
        for i in range(3)
    ]
    notes = comparison_figure.Notes(
        0.7, outline.outline(xray), "checkerboard" if suffix else "red-cyan", "registered structure"
    )
    with figures.style():
        figure = comparison_figure.draw_comparison(
            xray, panels, xray > 2, f"X-ray and registered DRR {suffix}", notes
        )
    figure.draw_without_rendering()
    renderer = figure._get_renderer()
    texts = [figure._suptitle, figure._supxlabel] + [
        text
        for axis in figure.axes
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts)
        if text.get_text()
    ]
    boxes = [text.get_window_extent(renderer) for text in texts]
    width, height = figure.bbox.width, figure.bbox.height
    for i, box in enumerate(boxes):
        assert box.x0 >= 0, texts[i]
        assert box.x1 <= width, texts[i]
        assert box.y0 >= 0, texts[i]
        assert box.y1 <= height, texts[i]
        assert not any(box.overlaps(other) for other in boxes[:i]), texts[i]


def test_all_panels_are_drawn_with_one_window(registration):
    folder, _ = registration
    xray = np.asarray(Image.open(folder / "gt.png")).astype(float)
    metrics = dict.fromkeys(similarity.BETTER, 0.5)
    panels = [
        comparison.ComparedDrr(key, key, "f", image, metrics)
        for key, image in (("initial", 300 * xray + 5), ("final", 255 - xray))
    ]
    field, notes = np.ones(xray.shape, bool), comparison_figure.Notes()
    figure = comparison_figure.draw_comparison(xray, panels, field, "t", notes)
    above, below = [
        [axis.images[0] for axis in figure.axes[start:stop]] for start, stop in ((0, 3), (4, 6))
    ]  # the overlay is in colours
    assert {image.get_clim() for image in above} == {(0, 1)}
    assert len({image.get_clim() for image in below}) == 1
    np.testing.assert_allclose(
        below[0].get_array(), 0, atol=1e-12
    )  # a linear change of grey is none


def test_a_mirrored_volume_and_a_flipped_picture_are_evaluated_on_disk(tmp_path):
    _, result = save_registration(tmp_path)
    mirror = geometry.MIRROR
    view = ScannerView.of(
        result.detector,
        result.volume_from_camera(),
        result.volume_from_camera(result.init_pose),
        mirror,
        flipped=True,
    )
    flipped = dataclasses.replace(
        result, scanner_pose=[view], drr={**result.drr, "scanner_from_volume": mirror.tolist()}
    )
    points = geometry.apply(mirror, np.array(result.drr["points_mm"]))
    same = comparison.pose_errors(flipped, view.camera, points)
    plain = comparison.pose_errors(
        result, result.scanner_pose[0].camera, np.array(result.drr["points_mm"])
    )
    assert np.linalg.det(view.camera[:3, :3]) == pytest.approx(1)
    for key in ("initial", "final"):
        assert same[key].as_dict() == pytest.approx(plain[key].as_dict(), abs=1e-9)


# ------------------------------------------------------------------------------------------- figure


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")]
)
@pytest.mark.slow
def test_the_figure_is_written_in_the_format_of_its_name_at_300_dpi(registration, name, start):
    folder, _ = registration
    assert evaluate(folder, "--output_name", "evaluation.png")[0] == 0
    assert evaluation.main(["--data_dir", str(folder), "--output_name", name, "--overwrite"]) == 0
    assert (folder / name).read_bytes().startswith(start)
    if name.endswith("png"):
        with Image.open(folder / name) as figure:
            assert figure.info["dpi"][0] == pytest.approx(300, abs=1)


def test_the_overlay_is_grey_where_both_agree_and_red_where_only_the_xray_is():
    xray = np.tile(np.linspace(0.1, 1, 40), (40, 1))
    field = np.ones_like(xray, bool)
    both = comparison_figure.overlay(xray, xray, field, "red-cyan")
    np.testing.assert_allclose(both[..., 0], both[..., 1], atol=0.02)
    alone = comparison_figure.overlay(
        xray, np.where(np.arange(40) < 20, 0, xray), field, "red-cyan"
    )
    assert (alone[:, 5:20, 0] > alone[:, 5:20, 1] + 0.1).all()
