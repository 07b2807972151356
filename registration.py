# PYTHON_ARGCOMPLETE_OK
"""Step 7: find the pose that aligns a CT with an X-ray (2D/3D registration).

Reads an X-ray (PNG, JPEG, TIFF or DICOM; several share one start-up), a CT volume from step 4 (any NIfTI CT
works) and, with -c, a pose network from step 6. Without -c the start pose is searched over the pose range.

The detector's geometry comes from --sdd and --pixel_spacing (mm, at the detector), else from the DICOM header or from NAME.json beside NAME.png
(sdd_mm, pixel_spacing_mm [width, height], principal_point_px [column, row]), else from the checkpoint's training geometry, which makes the verdict suspect. --mask and --labels render only those structures: one bone in a
picture of a whole limb. A bone is compared by what it adds to the soft tissue around it, a whole CT by its whole attenuation.
The X-ray of a mirrored (right) bone is flipped like the bone (by the volume's lineage, or --side); poses are reported in the real, unmirrored world.

Several X-rays are registered one by one; with --sequence they are frames of one motion (files, or a multi-frame DICOM), each started where the one before ended. With --views, as many X-rays as there are calibrations are of one instant
(the next ones of the next): --calibration says where their cameras stand, and one pose explains all of them, which settles the depth that a single view leaves open. Several volumes (-v femur.nii.gz tibia.nii.gz --mask ...)
are found one by one first and then refined together, their attenuation adding along each ray.

Writes into OUT (several X-rays: OUT/<name of the X-ray>/, frames of a file: OUT/frame_0000/; several volumes: a folder <name of the volume>/ in there):
  parameters.pt    final pose, trajectory, verdict, metrics, pose in the scanner's coordinates (read_pt.py lists it)
  gt.png           the X-ray as registered: 8 bit, stretched, bone bright, black outside the field, mirrored for a right bone
  init_image.png   DRR at the start pose
  final_img.png    DRR at the final pose (further views: gt_view2.png and so on)
  slicer/          for 3D Slicer: camera and bone transforms (.tfm, LPS), the X-ray on its detector, the bone's outline (PNG, markups JSON)
The last line on standard output is the path of parameters.pt.
With --check nothing of that: check.png and a table say whether X-ray, geometry and CT go together, before slow work.

The verdict is ok, suspect or failed with reasons and uncertainties in mm and degrees. Exit code 0 for ok and suspect, 3 for failed.

Next: create_drr.py, evaluation.py, visualize_3d_drr.py, animate_2d_pose.py.

Example:
  python registration.py knee.dcm -v femur.nii.gz --mask femur_mask.nii.gz -c my_patient.pth -o results
  python registration.py cam1.tif cam2.tif --views --calibration cam1.txt cam2.txt -v radius.nii.gz -o results
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.command_line import flags, script
from common.command_line.flags import add_pose_range_flags, pose_range_from
from common.errors import InputError, going_on, raise_all

if TYPE_CHECKING:
    from common.command_line.registration_inputs import Instant
    from common.pose_network.checkpoint import Checkpoint
    from common.registration.pyramid import View
    from common.registration.scene import Structure
    from common.registration.starts import Starter
    from common.xray.xray import Xray

logger = logging.getLogger("common.script")


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "xray",
        nargs="+",
        type=Path,
        help="X-ray, before the flags: PNG, JPEG, TIFF (8 or 16 bit) or DICOM",
    )
    parser.add_argument(
        "-v",
        "--volume",
        required=True,
        nargs="+",
        type=Path,
        help="CT volume, NIfTI in Hounsfield units; several: one a bone",
    )
    parser.add_argument(
        "-c",
        "--checkpoint",
        type=Path,
        help=(
            "pose network of agnostic.py or finetuned.py (or xvr's); without it the start pose is"
            " searched"
        ),
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="output folder")
    parser.add_argument(
        "--mask",
        nargs="+",
        type=Path,
        help="labelmap on the volume's grid: render only its structures; one a volume",
    )
    parser.add_argument(
        "--labels",
        type=int,
        nargs="+",
        help="labels of --mask to render (default: all); with several volumes, one label each",
    )
    parser.add_argument(
        "--attenuation",
        choices=("auto", "whole", "excess"),
        default="auto",
        help=(
            "whole: everything absorbs; excess: what exceeds soft tissue; auto: excess for a mask"
            " or a cropped bone (default: auto)"
        ),
    )
    parser.add_argument(
        "--context",
        type=Path,
        metavar="CT",
        help=(
            "render this whole CT along with the structure: for a bone that moves with its"
            " surroundings (a vertebra, a scapula in the chest); wrong for a joint, whose"
            " neighbours have moved since the CT"
        ),
    )
    views = parser.add_argument_group("views of one instant")
    views.add_argument(
        "--views",
        action="store_true",
        help=(
            "the X-rays show one instant, a camera each (or several instants, one after the other);"
            " needs --calibration"
        ),
    )
    views.add_argument(
        "--calibration",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=(
            "calibrated cameras in the X-rays' order, repeated in turn where there are more X-rays:"
            " XMALab (MayaCam 2.0 or 1) text, or JSON with K, R, t in mm"
        ),
    )
    detector = parser.add_argument_group(
        "detector geometry (default: the DICOM header, or NAME.json beside NAME.png)"
    )
    detector.add_argument("--sdd", type=float, help="source-to-detector distance, mm")
    detector.add_argument(
        "--pixel_spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="size of a pixel at the detector, mm: one number, or width and height",
    )
    detector.add_argument(
        "--principal_point",
        type=float,
        nargs=2,
        metavar=("COLUMN", "ROW"),
        help="pixel that the perpendicular from the source hits, from 0 (default: the middle)",
    )
    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--bone",
        choices=("auto", "bright", "dark"),
        default="auto",
        help=(
            "bone in the picture as shown by a viewer (default: DICOM header or a guess, which is"
            " printed)"
        ),
    )
    picture.add_argument("--frame", type=int, help="frame of a multi-frame DICOM, from 0")
    picture.add_argument(
        "--side",
        choices=("left", "right"),
        help=(
            "side of a volume that has no lineage: right for a bone that is mirrored to a left one,"
            " whose picture is then flipped (default: the lineage; without one, not mirrored)"
        ),
    )
    picture.add_argument(
        "--flip",
        choices=("auto", "yes", "no"),
        default="auto",
        help=(
            "mirror the picture left to right; auto: for a mirrored volume, or a picture seen from"
            " the detector's side as the checkpoint or, with --init dicom, the header says"
            " (default: auto)"
        ),
    )
    start = parser.add_argument_group("start pose")
    start.add_argument(
        "--init",
        choices=("model", "search", "fixed", "dicom"),
        help=(
            "where refinement starts; dicom: the C-arm's angles in the header (default: model with"
            " -c, else search)"
        ),
    )
    start.add_argument(
        "--init_pose",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=(
            "for --init fixed: an earlier parameters.pt, or a JSON with camera, 4x4"
            " scanner_from_camera (one, or one a view); for several volumes one each, or one"
            " for all"
        ),
    )
    start.add_argument(
        "--search",
        choices=("range", "full"),
        default="range",
        help=(
            "orientations that --init search covers: the pose range, or all (a bone in a lab's"
            " frame) (default: range)"
        ),
    )
    start.add_argument(
        "--sequence",
        action="store_true",
        help=(
            "the X-rays are frames of one motion in order (a multi-frame DICOM counts as its"
            " frames): each starts where the one before ended, and is searched where that is lost"
        ),
    )
    start.add_argument("--seed", type=int, default=0, help="of the scattered starts (default: 0)")
    parser.add_argument(
        "--optimizer",
        choices=("gauss-newton", "adam"),
        default="gauss-newton",
        help=(
            "adam: the field's reference for comparison, first-order ascent of xvr's gmncc from the"
            " one start pose, hundreds of renderings (default: gauss-newton)"
        ),
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=(
            "only look: check.png and a table of geometry, field of view, polarity and (without"
            " --views) orientation, with what to change (exit code 2 where it cannot work)"
        ),
    )
    add_pose_range_flags(parser, "the checkpoint's")
    flags.add_device_flag(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    check_flags(args)
    from common.command_line.registration_inputs import group_xrays, load_views
    from common.registration.register import Followed, register
    from common.registration.starts import Starter

    instants = group_xrays(args, structure_folders(args))
    checkpoint = load_model(args)
    ranges = pose_range_from(args, checkpoint.pose_range if checkpoint else None)
    structures = load_structures(args)
    method = args.init or ("model" if checkpoint else "search")
    starter = Starter(
        method,
        ranges,
        args.search == "full",
        checkpoint,
        build(checkpoint, args) if method == "model" else None,
        args.optimizer,
    )
    settings = {
        "init": method,
        "search": args.search,
        "optimizer": args.optimizer,
        "sequence": args.sequence,
        "seed": args.seed,
        "attenuation": args.attenuation,
        "pose_range": str(ranges),
    }
    settings |= {
        "checkpoint": str(args.checkpoint) if args.checkpoint else None,
        "context": str(args.context) if args.context else None,
    }
    loaded = time.perf_counter() - began
    verdicts, problems, impossible, last = [], [], False, None
    for instant in instants:
        with going_on(problems):
            clock = time.perf_counter()
            views = load_views(instant, args, structures, checkpoint)
            if args.check:
                checked = [
                    check(instant.folder / name, views, structure, starter, args.seed)
                    for name, structure in zip(structure_folders(args), structures, strict=True)
                ]
                impossible |= script.EXIT_BAD_INPUT in checked
                continue
            found = register(views, structures, starter, args.seed, last)
            if args.sequence and all(verdict["verdict"] != "failed" for _, _, verdict in found):
                before = last or [Followed(winner.fit.poses[0], 0.0) for _, winner, _ in found]
                last = [
                    each.then(winner) for each, (_, winner, _) in zip(before, found, strict=True)
                ]
            about = {
                "settings": settings,
                "runtime_s": {"loading": loaded, "registration": time.perf_counter() - clock},
            }
            verdicts += record(instant, args, views, structures, found, about)
    raise_all(problems)
    return (
        script.EXIT_BAD_INPUT
        if impossible
        else script.EXIT_NOT_CONVERGED
        if "failed" in verdicts
        else 0
    )


def record(
    instant: Instant,
    args: argparse.Namespace,
    views: Sequence[View],
    structures: Sequence[Structure],
    found: list,
    about: dict[str, Any],
) -> list[str]:
    """Write each structure's result; returns the verdicts."""
    from common.registration import recording
    from common.results import names

    for name, structure, (start, winner, verdict) in zip(
        structure_folders(args), structures, found, strict=True
    ):
        folder = files.output_folder(instant.folder / name)
        others = [
            (other, rival.fit.poses[0])
            for other, (_, rival, _) in zip(structures, found, strict=True)
            if other is not structure
        ]
        recording.save(folder, views, structure, start, winner, verdict, about, others)
        logger.info(
            summary(
                " + ".join(shot.name for shot in instant.shots),
                name or structure.ct.name,
                verdict,
                about["runtime_s"],
            )
        )
        print(folder / names.PARAMETERS)
    return [verdict["verdict"] for _, _, verdict in found]


def check(
    folder: Path, views: Sequence[View], structure: Structure, starter: Starter, seed: int
) -> int:
    """Write check.png, print the table, and return the exit code: 2 where something is impossible."""
    from common.registration import preflight
    from common.registration.competition import compete_from
    from common.registration.pyramid import View

    start = starter(views, structure)[0]
    cameras = [start @ view.rig_from_camera for view in views]

    def fit(picture: Xray) -> float:
        """Similarity of a registration that starts as the real one would; a stated pose stays where it is."""
        view = View(picture)
        starts = (
            [cameras[0]]
            if starter.method in ("fixed", "dicom")
            else starter([view], structure)[: preflight.STARTS]
        )
        winner = compete_from([view], structure.body, starts, seed)
        return winner.fit.similarity if winner else -1.0

    body, frame = structure.body, structure.ct.lineage.scanner_from_volume
    reports = [
        preflight.examine(
            view.xray, body.renderer, body.points, camera, frame, fit if len(views) == 1 else None
        )
        for view, camera in zip(views, cameras, strict=True)
    ]
    files.output_folder(folder)
    preflight.write_picture(
        folder / preflight.PICTURE,
        reports,
        [view.xray.as_uint8() for view in views],
        [f"--init {starter.method}"] * len(views),
    )
    print(preflight.table(reports))
    print(folder / preflight.PICTURE)
    return preflight.exit_code(reports)


def check_flags(args: argparse.Namespace) -> None:
    """InputError for flags that contradict each other."""
    count = len(args.volume)
    if args.mask and len(args.mask) != count:
        raise InputError(
            "--mask",
            f"{len(args.mask)} labelmaps for {count} volumes",
            "one a volume, in their order",
            "correct the flags",
        )
    if args.labels and not args.mask:
        raise InputError("--labels", "no labelmap", "--mask with it", "add --mask FILE")
    if args.labels and count > 1 and len(args.labels) != count:
        raise InputError(
            "--labels",
            f"{len(args.labels)} labels for {count} volumes",
            "one label a volume",
            "correct the flags",
        )
    cameras = len(args.calibration or [])
    if args.views and cameras < 2:
        raise InputError(
            "--views",
            f"{cameras} calibrations",
            "one a camera, two or more, in the X-rays' order",
            "add --calibration FILE FILE",
        )
    if cameras and len(args.xray) % cameras:
        raise InputError(
            "--calibration",
            f"{cameras} files for {len(args.xray)} X-rays",
            "one an X-ray of an instant, in their order",
            "correct the flags",
        )
    if args.calibration and (args.sdd or args.principal_point):
        raise InputError(
            "--calibration",
            "given with --sdd or --principal_point",
            "the camera from one source",
            "drop the other flags",
        )
    if args.pixel_spacing is not None and len(args.pixel_spacing) > 2:
        raise InputError(
            "--pixel_spacing",
            f"{len(args.pixel_spacing)} numbers",
            "one, or two (width, height), in mm",
            "correct the flag",
        )
    if args.init == "model" and args.checkpoint is None:
        raise InputError(
            "--init model", "no checkpoint", "-c model.pth", "give one or use --init search"
        )
    if (args.init == "fixed") != (args.init_pose is not None):
        raise InputError(
            f"--init {args.init}",
            f"with --init_pose {args.init_pose}",
            "both --init fixed and --init_pose FILE, or neither",
            "correct the flags",
        )
    if args.init_pose and len(args.init_pose) not in (1, count):
        raise InputError(
            "--init_pose",
            f"{len(args.init_pose)} files for {count} volumes",
            "one a volume, in their order, or one for all",
            "correct the flags",
        )


def structure_folders(args: argparse.Namespace) -> list[str]:
    """Sub-folder of each volume: none for a single one, else its stem, with its label where stems are the same."""
    if len(args.volume) == 1:
        return [""]
    stems = [files.stem(path) for path in args.volume]
    if len(set(stems)) == len(stems):
        return stems
    named = [
        f"{stem}_{label}"
        for stem, label in zip(stems, args.labels or range(len(stems)), strict=True)
    ]
    if len(set(named)) < len(named):
        raise InputError(
            "-v",
            f"volumes share a name and label ({', '.join(named)})",
            "different bones",
            "correct -v or --labels",
        )
    return named


def load_model(args: argparse.Namespace) -> Checkpoint | None:
    if args.checkpoint is None:
        return None
    from common.pose_network.checkpoint import load_checkpoint

    return load_checkpoint(args.checkpoint)


def build(checkpoint: Checkpoint, args: argparse.Namespace):
    from common.drr.renderer import choose_device
    from common.pose_network.prediction import build_network

    return build_network(checkpoint, choose_device(args.device))


def load_structures(args: argparse.Namespace) -> list[Structure]:
    from common.drr.renderer import choose_device
    from common.registration.scene import load_structure
    from common.volume.lineage import with_stated_side

    device = choose_device(args.device)
    structures = []
    for index, path in enumerate(args.volume):
        labels = args.labels if len(args.volume) == 1 or not args.labels else [args.labels[index]]
        structure = load_structure(
            path,
            args.mask[index] if args.mask else None,
            labels,
            args.attenuation,
            args.context,
            device,
        )
        given = args.init_pose and args.init_pose[index if len(args.init_pose) > 1 else 0]
        structures.append(
            replace(
                structure,
                given=given,
                ct=replace(
                    structure.ct, lineage=with_stated_side(path, structure.ct.lineage, args.side)
                ),
            )
        )
    if len({structure.ct.lineage.mirrored for structure in structures}) > 1:
        raise InputError(
            "-v",
            "some volumes are mirrored and some are not",
            "bones of one side",
            "register the sides in separate calls",
        )
    return structures


def summary(
    pictures: str, structure: str, verdict: dict[str, Any], seconds: dict[str, float]
) -> str:
    deviations = (
        f"{verdict['in_plane_sd_mm']:.2f} mm in plane, {verdict['depth_sd_mm']:.2f} mm in depth,"
        f" {verdict['rotation_sd_deg']:.2f} deg"
    )
    return "; ".join(
        [
            f"{pictures}, {structure}: {verdict['verdict']}, standard deviation {deviations}",
            *verdict["reasons"],
            f"{seconds['registration']:.1f} s",
        ]
    )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
