"""Pose networks: checkpoints of this suite and of xvr, their inputs and their conventions."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import write_ct

from common import geometry
from common.drr import renderer
from common.errors import InputError
from common.files import torch_files
from common.geometry import Detector
from common.geometry.pose_range import PoseRange, oriented, poses_from_parameters
from common.pose_network import prediction
from common.pose_network.checkpoint import Checkpoint, load_checkpoint, range_entries
from common.volume import attenuation, nifti
from common.xray.xray import Xray


def config(**changes):
    return {
        "model_name": "test_resnet",
        "parameterization": "quaternion_adjugate",
        "convention": "ZXY",
        "norm_layer": "batchnorm2d",
        "height": 64,
        "sdd": 1020.0,
        "delx": 4.0,
        "unit_conversion_factor": 1000.0,
        "orientation": "AP",
        "reverse_x_axis": True,
        **range_entries(PoseRange()),
        **changes,
    }


def save_checkpoint(path, made=None, drop=(), **changes):
    settings = {key: value for key, value in config(**changes).items() if key not in drop}
    made = made or prediction.make_network(settings)
    torch.save(
        {
            "model_state_dict": made.state_dict(),
            "optimizer_state_dict": {},
            "scheduler_state_dict": {},
            "itr": 3,
            "model_number": 1,
            "date": datetime.now(),
            "config": settings,
        },
        path,
    )
    return made


def picture(height, width, detector, seed=0):
    image = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return Xray(image, np.ones((height, width), bool), detector, Path("x.png"))


class Spy(torch.nn.Module):
    """Replaces a network: keeps its input image and returns one pose."""

    def __init__(self, pose):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.matrix = torch.as_tensor(pose, dtype=torch.float32)[None]

    def forward(self, images):
        self.seen = images[0, 0].numpy()
        return self


# --------------------------------------------------------------------------------------- resampling


def test_resampling_onto_the_same_detector_changes_nothing():
    detector = Detector(40, 30, 900.0, (0.7, 0.9), (11.0, 25.0))
    xray = picture(40, 30, detector)
    assert np.allclose(
        prediction.resize_to_network(xray.image, xray.valid, detector, detector),
        xray.image,
        atol=1e-6,
    )


def test_a_point_keeps_its_ray_on_a_detector_of_other_intrinsics():
    detector = Detector(301, 401, 1500.0, (0.5, 0.8), (180.0, 120.0))
    target = Detector.centred(65, 65, 1000.0, 2.0)
    tangent = np.array([0.02, -0.016])  # of the ray against the axis
    column, row = np.rint(
        np.array(detector.principal_px) + tangent * 1500 / detector.pixel_mm
    ).astype(int)
    image = np.zeros((301, 401), np.float32)
    image[row, column] = 1
    seen = prediction.resize_to_network(image, np.ones_like(image, bool), detector, target)
    rows, columns = np.mgrid[:65, :65]
    centre = np.array([(columns * seen).sum(), (rows * seen).sum()]) / seen.sum()
    assert np.allclose(centre, np.array(target.principal_px) + tangent * 1000 / 2.0, atol=0.15)


def test_coarsening_averages_and_does_not_alias():
    stripes = np.tile([0.0, 1.0], (200, 100)).astype(np.float32)
    detector = Detector.centred(200, 200, 1000.0, 1.0)
    seen = prediction.resize_to_network(
        stripes, np.ones_like(stripes, bool), detector, Detector.centred(20, 20, 1000.0, 7.3)
    )
    assert np.allclose(seen[seen > 0][4:-4], 0.5, atol=0.05)


def test_pixels_outside_the_x_ray_are_zero():
    detector = Detector.centred(50, 50, 1000.0, 1.0)
    seen = prediction.resize_to_network(
        np.ones((50, 50), np.float32),
        np.ones((50, 50), bool),
        detector,
        Detector.centred(100, 100, 1000.0, 1.0),
    )
    assert seen.sum() == 50 * 50
    half = np.zeros((50, 50), bool)
    half[:25] = True
    assert (
        prediction.resize_to_network(np.ones((50, 50), np.float32), half, detector, detector).sum()
        == 25 * 50
    )


def test_inputs_are_standardised_as_in_xvr():
    from xvr.utils.preprocess import XrayTransforms

    image = torch.rand(1, 1, 32, 32) * 7 + 2
    assert torch.allclose(prediction.standardise_input(image), XrayTransforms(32)(image), atol=1e-4)


# -------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize("orientation", ["AP", "PA", None])
@pytest.mark.parametrize("reverse_x_axis", [True, False])
def test_the_network_is_shown_what_diffdrr_renders_in_its_own_convention(
    tmp_path, reverse_x_axis, orientation
):
    from diffdrr.data import read
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    path = write_ct(tmp_path / "ct.nii.gz")
    ct = nifti.load_ct(path)
    pose = geometry.pose_from_angles(
        [20, -8, 12],
        {"AP": [15, 800, -20], "PA": [15, -800, -20], None: [15, 20, -800]}[orientation],
    )
    # rectangular, other SDD and pixel spacing than in training, principal point off the centre
    detector = Detector(90, 120, 1200.0, (2.5, 2.6), (52.0, 47.0))
    camera = geometry.camera_from_pose(pose, orientation, geometry.PROPER_REVERSE[orientation])
    assert np.linalg.det(camera[:3, :3]) == pytest.approx(1)
    canonical, camera = camera, geometry.translation(ct.isocentre_mm) @ camera
    image = renderer.make_renderer(
        attenuation.select_structures(ct, None, None, -1000.0), "cpu"
    ).render(camera[None], detector)[0]
    spy, checkpoint = (
        Spy(pose),
        Checkpoint(
            {
                "config": config(reverse_x_axis=reverse_x_axis, orientation=orientation),
                "model_state_dict": {},
            }
        ),
    )
    predicted = prediction.predict_pose(
        spy, checkpoint, Xray(image, np.ones(image.shape, bool), detector, path)
    )
    # the same view by DiffDRR on the training detector
    subject = read(str(path), orientation=orientation, center_volume=True)
    subject.density = subject.volume
    subject.density.set_data(torch.as_tensor(attenuation.attenuation(ct.data))[None])
    drr = DRR(subject, sdd=1020.0, height=64, delx=4.0, reverse_x_axis=reverse_x_axis)
    expected = drr(RigidTransform(torch.as_tensor(pose, dtype=torch.float32)[None]))[0, 0].numpy()
    correlation = np.corrcoef(expected.ravel(), spy.seen.ravel())[0, 1]
    assert correlation > 0.98
    assert np.corrcoef(expected[:, ::-1].ravel(), spy.seen.ravel())[0, 1] < correlation - 0.02
    assert np.allclose(geometry.camera_from_pose(predicted), canonical, atol=1e-3)


# -------------------------------------------------------------------------------------- checkpoints


@pytest.mark.slow
def test_xvr_loads_this_suites_checkpoint_and_predicts_the_same(tmp_path, monkeypatch):
    from xvr.model.inference import predict_pose
    from xvr.model.network import load_model

    save_checkpoint(tmp_path / "suite.pth")
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    in_xvr, settings, date = load_model(str(tmp_path / "suite.pth"), meta=True)
    assert settings["height"] == 64
    assert isinstance(date, datetime)
    checkpoint = load_checkpoint(tmp_path / "suite.pth")
    in_suite = prediction.build_network(checkpoint)
    image = torch.rand(2, 1, 64, 64)
    assert torch.equal(in_xvr(image).matrix, in_suite(image).matrix)
    xray = picture(64, 64, checkpoint.detector)
    pose = predict_pose(
        in_xvr, settings, torch.as_tensor(xray.image)[None, None], 1020.0, 4.0, 4.0, 0.0, 0.0
    )
    assert np.allclose(
        pose.matrix[0].numpy(), prediction.predict_pose(in_suite, checkpoint, xray), atol=0.5
    )


@pytest.mark.parametrize(
    ("drop", "factor"), [((), 1000.0), (("unit_conversion_factor", "reverse_x_axis"), 1.0)]
)
@pytest.mark.slow
def test_a_checkpoint_written_by_xvr_is_loaded(tmp_path, drop, factor):
    from xvr.model.network import PoseRegressor
    from xvr.model.scheduler import WarmupCosineSchedule

    settings = {
        key: value for key, value in config(norm_layer="batchnorm2d").items() if key not in drop
    }
    in_xvr = PoseRegressor(
        "test_resnet",
        "quaternion_adjugate",
        "ZXY",
        height=64,
        norm_layer="batchnorm2d",
        unit_conversion_factor=factor,
    )
    optimizer = torch.optim.Adam(in_xvr.parameters(), lr=1e-3)
    scheduler = WarmupCosineSchedule(optimizer, 10, 100)
    in_xvr(torch.rand(2, 1, 64, 64)).matrix.sum().backward()
    optimizer.step()
    scheduler.step()
    content = {
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "itr": 1,
        "model_number": 0,
        "date": datetime.now(),
    }
    torch.save(
        {"model_state_dict": in_xvr.state_dict(), "config": settings, **content},
        tmp_path / "0000.pth",
    )
    in_suite = prediction.build_network(load_checkpoint(tmp_path / "0000.pth"))
    image = torch.rand(2, 1, 64, 64)
    assert torch.equal(in_xvr.eval()(image).matrix, in_suite(image).matrix)


def test_detector_and_pose_range_come_from_the_config(tmp_path):
    save_checkpoint(tmp_path / "m.pth", alphamin=-12.0)
    checkpoint = load_checkpoint(tmp_path / "m.pth")
    assert checkpoint.detector == Detector.centred(64, 64, 1020.0, 4.0)
    assert checkpoint.pose_range == PoseRange(r1=(-12.0, 30.0))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save(
        {"model_state_dict": {}, "config": {"x": Bomb(tmp_path / "ran")}}, tmp_path / "m.pth"
    )
    with pytest.raises(InputError, match="run code"):
        load_checkpoint(tmp_path / "m.pth")
    assert not (tmp_path / "ran").exists()


def test_a_backbone_that_would_be_downloaded_is_refused(tmp_path):
    save_checkpoint(tmp_path / "m.pth")
    content = torch_files.load(tmp_path / "m.pth", "a checkpoint")
    content["config"]["model_name"] = "hf-hub:someone/model"
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(InputError, match="downloaded"):
        load_checkpoint(tmp_path / "m.pth")


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_checkpoint(
        tmp_path / "m.pth", made=prediction.make_network(config(parameterization="rotation_6d"))
    )
    checkpoint = load_checkpoint(tmp_path / "m.pth")
    with pytest.raises(InputError, match=r"rot_regression.*|not those of"):
        prediction.build_network(checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 broken"])
def test_a_file_that_is_not_a_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.pth") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "m.pth")
    whole = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path / "m.pth")


@pytest.mark.parametrize(
    "changes",
    [
        {"sdd": -1.0},
        {"height": 4},
        {"height": "64"},
        {"orientation": "LL"},
        {"tymin": 900.0, "tymax": 800.0},
    ],
)
def test_a_config_out_of_range_is_refused(tmp_path, changes):
    made = prediction.make_network(config())
    save_checkpoint(tmp_path / "m.pth", made=made, **changes)
    with pytest.raises(InputError, match=r"m\.pth"):
        load_checkpoint(tmp_path / "m.pth")


def test_poses_are_drawn_inside_the_range_and_repeat_with_their_seed():
    pose_range = PoseRange()
    drawn = pose_range.sample(500, np.random.default_rng(3))
    low, high = pose_range.limits
    assert ((drawn >= low) & (drawn <= high)).all()
    assert np.allclose(drawn.mean(axis=0), pose_range.middle, atol=0.06 * (high - low).max())
    assert np.array_equal(drawn, pose_range.sample(500, np.random.default_rng(3)))


def test_poses_follow_xvrs_sampler():
    from diffdrr.pose import convert

    row = np.array([20.0, -10, 15, 30, 800, -40])
    expected = (
        convert(
            torch.tensor(row[None, :3]),
            torch.tensor(row[None, 3:]),
            parameterization="euler_angles",
            convention="ZXY",
            degrees=True,
        )
        .matrix[0]
        .numpy()
    )
    assert np.allclose(poses_from_parameters(row[None])[0], expected, atol=1e-3)


def test_the_pose_range_of_a_pa_model_becomes_the_same_cameras_in_ap():
    stated = PoseRange(r1=(-10.0, 30.0), ty=(-900.0, -700.0), tx=(-20.0, 50.0))
    checkpoint = Checkpoint(
        {"config": config(orientation="PA", **range_entries(stated)), "model_state_dict": {}}
    )
    low, high = checkpoint.pose_range.limits
    for row in stated.sample(50, np.random.default_rng(0)):
        camera = geometry.camera_from_pose(poses_from_parameters(row[None])[0], "PA", False)
        angles, offset = geometry.angles_from_pose(geometry.pose_from_camera(camera))
        angles[0] %= 360
        assert (np.r_[angles, offset] >= low - 1e-6).all()
        assert (np.r_[angles, offset] <= high + 1e-6).all()


@pytest.mark.parametrize("orientation", ["AP", "PA", None])
def test_the_default_range_looks_at_the_patient_in_every_orientation(orientation):
    for pose in oriented(PoseRange(), orientation).poses(20, np.random.default_rng(0)):
        depth = geometry.invert(
            geometry.camera_from_pose(pose, orientation, geometry.PROPER_REVERSE[orientation])
        )[2, 3]
        assert 749 < depth < 951
