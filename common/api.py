"""The Python API: load a CT and an X-ray, register a bone, render it, save and read results.

Lengths are in millimetres and frames are right-handed RAS+ (docs/frames.md). Invalid arguments and
files raise `InputError` with the fields path, found, expected and remedy. Nothing is printed:
messages and progress go to the logger "common".

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
from common.registration.inputs import check_sides, flipped, load_view
from common.registration.polarities import register_either
from common.registration.register import Registration
from common.registration.request import (
    AttenuationMode,
    DeviceChoice,
    Flip,
    Followed,
    SearchExtent,
    Side,
    StartMethod,
    XrayRequest,
)
from common.registration.scene import Structure, View
from common.registration.starts import Starter
from common.registration.structures import load_structure as _load_structure
from common.results import names, parameters_file
from common.results.result import Result, Verdict
from common.results.scanner_view import ScannerView
from common.volume.label_names import resolve
from common.volume.lineage import with_stated_side
from common.volume.materials import Material
from common.xray.grey_values import Polarity

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
    labels: Sequence[int | str] | None = None,
    *,
    attenuation: AttenuationMode = "auto",
    context: PathLike | None = None,
    side: Side | None = None,
    device: DeviceChoice = "auto",
    material: Material | None = None,
) -> Structure:
    """Load what to register: a CT in Hounsfield units (NIfTI), some structures of it, or a surface.

    With ``mask``, a labelmap on its grid, the structures are its ``labels`` (default: all), numbers
    or names that it states.
    ``attenuation`` "excess" compares the excess over soft tissue, "whole" everything; "auto" is
    "excess" for a labelmap or a cropped bone. ``context`` is a whole CT that is rendered with the
    structure. ``side`` states the side of a volume without lineage, ``material`` what a surface
    (STL, PLY, OBJ, VTP or GIFTI, mm) is made of.
    """
    _check_choice("attenuation", attenuation, AttenuationMode)
    _check_choice("side", side, Side, optional=True)
    _check_choice("material", material, Material, optional=True)
    _check_choice("device", device, DeviceChoice)
    structure = _load_structure(
        Path(volume),
        Path(mask) if mask else None,
        resolve(labels, Path(mask)) if labels and mask else None,
        attenuation,
        Path(context) if context else None,
        choose_device(device),
        material,
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
    """Load an X-ray (PNG, JPEG, TIFF or DICOM) with its camera.

    The geometry comes from the arguments (pixel spacing as width, height; principal point as
    column, row), else from ``calibration`` (XMALab text or JSON), else from the DICOM header or
    from NAME.json next to NAME.png. With a calibration, the view has a position relative to other
    cameras, so that several views can be registered together. ``bone`` is the polarity as a viewer
    shows the file.
    """
    _check_choice("bone", bone, Polarity)
    spacing = _numbers("pixel_spacing_mm", pixel_spacing_mm, (1, 2))
    principal = _numbers("principal_point_px", principal_point_px, (2,))
    if calibration is not None and (sdd_mm is not None or principal):
        raise InputError(
            "`calibration`",
            "given with `sdd_mm` or `principal_point_px`",
            "the camera from one source",
            "leave the others out",
        )
    request = XrayRequest(
        Path(path),
        frame,
        Path(calibration) if calibration else None,
        sdd_mm,
        (spacing[0], spacing[-1]) if spacing else None,
        (principal[0], principal[1]) if principal else None,
    )
    return load_view(request, bone)


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
    device: DeviceChoice = "auto",
) -> list[Registration]:
    """Find the pose of each structure in the X-rays of one instant.

    The start pose is predicted by the network of ``checkpoint`` if given, else taken from
    ``start_camera`` ((4, 4) scanner_from_camera of the first X-ray as stored on disk, one for all
    structures or one each), else searched over ``pose_range``; ``init`` overrules this order
    ("dicom": the angles of the C-arm). ``previous`` are the registrations of the previous frame of
    a sequence. Several structures are refined together. If the polarity of an X-ray was guessed and
    no pose is certain, the other one is tried too.
    """
    views = [xrays] if isinstance(xrays, View) else list(xrays)
    bones = [structures] if isinstance(structures, Structure) else list(structures)
    _check_some("xrays", views, View)
    _check_some("structures", bones, Structure)
    method = init or ("model" if checkpoint else "search" if start_camera is None else "fixed")
    _check_choice("init", method, StartMethod)
    _check_choice("search", search, SearchExtent)
    _check_choice("flip", flip, Flip)
    starter = _starter(method, pose_range, search, checkpoint, device, flip == "auto")
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
    return register_either(views, bones, starter, seed, last)


def render(
    structure: Structure, camera: np.ndarray, detector: Detector, *, device: DeviceChoice = "auto"
) -> np.ndarray:
    """Render a DRR: line integrals (H, W) float32 of the whole attenuation of a structure.

    ``camera`` is volume_from_camera (4, 4).
    """
    camera = np.asarray(camera, float)
    if camera.shape != (4, 4):
        raise InputError("`camera`", f"has shape {camera.shape}", "a 4x4 matrix", "correct it")
    renderer = make_renderer(structure.whole, choose_device(device))
    return renderer.render(camera[None], detector)[0]


def save(
    registrations: Sequence[Registration], folder: PathLike, *, overwrite: bool = False
) -> list[Path]:
    """Write the files of registration.py, and return the paths of parameters.pt.

    They are written into ``folder`` or, for several structures, into one folder each in it.
    """
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
    """Read a result: parameters.pt, or the folder that contains it. No code in it is executed."""
    path = Path(path)
    return parameters_file.load(path / names.PARAMETERS if path.is_dir() else path)


def _starter(
    method: StartMethod,
    pose_range: PoseRange | None,
    search: SearchExtent,
    checkpoint: PathLike | None,
    device: DeviceChoice,
    mirrored: bool,
) -> Starter:
    model = network = None
    if checkpoint is not None:
        from common.pose_network.checkpoint import load_checkpoint
        from common.pose_network.prediction import build_network

        model = load_checkpoint(checkpoint)
        network = build_network(model, choose_device(device)) if method == "model" else None
    return Starter(method, pose_range, search == "full", model, network, mirrored=mirrored)


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
        found = f"contains {', '.join(wrong)}" if wrong else "is empty"
        raise InputError(
            f"`{name}`", found, f"at least one {kind.__name__}", f"see common.api.{name}"
        )


def _numbers(name: str, value: Any, counts: tuple[int, ...]) -> list[float]:
    """Return ``value`` as a list of finite numbers, as many as ``counts`` allows; [] for None."""
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
