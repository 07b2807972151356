"""xvr's similarity of two images: normalised cross-correlation, of patches too, and of gradients.

The same numbers as xvr 0.1.0's `GradientMultiscaleNormalizedCrossCorrelation2d`, from sums over
windows instead of a copy of every patch, in a tenth of the time.
"""

from __future__ import annotations

import torch
from torch.nn import functional

PATCH, GRADIENT_PATCH = 9, 11  # pixels; xvr's defaults, as is the equal weight of the two parts
LEAST_VARIANCE = 1e-5  # of a patch, so that empty ones count 0
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


def similarity(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Similarity (B,) of images (B, 1, H, W) of about unit variance: at most 1, for equal ones."""
    images = (_correlation(one, other) + _local_correlation(one, other, PATCH)) / 2
    gradients = _local_correlation(_gradients(one), _gradients(other), GRADIENT_PATCH)
    return (images + gradients) / 2


def _gradients(image: torch.Tensor) -> torch.Tensor:
    """Derivatives (B, 2, H, W) by Sobel's filter, along rows and along columns."""
    across = image.new_tensor(SOBEL)
    return functional.conv2d(image, torch.stack([across, across.mT])[:, None], padding=1)


def _correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Normalised cross-correlation (B,) of whole images (B, C, H, W), mean over C."""

    def scaled(image: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(image, (2, 3), correction=0, keepdim=True)
        return (image - mean) * (variance + LEAST_VARIANCE).rsqrt()

    return (scaled(one) * scaled(other)).mean((1, 2, 3))


def _local_correlation(one: torch.Tensor, other: torch.Tensor, size: int) -> torch.Tensor:
    """Mean (B,) of the normalised cross-correlations of all patches of ``size`` squared pixels."""

    def windows(image: torch.Tensor) -> torch.Tensor:
        rows = functional.avg_pool2d(image, (size, 1), stride=1)
        return functional.avg_pool2d(rows, (1, size), stride=1)

    channels = one.shape[1]
    products = torch.cat([one, other, one * one, other * other, one * other], dim=1)
    mean_one, mean_other, *squares = windows(products).split(channels, dim=1)
    variance_one, variance_other, covariance = (
        square - mean
        for square, mean in zip(
            squares,
            (mean_one * mean_one, mean_other * mean_other, mean_one * mean_other),
            strict=True,
        )
    )
    scale = (variance_one.clamp_min(0) + LEAST_VARIANCE) * (
        variance_other.clamp_min(0) + LEAST_VARIANCE
    )
    return (covariance * scale.rsqrt()).mean((1, 2, 3))
