"""What stands between a rendered bone and a real X-ray: tissue, other bones, tone, noise, blur, collimators, metal. torch.

Works on line integrals (no unit; a knee reaches about 4). Every picture draws its own effects from the generator that is given, so a batch
is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Layers:
    """Line integrals (B, 1, H, W) of one batch; ``others`` and ``tissue`` may be of lower resolution."""

    bone: torch.Tensor  # excess over soft tissue, of the structure whose pose is sought
    tissue: torch.Tensor  # soft tissue
    others: torch.Tensor | None = None  # excess of the other bones


def join(parts: Sequence[Layers]) -> Layers:
    """One batch of several; all have other bones or none has."""
    return Layers(
        *(
            None if images[0] is None else torch.cat(images)
            for images in zip(
                *((part.bone, part.tissue, part.others) for part in parts), strict=True
            )
        )
    )


class Dice:
    """Random numbers of one batch, shaped to multiply (B, 1, H, W)."""

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> torch.Tensor:
        """1.0 with the probability, else 0.0."""
        return (torch.rand(self.count, 1, 1, 1, generator=self.generator) < probability).float()


def compose(layers: Layers, probability: float, generator: torch.Generator) -> torch.Tensor:
    """X-ray-like pictures (B, 1, H, W), 0 where nothing absorbs. ``probability`` is the chance of each effect on each picture; 0 gives plain DRRs."""
    dice = Dice(len(layers.bone), generator)
    size = layers.bone.shape[2:]
    effects = float(probability > 0)
    # tissue around a bone's crop may show its box, which no X-ray does; without a labelmap tissue is part of what is sought
    bare = dice.chance(0.1 if layers.others is None else 0.4)
    image = layers.bone * (1 + effects * dice.uniform(-0.4, 0.6))
    around = _enlarge(layers.tissue, size)
    if effects:
        around = torch.lerp(
            around,
            _enlarge(functional.avg_pool2d(layers.tissue, size[0] // 16, ceil_mode=True), size),
            dice.chance(0.5),
        )
        around = around * dice.uniform(0.2, 1.3)
    image = image + around * (1 - effects * bare)
    if (
        layers.others is not None
    ):  # X-rays show them beside the bone, except where the field is narrow
        image = image + _enlarge(layers.others, size) * (1 + effects * dice.uniform(-0.5, 0.4)) * (
            1 - effects * dice.chance(0.2)
        )
    if not effects:
        return image
    image = image + dice.chance(probability) * dice.uniform(0.1, 0.5) * _strangers(
        layers.bone, dice
    )
    image = image + dice.chance(probability) * dice.uniform(0.1, 0.8) * _clouds(dice, size)
    image = image + dice.chance(probability) * dice.uniform(0.2, 1.2) * _limb(dice, size)
    image = image + dice.chance(probability / 2) * dice.uniform(0.2, 1.2) * _wires(dice, size)
    image = _scatter(image, dice.chance(probability) * dice.uniform(0, 0.15))
    image = _tone(image, dice, probability)
    image = _blur(image, dice.chance(probability) * dice.uniform(0, 0.25))
    image = image + dice.uniform(0, 0.03) * torch.randn(image.shape, generator=generator)
    return image.clamp_min(0) * _collimator(dice, size, probability)


def _enlarge(layer: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return functional.interpolate(layer, size, mode="bilinear", align_corners=False)


def _limb(dice: Dice, size: torch.Size) -> torch.Tensor:
    """Soft tissue of a limb that crosses the field: the thickness of a cylinder, 0..1."""
    y, x = _grid(size)
    angle, offset = dice.uniform(-0.6, 0.6), dice.uniform(-0.4, 0.4)
    distance = (x * angle.cos() + y * angle.sin() - offset) / dice.uniform(0.35, 1.2)
    return (1 - distance.square()).clamp_min(0).sqrt()


def _strangers(bone: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Bones in the way: pictures of the same batch, mirrored and shifted by more than a quarter of the field."""
    height, width = bone.shape[2:]
    order = torch.randperm(dice.count, generator=dice.generator)
    shift = [
        int(torch.randint(n // 4, n - n // 4, (1,), generator=dice.generator))
        for n in (height, width)
    ]
    return bone[order].flip(3).roll(shift, (2, 3))


def _clouds(dice: Dice, size: torch.Size) -> torch.Tensor:
    """Smooth fields of 0..1: folds of soft tissue, gas, clothes."""
    coarse = torch.rand(dice.count, 1, 4, 4, generator=dice.generator)
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)


def _wires(dice: Dice, size: torch.Size) -> torch.Tensor:
    """Two straight bars of metal, one to three pixels wide."""
    y, x = _grid(size)
    bars = torch.zeros(dice.count, 1, *size)
    for _ in range(2):
        angle, offset = dice.uniform(0, torch.pi), dice.uniform(-0.6, 0.6)
        distance = (x * angle.cos() + y * angle.sin() - offset).abs() * size[1] / 2
        bars = torch.maximum(bars, (dice.uniform(0.5, 1.5) + 0.5 - distance).clamp(0, 1))
    return bars


def _scatter(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """A constant veil of scattered photons, as a share of the mean beam behind the patient, flattens thick parts."""
    beam = torch.exp(-image)
    veil = share * beam.mean((1, 2, 3), keepdim=True)
    return -torch.log((beam + veil) / (1 + veil))


def _tone(image: torch.Tensor, dice: Dice, probability: float) -> torch.Tensor:
    """Stretched to 0..1, a power curve, and a black level under which thin parts vanish."""
    image = image.clamp_min(0)
    image = image / (image.amax((1, 2, 3), keepdim=True) + 1e-6)
    image = (image + 1e-4) ** torch.exp(dice.uniform(-0.4, 0.4))
    black = dice.chance(probability) * dice.uniform(0, 0.3)
    return (image - black) / (1 - black)


def _blur(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Each pixel gives ``share`` of itself to either neighbour, along rows and along columns."""
    for dimension, borders in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        padded, length = functional.pad(image, borders, mode="replicate"), image.shape[dimension]
        image = image + share * (
            padded.narrow(dimension, 0, length) + padded.narrow(dimension, 2, length) - 2 * image
        )
    return image


def _collimator(dice: Dice, size: torch.Size, probability: float) -> torch.Tensor:
    """1 inside the exposed field, round or rectangular and turned; 0 outside."""
    y, x = _grid(size)
    x, y = x - dice.uniform(-0.15, 0.15), y - dice.uniform(-0.15, 0.15)
    angle = dice.uniform(-0.3, 0.3)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    disc = ((x * x + y * y).sqrt() < dice.uniform(0.7, 1.15)).float()
    rectangle = ((u.abs() < dice.uniform(0.55, 1.1)) & (v.abs() < dice.uniform(0.65, 1.1))).float()
    shape = torch.where(dice.chance(0.5) > 0, disc, rectangle)
    return torch.where(dice.chance(probability) > 0, shape, torch.ones(()))


def _grid(size: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (H, 1) and columns (1, W) from -1 to 1."""
    return torch.linspace(-1, 1, size[0])[:, None], torch.linspace(-1, 1, size[1])[None]
