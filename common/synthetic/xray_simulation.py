"""Simulated X-rays with ground truth: exact line integrals, detector effects, and their files.

The renderer is DiffDRR's exact Siddon method, which differs from the renderers of registration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files, geometry
from common.geometry import Detector
from common.geometry.blocks import block_mean
from common.progress import track

if TYPE_CHECKING:
    from common.volume.volume import Volume

STRIP_ROWS = 32  # rows rendered at a time, which limits Siddon's memory
HARDENING = 0.02  # fraction of a ray's attenuation lost per unit of it, in bone and soft tissue
SCATTER_MM, BLUR_MM, BLUR_PX = 30.0, 0.3, 0.4  # standard deviations of Gaussians
ELECTRONIC_NOISE = 2.0  # standard deviation in photons per pixel
METAL_PER_MM = 1.0  # cobalt-chrome at 70 keV, rounded; NIST XCOM: cobalt 1.1 per mm
METAL_VOXEL_MM, METAL_RAYS = 0.3, 3  # finer than registration; rays per pixel along each axis
LEAST_PHOTONS = 0.2  # per pixel, so that the logarithm is finite
GREY_OFFSET, GREY_RANGE = 2000, 60000  # of the 16-bit image


@dataclass(frozen=True)
class Effects:
    """What a detector adds to line integrals."""

    photons: float = 5000.0  # per pixel in the open field
    scatter: float = 0.05  # scattered fraction of the beam that is removed
    gamma: float = 0.85  # power of the tone curve of attenuation


def simulate(
    integrals: np.ndarray, pixel_mm: float, effects: Effects, rng: np.random.Generator
) -> np.ndarray:
    """Return an X-ray (H, W) uint16, bone bright, of line integrals (H, W).

    The effects are beam hardening, scatter, blur, photon and electronic noise, and a tone curve.
    """
    from scipy.ndimage import gaussian_filter

    hardened = integrals / (1 + HARDENING * integrals)
    beam = np.exp(-hardened)
    removed = -beam * np.log(np.clip(beam, 1e-9, 1))
    beam += effects.scatter * gaussian_filter(removed, SCATTER_MM / pixel_mm, mode="nearest")
    beam = gaussian_filter(beam, BLUR_MM / pixel_mm, mode="nearest")
    photons = rng.poisson(beam * effects.photons).astype(float)
    counts = gaussian_filter(photons, BLUR_PX, mode="nearest")
    counts = counts + rng.normal(0, ELECTRONIC_NOISE, beam.shape)
    passed = np.clip(counts / effects.photons, LEAST_PHOTONS / effects.photons, None)
    attenuation = np.clip(-np.log(passed), 0, None)
    toned = (attenuation / attenuation.max()) ** effects.gamma
    return np.clip(toned * GREY_RANGE + GREY_OFFSET, 0, 65535).round().astype(np.uint16)


def view(
    target: np.ndarray,
    angles_deg: Sequence[float],
    distance_mm: float,
    shift_mm: Sequence[float],
) -> np.ndarray:
    """Return the camera (4x4, scanner_from_camera, RAS mm) of a source aimed at ``target``.

    ``target`` is (3,), RAS mm; the other arguments are those of the pose range: Euler angles ZXY,
    distance from source to target, and shift of the target across and along the detector.
    """
    offset = np.array([shift_mm[0], distance_mm, shift_mm[1]])
    pose = geometry.pose_from_angles(np.array(angles_deg), offset)
    return geometry.translation(target) @ geometry.camera_from_pose(pose)


def render_strips(
    ct: Volume, camera: np.ndarray, detector: Detector, progress: bool = True
) -> np.ndarray:
    """Return exact line integrals (H, W) of the whole attenuation of a CT.

    ``camera`` is 4x4, in the volume frame. The image is rendered in strips of rows.
    """
    from common.drr.siddon import SiddonRenderer
    from common.volume.attenuation import attenuation
    from common.volume.volume import Volume

    renderer = SiddonRenderer(Volume(attenuation(ct.data), ct.affine, ct.lineage), ct.isocentre_mm)
    strips = [
        (top, min(STRIP_ROWS, detector.height - top))
        for top in range(0, detector.height, STRIP_ROWS)
    ]
    return np.concatenate(
        [
            renderer.render(camera[None], detector.cropped(top, 0, rows, detector.width))[0]
            for top, rows in (track(strips, what="X-ray", unit="strip") if progress else strips)
        ]
    )


def metal_integrals(surfaces: Sequence[Path], camera: np.ndarray, detector: Detector) -> np.ndarray:
    """Return line integrals (H, W) of metal parts; ``camera`` (4, 4) is scanner_from_camera.

    The beam that passes is averaged over the rays of a pixel, as by a detector.
    """
    from common.drr.joseph import FusedRenderer
    from common.volume.lineage import Lineage
    from common.volume.mesh import read_mesh
    from common.volume.volume import Volume
    from common.volume.voxelise import occupancy

    total = np.zeros((detector.height, detector.width), np.float32)
    for path in surfaces:
        mesh = read_mesh(path)
        share, affine = occupancy(mesh, METAL_VOXEL_MM)
        renderer = FusedRenderer(Volume(share * METAL_PER_MM, affine, Lineage()), np.zeros(3))
        placed = geometry.invert(mesh.scanner_from_file) @ camera
        rays = renderer.render(placed[None], detector.supersampled(METAL_RAYS))[0]
        total -= np.log(np.maximum(block_mean(np.exp(-rays), (METAL_RAYS,) * 2), 1e-30))
    return total


def write_dicom(path: Path, image: np.ndarray, detector: Detector, with_sdd: bool) -> None:
    """Write an image (H, W) uint16 as an X-ray angiography object, logarithmic, bone bright.

    ``with_sdd`` adds DistanceSourceToDetector to the header.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance = generate_uid(entropy_srcs=[path.name, image.tobytes().hex()[:4000]])
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", path.name])
    dataset.PatientName = dataset.PatientID = "SIMULATED"
    dataset.Modality = "XA"
    dataset.ImageType = ["DERIVED", "PRIMARY", "SINGLE PLANE"]
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1  # higher values: less intensity, so bone is bright
    dataset.ImagerPixelSpacing = [detector.pixel_mm[1], detector.pixel_mm[0]]
    if with_sdd:
        dataset.DistanceSourceToDetector = detector.sdd_mm
    dataset.PixelData = image.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    with files.writing(path) as stream:
        dataset.save_as(stream, enforce_file_format=True)


def write_truth(
    path: Path, camera: np.ndarray, detector: Detector, points: np.ndarray, about: dict[str, Any]
) -> None:
    """Write the ground truth that `evaluation.py` reads.

    ``camera`` is scanner_from_camera (4x4, RAS mm), ``points`` (N, 3) are those of the structure,
    RAS mm in the scanner frame. ``about`` are further entries.
    """
    content = {
        "camera": camera.tolist(),
        "frame": "scanner_from_camera, RAS mm",
        "sdd_mm": detector.sdd_mm,
        "pixel_mm": list(detector.pixel_mm),
        "height": detector.height,
        "width": detector.width,
        "principal_px": list(detector.principal_px),
        "fiducials": points.tolist(),
        **about,
    }
    files.write_json(path, content)
