# PYTHON_ARGCOMPLETE_OK
"""How well a registration fits: one figure with the X-ray, the DRRs and their differences, and the numbers.

Similarity says whether the pictures agree, not whether the bone is where it should be: a depth error of several millimetres hardly
changes a picture. Where the true pose is known (--truth), the errors of the pose come first. The DRR of a bone alone lacks the tissue
around it: its similarity is low even at the true pose, and only tells the start from the end.

reads   a results folder of registration.py (step 7): gt.png, init_image.png, final_img.png, and the picture of create_drr.py (step 8),
        whatever its name, where it is there; parameters.pt with --truth. DRRs of another size but the same shape are resampled to the X-ray's.
        --truth: parameters.pt of another registration, or JSON with the true camera of the picture on disk, 4x4 scanner_from_camera, RAS mm
        of the original CT, under "camera" or "C2W" (columns: direction of image columns, of image rows, source to detector, source);
        optional "fiducials" (points in the CT, RAS mm: a list, or {label: {"ras_in_ct": list}}) and, for bones that moved since the CT,
        "moved_bones": [{"labels": [...], "C2W_of_bone": 4x4}], chosen with --label
writes  evaluation.png, and the same numbers as evaluation.csv and evaluation.json (with --output_name p9.png: p9.png, p9.csv and p9.json)
units   MSE of grey values stretched to 0..1; SSIM and NCC up to 1, NMI 1 to 2; pose errors in mm and degrees in the camera's frame,
        averaged over points of the bone; projection errors in mm at the detector
field   Patches of one value at the picture's border (collimator, burnt-out open field) hold no X-ray: they are left out of
        stretching, metrics and heat maps, grown by 1 % of the width.
step    after create_drr.py (step 8)

example
  python evaluation.py --data_dir results/P08 --title_suffix "(p8)"
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files, geometry
from common.command_line import script
from common.errors import InputError
from common.geometry import Detector, PoseError
from common.reports import figures, overlays

if TYPE_CHECKING:
    from common.results.result import Result
    from common.results.truth import Truth

logger = logging.getLogger("common.script")


GT_NAME, OUTPUT_NAME = "gt.png", "evaluation.png"
OVERLAYS = {"red-cyan": "X-ray red, DRR cyan", "checkerboard": "X-ray and DRR in turn"}
ASPECT_TOLERANCE = 0.01
POSE_COLUMNS = {
    "in_plane_mm": "in-plane",
    "depth_mm": "depth",
    "rotation_deg": "rotation",
    "mtre_mm": "mTRE",
    "projection_mm": "projection",
}
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Panel:
    """A DRR next to the X-ray: (H, W) grey values as stored, and what was measured."""

    key: str  # initial, final, high_quality
    title: str
    file: str
    image: np.ndarray
    metrics: dict[str, float]
    pose_error: PoseError | None = None


@dataclass(frozen=True)
class Notes:
    """What the figure shows besides pictures: size of a pixel at the bone (None: unknown), the bone's outline, which overlay, where pose points are from."""

    pixel_mm: float | None = None
    outline: Sequence[np.ndarray] = ()
    overlay: str = "red-cyan"
    points_from: str | None = None


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--data_dir", required=True, metavar="RESULTS", help="results folder of registration.py"
    )
    parser.add_argument(
        "--title_suffix", default="", metavar="TEXT", help='added to the title, such as "(p8)"'
    )
    parser.add_argument(
        "--gt_name",
        default=GT_NAME,
        metavar="NAME",
        help=f"the X-ray in the folder, bone bright (default: {GT_NAME})",
    )
    parser.add_argument(
        "--drr_name",
        metavar="NAME",
        help=(
            "the high-quality DRR in the folder (default: the one of create_drr.py, where there;"
            f" {' or '.join(overlays.DRR_NAMES)} before others)"
        ),
    )
    parser.add_argument(
        "--output_name",
        default=OUTPUT_NAME,
        metavar="NAME",
        help=(
            f"figure to write into the folder, {' '.join(figures.FORMATS)} (default: {OUTPUT_NAME})"
        ),
    )
    parser.add_argument(
        "--overlay",
        choices=OVERLAYS,
        default=Notes.overlay,
        help="how X-ray and best DRR are laid over each other (default: %(default)s)",
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="true pose, .json or .pt: pose errors are given too"
    )
    parser.add_argument(
        "--label",
        type=int,
        metavar="N",
        help="which bone of the truth, where bones have moved since the CT",
    )
    parser.add_argument(
        "--volume",
        metavar="CT",
        help=(
            "take the points for pose errors from this prepared CT's bone (default: the truth's,"
            " else the registration's)"
        ),
    )
    return parser


# ------------------------------------------------------------------------------------------------- pictures


def compare_pictures(
    xray: np.ndarray, drrs: dict[str, tuple[str, str, np.ndarray]], field: np.ndarray
) -> list[Panel]:
    """Metrics of every DRR {key: (title, file, picture)} against the X-ray, over the field. All pictures are (H, W)."""
    from common.xray import similarity

    return [
        Panel(key, title, file, image, similarity.compare(image, xray, field))
        for key, (title, file, image) in drrs.items()
    ]


def resampled(image: np.ndarray, shape: tuple[int, int], path: Path) -> np.ndarray:
    """The picture in another size. Raises InputError where the shapes differ, because stretching would fake a misfit."""
    if image.shape == shape:
        return image
    if abs(image.shape[0] / image.shape[1] / (shape[0] / shape[1]) - 1) > ASPECT_TOLERANCE:
        raise InputError(
            path,
            f"has {image.shape[1]} x {image.shape[0]} pixels",
            f"the shape of the X-ray, {shape[1]} x {shape[0]}",
            "make it from the same registration",
        )
    from skimage.transform import resize

    logger.info(
        f"{path.name}: resampled from {image.shape[1]} x {image.shape[0]} to {shape[1]} x"
        f" {shape[0]} pixels"
    )
    return resize(image, shape, order=1, anti_aliasing=True, preserve_range=True)


def find_pictures(folder: Path, gt_name: str, drr_name: str | None) -> dict[str, tuple[str, Path]]:
    """{key: (title, path)} of the X-ray and the DRRs in a results folder. Raises InputError for one that is missing."""
    found = {
        "xray": ("X-ray", folder / gt_name),
        "initial": ("DRR at the start pose", folder / "init_image.png"),
        "final": ("DRR at the final pose", folder / "final_img.png"),
    }
    drrs = [folder / drr_name] if drr_name else overlays.high_quality_drrs(folder)
    if drrs:
        found["high_quality"] = ("high-quality DRR", drrs[0])
    if drrs[1:]:
        logger.info(
            f"{folder}: compares {drrs[0].name}, not {', '.join(path.name for path in drrs[1:])};"
            " --drr_name chooses"
        )
    for _, path in found.values():
        files.existing_file(path, "a picture of registration.py or create_drr.py")
    return found


def pixel_at_bone(folder: Path, shape: tuple[int, int]) -> float | None:
    """Millimetres of the X-ray's pixel at the bone's distance, from parameters.pt; None without one, or where it is of another picture or another program."""
    from common.results import parameters_file

    path = folder / "parameters.pt"
    if not path.exists():
        return None
    try:
        result = parameters_file.load(path)
    except InputError as error:
        logger.info(f"no scale bars: {error}")
        return None
    if (
        abs(shape[0] / shape[1] / (result.detector.height / result.detector.width) - 1)
        > ASPECT_TOLERANCE
    ):
        return None
    return (
        overlays.mm_per_pixel(result.detector, result.bone_depth_mm)
        * result.detector.width
        / shape[1]
    )


# ----------------------------------------------------------------------------------------------------- pose


def pose_errors(result: Result, truth: np.ndarray, points_mm: np.ndarray) -> dict[str, PoseError]:
    """Errors of the start and final camera against scanner_from_camera (4, 4), over (N, 3) points in the scanner's frame."""
    view = result.scanner_pose[0]
    detector = Detector(
        result.detector.height,
        result.detector.width,
        view["sdd_mm"],
        tuple(view["pixel_spacing_mm"]),
        tuple(view["principal_point_px"]),
    )
    cameras = {"initial": view["camera_init"], "final": view["camera"]}
    return {
        key: geometry.pose_error(np.asarray(camera), truth, points_mm, detector)
        for key, camera in cameras.items()
    }


def choose_points(result: Result, truth: Truth, volume_path: str | None) -> tuple[np.ndarray, str]:
    """Points of the bone in the scanner's frame, (N, 3) RAS mm, and where they are from. Raises InputError without any."""
    if volume_path:
        from common.volume import nifti
        from common.volume.volume import points_of

        volume = nifti.load_ct(volume_path)
        return (
            geometry.apply(volume.lineage.scanner_from_volume, points_of(volume)),
            f"bone of {volume.name}",
        )
    if truth.points_mm is not None:
        return truth.points_mm, "fiducials of the truth"
    if "points_mm" not in result.drr:
        raise InputError(
            "parameters.pt",
            "holds no points of the bone",
            "them there, in the truth or in a CT",
            "give --volume",
        )
    return (
        geometry.apply(
            np.array(result.drr["scanner_from_volume"]), np.array(result.drr["points_mm"])
        ),
        "registered structure",
    )


# --------------------------------------------------------------------------------------------------- output


def draw(xray: np.ndarray, panels: list[Panel], field: np.ndarray, title: str, notes: Notes) -> Any:
    """The figure: pictures above; the overlay and heat maps of the differences below, on one scale each. Returns a matplotlib Figure."""
    from common.xray import similarity

    columns = 1 + len(panels)
    width = figures.COLUMN_IN * columns + 0.5
    heading = figures.wrapped(title, width, figures.TITLE_PT)
    footer = figures.wrapped(_explanation(field, notes), width, figures.SMALL_PT)
    panel_height = float(np.clip(figures.COLUMN_IN * xray.shape[0] / xray.shape[1], 0.9, 2.8))
    lines = (
        heading.count("\n")
        + footer.count("\n")
        + max(_caption(panel).count("\n") for panel in panels)
    )
    figure = figures.new(width, 2 * panel_height + 0.9 + 0.12 * lines)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    figure.suptitle(heading, fontsize=figures.TITLE_PT, parse_math=False)
    axes = figure.subplots(2, columns, squeeze=False)
    stretched = {panel.key: similarity.normalise(panel.image, field) for panel in panels}
    reference = similarity.normalise(xray, field)
    for axis, (name, image) in zip(
        axes[0], [("X-ray", reference), *((p.title, stretched[p.key]) for p in panels)], strict=True
    ):
        figures.show(axis, np.where(field, image, np.nan), name, _with_grey("gray"))
    figures.outline(axes[0, 0], notes.outline)
    figures.show(
        axes[1, 0],
        _overlay(reference, stretched[panels[-1].key], field, notes.overlay),
        OVERLAYS[notes.overlay],
    )
    if notes.pixel_mm:
        for axis in (*axes[0], axes[1, 0]):
            figures.scale_bar(axis, xray.shape, notes.pixel_mm)
    differences = [np.where(field, np.abs(stretched[p.key] - reference), np.nan) for p in panels]
    top = max(float(np.nanpercentile(differences, 99.8)), 1e-6)
    for axis, panel, difference in zip(axes[1, 1:], panels, differences, strict=True):
        shown = figures.show(axis, difference, "absolute difference", _with_grey("viridis"), top)
        axis.set_xlabel(_caption(panel), linespacing=1.3, labelpad=3)
    bar = figure.colorbar(shown, ax=list(axes[1]), fraction=0.025, pad=0.01, extend="max")
    bar.set_label("|DRR - X-ray|, share of the grey range")
    figure.supxlabel(footer, fontsize=figures.SMALL_PT, x=0.01, ha="left", linespacing=1.3)
    return figure


def _overlay(xray: np.ndarray, drr: np.ndarray, field: np.ndarray, kind: str) -> np.ndarray:
    """(H, W, 3) in 0..1 of both pictures, the DRR's grey values matched to the X-ray's; grey outside the field."""
    inside = np.where(field, drr, 0)
    matched = (
        np.clip(overlays.match_tone(inside, np.where(field, xray, 0))(inside), 0, 1)
        if inside.any()
        else inside
    )
    both = (
        overlays.red_cyan(xray, matched)
        if kind == "red-cyan"
        else np.repeat(overlays.checkerboard(xray, matched)[..., None], 3, -1)
    )
    return np.where(field[..., None], np.clip(both, 0, 1), 0.5)


def _with_grey(name: str) -> Any:
    """A colour map that shows what lies outside the field in a flat tone."""
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad="#7a8796" if name == "gray" else "#e6e6e6")


def _caption(panel: Panel) -> str:
    from common.xray.similarity import BETTER

    lines = []
    if panel.pose_error:
        e = panel.pose_error
        errors = [
            f"in-plane {e.in_plane_mm:.2f} mm",
            f"depth {e.depth_mm:.2f} mm",
            f"rotation {e.rotation_deg:.2f}°",
            f"mTRE {e.mtre_mm:.2f} mm",
            f"projection {e.projection_mm:.2f} mm",
        ]
        lines += ["   ".join(errors[:2]), "   ".join(errors[2:4]), errors[4]]
    scores = [
        f"{name} {ARROWS[BETTER[name]]} {value:{'.1e' if 0 < abs(value) < 1e-3 else '.4f'}}"
        for name, value in panel.metrics.items()
    ]
    return "\n".join([*lines, "   ".join(scores[:2]), "   ".join(scores[2:])])


def _explanation(field: np.ndarray, notes: Notes) -> str:
    sentences = [
        "All pictures are stretched to 0..1 over the field; one colour scale for all maps. ↓ lower"
        " is better, ↑ higher is better."
    ]
    if notes.outline:
        sentences.append("Outline: the bone at the final pose.")
    if notes.pixel_mm:
        sentences.append("Bars: at the bone's distance from the source.")
    if not field.all():
        sentences.append(f"Grey: outside the field, left out ({100 * (1 - field.mean()):.0f} %).")
    if notes.points_from:
        sentences.append(
            f"Pose errors: in the camera's frame, over points of the {notes.points_from};"
            " projection at the detector."
        )
    return " ".join(sentences)


def as_table(panels: list[Panel]) -> str:
    """CSV text, one row a DRR; pose errors lead where they are known."""
    known = any(panel.pose_error for panel in panels)
    columns = ["picture", "file", *(POSE_COLUMNS if known else ()), *panels[0].metrics]
    rows = [
        {
            "picture": p.key,
            "file": p.file,
            **(p.pose_error.as_dict() if p.pose_error else {}),
            **p.metrics,
        }
        for p in panels
    ]
    return files.as_csv(rows, columns)


def as_json(panels: list[Panel], about: dict[str, Any]) -> dict[str, Any]:
    from common.reports.registered import EVALUATION_SCHEMA
    from common.xray.similarity import BETTER

    measured = {
        p.key: {
            "file": p.file,
            **({"pose_error": p.pose_error.as_dict()} if p.pose_error else {}),
            "similarity": p.metrics,
        }
        for p in panels
    }
    return {"schema": EVALUATION_SCHEMA, **about, "better": BETTER, "pictures": measured}


def run(args: argparse.Namespace) -> int | None:
    folder = Path(args.data_dir)
    if not folder.is_dir():
        raise InputError(
            folder, "is no folder", "the results folder of registration.py", "check --data_dir"
        )
    output = folder / args.output_name
    if output.suffix.lower() not in figures.FORMATS:
        raise InputError(
            output,
            f"ends in {output.suffix!r}",
            " or ".join(figures.FORMATS),
            "rename --output_name",
        )
    if (args.volume or args.label is not None) and not args.truth:
        raise InputError(
            "--volume, --label",
            "given without --truth",
            "the true pose that they belong to",
            "give --truth",
        )
    found = find_pictures(folder, args.gt_name, args.drr_name)
    outputs = [output, output.with_suffix(".csv"), output.with_suffix(".json")]
    files.check_outputs(
        outputs,
        args.overwrite,
        [path for _, path in found.values()] + ([args.truth] if args.truth else []),
    )

    from common.results import parameters_file
    from common.xray import grey_values, reading
    from common.xray import outline as outline_module

    errors, points_from = {}, None
    if args.truth:
        from common.results.truth import read_truth

        result, truth = (
            parameters_file.load(folder / "parameters.pt"),
            read_truth(args.truth, args.label),
        )
        points, points_from = choose_points(result, truth, args.volume)
        errors = pose_errors(result, truth.camera, points)
    images = {
        key: (title, path.name, reading.read_picture(path)) for key, (title, path) in found.items()
    }
    _, gt_name, xray = images.pop("xray")
    images = {
        key: (title, name, resampled(image, xray.shape, folder / name))
        for key, (title, name, image) in images.items()
    }
    field = ~grey_values.border_padding(xray)
    if field.mean() < 0.02 or np.ptp(xray[field]) == 0:
        raise InputError(
            folder / gt_name,
            f"holds no picture inside its border ({100 * field.mean():.1f} % left)",
            "an X-ray with contrast",
            "choose another with --gt_name",
        )
    panels = [
        Panel(p.key, p.title, p.file, p.image, p.metrics, errors.get(p.key))
        for p in compare_pictures(xray, images, field)
    ]
    if min(panel.metrics["NCC"] for panel in panels[1:]) < 0:
        logger.warning(
            f"{gt_name}: its grey values run against those of the DRR; expected bone bright; the"
            " numbers mean little, invert the picture"
        )

    notes = Notes(
        pixel_at_bone(folder, xray.shape),
        outline_module.outline(images["final"][2].astype(float)),
        args.overlay,
        points_from,
    )
    with figures.style():
        figure = draw(
            xray, panels, field, f"X-ray and registered DRR {args.title_suffix}".strip(), notes
        )
    about = {
        "xray": gt_name,
        "field_fraction": float(field.mean()),
        "truth": args.truth,
        "label": args.label,
        "points": points_from,
    }
    files.write_text(outputs[1], as_table(panels))
    files.write_json(outputs[2], as_json(panels, about))
    figures.save(figure, output)
    for panel in panels:
        logger.info(f"{panel.title}: " + "  ".join(_caption(panel).split("\n")))
    print(*outputs[1:], output, sep="\n")
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
