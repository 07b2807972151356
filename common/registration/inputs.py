"""Loads what a request names: structures, the pose network, the X-rays of an instant with their cameras."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.drr.renderer import choose_device
from common.errors import InputError
from common.geometry import MIRROR
from common.pose_network.checkpoint import Checkpoint, load_checkpoint
from common.registration.pyramid import View
from common.registration.request import Request, XrayRequest
from common.registration.scene import Structure, load_structure
from common.registration.starts import Starter
from common.volume.lineage import with_stated_side
from common.xray import calibration, reading
from common.xray.positioner import positioner_camera
from common.xray.reading import StatedGeometry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What all requests of one call share."""

    structures: list[Structure]
    checkpoint: Checkpoint | None
    starter: Starter


def load_inputs(request: Request, checkpoint: Checkpoint | None = None) -> Inputs:
    """Read the CTs, labelmaps and the pose network (unless given) of a request. Raises InputError for files that do not fit."""
    if checkpoint is None and request.checkpoint:
        checkpoint = load_checkpoint(request.checkpoint)
    structures = load_structures(request)
    network = None
    if request.init == "model":
        if checkpoint is None:
            raise InputError(
                "`init` model",
                "no checkpoint",
                "a pose network",
                "give `checkpoint` or use `init` search",
            )
        from common.pose_network.prediction import build_network

        network = build_network(checkpoint, choose_device(request.device))
    full = request.search == "full"
    starter = Starter(
        request.init, request.pose_range, full, checkpoint, network, request.optimizer
    )
    return Inputs(structures, checkpoint, starter)


def load_structures(request: Request) -> list[Structure]:
    """The structures of a request, on the device it names. Raises InputError if only some of them are mirrored."""
    device = choose_device(request.device)
    structures = []
    for each in request.structures:
        structure = load_structure(
            each.volume, each.mask, each.labels, request.attenuation, request.context, device
        )
        lineage = with_stated_side(each.volume, structure.ct.lineage, request.side)
        ct = replace(structure.ct, lineage=lineage)
        structures.append(replace(structure, ct=ct, start_camera=each.start_camera))
    check_sides(structures)
    return structures


def load_views(request: Request, inputs: Inputs) -> list[View]:
    """The X-rays of a request with their cameras; flipped, rig and all, for mirrored volumes.

    Raises InputError for an X-ray that cannot be read or is not the size of its calibration.
    """
    mirrored = inputs.structures[0].ct.lineage.mirrored
    checkpoint = inputs.checkpoint
    from_behind = checkpoint is not None and not checkpoint.config.get("reverse_x_axis", False)
    views = []
    for each in request.xrays:
        behind = (
            positioner_camera(each.path, each.frame)[1] if request.init == "dicom" else from_behind
        )
        flip = request.flip == "yes" or (request.flip == "auto" and mirrored != behind)
        stated, rig_from_camera, size = _camera_of(each, request.together)
        fallback = checkpoint.detector if checkpoint else None
        xray = reading.read(each.path, stated, fallback, request.bone, each.frame)
        width, height = xray.detector.width, xray.detector.height
        if size is not None and (width, height) != size:
            raise InputError(
                each.path,
                f"has {width} x {height} pixels, its calibration {size[0]} x {size[1]}",
                "the same",
                "give the X-rays that were calibrated",
            )
        view = View(xray, rig_from_camera)
        views.append(flipped(view, mirrored) if flip else view)
    return views


def flipped(view: View, mirrored: bool) -> View:
    """The view flipped left to right, rig and all: its bones are then mirror images of themselves."""
    why = "the volume is mirrored" if mirrored else "as seen from the detector"
    logger.info(f"{view.xray.path.name}: flipped left to right ({why})")
    return View(view.xray.flip(), MIRROR @ view.rig_from_camera @ MIRROR)


def check_sides(structures: Sequence[Structure]) -> bool:
    """Whether the structures are mirrored. Raises InputError if only some of them are."""
    mirrored = {structure.ct.lineage.mirrored for structure in structures}
    if len(mirrored) > 1:
        raise InputError(
            "`volume`",
            "some volumes are mirrored and some are not",
            "bones of one side",
            "register the sides in separate calls",
        )
    return mirrored.pop()


def _camera_of(
    each: XrayRequest, together: bool
) -> tuple[StatedGeometry, np.ndarray, tuple[int, int] | None]:
    """The stated geometry of an X-ray, its place in the rig (the identity for a single view), and its calibrated size (width, height)."""
    if each.calibration is None:
        return StatedGeometry(each.sdd_mm, each.pixel_mm, each.principal_px), np.eye(4), None
    camera = calibration.read(each.calibration, each.pixel_mm[0] if each.pixel_mm else None)
    detector = camera.detector
    stated = StatedGeometry(
        detector.sdd_mm, detector.pixel_mm, detector.principal_px, calibrated=True
    )
    return stated, camera.rig_from_camera if together else np.eye(4), camera.image_size
