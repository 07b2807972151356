"""Requests from the flags of registration.py: one per instant, with the folders of its results."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from common import files
from common.command_line.camera_names import in_order_of_cameras
from common.command_line.flags import pose_range_from
from common.command_line.registration_flag_checks import KEY_POSE
from common.errors import InputError
from common.geometry.pose_range import NAMES, PoseRange
from common.pose_network.checkpoint import Checkpoint
from common.registration.request import Request, StructureRequest, XrayRequest
from common.registration.starts import read_start_camera
from common.results import names, parameters_file
from common.volume import dicom_series, label_names, nifti
from common.volume.materials import Material
from common.volume.mesh import is_surface
from common.xray import image_files, runs
from common.xray.reading import count_frames


@dataclass(frozen=True)
class Planned:
    """A request, and the folder of each of its structures."""

    request: Request
    folders: tuple[Path, ...]


def plan(args: argparse.Namespace, checkpoint: Checkpoint | None) -> list[Planned]:
    """Return the requests of a call, in order.

    A folder or a DICOMDIR becomes its pictures, and with --sequence, a multi-frame file one request
    per frame. Raises InputError if X-rays do not belong together, or if results exist.
    """
    given = structures_of(args)
    folders = _folders(args.volume, [each.labels for each in given])
    cameras = len(args.calibration or [None])
    together = cameras if args.views else 1
    base = _request(args, given, checkpoint)
    planned = []
    pictures = in_order_of_cameras(runs.expanded(args.xray, cameras), args.calibration or [])
    for number, (paths, folder) in enumerate(_sets(args, pictures, together)):
        frames = _frames(paths) if args.sequence and args.frame is None else [args.frame]
        for frame in frames:
            xrays = tuple(
                _xray(args, path, frame, (number * together + index) % cameras)
                for index, path in enumerate(paths)
            )
            place = folder / f"frame_{frame:04d}" if len(frames) > 1 else folder
            planned.append(
                Planned(replace(base, xrays=xrays), tuple(place / name for name in folders))
            )
    planned = _with_key_poses(planned, key_poses(args))
    _check_outputs(args, pictures, planned, together)
    return planned


def key_poses(args: argparse.Namespace) -> dict[int, list[Path]]:
    """Return the files of --init_pose FRAME=FILE by frame, one per volume or one for all.

    It is empty if the files are start poses of every X-ray. Raises InputError if some are not
    FRAME=FILE, or there is no --sequence.
    """
    found: dict[int, list[Path]] = {}
    texts = [str(path) for path in args.init_pose or []]
    pairs = [KEY_POSE.fullmatch(text) for text in texts]
    if not any(pairs):
        return {}
    for text, pair in zip(texts, pairs, strict=True):
        if pair is None or not args.sequence:
            raise InputError(
                "--init_pose",
                text if pair is None else f"{text} without --sequence",
                "FRAME=FILE for some frames of a --sequence, or FILE for all X-rays",
                "correct the flags",
            )
        found.setdefault(int(pair[1]), []).append(Path(pair[2]))
    for frame, paths in found.items():
        if len(paths) not in (1, len(args.volume)):
            raise InputError(
                "--init_pose",
                f"{len(paths)} files for {len(args.volume)} volumes at frame {frame}",
                "one per volume, in their order, or one for all",
                "correct the flags",
            )
    return found


def _with_key_poses(
    planned: Sequence[Planned], keys: Mapping[int, Sequence[Path]]
) -> list[Planned]:
    """Return the frames of a sequence, some of them with start poses."""
    if keys and max(keys) >= len(planned):
        raise InputError(
            "--init_pose",
            f"frame {max(keys)} of {len(planned)} frames",
            f"0 to {len(planned) - 1}, in the order of the X-rays",
            "correct the number",
        )
    keyed = list(planned)
    for frame, paths in keys.items():
        request = planned[frame].request
        cameras = [read_start_camera(path) for path in paths]
        structures = tuple(
            replace(each, start_camera=cameras[min(number, len(cameras) - 1)])
            for number, each in enumerate(request.structures)
        )
        keyed[frame] = replace(
            planned[frame], request=replace(request, structures=structures, init="fixed")
        )
    return keyed


def repeated(args: argparse.Namespace) -> list[Planned]:
    """Return the request that a parameters.pt records.

    Raises InputError if it records none, or if its files have changed since.
    """
    result = parameters_file.load(args.repeat)
    if "request" not in result.settings:
        raise InputError(
            args.repeat,
            "records no request",
            "a file that this version of registration.py wrote",
            "register again with the flags that made it",
        )
    request = Request.from_entries(result.settings["request"])
    recorded = {
        result.drr["volume"]: result.drr.get("volume_sha256"),
        result.xray["file"]: result.xray["sha256"],
    }
    for path, sha256 in recorded.items():
        if files.sha256(files.existing_file(path, "the file that was registered")) != sha256:
            raise InputError(
                path,
                f"has changed since {args.repeat} was written",
                "the file that was registered",
                "restore it, or register again without --repeat",
            )
    folders = _folders(
        [s.volume for s in request.structures], [s.labels for s in request.structures]
    )
    planned = [Planned(request, tuple(args.output / name for name in folders))]
    targets = [
        f / name for f in planned[0].folders for name in names.result_names(len(request.xrays))
    ]
    files.check_outputs(targets, args.overwrite, [args.repeat, *_input_paths(request)])
    return planned


def _folders(volumes: Sequence[Path], labels: Sequence[tuple[int, ...] | None]) -> list[str]:
    """Return the subfolder of each volume, "" for a single one.

    It is the stem of the file, with the label if stems are equal.
    """
    if len(volumes) == 1:
        return [""]
    stems = [files.stem(path) for path in volumes]
    if len(set(stems)) == len(stems):
        return stems
    named = [
        f"{stem}_{label[0] if label else number}"
        for number, (stem, label) in enumerate(zip(stems, labels, strict=True))
    ]
    if len(set(named)) < len(named):
        found = f"volumes have the same name and label ({', '.join(named)})"
        raise InputError("-v", found, "different bones", "correct -v or --labels")
    return named


class Given(NamedTuple):
    """What the flags state of one volume."""

    mask: Path | None
    labels: tuple[int, ...] | None
    material: Material | None


def structures_of(args: argparse.Namespace) -> list[Given]:
    """Return what is stated of each volume.

    Labelmaps and labels belong to the CTs, in their order, and materials to the surfaces. A single
    CT may have several labels, and one material may be that of all.
    """
    surfaces = [is_surface(path) for path in args.volume]
    cts = surfaces.count(False)
    masks, stated = list(args.mask or []), list(args.labels or [])
    chosen = [stated] if cts == 1 else [[label] for label in stated]
    materials: list[Material | None] = list(args.material or [None])
    if len(materials) == 1:
        materials *= sum(surfaces)
    elif len(materials) == len(surfaces):
        materials = [each for each, is_one in zip(materials, surfaces, strict=True) if is_one]
    given = []
    for is_one in surfaces:
        if is_one:
            given.append(Given(None, None, materials.pop(0)))
            continue
        mask = masks.pop(0) if masks else None
        labels = chosen.pop(0) if mask and chosen else []
        numbers = tuple(label_names.resolve(labels, mask)) if mask and labels else None
        given.append(Given(mask, numbers, None))
    return given


def _volume(path: Path, series: Sequence[str]) -> Path:
    """Return a volume; of a folder with several DICOM series, one file of that with the words.

    Raises InputError if there is no such series.
    """
    if not series or is_surface(path):
        return path
    if not path.is_dir():
        raise InputError(
            path, "is a file, given with `series`", "a DICOM folder", "unpack it, or leave it out"
        )
    return dicom_series.file_of(path, nifti.CT, series)


def _request(
    args: argparse.Namespace, given: Sequence[Given], checkpoint: Checkpoint | None
) -> Request:
    """Return the request without X-rays, which is the same for all instants of the call."""
    keyed = bool(key_poses(args))
    cameras = [] if keyed else [read_start_camera(path) for path in args.init_pose or []]
    structures = []
    for number, (volume, stated) in enumerate(zip(args.volume, given, strict=True)):
        start = cameras[number if len(cameras) > 1 else 0] if cameras else None
        structures.append(
            StructureRequest(
                _volume(volume, args.series), stated.mask, stated.labels, start, stated.material
            )
        )
    return Request(
        xrays=(),
        structures=tuple(structures),
        checkpoint=args.checkpoint,
        context=args.context,
        init=(None if keyed else args.init) or ("model" if checkpoint else "search"),
        pose_range=_stated_range(args),
        cache=not args.no_cache,
        search=args.search,
        optimizer=args.optimizer,
        attenuation=args.attenuation,
        bone=args.bone,
        flip=args.flip,
        side=args.side,
        seed=args.seed,
        device=args.device,
        sequence=args.sequence,
    )


def _stated_range(args: argparse.Namespace) -> PoseRange | None:
    """Return the pose range of the flags; None if none is given."""
    return pose_range_from(args) if any(getattr(args, name) for name in NAMES) else None


def _xray(args: argparse.Namespace, path: Path, frame: int | None, camera: int) -> XrayRequest:
    spacing = args.pixel_spacing
    return XrayRequest(
        path,
        frame,
        args.calibration[camera] if args.calibration else None,
        args.sdd,
        (spacing[0], spacing[-1]) if spacing else None,
        tuple(args.principal_point) if args.principal_point else None,
    )


def _sets(
    args: argparse.Namespace, xrays: Sequence[Path], together: int
) -> list[tuple[list[Path], Path]]:
    """Return the X-rays of each instant (or multi-frame set), and the folder for its results.

    Raises InputError if an X-ray is missing or file names are not unique.
    """
    for path in xrays:
        files.existing_file(path, f"an X-ray ({image_files.EXPECTED})")
    sets = [list(xrays[first : first + together]) for first in range(0, len(xrays), together)]
    stems = [files.stem(paths[0]) for paths in sets]
    if len(set(stems)) != len(stems):
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        raise InputError(
            None,
            f"X-rays have the same file name ({', '.join(twice)})",
            "unique names in one call",
            "register them in separate calls",
        )
    several = len(stems) > 1
    return [
        (paths, args.output / stem if several else args.output)
        for paths, stem in zip(sets, stems, strict=True)
    ]


def _frames(paths: Sequence[Path]) -> list[int | None]:
    """Return the frame numbers of the files of one set; [None] for single images.

    Raises InputError if the files have different numbers of frames.
    """
    counts = [count_frames(path) for path in paths]
    if len(set(counts)) > 1:
        raise InputError(
            paths[0],
            f"has {counts[0]} frames, {paths[-1].name} {counts[-1]}",
            "the same number from each camera",
            "cut the files to the same instants",
        )
    return list(range(counts[0])) if counts[0] > 1 else [None]


def _check_outputs(
    args: argparse.Namespace, xrays: Sequence[Path], planned: Sequence[Planned], together: int
) -> None:
    wanted = [names.CHECK_IMAGE] if args.check else names.result_names(together)
    targets = [folder / name for each in planned for folder in each.folders for name in wanted]
    poses = [path for paths in key_poses(args).values() for path in paths] or args.init_pose
    inputs = [*xrays, *(args.calibration or []), *(poses or [])]
    inputs += _input_paths(planned[0].request)
    files.check_outputs(targets, args.overwrite, inputs)


def _input_paths(request: Request) -> list[Path]:
    paths = [request.checkpoint, request.context]
    for xray in request.xrays:
        paths += [xray.path, xray.calibration]
    for structure in request.structures:
        paths += [structure.volume, structure.mask]
    return [path for path in paths if path is not None]
