"""A detector's view of a CT with known truth: exact line integrals, what a detector does to them, and the files that hold both.

The renderer is DiffDRR's exact Siddon method, another than registration's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files, geometry
from common.geometry import Detector
from common.progress import track

if TYPE_CHECKING:
    from common.volume.volume import Volume

STRIP_ROWS = 32  # rows rendered at a time: bounds Siddon's memory
HARDENING = 0.02  # share of a ray's attenuation lost per unit of it, in bone and tissue alike


@dataclass(frozen=True)
class Effects:
    """What a detector adds to line integrals."""

    photons: float = 5000.0  # per pixel in the open field
    scatter: float = 0.05  # scattered share of the removed beam
    gamma: float = 0.85  # power of the tone curve of attenuation


def simulate(
    integrals: np.ndarray, pixel_mm: float, effects: Effects, rng: np.random.Generator
) -> np.ndarray:
    """Line integrals (H, W) to a 16-bit picture, bone bright: hardened beam, scatter, blur, noise, tone curve."""
    from scipy.ndimage import gaussian_filter

    hardened = integrals / (1 + HARDENING * integrals)
    beam = np.exp(-hardened)
    beam += effects.scatter * gaussian_filter(
        -beam * np.log(np.clip(beam, 1e-9, 1)), 30.0 / pixel_mm, mode="nearest"
    )
    beam = gaussian_filter(beam, 0.3 / pixel_mm, mode="nearest")
    counts = gaussian_filter(
        rng.poisson(beam * effects.photons).astype(float), 0.4, mode="nearest"
    ) + rng.normal(0, 2.0, beam.shape)
    attenuation = np.clip(
        -np.log(np.clip(counts / effects.photons, 0.2 / effects.photons, None)), 0, None
    )
    return (
        np.clip((attenuation / attenuation.max()) ** effects.gamma * 60000 + 2000, 0, 65535)
        .round()
        .astype(np.uint16)
    )


def view(
    target: np.ndarray, angles_deg: list[float], distance_mm: float, shift_mm: list[float]
) -> np.ndarray:
    """scanner_from_camera of a source that looks at ``target`` (RAS mm) as the pose range describes it."""
    pose = geometry.pose_from_angles(angles_deg, [shift_mm[0], distance_mm, shift_mm[1]])
    return geometry.translation(target) @ geometry.camera_from_pose(pose)


def render_strips(ct: Volume, camera: np.ndarray, detector: Detector) -> np.ndarray:
    """Exact line integrals (H, W) of a CT's whole attenuation, a strip of rows at a time."""
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
            for top, rows in track(strips, what="X-ray", unit="strip")
        ]
    )


def write_dicom(path: Path, picture: np.ndarray, detector: Detector, with_sdd: bool) -> None:
    """An X-ray angiography object whose pixels are a logarithmic picture, bone bright."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = XRayAngiographicImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(
        entropy_srcs=[path.name, picture.tobytes().hex()[:4000]]
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["study"]),
        generate_uid(entropy_srcs=["series", path.name]),
    )
    dataset.PatientName, dataset.PatientID, dataset.Modality, dataset.ImageType = (
        "SIMULATED",
        "SIMULATED",
        "XA",
        ["DERIVED", "PRIMARY", "SINGLE PLANE"],
    )
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelIntensityRelationship = "LOG"
    dataset.ImagerPixelSpacing = [detector.pixel_mm[1], detector.pixel_mm[0]]
    if with_sdd:
        dataset.DistanceSourceToDetector = detector.sdd_mm
    dataset.PixelData = picture.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    with files.writing(path) as stream:
        dataset.save_as(stream, enforce_file_format=True)


def write_truth(
    path: Path, camera: np.ndarray, detector: Detector, points: np.ndarray, about: dict[str, Any]
) -> None:
    """The true pose as evaluation.py reads it: scanner_from_camera (4, 4), RAS mm, and points (N, 3) of the structure."""
    files.write_json(path, {
        "camera": camera.tolist(), "frame": "scanner_from_camera, RAS mm",
        "sdd_mm": detector.sdd_mm, "pixel_mm": list(detector.pixel_mm), "height": detector.height, "width": detector.width, "principal_px": list(detector.principal_px),
        "fiducials": points.tolist(), **about,
    })  # fmt: skip
