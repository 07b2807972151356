"""The pose network: built, given its weights, and applied to an X-ray.

The network is xvr's `PoseRegressor`. A pose is DiffDRR's extrinsics in the canonical frame: the
volume frame moved so that its isocentre is the origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common import geometry
from common.errors import InputError, one_line
from common.geometry import Detector
from common.pose_network.checkpoint import Checkpoint
from common.pose_network.xvr_parts import xvr_module

if TYPE_CHECKING:
    import torch

    from common.xray.xray import Xray

# mean and standard deviation of inputs in 0..1 (xvr.utils.XrayTransforms)
INPUT_MEAN, INPUT_STD = 0.15, 0.1


def make_network(config: dict[str, Any]) -> torch.nn.Module:
    """Return xvr's PoseRegressor with random weights.

    Raises InputError if the backbone, norm layer or parameterisation does not exist.
    """
    regressor = xvr_module("model/network.py").PoseRegressor
    try:
        return regressor(
            config["model_name"],
            config["parameterization"],
            config.get("convention"),
            height=config["height"],
            norm_layer=config.get("norm_layer"),
            unit_conversion_factor=config.get("unit_conversion_factor", 1.0),
        )
    except (RuntimeError, KeyError, TypeError, AssertionError, ValueError) as error:
        made_of = (
            f"backbone {config['model_name']}, norm layer {config.get('norm_layer')}, rotation"
            f" {config['parameterization']}, {config['height']} px"
        )
        raise InputError(
            made_of,
            f"no such network ({one_line(error)})",
            "a timm backbone and DiffDRR's names",
            "choose another",
        ) from None


def build_network(checkpoint: Checkpoint, device: str = "cpu") -> torch.nn.Module:
    """Return the trained network, ready to predict.

    Raises InputError if the weights are those of another architecture.
    """
    network = make_network(checkpoint.config)
    load_weights(network, checkpoint)
    return network.eval().to(device)


def load_weights(network: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights to a network. Raises InputError if they do not fit."""
    import torch

    needed, stored = network.state_dict(), checkpoint.content["model_state_dict"]
    differing = sorted(needed.keys() ^ stored.keys()) + [
        key
        for key in needed.keys() & stored.keys()
        if not torch.is_tensor(stored[key]) or needed[key].shape != stored[key].shape
    ]
    if differing:
        raise InputError(
            checkpoint.path,
            f"weights are not those of the {checkpoint.config['model_name']} in its config"
            f" ({len(differing)} differ, first {differing[0]})",
            "an unmodified checkpoint",
            "train it again",
        )
    network.load_state_dict(stored)


def predict_pose(network: torch.nn.Module, checkpoint: Checkpoint, xray: Xray) -> np.ndarray:
    """Return the extrinsics (4, 4) of an X-ray, for `geometry.camera_from_pose` with its defaults.

    The X-ray may have any pixel spacing, shape, SDD and principal point: it is resampled onto the
    training detector.
    """
    import torch

    config = checkpoint.config
    orientation = config.get("orientation", "AP")
    proper = geometry.PROPER_REVERSE[orientation]
    # a network trained on DiffDRR's other column order sees every image flipped, at the same pose
    seen = xray if config.get("reverse_x_axis", False) == proper else xray.flip()
    image = resize_to_network(seen.image, seen.valid, seen.detector, checkpoint.detector)
    device = next(network.parameters()).device
    with torch.no_grad():
        predicted = network(standardise_input(torch.as_tensor(image, device=device)[None, None]))
    pose = predicted.matrix[0].cpu().numpy().astype(float)
    return geometry.pose_from_camera(geometry.camera_from_pose(pose, orientation, proper))


def standardise_input(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 1, H, W) as input of the network.

    Each is mapped to 0..1 over all its pixels, then shifted and scaled by xvr's mean and standard
    deviation.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low + 1e-6) - INPUT_MEAN) / INPUT_STD


def resize_to_network(
    image: np.ndarray, valid: np.ndarray, detector: Detector, target: Detector
) -> np.ndarray:
    """Return the image (H, W) float32 of the ``target`` detector at the same source and direction.

    Both detectors face the same direction, so their pixels are related by a magnification and a
    translation. If target pixels are coarser, each averages over a triangle as wide as itself.
    Pixels of which less than half is valid are 0.
    """
    rows = _weights(
        detector.height,
        detector.sdd_mm,
        detector.pixel_mm[1],
        detector.principal_px[1],
        target.height,
        target.sdd_mm,
        target.pixel_mm[1],
        target.principal_px[1],
    )
    columns = _weights(
        detector.width,
        detector.sdd_mm,
        detector.pixel_mm[0],
        detector.principal_px[0],
        target.width,
        target.sdd_mm,
        target.pixel_mm[0],
        target.principal_px[0],
    )
    weight = rows @ valid.astype(np.float32) @ columns.T
    total = rows @ np.where(valid, image, 0).astype(np.float32) @ columns.T
    return np.where(weight > 0.5, total / np.maximum(weight, 0.5), 0).astype(np.float32)


def _weights(
    count: int,
    sdd: float,
    pixel: float,
    principal: float,
    target_count: int,
    target_sdd: float,
    target_pixel: float,
    target_principal: float,
) -> np.ndarray:
    """Return the share (target_count, count) of each pixel in each target pixel along one axis.

    A row sums to 1 inside the image.
    """
    slope = (np.arange(target_count) - target_principal) * target_pixel / target_sdd
    at = slope * sdd / pixel + principal
    width = max(1.0, target_pixel / target_sdd * sdd / pixel)
    return (
        np.clip(1 - np.abs(np.arange(count)[None] - at[:, None]) / width, 0, None) / width
    ).astype(np.float32)
