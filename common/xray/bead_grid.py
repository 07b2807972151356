"""Distortion of an image intensifier, from the X-ray of a square grid of beads or holes.

Beads are found as blobs, numbered from the centre outwards, and compared with the square grid that
fits the centre, where an intensifier distorts least. A polynomial maps undistorted pixels to
distorted ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError

DEGREE = 5  # of the polynomial: S-shaped and pincushion distortion
LEAST_BEADS = 60  # three times its coefficients
STRONG = 0.4  # response of a blob, as a fraction of that of the strongest tenth
NEAR = 0.35  # distance from where a neighbour is expected, in steps of the grid
CENTRE_STEPS = 2  # beads that define the undistorted grid, around the centre
MOST_RESIDUAL = 0.05  # root mean square, in steps of the grid; blobs of noise have 0.15 and more
BLOB_SHARES = (0.008, 0.004, 0.002)  # standard deviations of blobs that are tried, of the width


@dataclass(frozen=True)
class Distortion:
    """A polynomial from undistorted to distorted pixels, and its residuals at the beads."""

    coefficients: np.ndarray  # (C, 2)
    centre_px: np.ndarray  # (2,)
    scale_px: float
    residuals_px: np.ndarray  # (N,)

    def distorted(self, pixels: np.ndarray) -> np.ndarray:
        """Return where undistorted pixels (..., 2), (column, row), are in the X-ray."""
        terms = _terms((pixels - self.centre_px) / self.scale_px)
        return terms @ self.coefficients

    def undistort(self, image: np.ndarray) -> np.ndarray:
        """Return an X-ray (H, W) undistorted, float32; 0 where it shows nothing."""
        from scipy.ndimage import map_coordinates

        height, width = image.shape
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        seen = self.distorted(np.stack([columns, rows], -1).astype(float))
        where = [seen[..., 1], seen[..., 0]]
        return map_coordinates(image, where, order=1, cval=0.0).astype(np.float32)


def fit_distortion(path: Path, image: np.ndarray) -> Distortion:
    """Return the distortion that the X-ray (H, W) of a square grid of beads shows.

    Raises InputError if no grid of `LEAST_BEADS` beads is found.
    """
    best: dict[tuple[int, int], np.ndarray] = {}
    for share in BLOB_SHARES:
        for sign in (1, -1):
            beads = find_beads(sign * image.astype(np.float64), share * image.shape[1])
            numbered = number_beads(beads, np.array(image.shape[::-1]) / 2)
            best = max(best, numbered, key=len)
    if len(best) < LEAST_BEADS:
        raise InputError(
            path,
            f"shows a square grid of {len(best)} beads",
            f"{LEAST_BEADS} beads or more, up to the rim",
            "take an X-ray of the whole grid, facing the detector",
        )
    index, seen = np.array(list(best), float), np.array(list(best.values()))
    ideal = _square_grid(index, seen)
    centre, scale = ideal.mean(axis=0), float(np.abs(ideal - ideal.mean(axis=0)).max())
    terms = _terms((ideal - centre) / scale)
    coefficients = np.linalg.lstsq(terms, seen, rcond=None)[0]
    residuals = np.linalg.norm(terms @ coefficients - seen, axis=1)
    step = float(np.linalg.norm(np.linalg.lstsq(index - index.mean(0), seen, rcond=None)[0][0]))
    if np.sqrt((residuals**2).mean()) > MOST_RESIDUAL * step:
        raise InputError(
            path,
            "shows no regular grid: its blobs lie"
            f" {np.sqrt((residuals**2).mean()):.1f} pixels off a smooth distortion",
            "a square grid of beads",
            "take an X-ray of the grid alone, facing the detector",
        )
    return Distortion(coefficients, centre, scale, residuals)


def find_beads(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """Return centres (N, 2), (column, row), of bright blobs of a standard deviation in pixels."""
    from scipy.ndimage import gaussian_laplace, maximum_filter

    response = -gaussian_laplace(image, sigma_px)
    size = 2 * int(np.ceil(2 * sigma_px)) + 1
    tops = (response == maximum_filter(response, size)) & (response > 0)
    reach = size // 2 + 1
    tops[:reach] = tops[-reach:] = tops[:, :reach] = tops[:, -reach:] = False
    rows, columns = np.nonzero(tops)
    if not len(rows):
        return np.empty((0, 2))
    strength = response[rows, columns]
    strong = strength > STRONG * np.percentile(strength, 95)
    found = []
    for row, column in zip(rows[strong], columns[strong], strict=True):
        part = response[row - 1 : row + 2, column - 1 : column + 2]
        down, across = _vertex(part[:, 1]), _vertex(part[1])
        found.append([column + across, row + down])
    return np.array(found)


def _vertex(values: np.ndarray) -> float:
    """Return where the parabola through three values, the middle one highest, has its top."""
    bend = values[0] - 2 * values[1] + values[2]
    return float(0.5 * (values[0] - values[2]) / bend) if bend < 0 else 0.0


def number_beads(beads: np.ndarray, middle: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Return beads (N, 2) by column and row of the grid, from the one nearest to ``middle``.

    A neighbour is expected one step of the last pair further; steps change slowly over the image.
    """
    from scipy.spatial import KDTree

    if len(beads) < LEAST_BEADS:
        return {}
    tree = KDTree(beads)
    first = int(tree.query(middle)[1])
    near = beads[tree.query(beads[first], 5)[1][1:]] - beads[first]
    across = near[np.argmax(near @ [1.0, 0.1])]
    sideways = near[np.abs(near @ across) < 0.3 * (across @ across)]
    if not len(sideways):
        return {}
    down = sideways[np.argmax(sideways @ [0.0, 1.0])]
    numbered, used = {(0, 0): beads[first]}, {first}
    waiting = [((0, 0), across, down)]
    while waiting:
        (i, j), across, down = waiting.pop(0)
        here = numbered[i, j]
        for di, dj, step in ((1, 0, across), (-1, 0, -across), (0, 1, down), (0, -1, -down)):
            if (i + di, j + dj) in numbered:
                continue
            distance, which = tree.query(here + step)
            if distance > NEAR * np.linalg.norm(step) or which in used:
                continue
            used.add(int(which))
            numbered[i + di, j + dj] = beads[which]
            moved = (beads[which] - here) * (di + dj)
            waiting.append(((i + di, j + dj), moved if di else across, moved if dj else down))
    return numbered


def _square_grid(index: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the undistorted positions (N, 2) of beads by their numbers (N, 2).

    The grid is the similarity transform of the numbers that fits the centre of the image best.
    """
    inner = np.abs(index).max(axis=1) <= CENTRE_STEPS
    (a, b), middle_index = (index[inner] - index[inner].mean(0)).T, index[inner].mean(0)
    u, v = (seen[inner] - seen[inner].mean(0)).T
    total = (a * a + b * b).sum()
    turned, crossed = (a * u + b * v).sum() / total, (a * v - b * u).sum() / total
    rotation = np.array([[turned, -crossed], [crossed, turned]])
    return (index - middle_index) @ rotation.T + seen[inner].mean(0)


def _terms(pixels: np.ndarray) -> np.ndarray:
    """Return the monomials (..., C) of pixels (..., 2) up to `DEGREE`."""
    x, y = pixels[..., 0], pixels[..., 1]
    return np.stack(
        [x**i * y**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)], axis=-1
    )
