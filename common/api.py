"""The Python API: load a CT and an X-ray, find the bone, render it, save and read results.

All lengths are millimetres and all frames are right-handed RAS+ (docs/frames.md). Bad arguments and bad files raise `InputError` with the fields path, found,
expected and remedy; nothing is printed. Messages and progress go to the logger "common".

Example:
    from common import api

    femur = api.load_structure("femur.nii.gz", mask="femur_mask.nii.gz")
    xray = api.load_xray("knee.dcm")
    found = api.register(xray, femur)
    print(found[0].verdict.code, found[0].scanner_view().camera)
    api.save(found, "results")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from common import files
from common.drr.renderer import choose_device, make_renderer
from common.errors import InputError
from common.files.locks import claiming
from common.geometry import Detector, PoseError, pose_error
from common.geometry.pose_range import PoseRange
from common.registration.inputs import check_sides, flipped
from common.registration.pyramid import View
from common.registration.register import Registration
from common.registration.register import register as _register
from common.registration.request import (
    AttenuationMode,
    Device,
    Flip,
    Followed,
    Polarity,
    SearchExtent,
    Side,
    StartMethod,
)
from common.registration.scene import Structure
from common.registration.scene import load_structure as _load_structure
from common.registration.starts import Starter
from common.results import names, parameters_file
from common.results.result import Result, ScannerView, Verdict
from common.volume.lineage import with_stated_side
from common.xray import calibration as calibrations
from common.xray import reading

__all__ = [
    "Detector",
    "InputError",
    "PoseError",
    "PoseRange",
    "Registration",
    "Result",
    "ScannerView",
    "Structure",
    "Verdict",
    "View",
    "load_structure",
    "load_xray",
    "pose_error",
    "read_result",
    "register",
    "render",
    "save",
]

PathLike = str | Path


def load_structure(
    volume: PathLike,
    mask: PathLike | None = None,
    labels: Sequence[int] | None = None,
    *,
    attenuation: AttenuationMode = "auto",
    context: PathLike | None = None,
    side: Side | None = None,
    device: Device = "auto",
) -> Structure:
    """What to register: a CT in Hounsfield units (NIfTI) or, with a labelmap on its grid, the structures of ``labels`` (default: all).

    ``attenuation`` "excess" compares what exceeds soft tissue, "whole" everything; "auto" takes the excess for a labelmap or a cropped
    bone. ``context`` is a whole CT that is rendered along with the structure. ``side`` states the side of a volume without lineage.
    """
    _check_choice("attenuation", attenuation, AttenuationMode)
    _check_choice("side", side, Side, optional=True)
    _check_choice("device", device, Device)
    structure = _load_structure(
        Path(volume),
        Path(mask) if mask else None,
        labels,
        attenuation,
        Path(context) if context else None,
        choose_device(device),
    )
    lineage = with_stated_side(volume, structure.ct.lineage, side)
    return replace(structure, ct=replace(structure.ct, lineage=lineage))


def load_xray(
    path: PathLike,
    *,
    sdd_mm: float | None = None,
    pixel_spacing_mm: float | Sequence[float] | None = None,
    principal_point_px: Sequence[float] | None = None,
    calibration: PathLike | None = None,
    bone: Polarity = "auto",
    frame: int | None = None,
) -> View:
    """An X-ray (PNG, JPEG, TIFF or DICOM) with its camera.

    The geometry comes from the arguments (pixel spacing as width, height; principal point as column, row), else from ``calibration``
    (XMALab text or JSON), else from the DICOM header or from NAME.json beside NAME.png. With a calibration the view knows its place among
    other cameras, so that several views can be registered together. ``bone`` is the polarity as a viewer shows the file.
    """
    _check_choice("bone", bone, Polarity)
    spacing = _numbers("pixel_spacing_mm", pixel_spacing_mm, (1, 2))
    principal = _numbers("principal_point_px", principal_point_px, (2,))
    pixel_mm = (spacing[0], spacing[-1]) if spacing else None
    if calibration is None:
        principal_px = (principal[0], principal[1]) if principal else None
        stated = reading.StatedGeometry(sdd_mm, pixel_mm, principal_px)
        return View(reading.read(path, stated, None, bone, frame))
    if sdd_mm is not None or principal:
        raise InputError(
            "`calibration`",
            "given with `sdd_mm` or `principal_point_px`",
            "the camera from one source",
            "leave the others out",
        )
    camera = calibrations.read(calibration, pixel_mm[0] if pixel_mm else None)
    seen = camera.detector
    stated = reading.StatedGeometry(seen.sdd_mm, seen.pixel_mm, seen.principal_px, calibrated=True)
    xray = reading.read(path, stated, None, bone, frame)
    size = xray.detector.width, xray.detector.height
    if size != camera.image_size:
        raise InputError(
            path,
            f"has {size[0]} x {size[1]} pixels, its calibration {camera.image_size[0]} x {camera.image_size[1]}",
            "the same",
            "give the X-ray that was calibrated",
        )
    return View(xray, camera.rig_from_camera)


def register(
    xrays: View | Sequence[View],
    structures: Structure | Sequence[Structure],
    *,
    init: StartMethod | None = None,
    start_camera: np.ndarray | Sequence[np.ndarray] | None = None,
    pose_range: PoseRange | None = None,
    search: SearchExtent = "range",
    checkpoint: PathLike | None = None,
    flip: Flip = "auto",
    previous: Sequence[Registration] | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> list[Registration]:
    """Find the pose of each structure in the X-rays of one instant.

    The start is predicted by the network of ``checkpoint`` if given, else taken from ``start_camera`` ((4, 4) scanner_from_camera of the first
    X-ray as stored on disk, one for all structures or one each), else searched over ``pose_range``; ``init`` chooses otherwise ("dicom":
    the C-arm's angles). ``previous`` are the registrations of the frame before in a sequence. Several structures are refined together.
    """
    views = [xrays] if isinstance(xrays, View) else list(xrays)
    bones = [structures] if isinstance(structures, Structure) else list(structures)
    _check_some("xrays", views, View)
    _check_some("structures", bones, Structure)
    method = init or ("model" if checkpoint else "search" if start_camera is None else "fixed")
    _check_choice("init", method, StartMethod)
    _check_choice("search", search, SearchExtent)
    _check_choice("flip", flip, Flip)
    starter = _starter(method, pose_range, search, checkpoint, device)
    mirrored = check_sides(bones)
    network = starter.checkpoint
    behind = network is not None and not network.config.get("reverse_x_axis", False)
    if flip == "yes" or (flip == "auto" and mirrored != behind):
        views = [view if view.xray.flipped else flipped(view, mirrored) for view in views]
    cameras = _cameras(start_camera, len(bones))
    bones = [
        replace(bone, start_camera=camera) for bone, camera in zip(bones, cameras, strict=True)
    ]
    last = [Followed(one.pose, one.solution.evidence) for one in previous] if previous else None
    return _register(views, bones, starter, seed, last)


def render(
    structure: Structure, camera: np.ndarray, detector: Detector, *, device: Device = "auto"
) -> np.ndarray:
    """DRR of a structure: line integrals of its whole attenuation, (H, W) float32, for a camera (4, 4) volume_from_camera."""
    camera = np.asarray(camera, float)
    if camera.shape != (4, 4):
        raise InputError("`camera`", f"has shape {camera.shape}", "a 4x4 matrix", "correct it")
    renderer = make_renderer(structure.whole, choose_device(device))
    return renderer.render(camera[None], detector)[0]


def save(
    registrations: Sequence[Registration], folder: PathLike, *, overwrite: bool = False
) -> list[Path]:
    """Write the files of registration.py: into ``folder``, or into one folder per structure in it. Returns the paths of parameters.pt."""
    from common.registration import recording

    _check_some("registrations", registrations, Registration)
    stems = [files.stem(one.structure.ct.path or "volume") for one in registrations]
    if len(set(stems)) < len(stems):
        stems = [f"{stem}_{number}" for number, stem in enumerate(stems)]
    folders = [Path(folder) / stem for stem in stems] if len(stems) > 1 else [Path(folder)]
    wanted = names.result_names(len(registrations[0].views))
    with claiming():
        files.check_outputs([each / name for each in folders for name in wanted], overwrite)
        for number, each in enumerate(folders):
            recording.save(files.output_folder(each), registrations, number)
    return [each / names.PARAMETERS for each in folders]


def read_result(path: PathLike) -> Result:
    """A result: parameters.pt, or the folder that holds it. No code in the file is run."""
    path = Path(path)
    return parameters_file.load(path / names.PARAMETERS if path.is_dir() else path)


def _starter(
    method: StartMethod,
    pose_range: PoseRange | None,
    search: SearchExtent,
    checkpoint: PathLike | None,
    device: Device,
) -> Starter:
    model = network = None
    if checkpoint is not None:
        from common.pose_network.checkpoint import load_checkpoint
        from common.pose_network.prediction import build_network

        model = load_checkpoint(checkpoint)
        network = build_network(model, choose_device(device)) if method == "model" else None
    chosen = pose_range or (model.pose_range if model else None) or PoseRange()
    return Starter(method, chosen, search == "full", model, network)


def _cameras(given: Any, count: int) -> list[np.ndarray | None]:
    if given is None:
        return [None] * count
    cameras = np.asarray(given, float)
    if cameras.shape == (4, 4):
        return [cameras] * count
    if cameras.shape != (count, 4, 4):
        raise InputError(
            "`start_camera`",
            f"has shape {cameras.shape}",
            f"one 4x4 matrix, or {count} of them",
            "give scanner_from_camera for all structures, or one each",
        )
    return list(cameras)


def _check_choice(name: str, value: Any, choices: Any, optional: bool = False) -> None:
    allowed = get_args(choices)
    if value not in allowed and not (optional and value is None):
        listed = ", ".join(map(repr, allowed))
        raise InputError(f"`{name}`", f"is {value!r}", f"one of {listed}", "correct it")


def _check_some(name: str, values: Sequence[Any], kind: type) -> None:
    wrong = [type(value).__name__ for value in values if not isinstance(value, kind)]
    if not values or wrong:
        found = f"holds {', '.join(wrong)}" if wrong else "is empty"
        raise InputError(
            f"`{name}`", found, f"at least one {kind.__name__}", f"see common.api.{name}"
        )


def _numbers(name: str, value: Any, counts: tuple[int, ...]) -> list[float]:
    """``value`` as a list of that many finite numbers; empty for None."""
    if value is None:
        return []
    try:
        numbers = [float(each) for each in np.atleast_1d(value)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in counts or not np.isfinite(numbers).all():
        wanted = " or ".join(map(str, counts))
        raise InputError(f"`{name}`", f"is {value!r}", f"{wanted} finite numbers", "correct it")
    return numbers
