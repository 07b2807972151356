import argparse
import csv
import errno
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import write_ct, write_mask

from common import geometry
from common.command_line import training_flags
from common.command_line.flags import add_pose_range_flags, pose_range_from
from common.errors import InputError
from common.geometry import Detector
from common.geometry.pose_range import PoseRange, any_side
from common.training import augmentation, batches, loop, schedule, validation
from common.training.correlation import similarity
from common.training.images import LEAST_IN_VIEW, Scenes, draw_poses, make_batch
from common.training.job import Job
from common.training.loading import load_patient
from common.training.loss import LEVER_MM, LOSS_SCALE_MM, ImageLoss, dice, pose_loss, silhouette
from common.training.network import centre_heads, learners
from common.training.outputs import Outputs
from common.training.pool import PatientPool
from common.training.processes import (
    Processes,
    available_cores,
    join_processes,
    take_rendering_cores,
)
from common.training.settings import Settings
from common.training.sources import Source
from common.training.view import TrainingView
from common.training.xvr_config import RunPaths, config_of, settings_of
from common.version import VERSION
from common.volume import nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume

VIEW = TrainingView(Detector.centred(64, 64, 1020.0, 4.0), PoseRange())


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct") / "P01.nii.gz")


@pytest.fixture(scope="module")
def patient(ct):
    return load_patient(Source(ct), VIEW, "cpu")


def poses_at(*rows):
    return torch.as_tensor(
        np.array([geometry.pose_from_angles(row[:3], row[3:]) for row in np.array(rows, float)]),
        dtype=torch.float32,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks train faster on one thread, especially on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --------------------------------------------------------------------------------------------- loss


def test_the_loss_is_zero_at_the_truth():
    truth = poses_at([10, 20, 30, 5, 800, -7])
    assert pose_loss(truth, truth).item() == pytest.approx(0, abs=2e-3 * LEVER_MM / LOSS_SCALE_MM)


@pytest.mark.parametrize(
    ("parameter", "change", "expected_mm"),
    [
        (3, 8.0, 8.0),
        (5, -8.0, 8.0),
        (4, 8.0, 4.0),
        (0, 3.0, 150 * 2 * math.sqrt(2) * math.sin(math.radians(1.5))),
    ],
)
def test_the_loss_of_one_wrong_parameter_is_its_length(parameter, change, expected_mm):
    right = np.array([10.0, 20, 30, 5, 800, -7])
    wrong = right + np.eye(6)[parameter] * change
    loss = pose_loss(poses_at(wrong), poses_at(right)).item() * LOSS_SCALE_MM
    assert loss == pytest.approx(expected_mm, abs=0.1)


def image_loss(patient, change, **weights):
    """Value of the image and Dice terms at a pose that is off by ``change``, and its gradient.

    The gradient is by r1 r2 r3 (radians) tx ty tz.
    """
    from diffdrr.pose import convert

    right = torch.tensor([[10.0, 5, -5, 5, 800, -7]])
    off = right + torch.tensor(change)
    parameters = torch.cat([torch.deg2rad(off[:, :3]), off[:, 3:]], 1).requires_grad_()
    predicted = convert(
        parameters[:, :3], parameters[:, 3:], parameterization="euler_angles", convention="ZXY"
    )
    weights = {"image_weight": 0.0, "dice_weight": 0.0, **weights}
    loss = ImageLoss(VIEW, **weights)(
        predicted.matrix, [Scenes(patient, poses_at(right[0].tolist()), None)]
    )
    return loss.item(), torch.autograd.grad(loss, parameters)[0][0]


@pytest.mark.parametrize("term", ["image_weight", "dice_weight"])
@pytest.mark.parametrize(("parameter", "change"), [(0, 8.0), (3, 8.0), (3, -8.0), (5, 8.0)])
def test_the_image_terms_vanish_at_the_truth_and_pull_a_wrong_pose_back(
    patient, term, parameter, change
):
    at_truth, _ = image_loss(patient, [0.0] * 6, **{term: 1.0})
    # the similarity of a picture with itself is just short of 1
    assert at_truth == pytest.approx(0, abs=0.02)
    off, gradient = image_loss(patient, (np.eye(6)[parameter] * change).tolist(), **{term: 1.0})
    assert off > at_truth + 3e-3
    assert gradient[parameter] * change > 0


def test_the_similarity_and_its_gradient_are_those_of_xvr():
    from xvr.register.losses.gmncc import GradientMultiscaleNormalizedCrossCorrelation2d

    random = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 3, 1, 40, 36, generator=random)
    image = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    image[:, :, :12] = 0  # patches that show nothing
    found = {}
    theirs = GradientMultiscaleNormalizedCrossCorrelation2d()
    for name, similar in (("xvr", theirs), ("ours", similarity)):
        other = (image + 0.1 * noise).requires_grad_()
        value = similar(image, other)
        found[name] = value.detach(), torch.autograd.grad(value.sum(), other)[0]
    torch.testing.assert_close(found["ours"][0], found["xvr"][0], atol=2e-4, rtol=0)
    off = (found["ours"][1] - found["xvr"][1]).norm()
    assert off < 1e-3 * found["xvr"][1].norm()


def test_silhouettes_that_agree_have_dice_one_and_apart_zero():
    image = torch.zeros(2, 1, 8, 8)
    image[:, :, :4] = 100
    other = image.clone()
    other[1] = image[1].flip(1)
    assert dice(silhouette(image), silhouette(other)).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_a_fresh_network_predicts_the_centre_of_the_range():
    from common.pose_network import prediction

    for rotation in ("rotation_6d", "quaternion_adjugate", "euler_angles"):
        settings = Settings(
            "test_resnet",
            None,
            rotation,
            TrainingView(VIEW.detector, PoseRange(r1=(20, 60))),
            4,
            1e-3,
            convention="ZXY",
        )
        made = prediction.make_network(config_of(settings, RunPaths(""))).eval()
        centre_heads(made, settings)
        with torch.no_grad():
            made.rot_regression.weight.zero_()
            made.xyz_regression.weight.zero_()
            pose = made(torch.rand(1, 1, 64, 64)).matrix[0].numpy()
        angles, offset = geometry.angles_from_pose(pose)
        assert np.allclose(angles, [40, 0, 0], atol=0.01)
        assert np.allclose(offset, [0, 850, 0], atol=0.01)


# ------------------------------------------------------------------------------------------- images


def test_a_plain_image_is_the_whole_attenuation_seen_from_its_pose(ct, patient):
    from common.drr.renderer import make_renderer
    from common.volume import attenuation, nifti

    images, poses = make_batch(patient, VIEW, 4, 0.0, np.random.default_rng(1))
    volume = nifti.load_ct(ct)
    renderer = make_renderer(attenuation.select_structures(volume, None, None, -1000.0), "cpu")
    for image, pose in zip(images, poses, strict=True):
        expected = renderer.render(
            patient.cameras(VIEW.cameras(pose.numpy()[None])), VIEW.detector
        )[0]
        assert np.corrcoef(image[0].numpy().ravel(), expected.ravel())[0, 1] > 0.99


def test_without_reverse_x_axis_the_image_is_flipped(patient):
    mirrored = TrainingView(VIEW.detector, VIEW.pose_range, "AP", False)
    ours, _ = make_batch(patient, VIEW, 2, 0.0, np.random.default_rng(1))
    theirs, _ = make_batch(patient, mirrored, 2, 0.0, np.random.default_rng(1))
    assert torch.equal(ours.flip(3), theirs)


def test_augmented_images_repeat_with_their_seed_and_differ_between_seeds(patient):
    first, poses = make_batch(patient, VIEW, 4, 0.5, np.random.default_rng([7, 1]))
    again, same = make_batch(patient, VIEW, 4, 0.5, np.random.default_rng([7, 1]))
    other, _ = make_batch(patient, VIEW, 4, 0.5, np.random.default_rng([7, 2]))
    assert torch.equal(first, again)
    assert torch.equal(poses, same)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()


def test_every_augmentation_leaves_an_image_that_is_finite_and_not_empty(patient):
    images, _ = make_batch(patient, VIEW, 32, 1.0, np.random.default_rng(0))
    assert torch.isfinite(images).all()
    assert (images.amax((1, 2, 3)) - images.amin((1, 2, 3)) > 5).all()


def test_scatter_reduces_the_contrast_in_a_thick_body_and_leaves_it_visible():
    body = torch.full((1, 1, 32, 32), 6.0)
    body[..., 10:20, 10:20] += 1.0
    veiled = augmentation._scatter(body, torch.full((1, 1, 1, 1), 0.15))
    assert 0.5 < float(veiled[0, 0, 15, 15] - veiled[0, 0, 0, 0]) < 1


def test_blur_keeps_the_sum_and_collimators_leave_most_of_the_field():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    blurred = augmentation._blur(image, torch.full((1, 1, 1, 1), 0.25))
    assert blurred.sum() == pytest.approx(1)
    assert blurred[0, 0, 4, 4] == pytest.approx(0.25)
    fields = augmentation._collimator(
        augmentation.Draws(200, torch.Generator().manual_seed(0)), torch.Size((64, 64)), 1.0
    )
    assert fields.mean((1, 2, 3)).min() > 0.2


def test_poses_that_miss_the_bone_are_redrawn(patient):
    wide = TrainingView(VIEW.detector, PoseRange(tx=(-300.0, 300.0)))
    poses = draw_poses(patient, wide, 40, np.random.default_rng(0))
    assert (
        min(
            geometry.share_in_view(patient.points_mm, wide.detector, camera)
            for camera in wide.cameras(poses)
        )
        >= LEAST_IN_VIEW
    )


def test_a_detector_that_sees_nothing_stops_with_its_remedy(patient):
    away = TrainingView(VIEW.detector, PoseRange(tx=(900.0, 950.0)))
    with pytest.raises(InputError, match="pose range"):
        draw_poses(patient, away, 4, np.random.default_rng(0))


def test_with_a_mask_the_bone_is_one_layer_and_all_else_another(ct, tmp_path):
    mask = write_mask(tmp_path / "P01.nii.gz", ct)
    alone = load_patient(Source(ct, mask, (2,)), VIEW, "cpu")
    assert len(alone.others) == 2  # the labelled neighbour and what has no label
    everything = load_patient(Source(ct), VIEW, "cpu").ct_renderers
    camera = alone.cameras(VIEW.cameras(VIEW_POSES := poses_at([5, 5, 5, 0, 800, 0]).numpy()))
    assert len(VIEW_POSES) == 1
    total = everything.bone.render(camera, VIEW.detector)
    layers = alone.ct_renderers
    parts = layers.bone.render(camera, VIEW.detector) + sum(
        other.render(camera, VIEW.detector) for other, _ in layers.others
    )
    assert np.corrcoef(total.ravel(), parts.ravel())[0, 1] > 0.99
    assert layers.bone.render(camera, VIEW.detector).sum() < 0.7 * total.sum()


def test_a_labelled_neighbour_moves_in_the_images_and_the_bone_stays(ct, tmp_path, monkeypatch):
    alone = load_patient(Source(ct, write_mask(tmp_path / "P01.nii.gz", ct), (2,)), VIEW, "cpu")
    neighbour = alone.others[0]
    assert neighbour.centre_mm == pytest.approx([-20, -1, 0], abs=3)
    drawn = []
    monkeypatch.setattr(
        augmentation, "compose", lambda layers, *_: (drawn.append(layers), layers.bone)[1]
    )
    for probability in (0.0, 0.4):
        _, poses = make_batch(alone, VIEW, 3, probability, np.random.default_rng(0))
        cameras = alone.cameras(VIEW.cameras(poses.numpy().astype(float)))
        layers = alone.ct_renderers
        bone, rest = (
            layers.bone.render(cameras, VIEW.detector),
            sum(other.render(cameras, VIEW.detector.binned(2)) for other, _ in layers.others),
        )
        assert np.allclose(drawn[-1].bone[:, 0], bone, atol=1e-3)
        agree = [
            np.corrcoef(a.numpy().ravel(), b.ravel())[0, 1]
            for a, b in zip(drawn[-1].others[:, 0], rest, strict=True)
        ]
        assert min(agree) > 0.99 if probability == 0 else max(agree) < 0.99


def test_a_layer_continues_beyond_the_ct_as_it_ends_there(tmp_path):
    data = np.full((24, 22, 26), -1000, np.int16)
    data[6:10, 8:13, 5:] = 900  # a shaft that the CT cuts off at its last slice
    path = nifti.save(tmp_path / "P01.nii.gz", Volume(data, np.diag([5.0, 5, 5, 1]), Lineage()))
    cut = load_patient(Source(path), VIEW, "cpu")
    camera = cut.cameras(VIEW.cameras(poses_at([0, 0, 0, 0, 800, 0]).numpy()))
    lengths_mm = []
    for beyond_mm in (0.0, 15.0, 30.0):
        picture = cut.renderers(np.full((2, 3), beyond_mm)).bone.render(camera, VIEW.detector)[0]
        rows = picture.max(axis=1)
        lengths_mm.append((rows > rows.max() / 2).sum() * 4.0 * 800 / 1020)
    assert np.diff(lengths_mm) == pytest.approx([15, 15], abs=4)
    assert picture.max() == pytest.approx(
        rows[rows > 0].mean(), rel=0.3
    )  # as thick there as before


def test_a_ct_with_the_whole_bone_does_not_continue(patient):
    camera = patient.cameras(VIEW.cameras(poses_at([10, 5, 0, 10, 800, 0]).numpy()))
    assert np.array_equal(
        patient.ct_renderers.bone.render(camera, VIEW.detector),
        patient.renderers(np.full((2, 3), 100.0)).bone.render(camera, VIEW.detector),
    )


def test_a_cohort_larger_than_the_cache_is_streamed_in_an_order_fixed_by_the_seed(tmp_path):
    sources = [Source(write_ct(tmp_path / f"P{n}.nii.gz", seed=n)) for n in range(6)]

    def names(first, last, step=20):
        pool = PatientPool(sources, VIEW, "cpu", cache_gb=1e-9, seed=0)
        pool.window = 2
        seen = []
        for iteration in range(first, last, step):
            seen.append(pool.at(iteration, np.random.default_rng(iteration)).name)
            assert len(pool._held) <= 3
        return seen

    whole = names(0, 3000)
    assert set(whole) == {f"P{n}" for n in range(6)}
    assert names(1000, 3000) == whole[50:]


# --------------------------------------------------------------------------------------- validation


def test_validation_scores_the_truth_zero_and_a_translation_by_its_length(patient, ct):
    pool = PatientPool([Source(ct)], VIEW, "cpu", 1.0, 0)
    held = validation.make_validation(pool, VIEW, 0.4, seed=0, count=8)
    assert np.allclose(held.errors(held.poses), 0, atol=1e-6)
    moved = held.poses.copy()
    moved[:, :3, 3] += 12 * np.stack(
        [pose[:3, 1] for pose in held.poses]
    )  # along the axis from source to isocentre
    rotation, in_plane, depth, mtre = held.errors(moved).T
    assert np.allclose(rotation, 0, atol=1e-4)
    assert np.allclose(mtre, 12, atol=1e-6)
    assert np.allclose(depth, 12, atol=1e-6)
    assert np.allclose(in_plane, 0, atol=1e-6)


def test_validation_images_are_the_same_for_every_run_and_in_no_batch(ct):
    pool = PatientPool([Source(ct)], VIEW, "cpu", 1.0, 0)
    one, two = (validation.make_validation(pool, VIEW, 0.4, seed=5, count=4) for _ in range(2))
    assert torch.equal(one.images, two.images)
    _, poses = make_batch(
        pool.at(0, np.random.default_rng([5, 0, 0])), VIEW, 4, 0.4, np.random.default_rng([5, 0, 0])
    )
    assert not np.allclose(poses.numpy(), one.poses)


# ----------------------------------------------------------------------------------------- settings


def parse(*flags, inherited=False):
    parser = argparse.ArgumentParser()
    training_flags.add_training_flags(parser, inherited, (1e-3, 1e-4))
    return parser.parse_args(flags)


def test_settings_survive_the_checkpoint():
    settings = Settings(
        "resnet18",
        "groupnorm",
        "quaternion_adjugate",
        TrainingView(VIEW.detector, PoseRange(ty=(500.0, 600.0)), "PA", False),
        8,
        1e-4,
        minutes=None,
        iterations=50,
        seed=3,
    )
    config = config_of(settings, RunPaths("a", outpath="b"))
    assert settings_of(config) == settings


def test_a_checkpoint_records_every_setting_of_the_run_and_the_version(tmp_path):
    settings = Settings(
        "resnet18",
        "groupnorm",
        "euler_angles",
        TrainingView(Detector.centred(64, 64, 900.0, 2.0), PoseRange(tx=(1.0, 2.0)), "PA", False),
        8,
        1e-4,
        convention="XYZ",
        unit_conversion_factor=10.0,
        p_augmentation=0.1,
        effects_full_at=0.2,
        minutes=3.0,
        warmup=0.1,
        weight_ncc=0.3,
        weight_dice=0.7,
        reuse=2,
        seed=4,
    )
    source = Source(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", (2, 4))
    paths = RunPaths("cts", "masks", "out", "start.pth")
    config = Job(settings, (source,), Outputs(tmp_path, "m"), paths, 2.5, "cpu").config
    assert settings_of(config) == settings
    expected = {"suite_version": VERSION, "labels": [2, 4], "cache_gb": 2.5, "device": "cpu"}
    assert expected.items() <= config.items()
    assert {
        "volpath": "cts",
        "maskpath": "masks",
        "ckptpath": "start.pth",
    }.items() <= config.items()


@pytest.mark.parametrize("budget", [{}, {"minutes": 1.0, "iterations": 5}])
def test_settings_with_two_budgets_or_none_are_refused(budget):
    with pytest.raises(InputError, match="exactly one"):
        Settings(
            "resnet18",
            "groupnorm",
            "rotation_6d",
            VIEW,
            8,
            1e-4,
            **{"minutes": None, "iterations": None, **budget},
        )


def test_xvrs_config_has_every_key_its_trainer_stores():
    import ast
    import importlib.util
    from pathlib import Path

    source = (
        Path(importlib.util.find_spec("xvr").submodule_search_locations[0]) / "model" / "trainer.py"
    )
    trainer = next(
        node
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ClassDef) and node.name == "Trainer"
    )
    arguments = next(
        node
        for node in trainer.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ).args
    expected = {argument.arg for argument in arguments.args} - {"self"}
    settings = Settings("resnet18", "groupnorm", "quaternion_adjugate", VIEW, 8, 1e-4)
    assert expected <= config_of(settings, RunPaths("a", outpath="b")).keys()


def test_flags_override_the_interval_they_name_and_no_other():
    parser = argparse.ArgumentParser()
    add_pose_range_flags(parser)
    args = parser.parse_args(["--r1", "-60", "110"])
    assert pose_range_from(args) == PoseRange(r1=(-60.0, 110.0))
    assert pose_range_from(args, PoseRange(tx=(0.0, 1.0))) == PoseRange(
        r1=(-60.0, 110.0), tx=(0.0, 1.0)
    )


def test_views_any_spans_both_laterals_at_the_distances_of_the_sdd():
    chosen = training_flags.view_from(parse("--views", "any", "--sdd", "1500"), "cpu").pose_range
    assert chosen.r1 == (-110, 110)
    assert chosen.tx == chosen.tz == (-80, 80)
    assert chosen.ty == (1050, 1395)
    one = training_flags.view_from(parse("--views", "any", "--r1", "-20", "20"), "cpu").pose_range
    assert one == replace(any_side(training_flags.SDD_MM), r1=(-20.0, 20.0))
    assert training_flags.view_from(parse("--views", "ap"), "cpu").pose_range == PoseRange()


def test_views_follow_the_orientation_of_a_checkpoint():
    """The same cameras: those of AP, by extrinsics of PA."""
    from_behind = replace(VIEW, orientation="PA", reverse_x_axis=False)
    view = training_flags.view_from(parse("--views", "any"), "cpu", from_behind)
    rotations = view.cameras(view.pose_range.poses(50, np.random.default_rng(0)))[:, :3, :3]
    np.testing.assert_allclose(any_side(1020).outside_deg(rotations), 0, atol=1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        ["--r1", "5", "5"],
        ["--r2", "10", "-10"],
        ["--ty", "-10", "100"],
        ["--tx", "nan", "3"],
        ["--r3", "-200", "200"],
    ],
)
def test_a_range_that_cannot_be_sampled_is_refused(flags):
    with pytest.raises(InputError, match=f"^(--|`){flags[0][2:]}`?: "):
        training_flags.view_from(parse(*flags), "cpu")


@pytest.mark.parametrize(
    "flags",
    [
        ["--minutes", "0"],
        ["--iterations", "0"],
        ["--batch_size", "1"],
        ["--lr", "3"],
        ["--cache_gb", "0"],
        ["--p_augmentation", "2"],
    ],
)
def test_a_setting_out_of_bounds_is_refused(flags):
    with pytest.raises(InputError, match=flags[0]):
        training_flags.changes_from(parse(*flags))


@pytest.mark.parametrize(
    "flags", [["--height", "33"], ["--height", "8"], ["--sdd", "1"], ["--delx", "0"]]
)
def test_an_impossible_detector_is_refused(flags):
    with pytest.raises(InputError, match=flags[0]):
        training_flags.view_from(parse(*flags), "cpu")


@pytest.mark.parametrize(
    ("flags", "device"), [(["--height", "256"], "cpu"), ([], "cpu"), ([], "cuda")]
)
def test_the_number_of_pixels_does_not_change_the_field_of_view(flags, device):
    view = training_flags.view_from(parse(*flags), device)
    assert view.detector.size_mm == pytest.approx((256.0, 256.0))


def test_sdd_and_field_come_from_a_given_xray(tmp_path):
    from PIL import Image
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    pixels = np.random.default_rng(0).integers(0, 4000, (100, 80)).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        ComputedRadiographyImageStorage
    )
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    (
        dataset.Rows,
        dataset.Columns,
        dataset.SamplesPerPixel,
        dataset.BitsAllocated,
        dataset.BitsStored,
        dataset.HighBit,
        dataset.PixelRepresentation,
    ) = (
        100,
        80,
        1,
        16,
        12,
        11,
        0,
    )
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.DistanceSourceToDetector, dataset.ImagerPixelSpacing = 1150, [3.0, 3.0]
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    detector = training_flags.view_from(parse("--like", str(tmp_path / "x.dcm")), "cpu").detector
    assert detector.sdd_mm == 1150
    assert detector.size_mm == pytest.approx((300.0, 300.0))
    Image.fromarray(pixels).save(tmp_path / "x.png")
    with pytest.raises(InputError, match="`sdd`"):
        training_flags.view_from(parse("--like", str(tmp_path / "x.png")), "cpu")


# --------------------------------------------------------------------------------------------- loop


@pytest.fixture
def make_trainer(ct, tmp_path):
    from common.pose_network import prediction

    def make(iterations=6, folder=tmp_path, **changes):
        settings = replace(
            Settings(
                "test_resnet",
                "batchnorm2d",
                "rotation_6d",
                VIEW,
                4,
                1e-3,
                minutes=None,
                iterations=iterations,
            ),
            **changes,
        )
        config = config_of(settings, RunPaths(str(ct), outpath=str(folder)))
        torch.manual_seed(0)
        made = prediction.make_network(config)
        centre_heads(made, settings)
        folder.mkdir(exist_ok=True)
        return loop.Trainer(settings, made, "cpu", Outputs(folder, "m"), config, Processes())

    return make


@pytest.fixture
def pool(ct):
    return PatientPool([Source(ct)], VIEW, "cpu", 1.0, 0)


@pytest.fixture
def held(pool):
    return validation.make_validation(pool, VIEW, 0.4, seed=0, count=4)


@pytest.mark.slow
def test_training_lowers_the_loss(make_trainer, pool, held):
    trainer = make_trainer(iterations=50, p_augmentation=0.0, lr=3e-3, batch_size=12)
    state = trainer.fit(pool, held)
    assert (
        np.mean([row["loss_mm"] for row in state.history[-2:]]) < 0.8 * state.history[0]["loss_mm"]
    )


@pytest.mark.slow
def test_training_with_the_image_terms_runs_and_repeats(make_trainer, pool, held):
    def run():
        trainer = make_trainer(iterations=3, weight_ncc=1.0, weight_dice=1.0)
        trainer.fit(pool, held)
        return [row["loss_mm"] for row in trainer.state.history]

    plain = make_trainer(iterations=3)
    plain.fit(pool, held)
    first = run()
    assert first == run()
    assert first[0] > plain.state.history[0]["loss_mm"] + 10


def test_a_drr_appears_again_in_later_batches_with_other_augmentation(
    make_trainer, pool, monkeypatch
):
    monkeypatch.setattr(batches, "APART", 2)
    trainer = make_trainer(iterations=10, batch_size=7, reuse=3)
    maker = trainer.batch_maker(pool)
    made = [maker.make(iteration) for iteration in range(10)]
    assert [len(batch.images) for batch in made] == [7] * 10
    part = made[4].scenes[0]
    assert [k for k, batch in enumerate(made) if any(scene is part for scene in batch.scenes)] == [
        0,
        2,
        4,
    ]
    first, last = made[0].images[-len(part.poses) :], made[4].images[: len(part.poses)]
    assert torch.equal(made[0].poses[-len(part.poses) :], made[4].poses[: len(part.poses)])
    assert not torch.allclose(first, last, atol=0.1)
    assert len({id(scene) for batch in made[:2] for scene in batch.scenes}) == 6
    assert part.patient is None


@pytest.mark.parametrize(("pixels", "apart"), [(64, 50), (1024, 6)])
@pytest.mark.slow
def test_drrs_kept_for_later_batches_never_take_more_than_a_gigabyte(make_trainer, pixels, apart):
    trainer = make_trainer(
        reuse=4,
        batch_size=32,
        view=TrainingView(Detector.centred(pixels, pixels, 1020.0, 256 / pixels), PoseRange()),
    )
    assert batches.batches_apart(trainer.settings) == apart


def test_augmentation_grows_over_half_of_a_run_and_is_complete_from_the_start_in_finetuning(
    make_trainer,
):
    fresh, warm = make_trainer(iterations=10), make_trainer(iterations=10, effects_full_at=0.0)

    def probabilities(trainer, iterations):
        return [
            schedule.augmentation_probability(trainer.settings, trainer.state, iteration)
            for iteration in iterations
        ]

    assert probabilities(fresh, (0, 1, 5, 9)) == pytest.approx([0, 0.08, 0.4, 0.4])
    assert probabilities(warm, (0, 9)) == [0.4, 0.4]


@pytest.mark.slow
def test_the_learning_rate_rises_then_falls_to_zero(make_trainer, pool, held):
    trainer = make_trainer(iterations=40)
    trainer.fit(pool, held)
    rates = [row["lr"] for row in trainer.state.history]
    assert rates[0] > 0.9e-3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01e-3


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    make_trainer, pool, held, monkeypatch
):
    trainer = make_trainer(iterations=20)
    real, calls = batches.images_of, []

    def poisoned(*args):
        made, poses = real(*args)
        calls.append(0)
        return (made * float("nan") if len(calls) > 7 else made), poses

    monkeypatch.setattr(batches, "images_of", poisoned)
    with pytest.raises(InputError, match="not a number"):
        trainer.fit(pool, held)
    from common.pose_network import checkpoint

    kept = checkpoint.load_checkpoint(trainer.outputs.last)
    assert kept.content["itr"] == 6
    assert all(torch.isfinite(value).all() for value in kept.content["model_state_dict"].values())


def test_a_full_disk_stops_the_run_with_its_cause_and_keeps_the_checkpoint_before(
    make_trainer, pool, held, monkeypatch
):
    trainer = make_trainer(iterations=20)
    real, calls = torch.save, []

    def full(content, stream):
        calls.append(0)
        real(content, stream)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left"):
        trainer.fit(pool, held)
    from common.pose_network import checkpoint

    checkpoint.load_checkpoint(trainer.outputs.last)
    checkpoint.load_checkpoint(trainer.outputs.best)
    assert not list(trainer.outputs.folder.glob(".partial*"))


@pytest.mark.slow
def test_the_log_has_one_row_per_validation(make_trainer, pool, held):
    trainer = make_trainer(iterations=10)
    trainer.fit(pool, held)
    rows = list(csv.DictReader(trainer.outputs.log.read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows] == list(range(1, 11))
    assert all(float(row["mtre_mm_median"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [
        (8, "1", (2, 2, 4)),
        (8, "2", (2, 1, 2)),
        (3, "1", (2, 1, 2)),
        (2, "1", (2, 1, 1)),
        (1, "1", (1, 1, 1)),
        (2, "4", (1, 1, 1)),
    ],
)
def test_network_and_rendering_share_the_cores_of_a_process(
    monkeypatch, cores, processes, expected
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    before = torch.get_num_threads()
    with join_processes("cpu"):
        shares = available_cores()
        assert (shares.learners, shares.threads_per_learner, shares.for_rendering) == expected
        assert torch.get_num_threads() == shares.threads_per_learner
    assert torch.get_num_threads() == before


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_two_threads_find_the_gradient_of_the_whole_batch(make_trainer, pool, two_cores):
    def gradient(count):
        trainer = make_trainer(batch_size=32)
        assert len(trainer._learners) == 2
        for learner in trainer._learners:
            learner.eval()  # so that batch norm lets no picture depend on another
        del trainer._learners[count:]
        trainer.step(iter([trainer.batch_maker(pool).make(0)]))
        return torch.cat([weight.grad.flatten() for weight in trainer.network.parameters()])

    one, two = gradient(1), gradient(2)
    assert one.norm() > 0
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.slow
def test_training_in_two_threads_repeats_bit_for_bit_and_is_saved_as_one_network(
    make_trainer, pool, held, two_cores
):
    def run():
        trainer = make_trainer(iterations=3, batch_size=32)
        assert len(trainer._learners) == 2
        trainer.fit(pool, held)
        return trainer.network.state_dict()

    first, again = run(), run()
    assert first.keys() == make_trainer().network.state_dict().keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("changes", [{"batch_size": 16}, {"weight_dice": 1.0}])
def test_one_thread_learns_if_a_half_has_too_few_images_or_the_loss_renders_images(
    make_trainer, two_cores, changes
):
    assert len(make_trainer(**{"batch_size": 32, **changes})._learners) == 1


def test_one_thread_learns_if_the_network_draws_random_numbers(two_cores):
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64 * 64, 1)
    )
    assert len(learners(network, 32, 64)) == 1
    assert len(learners(network.eval(), 32, 64)) == 2


def test_rendering_takes_the_networks_cores_while_the_network_waits(two_cores):
    import numba

    before, taken = numba.get_num_threads(), []
    for waits in (False, True):
        take_rendering_cores(network_waits=waits)
        taken.append(numba.get_num_threads())
    numba.set_num_threads(before)
    assert taken == [1, min(2, numba.config.NUMBA_NUM_THREADS)]


@pytest.mark.parametrize("cache_gb", [1.0, 1e-9])
def test_an_unreadable_ct_stops_the_run_before_it_starts_also_if_not_all_fit_in_memory(
    tmp_path, cache_gb
):
    good = [Source(write_ct(tmp_path / f"{name}.nii.gz")) for name in "ac"]
    bad = tmp_path / "b.nii.gz"
    bad.write_bytes(b"junk")
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        PatientPool([*good, Source(bad)], VIEW, "cpu", cache_gb, 0).check()


def test_several_readers_share_no_state(ct):
    with ThreadPoolExecutor(2) as threads:
        patients = list(threads.map(lambda _: load_patient(Source(ct), VIEW, "cpu"), range(2)))
    assert np.array_equal(patients[0].points_mm, patients[1].points_mm)
