"""A registration as an animation: the DRR moves onto the X-ray, pose by pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files, geometry
from common.errors import InputError
from common.geometry import Detector
from common.geometry.blocks import block_mean
from common.progress import track
from common.reports import overlays
from common.results.result import Result
from common.xray.grey_values import as_uint8

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

# mode: legend
LEGENDS = {
    "overlay": "red: X-ray   cyan: DRR",
    "difference": "red: DRR brighter   blue: X-ray brighter",
    "side": "left: X-ray   right: DRR",
    "checkerboard": "X-ray and DRR alternate",
}
MAX_WIDTH = 400  # of one image, pixels
FRAME_MS, LAST_MS = 120, 1000
# poses closer than this give the same image
SAME_DEG, SAME_MM = 0.01, 0.01
FONT_PX, LINE_PX = 13, 18
GAP_PX = 4  # between X-ray and DRR side by side

Render = Callable[[np.ndarray, Detector], np.ndarray]


@dataclass(frozen=True)
class Step:
    """A pose of the trajectory, (4, 4) canonical_from_carm, and its caption in parts."""

    pose: np.ndarray
    caption: tuple[str, ...]


def choose_steps(result: Result, max_frames: int) -> list[Step]:
    """Return start pose, trajectory and final pose, without repeated poses.

    Longer trajectories are thinned evenly to ``max_frames``; first and last pose are kept.
    """
    steps = _trajectory_steps(result)
    if not steps or not _same(steps[0].pose, result.init_pose):
        steps.insert(0, Step(result.init_pose, ("start pose",)))
    if not _same(steps[-1].pose, result.final_pose):
        steps.append(Step(result.final_pose, ("final pose",)))
    different = [steps[0]]
    for step in steps[1:]:
        if not _same(step.pose, different[-1].pose):
            different.append(step)
        elif len(different) > 1:
            # of equal poses the last one has the caption; the start pose keeps its own
            different[-1] = step
    count = min(max_frames, len(different))
    kept = np.unique(np.linspace(0, len(different) - 1, count).round().astype(int))
    return [different[i] for i in kept]


def _trajectory_steps(result: Result) -> list[Step]:
    poses = result.trajectory_poses()
    similarity, scale = result.trajectory["similarity"], result.trajectory["scale"]
    return [
        Step(
            pose,
            (
                f"iteration {i + 1} of {len(poses)}",
                f"similarity {similarity[i]:.3f}",
                f"scale {scale[i]:g} mm",
            )
            if scale[i] > 0
            else ("start pose",),
        )
        for i, pose in enumerate(poses)
    ]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return (
        geometry.rotation_angle_deg(a[:3, :3].T @ b[:3, :3]) < SAME_DEG
        and float(np.linalg.norm(a[:3, 3] - b[:3, 3])) < SAME_MM
    )


def binning(detector: Detector) -> int:
    """Return the factor by which the pixels are averaged so that `MAX_WIDTH` is not exceeded."""
    return -(-detector.width // MAX_WIDTH)


def animate(
    result: Result,
    render: Render,
    volume_from_registered: np.ndarray,
    mode: str,
    max_frames: int,
) -> list[Image]:
    """Render the steps of a registration over its X-ray, as Pillow images of the same size.

    ``render`` maps cameras (B, 4, 4), volume_from_camera, and a detector to line integrals
    (B, H, W); ``volume_from_registered`` is (4, 4), from the frame of the registered volume to
    that of the rendered one. ``mode`` is one of `LEGENDS`. Raises InputError if the DRR at the
    final pose is empty.
    """
    factor = binning(result.detector)
    detector = result.detector.binned(factor)
    xray = block_mean(result.image, (factor, factor), np.float64) / 255
    steps = choose_steps(result, max_frames)
    cameras = [volume_from_registered @ result.volume_from_camera(step.pose) for step in steps]
    drrs = [
        render(camera[None], detector)[0]
        for camera in track(cameras, what="rendering", unit="frame")
    ]
    if not drrs[-1].any():
        raise InputError(
            "the volume",
            "projects outside the detector at the final pose",
            "a CT in the frame of the registered volume",
            "check that both files belong together",
        )
    tone = overlays.match_tone(drrs[-1], xray)
    pixel_mm = overlays.mm_per_pixel(detector, result.bone_depth_mm)
    frames = [compose(mode, xray, tone(drr)) for drr in drrs]
    return write_captions(frames, [(*step.caption, LEGENDS[mode]) for step in steps], pixel_mm)


def compose(mode: str, xray: np.ndarray, drr: np.ndarray) -> np.ndarray:
    """Return one frame without its caption, (H, W, 3) uint8, of two images (H, W) in 0..1."""
    if mode == "overlay":
        image = overlays.red_cyan(xray, drr)
    elif mode == "difference":
        change = np.clip(2 * (drr - xray), -1, 1)
        image = np.stack(
            [1 - np.clip(-change, 0, 1), 1 - np.abs(change), 1 - np.clip(change, 0, 1)], -1
        )
    elif mode == "checkerboard":
        image = np.repeat(overlays.checkerboard(xray, drr)[..., None], 3, -1)
    else:
        gap = np.ones((len(xray), GAP_PX))
        image = np.repeat(np.hstack([xray, gap, drr])[..., None], 3, -1)
    return as_uint8(np.clip(image, 0, 1))


def write_captions(
    frames: Sequence[np.ndarray], captions: Sequence[tuple[str, ...]], pixel_mm: float
) -> list[Image]:
    """Return the frames as Pillow images of the same size, with scale bar and caption below.

    ``frames`` are (H, W, 3) uint8; ``pixel_mm`` is the size of a pixel at the bone.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_PX)
    width = frames[0].shape[1]
    texts = [_wrap(parts, width - 8, font) for parts in captions]
    length_mm = overlays.scale_bar_mm(width * pixel_mm)
    bar_px = length_mm / pixel_mm
    footer = LINE_PX * (1 + max(map(len, texts))) + 6
    images = []
    for frame, lines in zip(frames, texts, strict=True):
        canvas = Image.new("RGB", (width, frame.shape[0] + footer), "black")
        canvas.paste(Image.fromarray(frame), (0, 0))
        # the bar is below the image, so that it hides nothing
        draw, top = ImageDraw.Draw(canvas), frame.shape[0] + 2
        draw.line([(4, top + 8), (4 + bar_px, top + 8)], fill="white", width=3)
        draw.text((4 + bar_px + 8, top), f"{length_mm:g} mm", fill="white", font=font)
        draw.multiline_text(
            (4, top + LINE_PX), "\n".join(lines), fill="white", font=font, spacing=LINE_PX - FONT_PX
        )
        images.append(canvas)
    return images


def _wrap(parts: tuple[str, ...], width_px: int, font: Any) -> list[str]:
    """Join the parts into as few lines as fit the width."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}   {part}"
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def save_gif(path: str | Path, images: Sequence[Image]) -> None:
    """Write an endless animation whose last frame is shown longer."""
    import imageio.v3 as imageio

    still = len(images) == 1  # Pillow, which imageio calls, wants a number then
    durations = LAST_MS if still else [FRAME_MS] * (len(images) - 1) + [LAST_MS]
    frames = [np.asarray(image) for image in images]
    with files.writing(path) as stream:
        imageio.imwrite(stream, frames, extension=".gif", duration=durations, loop=0)
