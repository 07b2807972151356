"""A finished registration as a report shows it, read from its folder. Nothing of a DICOM header is read, and paths lose their folders."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import geometry
from common.files import existing_file, read_json
from common.reports import overlays
from common.results import parameters_file
from common.results.result import Result
from common.xray import outline as outline_module

logger = logging.getLogger(__name__)


PARAMETERS, EVALUATION = "parameters.pt", "evaluation.json"
EVALUATION_SCHEMA = "evaluation/1"  # by which an evaluation is known under another name
SURFACE_VOXELS = 56  # along the longest axis: some 10,000 triangles, 150 kB in a page
TEXTURE_PX = 72
NUMBERS = {  # key: (title, unit); the columns of both reports
    "in_plane_sd_mm": ("in plane, sd", "mm"),
    "depth_sd_mm": ("depth, sd", "mm"),
    "rotation_sd_deg": ("rotation, sd", "°"),
    "similarity": ("similarity", ""),
    "in_plane_mm": ("in plane, error", "mm"),
    "depth_mm": ("depth, error", "mm"),
    "rotation_deg": ("rotation, error", "°"),
    "mtre_mm": ("mTRE", "mm"),
}


@dataclass(frozen=True)
class Registered:
    """One registration: what was found and, where evaluation.py ran, how well it fits."""

    folder: Path
    result: Result
    evaluation: dict[str, Any]

    @property
    def verdict(self) -> str:
        return self.result.verdict.get("verdict", "unknown")

    @property
    def reasons(self) -> list[str]:
        return list(self.result.verdict.get("reasons", ()))

    @property
    def numbers(self) -> dict[str, float]:
        """The `NUMBERS` that are known: uncertainties and, where the truth is, errors."""
        errors = self.evaluation.get("pictures", {}).get("final", {}).get("pose_error", {})
        both = {**self.result.verdict, **errors}
        return {key: float(both[key]) for key in NUMBERS if isinstance(both.get(key), int | float)}

    @property
    def volume_path(self) -> Path:
        return Path(str(self.result.drr["volume"]))


def load(folder: Path) -> Registered:
    """Read a results folder. Raises InputError for files that are not this suite's."""
    evaluations = find_evaluations(folder)
    if len(evaluations) > 1:
        logger.info(f"{folder}: of {len(evaluations)} evaluations, {evaluations[0][0].name} counts")
    return Registered(
        folder, parameters_file.load(folder / PARAMETERS), evaluations[0][1] if evaluations else {}
    )


def find_evaluations(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """What evaluation.py wrote into a results folder, under whatever name; evaluation.json first. Raises InputError for JSON that cannot be read."""
    files = sorted(folder.glob("*.json"), key=lambda path: (path.name != EVALUATION, path.name))
    return [
        (path, read_json(path, "the numbers of evaluation.py"))
        for path in files
        if path.name == EVALUATION or _begins_as_evaluation(path)
    ]


def _begins_as_evaluation(path: Path) -> bool:
    with open(path, "rb") as stream:
        return f'"{EVALUATION_SCHEMA}"'.encode() in stream.read(100)


def find(folder: Path) -> list[Path]:
    """Results folders at or below a folder, in order of their names."""
    return sorted(path.parent for path in folder.rglob(PARAMETERS))


@dataclass(frozen=True)
class Shown:
    """One view as a page shows it."""

    xray: np.ndarray  # (H, W) in 0..1, as registered
    drr: np.ndarray  # (H, W) in 0..1, with the X-ray's grey values
    outline: list[np.ndarray]  # closed curves (N, 2) around the bone, pixels (column, row)
    pixel_mm: float  # at the bone's distance


def shown_views(registered: Registered) -> list[Shown]:
    """Every view of a registration. Raises InputError for pictures that are missing."""
    return [
        _shown(registered, number, view)
        for number, view in enumerate(registered.result.scanner_pose, 1)
    ]


def _shown(registered: Registered, number: int, view: dict[str, Any]) -> Shown:
    from skimage.transform import resize

    from common.xray import reading, similarity

    ending = "" if number == 1 else f"_view{number}"
    paths = [registered.folder / f"final_img{ending}.png", registered.folder / f"gt{ending}.png"]
    for path in paths:
        existing_file(path, "a picture of registration.py")
    silhouette = reading.read_picture(paths[0]).astype(float)
    better = (
        overlays.high_quality_drrs(registered.folder) if number == 1 else []
    )  # of the first view
    xray = registered.result.picture / 255 if number == 1 else reading.read_picture(paths[1]) / 255
    drr = similarity.normalise(reading.read_picture(better[0]) if better else silhouette)
    if drr.shape != xray.shape:
        drr = resize(drr, xray.shape, order=1, anti_aliasing=True)
    matched = np.clip(overlays.match_tone(drr, xray)(drr), 0, 1) if drr.any() else drr
    return Shown(
        xray,
        matched,
        outline_module.outline(silhouette),
        view["pixel_spacing_mm"][0] * _depth_mm(registered.result, view) / view["sdd_mm"],
    )


def _depth_mm(result: Result, view: dict[str, Any]) -> float:
    """Distance from a view's source to the bone's middle, along its principal ray."""
    points = np.array(result.drr.get("points_mm") or [result.drr["isocentre_mm"]])
    in_scanner = geometry.apply(np.array(result.drr["scanner_from_volume"]), points)
    return float(
        geometry.apply(geometry.invert(np.asarray(view["camera"])), in_scanner)[:, 2].mean()
    )


def convergence(result: Result) -> dict[str, np.ndarray]:
    """Distance of every pose of the trajectory from the final one: in_plane_mm, depth_mm, rotation_deg; and its similarity and scale."""
    final = result.volume_from_camera()
    points = np.array(result.drr.get("points_mm") or [result.drr["isocentre_mm"]])[::10]
    errors = [
        geometry.pose_error(result.volume_from_camera(pose), final, points, result.detector)
        for pose in result.trajectory_poses()
    ]
    distances = {
        name: np.array([getattr(error, name) for error in errors])
        for name in ("in_plane_mm", "depth_mm", "rotation_deg")
    }
    return {
        **distances,
        **{name: np.array(result.trajectory[name], float) for name in ("similarity", "scale")},
    }


def scene_of(registered: Registered) -> tuple[str, dict[str, Any]]:
    """(name of the volume, what a browser needs to draw source, detector and rays around its surface), world of the volume, mm."""
    from common.reports import scene_3d

    result = registered.result
    camera = result.volume_from_camera()
    corners, foot = scene_3d.place_detector(camera, result.detector)
    scene = scene_3d.Scene(
        np.zeros((1, 3)),
        np.zeros((0, 3), int),
        camera[:3, 3],
        corners,
        foot,
        result.picture / 255,
        "X-ray",
    )
    picture, grid = scene_3d.picture_grid(scene, TEXTURE_PX)
    centres = (grid[:-1, :-1] + grid[1:, 1:]) / 2
    return registered.volume_path.name, {
        "source": scene.source.round(1).tolist(),
        "corners": corners.round(1).tolist(),
        "foot": foot.round(1).tolist(),
        "texture": picture.round(2).tolist(),
        "centres": centres[[0, 0, -1, -1], [0, -1, -1, 0]].round(1).tolist(),
    }


def surface_of(registered: Registered) -> dict[str, list] | None:
    """Vertices (mm) and triangles of the registered bone, or None where its CT is no longer there."""
    from common.volume import nifti, surface, volume

    if not registered.volume_path.exists():
        return None
    ct = nifti.load_ct(registered.volume_path)
    mask = registered.result.drr.get("mask")
    if mask and Path(mask).exists():
        inside = nifti.load_labelmap(mask).data
        kept = (
            np.isin(inside, registered.result.drr["labels"])
            if registered.result.drr.get("labels")
            else inside > 0
        )
        ct = volume.Volume(np.where(kept, ct.data, -1000), ct.affine, ct.lineage, ct.path)
    vertices, triangles = surface.extract_surface(ct, surface.BONE_HU, SURFACE_VOXELS)
    return {"vertices": vertices.round(1).ravel().tolist(), "triangles": triangles.ravel().tolist()}


def lineage_of(registered: Registered) -> list[tuple[str, str]]:
    """(step, settings) of the CT's way from the scanner, from the record beside it; empty without one."""
    from common.volume import lineage

    beside = lineage.sidecar(registered.volume_path)
    if not beside.exists():
        return []
    return [
        (
            entry["step"],
            plain(
                {key: value for key, value in entry["settings"].items() if not _is_matrix(value)}
            ),
        )
        for entry in read_json(beside, "the lineage of a volume").get("history", ())
    ]


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def plain(value: Any) -> str:
    """Settings as text, long numbers cut and paths without their folders."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return (
            "("
            + "; ".join(plain(entry) for entry in value[:6])
            + ("; ..." if len(value) > 6 else "")
            + ")"
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):  # a SHA-256
        return value[:12] + "..."
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)
