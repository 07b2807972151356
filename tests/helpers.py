"""Shared by several test files: phantoms, and a finished registration without running one."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from common import geometry
from common.drr import joseph
from common.geometry import Detector
from common.results import names, parameters_file
from common.results.result import (
    DETECTOR_KEYS,
    TRAJECTORY_COLUMNS,
    Result,
    Verdict,
    detector_entries,
)
from common.results.scanner_view import ScannerView
from common.volume import attenuation, nifti
from common.volume.lineage import Lineage
from common.volume.volume import Volume, points_of
from common.xray import similarity

TRUE_ANGLES, TRUE_OFFSET = np.array([12.0, -8.0, 6.0]), np.array([4.0, 620.0, -7.0])
START_ANGLES, START_OFFSET = (
    TRUE_ANGLES + np.array([6, -5, 4]),
    TRUE_OFFSET + np.array([10, 25, -12]),
)


def oblique_affine(
    spacing=(1.0, 1.0, 1.0), rotvec=(0.2, -0.3, 0.4), origin=(30.0, -20, 50), left_handed=False
) -> np.ndarray:
    """Return the affine of a voxel grid that is oblique to all axes."""
    affine = np.eye(4)
    affine[:3, :3] = geometry.rotation_matrix(np.array(rotvec)) @ np.diag(spacing)
    if left_handed:
        affine[:3, 0] *= -1
    affine[:3, 3] = origin
    return affine


def gaussians(shape, centres, widths, heights) -> np.ndarray:
    """Return the sum of Gaussian blobs, float32; centres and widths are in voxels."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
    total = sum(
        h * np.exp(-((grid - c) ** 2).sum(-1) / (2 * w**2))
        for c, w, h in zip(centres, widths, heights, strict=True)
    )
    return total.astype(np.float32)


def small_ct(spacing: float = 2.0, affine: np.ndarray | None = None) -> Volume:
    """Return asymmetric bones inside soft tissue in air: a CT (HU) of 96 x 80 x 112 mm."""
    shape = tuple(int(n / spacing) for n in (96, 80, 112))
    # outer faces at -1 and 1
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    hu = np.full(shape, -1000.0)
    hu[(grid**2).sum(-1) < 0.9] = 40
    for centre, radii, value in (
        ((0.1, 0, -0.2), (0.18, 0.2, 0.6), 900),
        ((-0.2, 0.2, 0.4), (0.4, 0.15, 0.12), 1200),
        ((0.35, -0.3, 0.3), (0.12, 0.12, 0.12), 700),
    ):
        hu[(((grid - np.array(centre)) / radii) ** 2).sum(-1) < 1] = value
    # partial volume: DiffDRR's densities need all values between air and tissue
    hu = gaussian_filter(hu, 2 / spacing)
    if affine is None:
        # left-handed, like the chest CT of diffdrr
        affine = np.diag([-spacing, spacing, spacing, 1.0])
        affine[:3, 3] = 140, -90, 200
    return Volume(hu.astype(np.int16), affine, Lineage())


def save_registration(
    folder: Path, ct: Volume | None = None, detector: Detector | None = None, steps: int = 6
) -> tuple[Path, Result]:
    """Write ct.nii.gz and the files of registration.py: images and parameters.pt.

    The final pose is the true pose of the X-ray. Returns the path of the CT and the result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ct = ct or small_ct()
    detector = detector or Detector(90, 110, 900.0, (1.6, 1.8), (57.0, 41.0))
    volume = nifti.save(folder / "ct.nii.gz", ct)
    renderer = joseph.FusedRenderer(
        attenuation.select_structures(ct, None, None, attenuation.WHOLE_ATTENUATION_HU),
        ct.isocentre_mm,
    )
    share = np.linspace(0, 1, steps)[:, None]
    angles, offsets = (
        START_ANGLES + share * (TRUE_ANGLES - START_ANGLES),
        START_OFFSET + share * (TRUE_OFFSET - START_OFFSET),
    )
    poses = np.array(
        [geometry.pose_from_angles(a, o) for a, o in zip(angles, offsets, strict=True)]
    )
    cameras = geometry.translation(ct.isocentre_mm) @ geometry.camera_from_pose(poses)
    images = renderer.render(cameras, detector)
    noise = np.random.default_rng(0).normal(0, 0.02, images[-1].shape)
    xray = picture(images[-1] + noise)
    columns = [
        *angles.T,
        *offsets.T,
        [similarity.ncc(image, xray) for image in images],
        np.linspace(0.1, 1, steps),
        np.repeat([4.0, 1.0], [steps // 2, steps - steps // 2]),
    ]
    result = Result(
        drr={
            **detector_entries(detector, ct.isocentre_mm),
            "volume": str(volume),
            "mask": None,
            "labels": None,
            "points_mm": points_of(ct).tolist(),
            "scanner_from_volume": ct.lineage.scanner_from_volume.tolist(),
        },
        xray={"file": str(folder / "xray.png"), "sha256": "", "flipped": False, "image": xray},
        init_pose=poses[0],
        final_pose=poses[-1],
        trajectory={
            name: list(map(float, column))
            for name, column in zip(TRAJECTORY_COLUMNS, columns, strict=True)
        },
        verdict=Verdict("ok", (), 0.05, 0.9, 0.1, 1.0, 0.9, 1.0, None),
        metrics={"similarity": float(columns[6][-1])},
        scanner_pose=[
            ScannerView.of(
                detector, cameras[-1], cameras[0], ct.lineage.scanner_from_volume, flipped=False
            )
        ],
        runtime_s={"total": 1.0},
        settings={},
        versions={},
    )
    parameters_file.save(folder / names.PARAMETERS, result)
    shown = (xray, picture(images[0]), picture(images[-1]))
    for name, image in zip(names.IMAGES, shown, strict=True):
        Image.fromarray(image).save(folder / name)
    return volume, result


def picture(image: np.ndarray) -> np.ndarray:
    """Return the image as uint8, stretched from its darkest to its brightest pixel."""
    return np.round(similarity.normalise(image) * 255).astype(np.uint8)


def diffdrr_picture(volume: Path, result: Result, renderer: str = "siddon") -> np.ndarray:
    """Return the DRR (H, W) of DiffDRR alone, from a volume and its parameters.pt."""
    import torch
    from diffdrr.data import read
    from diffdrr.drr import DRR
    from diffdrr.pose import RigidTransform

    stored = {key: result.drr[key] for key in (*DETECTOR_KEYS, "reverse_x_axis")}
    drr = DRR(read(volume, orientation=result.drr["orientation"]), renderer=renderer, **stored)
    with torch.no_grad():
        return drr(RigidTransform(torch.as_tensor(result.final_pose, dtype=torch.float32)[None]))[
            0, 0
        ].numpy()
