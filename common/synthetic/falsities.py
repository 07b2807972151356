"""What is stated of a simulated X-ray or a labelmap is false, for tests of the verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.geometry import Detector

XRAYS, LABELMAPS = ("wrong_sdd", "tilted"), ("fat", "thin")
FALSE_SDD, TILT_DEG = 0.03, 5.0  # a share, degrees
FULLY = 0.999  # of a warped pixel, valid


def reshaped(mask: Path, label: int, shape: str) -> Path:
    """Write a labelmap with one of `LABELMAPS`, larger or smaller by a voxel; return its path."""
    from scipy.ndimage import binary_dilation, binary_erosion

    from common.volume.nifti import load_labelmap, save

    path = mask.with_name(f"{shape}_{mask.name}")
    if not path.exists():
        labels = load_labelmap(mask)
        change = binary_dilation if shape == "fat" else binary_erosion
        data = change(labels.data == label).astype(np.uint8) * label
        save(path, replace(labels, data=data))
    return path


def falsified(
    image: np.ndarray, valid: np.ndarray, detector: Detector, kind: str
) -> tuple[np.ndarray, np.ndarray, Detector]:
    """Return an X-ray with one of `XRAYS`: its SDD stated wrong, its detector tilted about y.

    ``image`` and ``valid`` are (H, W).
    """
    from skimage.transform import warp

    if kind == "wrong_sdd":
        return image, valid, replace(detector, sdd_mm=detector.sdd_mm * (1 + FALSE_SDD))
    # where the tilted detector has a pixel, the ray meets the detector that is not tilted:
    # homography of pixels about the principal point (Hartley & Zisserman 2004, 8.1)
    (column, row), (width, height) = detector.principal_px, detector.pixel_mm
    mm_from_px = np.array([[width, 0, -width * column], [0, height, -height * row], [0, 0, 1]])
    angle = np.radians(TILT_DEG)
    tilted = np.array([[np.cos(angle), 0, 0], [0, 1, 0], [np.sin(angle) / detector.sdd_mm, 0, 1]])
    px_from_px = np.linalg.inv(mm_from_px) @ tilted @ mm_from_px
    image = warp(image, px_from_px, order=1, preserve_range=True).astype(np.float32)
    valid = warp(valid.astype(np.float32), px_from_px, order=1) > FULLY
    return image, valid, detector
