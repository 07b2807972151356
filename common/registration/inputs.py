"""Loads what a request names: structures, the pose network, and X-rays with their cameras."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.drr.renderer import choose_device
from common.errors import InputError
from common.geometry import Detector
from common.pose_network.checkpoint import Checkpoint, load_checkpoint
from common.registration.request import Polarity, Request, XrayRequest
from common.registration.scene import Structure, View
from common.registration.search.anywhere import Banks
from common.registration.starts import Starter
from common.registration.structures import load_structure
from common.volume.lineage import with_stated_side
from common.xray import calibration, reading
from common.xray.positioner import positioner_camera
from common.xray.stated_geometry import StatedGeometry

logger = logging.getLogger(__name__)

# distance from the centre of an image, as a fraction of its size, at which the cameras of a rig may
# meet: they need not be aimed exactly
MOST_OFF = 1.5


@dataclass(frozen=True)
class Inputs:
    """Inputs that all requests of one call share."""

    structures: list[Structure]
    checkpoint: Checkpoint | None
    starter: Starter


def load_inputs(request: Request, checkpoint: Checkpoint | None = None) -> Inputs:
    """Read the CTs, labelmaps and (unless given) the pose network of a request.

    Raises InputError if a file cannot be read or does not belong to the others.
    """
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
        request.init,
        request.pose_range,
        full,
        checkpoint,
        network,
        request.optimizer,
        mirrored=request.flip == "auto",
        banks=Banks(request.cache),
    )
    return Inputs(structures, checkpoint, starter)


def for_request(inputs: Inputs, request: Request) -> Inputs:
    """Return the inputs with the method and the start poses of one frame's request."""
    return replace(
        inputs,
        structures=[
            structure.starting_at(each.start_camera)
            for structure, each in zip(inputs.structures, request.structures, strict=True)
        ],
        starter=replace(inputs.starter, method=request.init),
    )


def load_structures(request: Request) -> list[Structure]:
    """Read the structures of a request, rendered on the device that it names.

    Raises InputError if a file cannot be read, or if only some of the volumes are mirrored.
    """
    device = choose_device(request.device)
    structures = []
    for each in request.structures:
        structure = load_structure(
            each.volume,
            each.mask,
            each.labels,
            request.attenuation,
            request.context,
            device,
            each.material,
        )
        lineage = with_stated_side(each.volume, structure.ct.lineage, request.side)
        ct = replace(structure.ct, lineage=lineage)
        structures.append(replace(structure, ct=ct, start_camera=each.start_camera))
    check_sides(structures)
    return structures


def load_views(request: Request, inputs: Inputs) -> list[View]:
    """Read the X-rays of a request with their cameras, flipped if the volumes are mirrored.

    Raises InputError if an X-ray cannot be read or differs in size from its calibration.
    """
    return placed_views(read_views(request, inputs.checkpoint), request, inputs)


def read_views(request: Request, checkpoint: Checkpoint | None = None) -> list[View]:
    """Read the X-rays of a request with their cameras, as they are on disk.

    Raises InputError if an X-ray cannot be read or differs in size from its calibration.
    """
    fallback = checkpoint.detector if checkpoint else None
    return [load_view(each, request.bone, fallback) for each in request.xrays]


def placed_views(seen: Sequence[View], request: Request, inputs: Inputs) -> list[View]:
    """Return X-rays that were read, flipped if the volumes are mirrored.

    Raises InputError if their cameras do not belong together.
    """
    mirrored = inputs.structures[0].ct.lineage.mirrored
    checkpoint = inputs.checkpoint
    from_behind = checkpoint is not None and not checkpoint.config.get("reverse_x_axis", False)
    views = []
    for each, view in zip(request.xrays, seen, strict=True):
        behind = (
            positioner_camera(each.path, each.frame)[1] if request.init == "dicom" else from_behind
        )
        flip = request.flip == "yes" or (request.flip == "auto" and mirrored != behind)
        if not request.together:  # registered separately, in the frame of its own camera
            view = replace(view, rig_from_camera=np.eye(4))
        views.append(flipped(view, mirrored) if flip else view)
    check_rig(views, inputs.structures)
    return views


def check_rig(views: Sequence[View], structures: Sequence[Structure]) -> None:
    """Raise InputError if several cameras do not look at one place, or see less than a bone there.

    Both happen to calibrations of two sessions, and to those in centimetres.
    """
    if len(views) < 2:
        return
    middle = geometry.meeting_point([view.rig_from_camera for view in views])
    for view in views:
        detector = view.xray.detector
        depth_mm = geometry.apply(geometry.invert(view.rig_from_camera), middle)[2]
        seen = geometry.project(middle[None], detector, view.rig_from_camera)[0]
        size = np.array([detector.width, detector.height])
        if depth_mm <= 0 or (np.abs(seen - (size - 1) / 2) > MOST_OFF * size).any():
            raise InputError(
                view.xray.path,
                "its camera and the others do not look at one place",
                "calibrations of one session, in mm",
                "check that the calibrations belong together, and their order and unit",
            )
        field_mm = min(detector.size_mm) * depth_mm / detector.sdd_mm
        for structure in structures:
            thin_mm = 2 * structure.body.half_thickness_mm
            if field_mm < thin_mm:
                raise InputError(
                    view.xray.path,
                    f"its camera sees {field_mm:.0f} mm where the cameras meet, and"
                    f" {structure.ct.name} is {thin_mm:.0f} mm thick",
                    "calibrations in mm",
                    "multiply their translations by 10 if they are in centimetres",
                )


def load_view(each: XrayRequest, bone: Polarity, fallback: Detector | None = None) -> View:
    """Read an X-ray with its camera; with a calibration, the camera has its position in the rig.

    ``fallback`` is the detector to assume if neither request nor file has one. Raises InputError
    if the X-ray cannot be read or differs in size from its calibration.
    """
    if each.calibration is None:
        stated = StatedGeometry(each.sdd_mm, each.pixel_mm, each.principal_px)
        return View(reading.read(each.path, stated, fallback, bone, each.frame), request=each)
    size = reading.size_of(each.path, each.frame)
    pixel_mm = each.pixel_mm[0] if each.pixel_mm else None
    camera = calibration.read(each.calibration, pixel_mm, size)
    seen = camera.detector
    stated = StatedGeometry(
        seen.sdd_mm, seen.pixel_mm, seen.principal_px, calibrated=True, lens=camera.lens
    )
    xray = reading.read(each.path, stated, fallback, bone, each.frame)
    return View(xray, camera.rig_from_camera, each)


def with_polarity(view: View, bone: Polarity) -> View:
    """Return a view as if its X-ray had been read with another polarity.

    The view must have its request. Raises InputError as `load_view`.
    """
    assert view.request is not None
    detector = view.xray.detector
    unflipped = detector.flipped() if view.xray.flipped else detector
    xray = load_view(view.request, bone, unflipped).xray
    return replace(view, xray=xray.flip() if view.xray.flipped else xray)


def flipped(view: View, mirrored: bool) -> View:
    """Return the view flipped left to right, with its rig, so that it shows mirrored bones.

    ``mirrored`` states whether the volume is mirrored; if not, the X-ray is seen from the detector.
    """
    why = "the volume is mirrored" if mirrored else "as seen from the detector"
    logger.info(f"{view.xray.path.name}: flipped left to right ({why})")
    return view.flip()


def check_sides(structures: Sequence[Structure]) -> bool:
    """Return whether the structures are mirrored. Raises InputError if only some are."""
    mirrored = {structure.ct.lineage.mirrored for structure in structures}
    if len(mirrored) > 1:
        raise InputError(
            "`volume`",
            "some volumes are mirrored and some are not",
            "bones of one side",
            "register the sides in separate calls",
        )
    return mirrored.pop()
