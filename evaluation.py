# PYTHON_ARGCOMPLETE_OK
"""Compare the DRRs of a registration with its X-ray: a figure and tables of measures.

Similarity states how well the images agree, not whether the pose is right: a depth error of several
millimetres hardly changes an image. With --truth, pose errors are listed first. The DRR of a single
bone lacks soft tissue: its similarity is low even at the true pose, so compare only start and final
pose.

reads   a results folder of registration.py (step 7): gt.png, init_image.png, final_img.png, and the
        DRR of create_drr.py (step 8), if present, under any name; parameters.pt with --truth. DRRs
        of another size but the same shape are resampled to the size of the X-ray.
        --truth: parameters.pt of another registration, or JSON with the true camera of the X-ray as
        stored on disk, 4x4 scanner_from_camera, RAS mm of the original CT, under "camera" or "C2W"
        (columns: direction of image columns, of image rows, source to detector, source). Optional:
        "fiducials" (points in the CT, RAS mm: a list, or {label: {"ras_in_ct": list}}) and, for
        bones that moved since the CT, "moved_bones": [{"labels": [...], "C2W_of_bone": 4x4}],
        selected with --label
        With --truth, the 95 % bounds of the verdict are compared with the errors.
        review_NAME.jsonl of pipeline/review.py, if present: the verdict is as people decided
writes  evaluation.png, and the same numbers as evaluation.csv and evaluation.json (with
        --output_name p9.png: p9.png, p9.csv and p9.json)
units   MSE of grey values stretched to 0..1; SSIM and NCC up to 1, NMI 1 to 2; pose errors in mm
        and degrees in the camera frame, averaged over points of the bone; projection errors in mm
        at the detector
field   Patches of one value at the border of the X-ray (collimator, saturated open field) contain
        no image. They are excluded from stretching, metrics and heat maps, dilated by 1 % of the
        width.
step    after create_drr.py (step 8)

example
  python evaluation.py --data_dir results/P08 --title_suffix "(p8)"
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import files
from common.command_line import script
from common.errors import InputError
from common.reports import comparison, comparison_figure, evaluation_file, figures
from common.results import names

if TYPE_CHECKING:
    from common.geometry import PoseError
    from common.reports.comparison import ComparedDrr
    from common.results.result import Result

logger = logging.getLogger("common.script")

OUTPUT_NAME = str(Path(names.EVALUATION).with_suffix(".png"))


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "--data_dir", required=True, metavar="RESULTS", help="results folder of registration.py"
    )
    parser.add_argument(
        "--title_suffix", default="", metavar="TEXT", help='added to the title, such as "(p8)"'
    )
    parser.add_argument(
        "--gt_name",
        default=names.XRAY_IMAGE,
        metavar="NAME",
        help="X-ray in the folder, bone bright (default: %(default)s)",
    )
    parser.add_argument(
        "--drr_name",
        metavar="NAME",
        help="high-quality DRR in the folder (default: the one of create_drr.py, if present;"
        f" {' or '.join(names.DRR_NAMES)} before others)",
    )
    parser.add_argument(
        "--output_name",
        default=OUTPUT_NAME,
        metavar="NAME",
        help=f"figure to write into the folder, {' '.join(figures.FORMATS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--overlay",
        choices=tuple(comparison_figure.OVERLAYS),
        default=comparison_figure.Notes.overlay,
        help="how X-ray and best DRR are combined in one image (default: %(default)s)",
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="true pose, .json or .pt: also report pose errors"
    )
    parser.add_argument(
        "--label",
        type=int,
        metavar="N",
        help="label of the bone in --truth, if bones have moved since the CT",
    )
    parser.add_argument(
        "--volume",
        metavar="CT",
        help="prepared CT: average pose errors over points of its bone (default: over those of"
        " --truth, else of the registration)",
    )
    return parser


def _check_flags(args: argparse.Namespace, folder: Path) -> Path:
    """Return the path of the figure. Raises InputError if flags do not belong together."""
    if not folder.is_dir():
        raise InputError(
            folder, "not a folder", "the results folder of registration.py", "check --data_dir"
        )
    output = folder / args.output_name
    if output.suffix.lower() not in figures.FORMATS:
        raise InputError(
            output,
            f"ends in {output.suffix!r}",
            " or ".join(figures.FORMATS),
            "change --output_name",
        )
    if (args.volume or args.label is not None) and not args.truth:
        raise InputError(
            "--volume, --label",
            "given without --truth",
            "the true pose that they belong to",
            "add --truth FILE",
        )
    return output


def run(args: argparse.Namespace) -> int | None:
    folder = Path(args.data_dir)
    output = _check_flags(args, folder)
    xray_file, drr_files = comparison.find_images(folder, args.gt_name, args.drr_name)
    csv, json = output.with_suffix(".csv"), output.with_suffix(".json")
    inputs = [image.path for image in (xray_file, *drr_files.values())]
    files.check_outputs(
        [output, csv, json], args.overwrite, [*inputs, *([args.truth] if args.truth else [])]
    )

    from common.xray import image_files, similarity
    from common.xray.outline import outline

    errors, points_from = {}, None
    if args.truth:
        errors, points_from = known_errors(folder, args.truth, args.label, args.volume)
    xray = image_files.read(xray_file.path).grey
    field = comparison.valid_field(xray, xray_file.path)
    drrs = comparison.compare_images(xray, drr_files, field, errors)
    _warn_if_inverted(xray_file.path.name, drrs)

    result = _result_of(folder)
    notes = comparison_figure.Notes(
        comparison.pixel_at_bone_mm(result, xray.shape) if result else None,
        outline(next(drr for drr in drrs if drr.key == "final").image.astype(float)),
        args.overlay,
        points_from,
    )
    review = decisions_on(folder, result)
    title = f"X-ray and registered DRR {args.title_suffix}".strip()
    title += f"\n{'; '.join(review)}" if review else ""
    with figures.style():
        figure = comparison_figure.draw_comparison(xray, drrs, field, title, notes)
    evaluation = evaluation_file.Evaluation(
        {drr.key: drr.scores for drr in drrs},
        xray_file.path.name,
        float(field.mean()),
        args.truth,
        args.label,
        points_from,
        similarity.BETTER,
        result.verdict.bounds_95 if result else {},
        result.verdict.code if result else None,
        review,
    )
    evaluation_file.save_csv(csv, evaluation)
    evaluation_file.save_json(json, evaluation)
    figures.save(figure, output)
    for drr in drrs:
        logger.info(f"{drr.title}: " + "  ".join(comparison_figure.measures(drr)))
    for key, within in evaluation.within().items():
        error, bound = evaluation.pose_error("final")[key], evaluation.bounds_95[key]
        inside = "inside" if within else "outside"
        name, unit = evaluation_file.POSE_ERRORS[key], "deg" if key.endswith("deg") else "mm"
        logger.info(
            f"{name}: error {error:.2f} {unit}, {inside} its 95 % bound of {bound:.2f} {unit}"
        )
    print(csv, json, output, sep="\n")
    return None


def known_errors(
    folder: Path, truth_path: str, label: int | None, volume_path: str | None
) -> tuple[dict[str, PoseError], str]:
    """Return the pose errors by key, and the origin of the points they are averaged over."""
    from common.results import parameters_file
    from common.results.truth import read_truth
    from common.volume import nifti

    result = parameters_file.load(folder / names.PARAMETERS)
    truth = read_truth(truth_path, label)
    ct = nifti.load_ct(volume_path, material=result.material) if volume_path else None
    points, points_from = comparison.choose_points(result, truth, ct)
    return comparison.pose_errors(result, truth.camera, points), points_from


def decisions_on(folder: Path, result: Result | None) -> tuple[str, ...]:
    """Return what people decided on the pose in pipeline/review.py, and log it."""
    from common.results import decisions

    words = tuple(one.words for one in decisions.standing(folder, result)) if result else ()
    if words and result and result.verdict.code == "failed":
        logger.warning(f"the pose counts as failed: {'; '.join(words)}")
    elif words:
        logger.info(f"the pose is {'; '.join(words)}")
    return words


def _result_of(folder: Path) -> Result | None:
    """The registration, with the verdict as people decided.

    None if the images are from another program or without parameters.pt.
    """
    from common.results import decisions, parameters_file

    if not (folder / names.PARAMETERS).exists():
        return None
    try:
        return decisions.as_judged(folder, parameters_file.load(folder / names.PARAMETERS))
    except InputError as error:
        logger.info(f"no scale bars: {error}")
        return None


def _warn_if_inverted(xray_name: str, drrs: Sequence[ComparedDrr]) -> None:
    if min(drr.metrics["NCC"] for drr in drrs if drr.key != "initial") < 0:
        logger.warning(
            f"{xray_name}: grey values are inverted relative to the DRR; expected bone bright; the"
            " numbers mean little, invert the X-ray"
        )


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
