"""Step 7: find the pose that aligns a CT with an X-ray (2D/3D registration).

Reads an X-ray (PNG, JPEG, TIFF or DICOM; several share one start-up), a CT volume from step 4 (any NIfTI CT
works) and, with -c, a pose network from step 6. Without -c the start pose is searched over the pose range.

The detector's geometry comes from --sdd and --pixel_spacing (mm, at the detector), else from the DICOM header, else from the
checkpoint's training geometry, and the message says which. --mask and --labels render only those structures: one bone in a
picture of a whole limb. A bone is compared by what it adds to the soft tissue around it, a whole CT by its whole attenuation.
The X-ray of a mirrored (right) bone is flipped like the bone (by the volume's lineage, or --side); poses are reported in the real, unmirrored world.

Writes into OUT (several X-rays: OUT/<name of the X-ray>/):
  parameters.pt    final pose, trajectory, verdict, metrics, pose in the scanner's coordinates (read_pt.py lists it)
  gt.png           the X-ray as registered, bone bright
  init_image.png   DRR at the start pose
  final_img.png    DRR at the final pose
The last line on standard output is the path of parameters.pt.

The verdict is ok, suspect or failed with reasons and uncertainties in mm and degrees. Exit code 0 for ok and suspect, 3 for failed.

Next: create_drr.py, evaluation.py, visualize_3d_drr.py, animate_2d_pose.py.

Example:
  python registration.py knee.dcm -v femur.nii.gz --mask femur_mask.nii.gz -c my_patient.pth -o results
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import cli, geometry
from common.poserange import PoseRange, add_pose_range_flags, pose_range_from

if TYPE_CHECKING:
    from common.refinement import Body
    from common.results import Result
    from common.start import Winner
    from common.volumes import Volume
    from common.xrays import Xray

# of the refined poses on knee and chest X-rays with known truth: right ones 0.4 (a scapula's crop) to 0.93, wrong ones 0.02 to 0.52
FAILED_SIMILARITY, SUSPECT_SIMILARITY = 0.25, 0.65
OUTPUTS = ("parameters.pt", "gt.png", "init_image.png", "final_img.png")


def build_parser() -> argparse.ArgumentParser:
    parser = cli.build_parser(__doc__)
    parser.add_argument("xray", nargs="+", type=Path, help="X-ray: PNG, JPEG, TIFF (8 or 16 bit) or DICOM")
    parser.add_argument("-v", "--volume", required=True, type=Path, help="CT volume, NIfTI in Hounsfield units")
    parser.add_argument("-c", "--checkpoint", type=Path, help="pose network of agnostic.py or finetuned.py (or xvr's); without it the start pose is searched")
    parser.add_argument("-o", "--output", required=True, type=Path, help="output folder")
    parser.add_argument("--mask", type=Path, help="labelmap on the volume's grid: render only its structures")
    parser.add_argument("--labels", type=int, nargs="+", help="labels of --mask to render (default: all)")
    parser.add_argument(
        "--attenuation",
        choices=("auto", "whole", "excess"),
        default="auto",
        help="whole: everything absorbs; excess: what exceeds soft tissue; auto: excess for a mask or a cropped bone (default: auto)",
    )
    detector = parser.add_argument_group("detector geometry (default: the DICOM header)")
    detector.add_argument("--sdd", type=float, help="source-to-detector distance, mm")
    detector.add_argument("--pixel_spacing", type=float, nargs="+", metavar="MM", help="pixel size at the detector, mm: one number, or along columns and along rows")
    detector.add_argument(
        "--principal_point", type=float, nargs=2, metavar=("COLUMN", "ROW"), help="pixel that the perpendicular from the source hits, from 0 (default: the middle)"
    )
    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--bone", choices=("auto", "bright", "dark"), default="auto", help="bone in the picture as shown by a viewer (default: DICOM header or a guess, which is printed)"
    )
    picture.add_argument("--frame", type=int, help="frame of a multi-frame DICOM, from 0")
    picture.add_argument(
        "--flip",
        choices=("auto", "yes", "no"),
        default="auto",
        help="mirror the picture left to right; auto: for a mirrored volume, or a picture seen from the detector's side as the checkpoint says (default: auto)",
    )
    picture.add_argument(
        "--side",
        choices=("left", "right"),
        help="side of a volume that has no lineage: right for a bone that is mirrored to a left one, whose picture is then flipped (default: the lineage; without one, not mirrored)",
    )
    start = parser.add_argument_group("start pose")
    start.add_argument("--init", choices=("model", "search", "fixed", "dicom"), help="where refinement starts (default: model with -c, else search)")
    start.add_argument("--init_pose", type=Path, help="for --init fixed: an earlier parameters.pt, or a JSON with camera, 4x4 scanner_from_camera")
    start.add_argument("--seed", type=int, default=0, help="of the scattered starts (default: 0)")
    add_pose_range_flags(parser, "the checkpoint's")
    cli.add_device_flag(parser)
    return parser


@dataclass(frozen=True)
class Scene:
    """What all X-rays of a call share."""

    volume: Volume  # attenuation, cut to the structures
    whole: Volume  # the same structures with their whole attenuation, for pictures
    ct: Volume
    body: Body
    ranges: PoseRange
    excess: bool  # rendered as what exceeds soft tissue


def register_xray(xray: Xray, scene: Scene, starts: list[np.ndarray], seed: int) -> Winner | None:
    """Refine several starts (volume_from_camera) of one X-ray and return the best; None where the bone is outside the picture."""
    from common.refinement import View
    from common.start import compete

    if len(starts) > 1:  # a search's list: those compete, no scatter around the first
        return compete([View(xray)], scene.body, starts, scatter=0, keep=len(starts), seed=seed)
    return compete([View(xray)], scene.body, starts, seed=seed)


def better(one: Winner | None, other: Winner | None) -> Winner | None:
    """The winner that explains more of the picture; the first where both do equally."""
    if one is None or other is None:
        return one or other
    return other if other.fit.similarity > one.fit.similarity + 1e-3 else one


def judge(winner: Winner, xray: Xray, scene: Scene) -> dict[str, Any]:
    """Verdict with its reasons: agreement of starts, uncertainty from the curvature, share of the body in view, residual.

    Standard deviations are of the body in the camera's frame: in plane (rms of two axes), depth, and rotation (rms of three axes).
    """
    camera, body = winner.fit.poses[0], scene.body
    pixels = geometry.project(body.points, xray.detector, camera)
    in_view = float(((pixels >= 0) & (pixels <= np.array([xray.detector.width, xray.detector.height]) - 1)).all(1).mean())
    shift = camera[:3, :3].T @ winner.fit.covariance[3:, 3:] @ camera[:3, :3]
    deviations = {
        "in_plane_sd_mm": float(np.sqrt((shift[0, 0] + shift[1, 1]) / 2)),
        "depth_sd_mm": float(np.sqrt(shift[2, 2])),
        "rotation_sd_deg": float(np.degrees(np.sqrt(np.trace(winner.fit.covariance[:3, :3]) / 3))),
    }
    reasons = []
    rival = winner.runner_up
    apart = None
    if rival is not None:
        error = geometry.pose_error(rival.poses[0], camera, body.points, xray.detector)
        apart = {"in_plane_mm": error.in_plane_mm, "rotation_deg": error.rotation_deg, "similarity": rival.similarity}
        if (error.in_plane_mm > 1 or error.rotation_deg > 2) and rival.similarity > winner.fit.similarity - 0.03:
            reasons.append(f"another pose, {error.in_plane_mm:.1f} mm and {error.rotation_deg:.1f} deg away, fits nearly as well")
    if deviations["in_plane_sd_mm"] > 1 or deviations["rotation_sd_deg"] > 2:
        reasons.append(f"the picture determines the pose poorly (in plane {deviations['in_plane_sd_mm']:.1f} mm, rotation {deviations['rotation_sd_deg']:.1f} deg)")
    if in_view < 0.5 and scene.excess:  # a whole CT is larger than most pictures
        reasons.append(f"only {100 * in_view:.0f} % of the structure is inside the picture")
    if winner.fit.similarity < SUSPECT_SIMILARITY:
        reasons.append(f"the rendering explains little of the picture (similarity {winner.fit.similarity:.2f})")
    failed = winner.fit.similarity < FAILED_SIMILARITY or in_view < 0.05
    return {
        "verdict": "failed" if failed else "suspect" if reasons else "ok",
        "reasons": reasons,
        **deviations,
        "in_view": in_view,
        "similarity": winner.fit.similarity,
        "other_start": apart,
    }


def run(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    folders = output_folders(args)
    checkpoint = load_model(args)
    method = args.init or ("model" if checkpoint else "search")
    if method == "model" and checkpoint is None:
        raise cli.InputError("--init model: no checkpoint; expected -c model.pth; give one or use --init search")
    if (method == "fixed") != (args.init_pose is not None):
        raise cli.InputError(f"--init {method} with --init_pose {args.init_pose}; expected both --init fixed and --init_pose FILE, or neither; correct the flags")
    scene = load_scene(args, checkpoint)
    network = build(checkpoint, args) if method == "model" else None
    loaded = time.perf_counter() - began
    verdicts, problems = [], []
    for path, folder in zip(args.xray, folders, strict=True):
        try:
            clock = time.perf_counter()
            xray = load_xray(path, args, scene, checkpoint)
            starts = start_poses(method, xray, scene, args, checkpoint, network)
            winner = register_xray(xray, scene, starts, args.seed)
            if method == "model" and (winner is None or judge(winner, xray, scene)["verdict"] != "ok"):
                cli.note(f"{path.name}: not certain from the network's start; searching the pose range too")
                winner = better(winner, register_xray(xray, scene, start_poses("search", xray, scene, args, checkpoint, network), args.seed))
            if winner is None:
                raise cli.InputError(
                    f"{path}: the start pose shows nothing of {args.volume.name} inside the picture; expected the bone in view; widen the pose range or use --init search"
                )
            seconds = {"loading": loaded, "registration": time.perf_counter() - clock}
            verdict = judge(winner, xray, scene)
            save_all(folder, args, xray, scene, starts[0], winner, verdict, seconds, method)
        except cli.InputError as error:
            if len(args.xray) == 1:
                raise
            problems.append(str(error))
            continue
        verdicts.append(verdict["verdict"])
        cli.note(summary(path, verdict, seconds))
        print(folder / "parameters.pt")
    for problem in problems:
        cli.warn(problem)
    return cli.EXIT_BAD_INPUT if problems else cli.EXIT_NOT_CONVERGED if "failed" in verdicts else 0


def output_folders(args: argparse.Namespace) -> list[Path]:
    """One folder per X-ray; refused where results are already there."""
    stems = [cli.stem(path) for path in args.xray]
    if len(set(stems)) != len(stems):
        raise cli.InputError(
            f"X-rays share a name ({', '.join(sorted({s for s in stems if stems.count(s) > 1}))}); expected different file names in one call; register them in separate calls"
        )
    folders = [args.output / stem for stem in stems] if len(stems) > 1 else [args.output]
    cli.check_outputs([folder / name for folder in folders for name in OUTPUTS], args.overwrite, [*args.xray, args.volume])
    for path in args.xray:
        cli.existing_file(path, "an X-ray (PNG, JPEG, TIFF or DICOM)")
    return folders


def load_model(args: argparse.Namespace):
    if args.checkpoint is None:
        return None
    from common.network import load_checkpoint

    return load_checkpoint(args.checkpoint)


def build(checkpoint, args: argparse.Namespace):
    from common.network import build_network
    from common.rendering import choose_device

    return build_network(checkpoint, choose_device(args.device))


def load_scene(args: argparse.Namespace, checkpoint) -> Scene:
    from common.lineage import with_stated_side
    from common.refinement import Body
    from common.rendering import WHOLE_ATTENUATION_HU, choose_device, make_renderer, select_structures
    from common.volumes import SOFT_TISSUE_HU, load_ct, load_labelmap, points_of

    if args.labels and not args.mask:
        raise cli.InputError("--labels: no labelmap; expected --mask with it; add --mask FILE")
    ct = load_ct(args.volume)
    ct = replace(ct, lineage=with_stated_side(args.volume, ct.lineage, args.side))
    mask = load_labelmap(args.mask) if args.mask else None
    excess = args.attenuation == "excess" or (args.attenuation == "auto" and (mask is not None or ct.lineage.bone is not None))
    whole = select_structures(ct, mask, args.labels, WHOLE_ATTENUATION_HU)
    volume = select_structures(ct, mask, args.labels, SOFT_TISSUE_HU) if excess else whole
    if not volume.data.any():
        raise cli.InputError(f"{args.volume}: nothing in it absorbs X-rays; expected a CT in Hounsfield units; check the file")
    cli.note(
        f"{args.volume.name}: {'excess over soft tissue' if excess else 'whole attenuation'} of {'labels ' + str(args.labels or 'all') if mask is not None else 'the whole volume'}"
    )
    points = points_of(volume, volume.data > 0.002 if not excess else volume.data > 0)
    device = choose_device(args.device)
    ranges = pose_range_from(args, checkpoint.pose_range if checkpoint else None)
    return Scene(volume, whole, ct, Body(make_renderer(volume, device, volume.isocentre_mm if mask is not None else ct.isocentre_mm), points), ranges, excess)


def load_xray(path: Path, args: argparse.Namespace, scene: Scene, checkpoint) -> Xray:
    from common.xrays import GeometryFlags, read

    spacing = args.pixel_spacing
    if spacing is not None and len(spacing) > 2:
        raise cli.InputError(f"--pixel_spacing: {len(spacing)} numbers; expected one, or two (along columns, along rows), in mm; correct the flag")
    pixel = None if spacing is None else (spacing[0], spacing[-1])
    flags = GeometryFlags(args.sdd, pixel, tuple(args.principal_point) if args.principal_point else None)
    xray = read(path, flags, checkpoint.detector if checkpoint else None, args.bone, args.frame)
    flip = args.flip == "yes"
    if args.flip == "auto":
        from_behind = checkpoint is not None and not checkpoint.config.get("reverse_x_axis", False)
        flip = scene.ct.lineage.mirrored != from_behind
        if flip:
            cli.note(f"{path.name}: flipped left to right ({'the volume is mirrored' if scene.ct.lineage.mirrored else 'the checkpoint takes pictures seen from the detector'})")
    return xray.flip() if flip else xray


def start_poses(method: str, xray: Xray, scene: Scene, args: argparse.Namespace, checkpoint, network) -> list[np.ndarray]:
    """Start poses, volume_from_camera, best first."""
    from common.refinement import View
    from common.start import search

    isocentre = geometry.translation(scene.ct.isocentre_mm)
    if method == "search":
        return search(View(xray), scene.body, scene.ranges)
    if method == "model":
        from common.network import predict_pose

        return [isocentre @ geometry.camera_from_pose(predict_pose(network, checkpoint, xray))]
    if method == "fixed":
        return [given_pose(args.init_pose, xray, scene.ct.lineage.scanner_from_volume)]
    return [isocentre @ geometry.camera_from_pose(geometry.pose_from_angles(*dicom_angles(xray)))]


def given_pose(path: Path, xray: Xray, scanner_from_volume: np.ndarray) -> np.ndarray:
    """volume_from_camera of an earlier parameters.pt, or of a JSON whose ``camera`` is scanner_from_camera of the picture on disk."""
    if path.suffix.lower() != ".json":
        from common.results import load

        camera = np.array(load(path).scanner_pose[0]["camera"])
    else:
        camera = np.array(cli.read_json(path, "a start pose with 'camera', 4x4").get("camera"), dtype=float)
    camera = camera.reshape(-1, 4, 4)[0] if camera.size and camera.size % 16 == 0 else camera
    if camera.shape != (4, 4) or not np.allclose(camera[:3, :3].T @ camera[:3, :3], np.eye(3), atol=1e-3):
        raise cli.InputError(f"{path}: its camera is no rigid 4x4 transform; expected scanner_from_camera as in scanner_pose of parameters.pt; correct the file")
    turn = np.diag([-1.0, 1, 1, 1]) if xray.flipped else np.eye(4)
    start = geometry.invert(scanner_from_volume) @ camera @ turn
    if np.linalg.det(start[:3, :3]) < 0:
        raise cli.InputError(f"{path}: its camera is mirrored against the picture; expected the pose of the same X-ray and side; check --flip")
    return start


def dicom_angles(xray: Xray) -> tuple[np.ndarray, np.ndarray]:
    """(r1, r2, 0) degrees and (0, ty, 0) mm from the positioner's tags; InputError where one is absent."""
    import pydicom

    from common.xrays import is_dicom

    tags = ("PositionerPrimaryAngle", "PositionerSecondaryAngle", "DistanceSourceToPatient")
    header = pydicom.dcmread(xray.path, stop_before_pixels=True) if is_dicom(xray.path) else {}
    values = [header.get(tag) for tag in tags]
    if any(value is None for value in values):
        absent = [tag for tag, value in zip(tags, values, strict=True) if value is None]
        raise cli.InputError(f"{xray.path}: --init dicom, but no {', '.join(absent)} in the file; expected all of {', '.join(tags)}; use --init search")
    primary, secondary, distance = map(float, values)
    return np.array([primary, secondary, 0.0]), np.array([0.0, distance, 0.0])


def save_all(folder: Path, args: argparse.Namespace, xray: Xray, scene: Scene, start: np.ndarray, winner: Winner, verdict: dict, seconds: dict, method: str) -> None:
    """Write the pictures and, last, parameters.pt."""
    from common import results
    from common.rendering import make_renderer
    from common.similarity import ncc

    final = winner.fit.poses[0]
    pictures = make_renderer(scene.whole, "cpu").render(np.stack([start, final]), xray.detector)
    gt = xray.as_uint8()
    for name, image in zip(OUTPUTS[1:], [gt, stretched(pictures[0]), stretched(pictures[1])], strict=True):
        write_png(folder / name, image)
    metrics = {
        "similarity": winner.fit.similarity,
        "ncc_init": ncc(pictures[0][xray.valid], xray.image[xray.valid]),
        "ncc_final": ncc(pictures[1][xray.valid], xray.image[xray.valid]),
    }
    results.save(folder / "parameters.pt", as_result(args, xray, scene, start, winner, verdict, seconds, method, metrics, gt))


def as_result(
    args: argparse.Namespace, xray: Xray, scene: Scene, start: np.ndarray, winner: Winner, verdict: dict, seconds: dict, method: str, metrics: dict, gt: np.ndarray
) -> Result:
    from common import results

    isocentre = scene.ct.isocentre_mm
    canonical_from_volume = geometry.translation(-isocentre)
    final = winner.fit.poses[0]
    rows = [(start, 0.0, 0.0, 0.0), *winner.trace.rows]
    columns = np.array(
        [[*np.concatenate(geometry.angles_from_pose(geometry.pose_from_camera(canonical_from_volume @ pose))), similarity, clock, pixel] for pose, similarity, clock, pixel in rows]
    )
    scanner_from_volume = scene.ct.lineage.scanner_from_volume
    return results.Result(
        drr={
            "volume": str(args.volume), "volume_sha256": cli.sha256(args.volume), "source": scene.ct.lineage.source, "mask": str(args.mask) if args.mask else None, "labels": args.labels,
            **results.detector_entries(xray.detector, isocentre),
            "scanner_from_volume": scanner_from_volume.tolist(), "points_mm": scene.body.points.tolist(),
        },
        xray={"file": str(xray.path), "sha256": cli.sha256(xray.path), "flipped": xray.flipped, **xray.reading, "image": gt},
        init_pose=geometry.pose_from_camera(canonical_from_volume @ start),
        final_pose=geometry.pose_from_camera(canonical_from_volume @ final),
        trajectory={name: columns[:, i].tolist() for i, name in enumerate(results.TRAJECTORY_COLUMNS)},
        verdict=verdict,
        metrics=metrics,
        scanner_pose=[results.scanner_view(xray.detector, final, start, scanner_from_volume, xray.flipped)],
        runtime_s=seconds,
        settings={"init": method, "seed": args.seed, "attenuation": args.attenuation, "candidates": winner.candidates, "checkpoint": str(args.checkpoint) if args.checkpoint else None, "pose_range": str(scene.ranges)},
        versions=cli.versions("torch", "numpy", "scipy", "numba", "diffdrr"),
    )  # fmt: skip


def stretched(image: np.ndarray) -> np.ndarray:
    """Line integrals as 8-bit grey, lowest black, highest white."""
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)


def write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    with cli.atomic(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")


def summary(path: Path, verdict: dict, seconds: dict) -> str:
    line = f"{path.name}: {verdict['verdict']}, standard deviation {verdict['in_plane_sd_mm']:.2f} mm in plane, {verdict['depth_sd_mm']:.2f} mm in depth, {verdict['rotation_sd_deg']:.2f} deg; {seconds['registration']:.1f} s"
    return "; ".join([line, *verdict["reasons"]])


main = cli.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
