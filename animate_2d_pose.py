# PYTHON_ARGCOMPLETE_OK
"""Animate a registration: the DRR moving onto the X-ray, pose by pose, as a GIF.

reads   a CT (NIfTI, Hounsfield units) in the frame of the registered volume
        parameters.pt of registration.py (step 7): the X-ray, the detector and the trajectory of poses
writes  a GIF; DRR and X-ray are at most 400 pixels wide. Every frame says its iteration, similarity and scale; the last one stays a second.
        overlay     the X-ray in red, the DRR in cyan: grey where they agree
        difference  DRR minus X-ray: red where the DRR is brighter, blue where it is darker, white where they agree
        side        X-ray left, DRR right
        checkerboard  squares of both in turn
        The DRR's grey values are matched to the X-ray's by one monotone curve, found at the final pose.
frame   the volume's own world; pixels of the X-ray as registered
step    after registration.py (step 7)

example
  python animate_2d_pose.py --volume P01_femur.nii.gz --parameters results/parameters.pt --output_path results/registration.gif
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.command_line import flags, script
from common.errors import InputError
from common.progress import track
from common.reports import overlays

if TYPE_CHECKING:
    from common.results.result import Result

logger = logging.getLogger("common.script")


MODES = ("overlay", "difference", "side", "checkerboard")
MAX_FRAMES = 60
MAX_WIDTH = 400
FRAME_MS, LAST_MS = 120, 1000
SAME_DEG, SAME_MM = 0.01, 0.01  # poses closer than this make the same picture
LEGENDS = {
    "overlay": "red: X-ray   cyan: DRR",
    "difference": "red: DRR brighter   blue: X-ray brighter",
    "side": "left: X-ray   right: DRR",
    "checkerboard": "X-ray and DRR in turn",
}
FONT_PX, LINE_PX = 13, 18


@dataclass(frozen=True)
class Step:
    """A pose of the trajectory and its caption."""

    pose: np.ndarray
    caption: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--volume", required=True, metavar="CT", help="CT to render (.nii or .nii.gz)"
    )
    parser.add_argument(
        "--parameters", required=True, metavar="PT", help="parameters.pt of registration.py"
    )
    parser.add_argument(
        "--output_path", required=True, metavar="GIF", help="animation to write, .gif"
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="how DRR and X-ray are shown (default: overlay)",
    )
    parser.add_argument(
        "--max_frames",
        type=int,
        default=MAX_FRAMES,
        metavar="N",
        help=(
            "at most this many frames; first and last pose are always shown (default:"
            f" {MAX_FRAMES})"
        ),
    )
    flags.add_device_flag(parser)
    return parser


def choose_steps(result: Result, max_frames: int) -> list[Step]:
    """Start pose, trajectory, final pose: without repeats, thinned evenly to ``max_frames``, first and last kept."""
    similarity, scale = result.trajectory["similarity"], result.trajectory["scale"]
    poses = [*result.trajectory_poses()]
    count = len(poses)
    captions = [
        (
            (
                f"iteration {i + 1} of {count}",
                f"similarity {similarity[i]:.3f}",
                f"scale {scale[i]:g} mm",
            )
            if scale[i] > 0
            else ("start pose",)
        )
        for i in range(count)
    ]
    steps = [Step(pose, caption) for pose, caption in zip(poses, captions, strict=True)]
    if not steps or not _same(steps[0].pose, result.init_pose):
        steps.insert(0, Step(result.init_pose, ("start pose",)))
    if not _same(steps[-1].pose, result.final_pose):
        steps.append(Step(result.final_pose, ("final pose",)))
    different = [steps[0]]
    for step in steps[1:]:
        if _same(step.pose, different[-1].pose):
            different[-1] = (
                step if len(different) > 1 else different[-1]
            )  # the later caption tells more, except of the start
        else:
            different.append(step)
    kept = np.unique(
        np.linspace(0, len(different) - 1, min(max_frames, len(different))).round().astype(int)
    )
    return [different[i] for i in kept]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    from common import geometry

    return (
        geometry.rotation_angle_deg(a[:3, :3].T @ b[:3, :3]) < SAME_DEG
        and float(np.linalg.norm(a[:3, 3] - b[:3, 3])) < SAME_MM
    )


def compose(mode: str, xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """One frame without its caption, (H, W, 3) uint8, of two pictures in 0..1."""
    if mode == "overlay":
        picture = overlays.red_cyan(xray, drr)
    elif mode == "difference":
        change = np.clip(2 * (drr - xray), -1, 1)
        picture = np.stack(
            [1 - np.clip(-change, 0, 1), 1 - np.abs(change), 1 - np.clip(change, 0, 1)], -1
        )
    elif mode == "checkerboard":
        picture = np.repeat(overlays.checkerboard(xray, drr)[..., None], 3, -1)
    else:
        gap = np.ones((len(xray), 4))
        picture = np.repeat(np.hstack([xray, gap, drr])[..., None], 3, -1)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def write_captions(
    frames: list[np.ndarray], captions: list[tuple[str, ...]], pixel_mm: float
) -> list[Any]:
    """Pillow images with a scale bar and their captions below, all of one size; ``pixel_mm`` is a pixel's size at the bone."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_PX)
    width = frames[0].shape[1]
    texts = [_wrap(parts, width - 8, font) for parts in captions]
    length_mm = overlays.scale_bar(width * pixel_mm)
    bar = [(4, 8), (4 + length_mm / pixel_mm, 8)]  # below the picture, so that it hides nothing
    footer = LINE_PX * (1 + max(map(len, texts))) + 6
    images = []
    for frame, lines in zip(frames, texts, strict=True):
        canvas = Image.new("RGB", (width, frame.shape[0] + footer), "black")
        canvas.paste(Image.fromarray(frame), (0, 0))
        draw, top = ImageDraw.Draw(canvas), frame.shape[0] + 2
        draw.line([(x, top + y) for x, y in bar], fill="white", width=3)
        draw.text((bar[1][0] + 8, top), f"{length_mm:g} mm", fill="white", font=font)
        draw.multiline_text(
            (4, top + LINE_PX), "\n".join(lines), fill="white", font=font, spacing=LINE_PX - FONT_PX
        )
        images.append(canvas)
    return images


def _wrap(parts: tuple[str, ...], width: int, font: Any) -> list[str]:
    """The parts joined into as few lines as fit ``width`` pixels."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}   {part}"
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def animate(
    result: Result, renderer: Any, registered_to_world: np.ndarray, mode: str, max_frames: int
) -> list[Any]:
    """Render the steps of a registration over its X-ray. Returns Pillow images.

    ``renderer`` is a `common.rendering.Renderer`, ``registered_to_world`` brings the registered volume's world to its world.
    """
    factor = -(-result.detector.width // MAX_WIDTH)
    detector = result.detector.binned(factor)
    height, width = detector.height * factor, detector.width * factor
    xray = (
        result.picture[:height, :width]
        .reshape(detector.height, factor, detector.width, factor)
        .mean(axis=(1, 3))
        / 255
    )
    steps = choose_steps(result, max_frames)
    cameras = [registered_to_world @ result.volume_from_camera(step.pose) for step in steps]
    coarse = renderer.coarser(
        min(detector.pixel_mm) / 2
    )  # a voxel is magnified on its way to the detector
    drrs = [
        coarse.render(camera[None], detector)[0]
        for camera in track(cameras, what="rendering", unit="frame")
    ]
    if not drrs[-1].any():
        raise InputError(
            "the volume",
            "casts no shadow on the detector from the final pose",
            "a CT in the frame of the registered volume",
            "check that both files belong together",
        )
    tone = overlays.match_tone(drrs[-1], xray)
    pixel_mm = overlays.mm_per_pixel(detector, result.bone_depth_mm)
    frames = [compose(mode, xray, tone(drr)) for drr in drrs]
    return write_captions(frames, [(*step.caption, LEGENDS[mode]) for step in steps], pixel_mm)


def run(args: argparse.Namespace) -> int | None:
    volume_path = files.existing_file(args.volume, "a CT volume (NIfTI)")
    parameters = files.existing_file(args.parameters, "parameters.pt of registration.py")
    if not args.output_path.lower().endswith(".gif"):
        raise InputError(
            args.output_path, "is no GIF name", "--output_path to end in .gif", "rename it"
        )
    if args.max_frames < 2:
        raise InputError(
            f"--max_frames {args.max_frames}",
            "too few",
            "2 or more, the first and last pose",
            "correct it",
        )
    files.check_outputs([args.output_path], args.overwrite, [volume_path, parameters])

    from common.drr.renderer import choose_device, make_renderer
    from common.results import parameters_file
    from common.results.result import world_from_registered
    from common.volume import attenuation, nifti

    result = parameters_file.load(parameters)
    ct = nifti.load_ct(volume_path)
    device = choose_device(args.device)
    moved = world_from_registered(result, ct)
    renderer = make_renderer(
        attenuation.select_structures(ct, None, None, attenuation.WHOLE_ATTENUATION_HU), device
    )
    images = animate(result, renderer, moved, args.mode, args.max_frames)
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_MS]
    with files.writing(args.output_path) as stream:
        images[0].save(
            stream,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
        )
    logger.info(
        f"{len(images)} frames of {images[0].width} x {images[0].height} pixels, {args.mode}, from"
        f" {len(result.trajectory['r1'])} poses"
    )
    print(args.output_path)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
