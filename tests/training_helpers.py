"""A tiny CT and a tiny network, so that training tests take seconds."""

from pathlib import Path

import numpy as np

from common.volume import nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume

FAST = ["--height", "64", "--delx", "4", "--batch_size", "4", "--device", "cpu"]
TINY = ["--model_name", "test_resnet"]


def write_ct(path: Path, shift: int = 0, seed: int = 0) -> Path:
    """Save a block of tissue with an L of bone, which has no symmetry: 24 voxels of 5 mm.

    ``shift`` lengthens the L by so many voxels, so that patients differ.
    """
    rng = np.random.default_rng(seed)
    data = np.full((24, 22, 26), -1000, np.int16)
    data[3:-3, 3:-3, 2:-2] = 40
    data[6:10, 8:13, 5 : 20 + shift] = 900
    data[10:18, 9:12, 5:9] = 700
    data += rng.integers(-10, 10, data.shape, dtype=np.int16)
    affine = np.diag([5.0, 5, 5, 1])
    affine[:3, 3] = [-100, 40, 300]
    path.parent.mkdir(parents=True, exist_ok=True)
    return nifti.save(path, Volume(data, affine, Lineage()))


def write_mask(path: Path, ct: Path) -> Path:
    """Save the labelmap of the L: 1 for its long leg, 2 for its short one."""
    volume = nifti.load_ct(ct)
    labels = np.zeros(volume.shape, np.uint8)
    labels[6:10][volume.data[6:10] > 300] = 1
    labels[10:18][volume.data[10:18] > 300] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    return nifti.save(path, Volume(labels, volume.affine, Lineage()))
