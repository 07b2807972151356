"""The network in training: first weights, mixed precision, copies that share its weights."""

from __future__ import annotations

import copy
from typing import cast

import torch

from common.drr.renderer import Device
from common.geometry import pose_range
from common.training.processes import available_cores
from common.training.settings import Settings

# images per thread: batch norm takes its means over them
LEAST_IMAGES_PER_LEARNER = 16


def centre_heads(network: torch.nn.Module, settings: Settings) -> None:
    """Let a fresh network predict about the centre of the pose range: small weights, that bias."""
    from diffdrr.pose import RigidTransform

    centre = pose_range.poses_from_parameters(settings.view.pose_range.middle[None])
    pose = RigidTransform(torch.as_tensor(centre, dtype=torch.float32))
    rotation, translation = pose.convert(settings.parameterization, settings.convention)
    with torch.no_grad():
        for name, bias in (
            ("rot_regression", rotation[0]),
            ("xyz_regression", translation[0] / settings.unit_conversion_factor),
        ):
            head = cast(torch.nn.Linear, network.get_submodule(name))
            head.weight.mul_(0.1)
            head.bias.copy_(bias)


def mixed_precision(
    network: torch.nn.Module, settings: Settings, device: Device
) -> torch.nn.Module:
    """On CUDA, the network with its backbone in bfloat16; the pose stays in single precision.

    Elsewhere the network itself: bfloat16 is slower on a CPU for a small backbone
    (benchmarks/README.md, 'Speed and memory').
    """
    if device != "cuda":
        return network
    return _HalfBackbone(network, settings)


class _HalfBackbone(torch.nn.Module):
    """xvr's PoseRegressor with its backbone in bfloat16."""

    def __init__(self, network: torch.nn.Module, settings: Settings):
        super().__init__()
        self.network = network
        self._settings = settings

    def forward(self, images: torch.Tensor):
        from diffdrr.pose import convert

        settings = self._settings
        with torch.autocast("cuda", torch.bfloat16):
            features = self.network.get_submodule("backbone")(images)
        features = features.float()
        return convert(
            self.network.get_submodule("rot_regression")(features),
            settings.unit_conversion_factor
            * self.network.get_submodule("xyz_regression")(features),
            parameterization=settings.parameterization,
            convention=settings.convention,
        )


def learners(network: torch.nn.Module, batch_size: int, pixels: int) -> list[torch.nn.Module]:
    """The network and, if a CPU gains from it, a copy that shares its weights.

    Each learns from half of every batch, in a thread of its own. The copy's means of batch norm are
    its own and are not kept. A network that draws random numbers (drop-out) has no copy, because
    the order in which two threads draw them is not fixed.
    """
    if (
        batch_size < 2 * LEAST_IMAGES_PER_LEARNER
        or available_cores().learners == 1
        or _draws_numbers(network, pixels)
    ):
        return [network]
    weights = {id(weight): weight for weight in network.parameters()}
    return [network, copy.deepcopy(network, weights)]


def _draws_numbers(network: torch.nn.Module, pixels: int) -> bool:
    before = torch.get_rng_state()
    with torch.no_grad():
        copy.deepcopy(network)(torch.zeros(2, 1, pixels, pixels))
    return not torch.equal(before, torch.get_rng_state())
