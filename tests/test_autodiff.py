"""Gradients through the renderer against central differences, for any parameterisation."""

import helpers
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from common import geometry
from common.drr import autodiff, joseph
from common.geometry import Detector
from common.volume import attenuation

DETECTOR = Detector(24, 30, 900.0, (5.0, 6.0), (15.0, 11.0))


@pytest.fixture(scope="module")
def renderer():
    ct = helpers.small_ct(spacing=4.0, affine=helpers.oblique_affine((4.0, 4.0, 4.0)))
    return joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, -1000.0), ct.isocentre_mm
    )


def camera_of(renderer, parameters):
    """Cameras (B, 4, 4) of (B, 6) Euler angles in radians and offsets in mm, by DiffDRR's code."""
    from diffdrr.pose import convert

    pose = convert(
        parameters[:, :3], parameters[:, 3:], parameterization="euler_angles", convention="ZXY"
    ).matrix
    camera_from_carm = torch.as_tensor(geometry.invert(geometry.pose_from_camera(np.eye(4))))
    return torch.as_tensor(geometry.translation(renderer.centre_mm)) @ pose @ camera_from_carm


PARAMETERS = torch.tensor(
    [[0.2, -0.1, 0.05, 4.0, 620.0, -7.0], [-0.1, 0.15, 0.3, -6.0, 650.0, 3.0]], dtype=torch.float64
)


def test_the_image_is_the_renderers_own(renderer):
    cameras = camera_of(renderer, PARAMETERS)
    np.testing.assert_array_equal(
        autodiff.render(renderer, cameras, DETECTOR).numpy(),
        renderer.render(cameras.numpy(), DETECTOR),
    )


def test_the_gradient_by_any_parameters_is_that_of_central_differences(renderer):
    # smooth, because trilinear voxels make a single pixel's derivative jump from cell to cell
    weights = torch.from_numpy(
        gaussian_filter(np.random.default_rng(0).normal(size=(2, 24, 30)), (0, 3, 3))
    )

    def loss(parameters):
        return (
            autodiff.render(renderer, camera_of(renderer, parameters), DETECTOR).double() * weights
        ).sum()

    parameters = PARAMETERS.clone().requires_grad_()
    loss(parameters).backward()
    steps = torch.tensor([1e-4] * 3 + [0.05] * 3, dtype=torch.float64)
    for picture in range(2):
        for axis in range(6):
            step = torch.zeros_like(PARAMETERS)
            step[picture, axis] = steps[axis]
            with torch.no_grad():
                expected = (loss(PARAMETERS + step) - loss(PARAMETERS - step)) / (2 * steps[axis])
            scale = parameters.grad[:, axis].abs().max()
            assert parameters.grad[picture, axis] == pytest.approx(
                float(expected), abs=0.01 * float(scale)
            )


def test_descent_of_the_difference_of_images_recovers_a_camera(renderer):
    truth = PARAMETERS[:1]
    target = autodiff.render(renderer, camera_of(renderer, truth), DETECTOR)
    parameters = (
        truth + torch.tensor([[0.05, -0.04, 0.03, 3.0, 0.0, -4.0]], dtype=torch.float64)
    ).requires_grad_()
    first = float(
        (autodiff.render(renderer, camera_of(renderer, parameters.detach()), DETECTOR) - target)
        .square()
        .mean()
    )
    for _ in range(60):
        loss = (
            (autodiff.render(renderer, camera_of(renderer, parameters), DETECTOR) - target)
            .square()
            .mean()
        )
        parameters.grad = None
        loss.backward()
        with torch.no_grad():
            parameters -= (
                torch.tensor([[2e-3] * 3 + [0.2] * 3], dtype=torch.float64) * parameters.grad.sign()
            )
    assert loss < 0.05 * first
