"""Digitally reconstructed radiographs behind one interface: `Renderer`.

`FusedRenderer` runs on any CPU, `NanodrrRenderer` on CUDA and MPS, `SiddonRenderer` is DiffDRR's exact integral for
reference pictures. All take attenuation in 1/mm and return line integrals (no unit), for cameras in the volume's world.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common import cli, geometry
from common.geometry import Detector
from common.volumes import Volume, affine_of_box, attenuation, index_box, same_grid

WHOLE_ATTENUATION_HU = -1000.0
# a bone's labelmap ends where a segmentation ends it, half inside its blurred edge: cut there, it comes out 0.6 % too small, which is 5 mm of depth
MARGIN_MM = 1.6


class Renderer(Protocol):
    """Renders one attenuation volume."""

    centre_mm: np.ndarray  # isocentre of the volume's file, the point that pose twists turn about
    voxel_mm: float  # edge of a cube as large as a voxel

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        """Line integrals (B, H, W), float32, of cameras (B, 4, 4) world_from_camera."""

    def render_with_jacobian(self, camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
        """Line integrals (H, W) and their derivative (6, H, W) by a left twist of ``camera`` about ``centre_mm``.

        Three columns per radian of a rotation vector, three per millimetre, world axes; see `geometry.twist`.
        """

    def coarser(self, voxel_mm: float) -> Renderer:
        """A renderer of the same volume averaged down to voxels of about ``voxel_mm``, for small pictures."""


def select_structures(ct: Volume, labelmap: Volume | None, labels: list[int] | None, above_hu: float, margin_mm: float = MARGIN_MM) -> Volume:
    """The attenuation volume to render: the whole CT, or only the labelled structures grown by a margin.

    ``above_hu`` as in `volumes.attenuation`. Labels default to all of the labelmap; the margin leaves its other structures out. The result is cut
    to the structures' box. Raises InputError where the grids differ or a label is absent.
    """
    if labelmap is None:
        return Volume(attenuation(ct.data, above_hu), ct.affine, ct.lineage, ct.path)
    if not same_grid(ct, labelmap):
        raise cli.InputError(
            f"{labelmap.name}: lies on another grid than {ct.name} ({labelmap.shape} against {ct.shape}); expected a labelmap of this very CT; run the preparing steps on both"
        )
    inside = labelmap.data > 0 if labels is None else np.isin(labelmap.data, labels)
    absent = [] if labels is None else [label for label in labels if not (labelmap.data == label).any()]
    if absent or not inside.any():
        raise cli.InputError(
            f"{labelmap.name}: holds no voxel of label {absent or 'any'}; expected labels {np.unique(labelmap.data)[1:].tolist()}; correct --labels or the labelmap"
        )
    box = index_box(inside, np.ceil(margin_mm / ct.spacing_mm).astype(int) + 1)
    grown = grow(inside[box], ct.spacing_mm, margin_mm) & (inside[box] | (labelmap.data[box] == 0))
    return Volume(np.where(grown, attenuation(ct.data[box], above_hu), np.float32(0)), affine_of_box(ct.affine, box), ct.lineage, ct.path)


def grow(inside: np.ndarray, spacing_mm: np.ndarray, margin_mm: float) -> np.ndarray:
    """A mask and what lies within ``margin_mm`` of it, at least its direct neighbours; the mask itself for a margin of 0."""
    from scipy.ndimage import binary_dilation

    if margin_mm <= 0:
        return inside
    reach = np.maximum(np.ceil(margin_mm / spacing_mm), 1).astype(int)
    offsets = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    near = (np.linalg.norm(offsets * spacing_mm, axis=-1) <= margin_mm + 1e-6) | (np.abs(offsets).sum(-1) <= 1)
    return binary_dilation(inside, near)


def make_renderer(volume: Volume, device: str, centre_mm: np.ndarray | None = None) -> Renderer:
    """The renderer of an attenuation volume for ``device`` (cpu, cuda or mps)."""
    centre = volume.isocentre_mm if centre_mm is None else np.asarray(centre_mm, float)
    return FusedRenderer(volume, centre) if device == "cpu" else NanodrrRenderer(volume, centre, device)


def choose_device(wanted: str) -> str:
    """auto, cpu, cuda or mps to the device that is there. Raises InputError for one that is not."""
    if wanted == "cpu":
        return "cpu"
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next((name for name, available in there.items() if available), "cpu")
    if not there[wanted]:
        raise cli.InputError(f"--device {wanted}: no such device here; expected one of {['cpu', *[n for n, a in there.items() if a]]}; use --device auto")
    return wanted


class FusedRenderer:
    """Joseph's method on the CPU, value and pose derivative in one sweep (`common.raycast_cpu`)."""

    def __init__(self, volume: Volume, centre_mm: np.ndarray):
        from common import raycast_cpu

        self._kernel = raycast_cpu
        self._volume = volume
        self.voxel_mm = _voxel_mm(volume)
        self._coarser: dict[tuple[int, int, int], FusedRenderer] = {}
        padded = raycast_cpu.pad(volume.data)
        if padded.size >= 2**31:
            raise cli.InputError(f"{volume.name}: {padded.size:.1e} voxels; expected fewer than 2^31; crop the CT to the bone (crop_cts.py)")
        self._voxels = padded.ravel(order="K")
        self._sizes = np.array(padded.shape)
        self._strides = np.array(padded.strides) // padded.itemsize
        self._voxel_from_world = geometry.translation(np.ones(3)) @ geometry.invert(volume.affine)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        rays = np.stack([_rays(camera, detector) for camera in cameras])
        out = np.empty((len(cameras), detector.height, detector.width), np.float32)
        self._kernel.integrate(self._voxels, self._sizes, self._strides, self._to_voxels(rays), _ray_lengths(detector), out)
        return out

    def render_with_jacobian(self, camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
        rays = _rays(camera, detector)
        out = np.empty((detector.height, detector.width), np.float32)
        jacobian = np.empty((6, detector.height, detector.width), np.float32)
        self._kernel.integrate_with_jacobian(
            self._voxels,
            self._sizes,
            self._strides,
            self._to_voxels(rays[None]),
            _ray_lengths(detector),
            rays,
            np.ascontiguousarray(self._voxel_from_world[:3, :3]),
            self.centre_mm,
            out,
            jacobian,
        )
        return out, jacobian

    def coarser(self, voxel_mm: float) -> FusedRenderer:
        factors = tuple(max(1, int(voxel_mm / mm + 0.5)) for mm in self._volume.spacing_mm)
        if factors == (1, 1, 1):
            return self
        if factors not in self._coarser:
            self._coarser[factors] = FusedRenderer(block_average(self._volume, factors), self.centre_mm)
        return self._coarser[factors]

    def _to_voxels(self, rays: np.ndarray) -> np.ndarray:
        voxels = rays @ self._voxel_from_world[:3, :3].T
        voxels[:, 0] += self._voxel_from_world[:3, 3]
        return voxels


class NanodrrRenderer:
    """nanodrr's fused kernels (Triton on CUDA, Metal on MPS; its torch path on the CPU)."""

    STEP_DEG, STEP_MM = 0.05, 0.05  # of the central differences

    def __init__(self, volume: Volume, centre_mm: np.ndarray, device: str):
        import torch
        from nanodrr.data import Subject

        def tensor(array):
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)

        sizes = np.array(volume.shape)
        grid_from_voxel = geometry.translation(1 / sizes - 1) @ np.diag([*(2 / sizes), 1])
        image = tensor(volume.data.transpose(2, 1, 0))[None, None]
        inverse = geometry.invert(volume.affine)
        self._subject = Subject(
            image, torch.zeros_like(image), tensor(volume.affine), tensor(inverse), tensor(grid_from_voxel), tensor(volume.isocentre_mm), max_label=0, convert_to_mu=False
        ).to(device)
        self._device = device
        self.voxel_mm = _voxel_mm(volume)
        self._samples = int(np.ceil(np.linalg.norm(sizes)))
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        import torch
        from nanodrr.drr import render

        intrinsics = detector.intrinsics
        intrinsics[:2, 2] += 0.5  # nanodrr counts pixel centres from 0.5
        count = len(cameras)
        k_inv = torch.as_tensor(np.linalg.inv(intrinsics), dtype=torch.float32, device=self._device).expand(count, 3, 3)
        rt_inv = torch.as_tensor(np.asarray(cameras), dtype=torch.float32, device=self._device)
        sdd = torch.full((count,), detector.sdd_mm, device=self._device)
        with torch.no_grad():
            return render(self._subject, k_inv, rt_inv, sdd, detector.height, detector.width, n_samples=self._samples)[:, 0].cpu().numpy()

    def render_with_jacobian(self, camera: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
        steps = np.array([np.radians(self.STEP_DEG)] * 3 + [self.STEP_MM] * 3)
        moved = [geometry.twist(sign * step * np.eye(6)[axis], self.centre_mm) @ camera for axis, step in enumerate(steps) for sign in (1, -1)]
        images = self.render(np.stack([camera, *moved]), detector)
        return images[0], (images[1::2] - images[2::2]) / (2 * steps[:, None, None]).astype(np.float32)

    def coarser(self, voxel_mm: float) -> NanodrrRenderer:
        return self


class SiddonRenderer:
    """DiffDRR's exact integral over voxels: the reference, slow."""

    def __init__(self, volume: Volume, centre_mm: np.ndarray, device: str = "cpu"):
        import torch
        import torchio
        from diffdrr.data import read

        image = torchio.ScalarImage(tensor=torch.as_tensor(np.ascontiguousarray(volume.data, np.float32))[None], affine=volume.affine)
        # DiffDRR's own HU-to-density needs soft tissue in every volume and several times its memory, so it is given a few harmless numbers and replaced
        harmless = torchio.ScalarImage(tensor=torch.linspace(-1000, 1000, 8).reshape(1, 2, 2, 2), affine=volume.affine)
        self._subject = read(harmless, orientation="AP", center_volume=False)
        self._subject.density = image
        self._device = device
        self.voxel_mm = _voxel_mm(volume)
        self.centre_mm = centre_mm

    def render(self, cameras: np.ndarray, detector: Detector) -> np.ndarray:
        import torch
        from diffdrr.drr import DRR
        from diffdrr.pose import RigidTransform

        drr = DRR(self._subject, reverse_x_axis=True, renderer="siddon", **detector.diffdrr_arguments()).to(self._device)
        images = []
        with torch.no_grad():
            for camera in cameras:
                pose = torch.as_tensor(geometry.pose_from_camera(camera), dtype=torch.float32, device=self._device)[None]
                images.append(drr(RigidTransform(pose))[0, 0].cpu().numpy())
        return np.stack(images)


def block_average(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """The volume with blocks of voxels averaged; zeros fill the last blocks."""
    padding = [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)]
    data = np.pad(volume.data, padding)
    blocks = data.reshape(*[m for n, f in zip(data.shape, factors, strict=True) for m in (n // f, f)])
    coarse = np.eye(4)
    coarse[:3, :3] = np.diag(factors)
    coarse[:3, 3] = (np.array(factors) - 1) / 2
    return Volume(blocks.mean(axis=(1, 3, 5), dtype=np.float32), volume.affine @ coarse, volume.lineage, volume.path)


def _voxel_mm(volume: Volume) -> float:
    return float(np.cbrt(volume.spacing_mm.prod()))


def _rays(camera: np.ndarray, detector: Detector) -> np.ndarray:
    """(4, 3) mm, world: source, step from source to pixel (0, 0), step along a column, step along a row."""
    right, down, forward, source = camera[:3].T
    dx, dy = detector.pixel_mm
    first = detector.sdd_mm * forward - detector.principal_px[0] * dx * right - detector.principal_px[1] * dy * down
    return np.stack([source, first, dx * right, dy * down])


def _ray_lengths(detector: Detector) -> np.ndarray:
    """(H, W) mm from source to each pixel."""
    x = (np.arange(detector.width) - detector.principal_px[0]) * detector.pixel_mm[0]
    y = (np.arange(detector.height) - detector.principal_px[1]) * detector.pixel_mm[1]
    return np.sqrt(x[None] ** 2 + y[:, None] ** 2 + detector.sdd_mm**2)
