"""Writes a registration: images of each view, files for 3D Slicer and, last, ``parameters.pt``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.files.pictures import write_png
from common.registration import trust
from common.registration.competition import rivals
from common.registration.register import Registration
from common.registration.request import Request
from common.registration.scene import Body, Structure, View
from common.results import names, parameters_file, slicer
from common.results.pose_uncertainty import PoseUncertainty
from common.results.result import TRAJECTORY_COLUMNS, Result, detector_entries
from common.results.scanner_view import BoneMotion, bone_motion
from common.version import VERSION
from common.volume.materials import material_of
from common.volume.mesh import is_surface, write_mesh
from common.xray.grey_values import stretched
from common.xray.outline import outline
from common.xray.similarity import ncc
from common.xray.xray import Xray

PACKAGES = ("torch", "numpy", "scipy", "numba", "diffdrr")  # their versions are recorded
# settings of a request that are shown without its files
SHOWN_SETTINGS = (
    "init",
    "search",
    "optimizer",
    "sequence",
    "seed",
    "attenuation",
    "pose_range",
    "checkpoint",
    "context",
)


@dataclass(frozen=True)
class Drawn:
    """The DRRs of a result, one of each per view."""

    drrs: list[np.ndarray]  # (2, H, W) line integrals at the start pose and at the final pose
    bones: list[list[np.ndarray]]  # (H, W) of each bone alone, the bone of the result first


def draw(registrations: Sequence[Registration], number: int) -> Drawn:
    """Render the DRRs of ``registrations[number]``."""
    one = registrations[number]
    drrs = []
    for view in one.views:
        detector = view.xray.detector
        cameras = np.stack([one.start, one.pose]) @ view.rig_from_camera
        drrs.append(one.structure.drr.render(cameras, detector))
    placed = [(each.structure.body, each.pose) for each in _ordered(registrations, number)]
    return Drawn(drrs, draw_bones(one.views, placed))


def draw_bones(
    views: Sequence[View], placed: Sequence[tuple[Body, np.ndarray]]
) -> list[list[np.ndarray]]:
    """Render each body alone at its pose (volume_from_rig), (H, W), into each view."""
    return [
        [
            body.alone.render((pose @ view.rig_from_camera)[None], view.xray.detector)[0]
            for body, pose in placed
        ]
        for view in views
    ]


def _ordered(registrations: Sequence[Registration], number: int) -> list[Registration]:
    """Return the registrations with the one of the result first."""
    one = registrations[number]
    return [one, *(other for other in registrations if other is not one)]


def save(
    folder: Path,
    registrations: Sequence[Registration],
    number: int,
    request: Request | None = None,
    runtime_s: dict[str, float] | None = None,
    drawn: Drawn | None = None,
    about: dict[str, Any] | None = None,
) -> Result:
    """Write the result of ``registrations[number]`` into an existing folder.

    The motions of the other structures are relative to it. ``drawn`` is what `draw` returns, if it
    is there already, and ``about`` are further entries of its settings, in plain types. Raises as
    `files.atomic`.
    """
    drawn = draw(registrations, number) if drawn is None else drawn
    one = registrations[number]
    # an interrupted run must not leave an old pose next to new images
    (folder / names.PARAMETERS).unlink(missing_ok=True)
    metrics = {"similarity": one.solution.fit.similarity, **_save_images(folder, one, drawn)}
    ordered = _ordered(registrations, number)
    result = as_result(ordered, metrics, request, runtime_s or {})
    result.settings.update(about or {})
    save_for_slicer(folder / names.SLICER_FOLDER, one.views, result, drawn.bones)
    if one.structure.ct.path and is_surface(one.structure.ct.path):
        _save_surface(folder / names.POSED_SURFACE, one)
        _save_slicer_surface(folder / names.SLICER_FOLDER, result, one.structure)
    parameters_file.save(folder / names.PARAMETERS, result)
    return result


def _save_images(folder: Path, one: Registration, drawn: Drawn) -> dict[str, float]:
    """Write X-ray and DRRs of each view, and return the NCC of the DRRs in the valid field."""
    metrics = {}
    for number, (view, drrs) in enumerate(zip(one.views, drawn.drrs, strict=True), start=1):
        shown = [view.xray.as_uint8(), stretched(drrs[0]), stretched(drrs[1])]
        for name, image in zip(names.IMAGES, shown, strict=True):
            write_png(folder / names.of_view(name, number), image)
        inside = view.xray.valid
        ending = "" if number == 1 else f"_view{number}"
        for when, drr in zip(("init", "final"), drrs, strict=True):
            metrics[f"ncc_{when}{ending}"] = ncc(drr[inside], view.xray.image[inside])
    return metrics


def as_result(
    registrations: Sequence[Registration],
    metrics: dict[str, float],
    request: Request | None,
    runtime_s: dict[str, float],
) -> Result:
    """Return the result of the first of ``registrations``.

    Poses are DiffDRR's extrinsics in the first view; ``scanner_pose`` has every view.
    """
    one = registrations[0]
    structure, ct = one.structure, one.structure.ct
    xray = one.views[0].xray
    bones = bone_motions(registrations)
    return Result(
        drr={
            "volume": str(ct.path),
            "volume_sha256": _sha256(ct.path) if ct.path else None,
            "source": ct.lineage.source,
            "mask": str(structure.mask) if structure.mask else None,
            "mask_sha256": _sha256(structure.mask) if structure.mask else None,
            "labels": list(structure.labels) if structure.labels else None,
            "material": material_of(ct.lineage),
            "hidden_by": [str(part.ct.path) for part in one.hidden_by],
            **detector_entries(xray.detector, ct.isocentre_mm),
            "scanner_from_volume": ct.lineage.scanner_from_volume.tolist(),
            "points_mm": structure.body.points.tolist(),
        },
        xray={
            **xray_entries(xray),
            "other_views_sha256": [_sha256(view.xray.path) for view in one.views[1:]],
            "image": xray.as_uint8(),
        },
        init_pose=_extrinsics(one, one.start),
        final_pose=_extrinsics(one, one.pose),
        trajectory=_trajectory(one),
        verdict=one.verdict,
        metrics=metrics,
        scanner_pose=[one.scanner_view(number, bones) for number in range(len(one.views))],
        runtime_s=runtime_s,
        settings=_settings(request, one),
        versions={"suite": VERSION, **files.versions(*PACKAGES)},
        pose_uncertainty=pose_uncertainty(registrations, [bone.name for bone in bones]),
        rival_poses=[
            _extrinsics(one, pose) for pose in rivals(one.views, structure.body, one.solution)
        ],
    )


def pose_uncertainty(
    registrations: Sequence[Registration], bones: Sequence[str]
) -> PoseUncertainty:
    """Return the covariance of the first pose, with those of the bones refined together with it.

    It has the standard deviations that the 95 % bounds of the verdicts imply, and the correlations
    of the solver. ``bones`` are their names.
    """
    from scipy.linalg import block_diag

    one = registrations[0]
    joint = one.solution.fit.joint_covariance
    covariance = one.solution.fit.covariance if joint is None else joint
    numbers = [0] if joint is None else refined_with(registrations)
    together = [registrations[number] for number in numbers]
    widening = block_diag(*(trust.widening(each.verdict, each.camera()) for each in together))
    return PoseUncertainty.in_scanner(
        widening @ covariance @ widening,
        np.array([each.structure.body.centre_mm for each in together]),
        np.array([each.structure.ct.lineage.scanner_from_volume for each in together]),
        tuple(bones[number] for number in numbers),
    )


def refined_with(registrations: Sequence[Registration]) -> list[int]:
    """Return the numbers of the first of ``registrations`` and of those refined together with it.

    Metal and bones are refined apart, and what is not found by itself.
    """
    metal = registrations[0].structure.body.metal
    return [
        number
        for number, each in enumerate(registrations)
        if each.structure.body.metal == metal and each.solution.fit.joint_covariance is not None
    ]


def _extrinsics(one: Registration, volume_from_rig: np.ndarray) -> np.ndarray:
    """Return DiffDRR's extrinsics (4, 4) of a pose in the first view."""
    canonical_from_volume = geometry.translation(-one.structure.ct.isocentre_mm)
    camera = canonical_from_volume @ volume_from_rig @ one.views[0].rig_from_camera
    return geometry.pose_from_camera(camera)


def _trajectory(one: Registration) -> dict[str, list[float]]:
    """Return the start pose and all evaluated poses, one column per `TRAJECTORY_COLUMNS`."""
    rows = [(one.start, 0.0, 0.0, 0.0)]
    rows += [
        (each.poses[0], each.similarity, each.seconds, each.pixel_mm)
        for each in one.solution.fit.trace
    ]
    columns = np.array(
        [
            [*np.concatenate(geometry.angles_from_pose(_extrinsics(one, pose))), *numbers]
            for pose, *numbers in rows
        ]
    )
    return {name: columns[:, i].tolist() for i, name in enumerate(TRAJECTORY_COLUMNS)}


def bone_motions(registrations: Sequence[Registration]) -> list[BoneMotion]:
    """Return the bones of a view; the first one is the reference."""

    def placed(each: Registration) -> np.ndarray:
        return each.structure.ct.lineage.scanner_from_volume @ each.pose

    reference = placed(registrations[0])
    found: list[BoneMotion] = []
    for each in registrations:
        lineage = each.structure.ct.lineage
        name = lineage.bone or files.stem(each.structure.ct.path or "volume")
        if name in {bone.name for bone in found}:  # bones of one file, identified by their labels
            labels = each.structure.labels or (len(found) + 1,)
            name = f"{name}_{'_'.join(map(str, labels))}"
        motion = bone_motion(reference, placed(each))
        found.append(BoneMotion(name, lineage.side, motion, lineage.scanner_from_volume))
    return found


def _settings(request: Request | None, one: Registration) -> dict[str, Any]:
    """Return the settings to show, and the complete request for a repetition."""
    candidates = one.solution.candidates
    if request is None:
        return {"candidates": candidates}
    entries = request.entries()
    shown = {name: entries[name] for name in SHOWN_SETTINGS}
    return {**shown, "candidates": candidates, "request": entries}


def xray_entries(xray: Xray) -> dict[str, Any]:
    """Return what a result records of an X-ray: file, hash, flip and how it was read."""
    return {
        "file": str(xray.path),
        "sha256": _sha256(xray.path),
        "flipped": xray.flipped,
        **xray.reading,
    }


def _sha256(path: Path) -> str:
    """Return the hash of a file, computed once for all frames of a sequence."""
    if path.is_dir():
        return files.sha256(path)
    about = path.stat()
    return _sha256_of(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, mtime_ns: int, size: int) -> str:
    return files.sha256(path)


def _save_surface(path: Path, one: Registration) -> None:
    """Write the surface of a structure at its pose, in the rig of the X-ray as stored on disk."""
    vertices, triangles = one.structure.surface
    rig_from_volume = geometry.invert(one.pose)
    if one.views[0].xray.flipped:
        rig_from_volume = geometry.MIRROR @ rig_from_volume
    if np.linalg.det(rig_from_volume[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    write_mesh(path, geometry.apply(rig_from_volume, vertices), triangles)


def _save_slicer_surface(folder: Path, result: Result, structure: Structure) -> None:
    """Write the surface of a structure where it is in the scanner's frame."""
    vertices, triangles = structure.surface
    lps_from_volume = geometry.RAS_FROM_LPS @ structure.ct.lineage.scanner_from_volume
    path = folder / f"{result.scanner_pose[0].bones[0].name}_surface.ply"
    write_mesh(path, geometry.apply(lps_from_volume, vertices), triangles, "LPS")


def save_for_slicer(
    folder: Path, views: Sequence[View], result: Result, bones: Sequence[Sequence[np.ndarray]]
) -> None:
    """Write cameras, motions, and outlines of the bones on the X-rays as stored on disk.

    ``bones`` are what `draw_bones` returns, in the order of the bones of the result.
    """
    images, outlines = [], []
    for view, drrs in zip(views, bones, strict=True):
        columns = slice(None, None, -1 if view.xray.flipped else 1)
        images.append(np.ascontiguousarray(view.xray.as_uint8()[:, columns]))
        curves = {
            bone.name: outline(drr[:, columns])
            for drr, bone in zip(drrs, result.scanner_pose[0].bones, strict=True)
        }
        outlines.append(curves)
    slicer.export(folder, result.scanner_pose, images, outlines)
