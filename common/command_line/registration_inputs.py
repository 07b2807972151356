"""The X-rays of one call, instant by instant: files, or frames of multi-frame files, with the cameras that took them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import files
from common.errors import InputError
from common.geometry import MIRROR
from common.pose_network.checkpoint import Checkpoint
from common.registration.preflight import PICTURE
from common.registration.pyramid import View
from common.registration.scene import Structure
from common.results.names import names
from common.xray import calibration, reading
from common.xray.dicom import count_frames
from common.xray.positioner import positioner_camera
from common.xray.reading import GeometryFlags, read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shot:
    """One picture."""

    path: Path
    frame: int | None  # of a multi-frame file
    camera: int  # which of the calibrations

    @property
    def name(self) -> str:
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame}"


@dataclass(frozen=True)
class Instant:
    """What is registered together, and where its results go."""

    shots: tuple[Shot, ...]
    folder: Path


def group_xrays(args: argparse.Namespace, folders: Sequence[str]) -> list[Instant]:
    """The instants of a call, in order; with --sequence, a multi-frame file is as many instants as it has frames.

    ``folders`` are the structures' below an instant's. Raises InputError for X-rays that do not go together, and where results are already there.
    """
    for path in args.xray:
        files.existing_file(path, "an X-ray (PNG, JPEG, TIFF or DICOM)")
    cameras, together = len(args.calibration or [None]), len(args.calibration) if args.views else 1
    sets = [args.xray[first : first + together] for first in range(0, len(args.xray), together)]
    stems = [files.stem(paths[0]) for paths in sets]
    if len(set(stems)) != len(stems):
        twice = sorted({s for s in stems if stems.count(s) > 1})
        raise InputError(
            None,
            f"X-rays share a name ({', '.join(twice)})",
            "different file names in one call",
            "register them in separate calls",
        )
    instants = []
    for number, (paths, stem) in enumerate(zip(sets, stems, strict=True)):
        folder = args.output / stem if len(stems) > 1 else args.output
        frames = _frames(paths) if args.sequence and args.frame is None else [args.frame]
        for frame in frames:
            shots = tuple(
                Shot(path, frame, (number * together + index) % cameras)
                for index, path in enumerate(paths)
            )
            instants.append(
                Instant(shots, folder / f"frame_{frame:04d}" if len(frames) > 1 else folder)
            )
    results = [PICTURE] if args.check else names(together)
    targets = [
        instant.folder / sub / name for instant in instants for sub in folders for name in results
    ]
    inputs = [
        *args.xray,
        *args.volume,
        *(args.mask or []),
        *(args.calibration or []),
        *(args.init_pose or []),
        *(path for path in (args.checkpoint, args.context) if path),
    ]
    files.check_outputs(targets, args.overwrite, inputs)
    return instants


def _frames(paths: Sequence[Path]) -> list[int | None]:
    """Numbers of the frames that the files of one set hold; [None] for single pictures. Raises InputError where the files hold different numbers."""
    counts = [count_frames(path) if reading.is_dicom(path) else 1 for path in paths]
    if len(set(counts)) > 1:
        raise InputError(
            paths[0],
            f"has {counts[0]} frames, {paths[-1].name} {counts[-1]}",
            "as many of each camera",
            "cut the files to the same instants",
        )
    return list(range(counts[0])) if counts[0] > 1 else [None]


def load_views(
    instant: Instant,
    args: argparse.Namespace,
    structures: Sequence[Structure],
    checkpoint: Checkpoint | None,
) -> list[View]:
    """The X-rays of one instant with their cameras; flipped, rig and all, for mirrored volumes."""
    spacing = args.pixel_spacing and (args.pixel_spacing[0], args.pixel_spacing[-1])
    mirrored = structures[0].ct.lineage.mirrored
    from_behind = checkpoint is not None and not checkpoint.config.get("reverse_x_axis", False)
    views = []
    for shot in instant.shots:
        path = shot.path
        behind = positioner_camera(path, shot.frame)[1] if args.init == "dicom" else from_behind
        flip = args.flip == "yes" or (args.flip == "auto" and mirrored != behind)
        flags, rig_from_camera = (
            GeometryFlags(
                args.sdd,
                spacing or None,
                tuple(args.principal_point) if args.principal_point else None,
            ),
            np.eye(4),
        )
        if args.calibration:
            camera = calibration.read(
                args.calibration[shot.camera], spacing[0] if spacing else None
            )
            flags, rig_from_camera = (
                GeometryFlags(
                    camera.detector.sdd_mm,
                    camera.detector.pixel_mm,
                    camera.detector.principal_px,
                    calibrated=True,
                ),
                camera.rig_from_camera if args.views else np.eye(4),
            )
        xray = read(path, flags, checkpoint.detector if checkpoint else None, args.bone, shot.frame)
        if args.calibration and (xray.detector.width, xray.detector.height) != camera.image_size:
            raise InputError(
                path,
                f"has {xray.detector.width} x {xray.detector.height} pixels, its calibration"
                f" {camera.image_size}",
                "the same",
                "give the X-rays that were calibrated",
            )
        if flip:
            logger.info(
                f"{path.name}: flipped left to right"
                f" ({'the volume is mirrored' if mirrored else 'as seen from the detector'})"
            )
            views.append(View(xray.flip(), MIRROR @ rig_from_camera @ MIRROR))
        else:
            views.append(View(xray, rig_from_camera))
    return views
