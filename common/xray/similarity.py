"""Similarity of two images of the same size: MSE, SSIM, NMI, NCC. numpy and scikit-image."""

from __future__ import annotations

import numpy as np

BETTER = {"MSE": "lower", "SSIM": "higher", "NMI": "higher", "NCC": "higher"}


def normalise(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return grey values (H, W) float64, mapped to 0..1 over the mask (by default, all pixels).

    Values outside the mask are mapped with it and not clipped, because SSIM averages across its
    edge; a constant image becomes 0.
    """
    inside = image if mask is None else image[mask]
    low, high = float(inside.min()), float(inside.max())
    return (image.astype(np.float64) - low) / (high - low if high > low else 1.0)


def ncc(a: np.ndarray, b: np.ndarray) -> float:
    """Return the normalised cross-correlation (Pearson), -1..1; 0 if an image is constant."""
    a, b = a.astype(np.float64) - a.mean(), b.astype(np.float64) - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def compare(
    image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, float]:
    """Return MSE, SSIM, NMI (Studholme 1999, 1..2) and NCC of two images (H, W) over the mask.

    Each image is first mapped to 0..1 over the mask. SSIM has scikit-image's defaults (7 x 7
    window) and is averaged over the mask.
    """
    from skimage.metrics import normalized_mutual_information, structural_similarity

    a, b = normalise(image, mask), normalise(reference, mask)
    inside = np.ones(a.shape, bool) if mask is None else mask
    _, similarity_map = structural_similarity(a, b, data_range=1.0, full=True)
    return {
        "MSE": float(((a - b)[inside] ** 2).mean()),
        "SSIM": float(similarity_map[inside].mean()),
        "NMI": float(normalized_mutual_information(a[inside], b[inside])),
        "NCC": ncc(a[inside], b[inside]),
    }
