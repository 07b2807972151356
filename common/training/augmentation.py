"""Augmentation of training images: soft tissue, other bones, tone, noise, blur, collimators, metal.

Works on line integrals (no unit; at most about 4 for a knee). Every image draws its own values from
the given generator, so a batch is a function of its seed. torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

# probability of an image without soft tissue, which may show the box of the CT's crop
# (benchmarks/README.md, 'Bias in depth')
BARE, BARE_WITHOUT_LABELMAP = 0.4, 0.1


@dataclass(frozen=True)
class LayerImages:
    """Line integrals (B, 1, H, W) of one batch; ``others`` and ``tissue`` may have fewer pixels.

    ``bone`` and ``others`` are excess attenuation, integrated: of the structure whose pose is
    wanted, and of the other bones (None without a labelmap). ``tissue`` is soft tissue.
    """

    bone: torch.Tensor
    tissue: torch.Tensor
    others: torch.Tensor | None = None


def join(parts: Sequence[LayerImages]) -> LayerImages:
    """One batch from several; either all have other bones or none has."""
    others = [part.others for part in parts if part.others is not None]
    if len(others) not in (0, len(parts)):
        raise ValueError("other bones in some parts only")
    return LayerImages(
        torch.cat([part.bone for part in parts]),
        torch.cat([part.tissue for part in parts]),
        torch.cat(others) if others else None,
    )


class Draws:
    """Random numbers of one batch, one per image, in a shape that multiplies (B, 1, H, W)."""

    def __init__(self, count: int, generator: torch.Generator):
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """Uniform numbers (B, 1, 1, 1)."""
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self.generator)

    def chance(self, probability: float) -> torch.Tensor:
        """1.0 with the probability, else 0.0 (B, 1, 1, 1)."""
        return (torch.rand(self.count, 1, 1, 1, generator=self.generator) < probability).float()


def compose(layers: LayerImages, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Images (B, 1, H, W) that resemble X-rays, 0 where nothing absorbs.

    ``probability`` is that of each augmentation of each image; 0 gives plain DRRs.
    """
    draws = Draws(len(layers.bone), generator)
    size = layers.bone.shape[2:]
    varied = probability > 0
    image = _body(layers, varied, draws)
    if not varied:
        return image
    image = image + draws.chance(probability) * draws.uniform(0.1, 0.5) * _strangers(
        layers.bone, draws
    )
    image = image + draws.chance(probability) * draws.uniform(0.1, 0.8) * _clouds(draws, size)
    image = image + draws.chance(probability) * draws.uniform(0.2, 1.2) * _limb(draws, size)
    image = image + draws.chance(probability / 2) * draws.uniform(0.2, 1.2) * _wires(draws, size)
    image = _scatter(image, draws.chance(probability) * draws.uniform(0, 0.15))
    image = _tone(image, draws, probability)
    image = _blur(image, draws.chance(probability) * draws.uniform(0, 0.25))
    image = image + draws.uniform(0, 0.03) * torch.randn(image.shape, generator=generator)
    return image.clamp_min(0) * _collimator(draws, size, probability)


def _body(layers: LayerImages, varied: bool, draws: Draws) -> torch.Tensor:
    """Sum of bone, tissue and other bones, in random proportions if ``varied``."""
    size = layers.bone.shape[2:]
    bare = draws.chance(BARE_WITHOUT_LABELMAP if layers.others is None else BARE)
    image = layers.bone * (1 + varied * draws.uniform(-0.4, 0.6))
    around = _enlarge(layers.tissue, size)
    if varied:
        coarse = functional.avg_pool2d(layers.tissue, size[0] // 16, ceil_mode=True)
        around = torch.lerp(around, _enlarge(coarse, size), draws.chance(0.5))
        around = around * draws.uniform(0.2, 1.3)
    image = image + around * (1 - varied * bare)
    if layers.others is None:
        return image
    # X-rays show the other bones too, except in a narrow field
    contrast = 1 + varied * draws.uniform(-0.5, 0.4)
    shown = 1 - varied * draws.chance(0.2)
    return image + _enlarge(layers.others, size) * contrast * shown


def _enlarge(layer: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(layer, tuple(size), mode="bilinear", align_corners=False)


def _limb(draws: Draws, size: Sequence[int]) -> torch.Tensor:
    """Soft tissue of a limb across the field: thickness of a cylinder, 0 to 1."""
    y, x = _grid(size)
    angle, offset = draws.uniform(-0.6, 0.6), draws.uniform(-0.4, 0.4)
    distance = (x * angle.cos() + y * angle.sin() - offset) / draws.uniform(0.35, 1.2)
    return (1 - distance.square()).clamp_min(0).sqrt()


def _strangers(bone: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Overlapping bones: images of the same batch, flipped and moved by over a quarter field."""
    height, width = bone.shape[2:]
    order = torch.randperm(draws.count, generator=draws.generator)
    shift = [
        int(torch.randint(n // 4, n - n // 4, (1,), generator=draws.generator))
        for n in (height, width)
    ]
    return bone[order].flip(3).roll(shift, (2, 3))


def _clouds(draws: Draws, size: Sequence[int]) -> torch.Tensor:
    """Smooth fields from 0 to 1: folds of soft tissue, gas, clothes."""
    coarse = torch.rand(draws.count, 1, 4, 4, generator=draws.generator)
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)


def _wires(draws: Draws, size: Sequence[int]) -> torch.Tensor:
    """Two straight bars of metal, one to three pixels wide, 0 to 1."""
    y, x = _grid(size)
    bars = torch.zeros(draws.count, 1, *size)
    for _ in range(2):
        angle, offset = draws.uniform(0, torch.pi), draws.uniform(-0.6, 0.6)
        distance = (x * angle.cos() + y * angle.sin() - offset).abs() * size[1] / 2
        bars = torch.maximum(bars, (draws.uniform(0.5, 1.5) + 0.5 - distance).clamp(0, 1))
    return bars


def _scatter(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Add a constant veil of scattered photons, which reduces the contrast of thick parts.

    ``share`` (B, 1, 1, 1) is its fraction of the mean beam behind the patient.
    """
    beam = torch.exp(-image)
    veil = share * beam.mean((1, 2, 3), keepdim=True)
    return -torch.log((beam + veil) / (1 + veil))


def _tone(image: torch.Tensor, draws: Draws, probability: float) -> torch.Tensor:
    """Stretch to 0 to 1, apply a power curve, and a black level below which parts vanish."""
    image = image.clamp_min(0)
    image = image / (image.amax((1, 2, 3), keepdim=True) + 1e-6)
    image = (image + 1e-4) ** torch.exp(draws.uniform(-0.4, 0.4))
    black = draws.chance(probability) * draws.uniform(0, 0.3)
    return (image - black) / (1 - black)


def _blur(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Move the fraction ``share`` of each pixel to either neighbour, along columns and rows."""
    for dimension, borders in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        padded, length = functional.pad(image, borders, mode="replicate"), image.shape[dimension]
        image = image + share * (
            padded.narrow(dimension, 0, length) + padded.narrow(dimension, 2, length) - 2 * image
        )
    return image


def _collimator(draws: Draws, size: Sequence[int], probability: float) -> torch.Tensor:
    """1 inside the exposed field, round or a rotated rectangle; 0 outside."""
    y, x = _grid(size)
    x, y = x - draws.uniform(-0.15, 0.15), y - draws.uniform(-0.15, 0.15)
    angle = draws.uniform(-0.3, 0.3)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    disc = ((x * x + y * y).sqrt() < draws.uniform(0.7, 1.15)).float()
    rectangle = (
        (u.abs() < draws.uniform(0.55, 1.1)) & (v.abs() < draws.uniform(0.65, 1.1))
    ).float()
    shape = torch.where(draws.chance(0.5) > 0, disc, rectangle)
    return torch.where(draws.chance(probability) > 0, shape, torch.ones(()))


def _grid(size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (H, 1) and columns (1, W) from -1 to 1."""
    return torch.linspace(-1, 1, size[0])[:, None], torch.linspace(-1, 1, size[1])[None]
