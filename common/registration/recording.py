"""Writes a registration: the images of each view, the files for 3D Slicer and, last, ``parameters.pt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.drr.renderer import make_renderer
from common.files.pictures import write_png
from common.registration.register import Registration
from common.registration.request import Request
from common.results import names, parameters_file, slicer
from common.results.result import (
    TRAJECTORY_COLUMNS,
    BoneMotion,
    Result,
    bone_motion,
    detector_entries,
)
from common.version import VERSION
from common.xray import outline
from common.xray.grey_values import stretched
from common.xray.similarity import ncc
from common.xray.xray import Xray

PACKAGES = ("torch", "numpy", "scipy", "numba", "diffdrr")


def save(
    folder: Path,
    registrations: Sequence[Registration],
    number: int,
    request: Request | None = None,
    runtime_s: dict[str, float] | None = None,
) -> Result:
    """Write the result of ``registrations[number]`` into an existing folder; the others are placed relative to it."""
    one = registrations[number]
    views = one.views
    renderer = make_renderer(one.structure.whole, "cpu")
    metrics = {"similarity": one.solution.fit.similarity}
    # a run that stops here leaves no old pose beside new images
    (folder / names.PARAMETERS).unlink(missing_ok=True)
    for count, view in enumerate(views, start=1):
        cameras = np.stack([one.start, one.pose]) @ view.rig_from_camera
        drrs = renderer.render(cameras, view.xray.detector)
        shown = [view.xray.as_uint8(), stretched(drrs[0]), stretched(drrs[1])]
        for name, image in zip(names.PICTURES, shown, strict=True):
            write_png(folder / names.of_view(name, count), image)
        inside = view.xray.valid
        ending = "" if count == 1 else f"_view{count}"
        for when, drr in zip(("init", "final"), drrs, strict=True):
            metrics[f"ncc_{when}{ending}"] = ncc(drr[inside], view.xray.image[inside])
    ordered = [one, *(other for other in registrations if other is not one)]
    result = as_result(ordered, metrics, request, runtime_s or {})
    _save_for_slicer(folder / names.SLICER_FOLDER, ordered, result)
    parameters_file.save(folder / names.PARAMETERS, result)
    return result


def as_result(
    registrations: Sequence[Registration],
    metrics: dict[str, float],
    request: Request | None,
    runtime_s: dict[str, float],
) -> Result:
    """The result of the first of ``registrations`` in DiffDRR's terms, for the first view; ``scanner_pose`` has every view."""
    one = registrations[0]
    structure, ct = one.structure, one.structure.ct
    canonical_from_volume = geometry.translation(-ct.isocentre_mm)
    xray = one.views[0].xray

    def extrinsic(volume_from_rig: np.ndarray) -> np.ndarray:
        camera = canonical_from_volume @ volume_from_rig @ one.views[0].rig_from_camera
        return geometry.pose_from_camera(camera)

    trace = one.solution.trace.rows
    rows = [(one.start, 0.0, 0.0, 0.0), *((step[0][0], *step[1:]) for step in trace)]
    columns = np.array(
        [
            [
                *np.concatenate(geometry.angles_from_pose(extrinsic(pose))),
                similarity,
                clock,
                pixel_mm,
            ]
            for pose, similarity, clock, pixel_mm in rows
        ]
    )
    placed = ct.lineage.scanner_from_volume
    bones = bone_motions(registrations)
    return Result(
        drr={
            "volume": str(ct.path),
            "volume_sha256": files.sha256(ct.path) if ct.path else None,
            "source": ct.lineage.source,
            "mask": str(structure.mask) if structure.mask else None,
            "labels": list(structure.labels) if structure.labels else None,
            **detector_entries(xray.detector, ct.isocentre_mm),
            "scanner_from_volume": placed.tolist(),
            "points_mm": structure.body.points.tolist(),
        },
        xray={**_about_xray(xray), "image": xray.as_uint8()},
        init_pose=extrinsic(one.start),
        final_pose=extrinsic(one.pose),
        trajectory={name: columns[:, i].tolist() for i, name in enumerate(TRAJECTORY_COLUMNS)},
        verdict=one.verdict,
        metrics=metrics,
        scanner_pose=[one.scanner_view(number, bones) for number in range(len(one.views))],
        runtime_s=runtime_s,
        settings=_settings(request, one),
        versions={"suite": VERSION, **files.versions(*PACKAGES)},
    )


def bone_motions(registrations: Sequence[Registration]) -> list[BoneMotion]:
    """The bones of a view; the first one is the reference."""

    def placed(each: Registration) -> np.ndarray:
        return each.structure.ct.lineage.scanner_from_volume @ each.pose

    reference = placed(registrations[0])
    found: list[BoneMotion] = []
    for each in registrations:
        lineage = each.structure.ct.lineage
        name = lineage.bone or files.stem(each.structure.ct.path or "volume")
        if name in {bone.name for bone in found}:  # bones of one file, told apart by their labels
            labels = each.structure.labels or (len(found) + 1,)
            name = f"{name}_{'_'.join(map(str, labels))}"
        motion = bone_motion(reference, placed(each))
        found.append(BoneMotion(name, lineage.side, motion, lineage.scanner_from_volume))
    return found


def _settings(request: Request | None, one: Registration) -> dict[str, Any]:
    """The settings that matter to a reader, and the whole request for a repetition."""
    if request is None:
        return {"candidates": one.solution.candidates}
    entries = request.entries()
    shown = (
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
    return {
        **{name: entries[name] for name in shown},
        "candidates": one.solution.candidates,
        "request": entries,
    }


def _about_xray(xray: Xray) -> dict[str, Any]:
    return {
        "file": str(xray.path),
        "sha256": files.sha256(xray.path),
        "flipped": xray.flipped,
        **xray.reading,
    }


def _save_for_slicer(folder: Path, registrations: Sequence[Registration], result: Result) -> None:
    """Cameras, motions and outlines of the bones, on the X-rays as stored on disk."""
    images, outlines = [], []
    for view in registrations[0].views:
        columns = slice(None, None, -1 if view.xray.flipped else 1)
        images.append(np.ascontiguousarray(view.xray.as_uint8()[:, columns]))
        curves = {}
        for each, bone in zip(registrations, result.scanner_pose[0].bones, strict=True):
            body = each.structure.body
            camera = each.pose @ view.rig_from_camera
            drr = (body.outline or body.renderer).render(camera[None], view.xray.detector)[0]
            curves[bone.name] = outline.outline(drr[:, columns])
        outlines.append(curves)
    slicer.export(folder, result.scanner_pose, images, outlines)
