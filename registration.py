# PYTHON_ARGCOMPLETE_OK
"""Step 7: find the pose that aligns a CT with an X-ray (2D/3D registration).

Reads X-rays (DICOM, PNG, JPEG, TIFF, BMP, JPEG 2000, AVI or MP4), a CT from step 4 (any CT of
docs/formats.md works) or a surface in mm (STL, PLY, OBJ, VTP, GIFTI) with its --material and, with
-c, a pose network from step 6. Without -c, the start pose is searched everywhere: any side, any
position, any depth; --r1 ... --tz narrow the search.

The geometry of the detector comes from --sdd and --pixel_spacing (mm, at the detector), else from
the DICOM header or from NAME.json next to NAME.png (sdd_mm, pixel_spacing_mm [width, height],
principal_point_px [column, row]), else from the training geometry of the checkpoint, which makes
the verdict suspect. With --mask and --labels, only those structures are rendered: one bone in an
X-ray of a whole limb. A bone is compared by its excess attenuation over soft tissue, a whole CT by
its whole attenuation. The X-ray of a mirrored (right) bone is flipped like the bone (by the lineage
of the volume, or --side); poses are stated for the patient, unmirrored.

Several X-rays are registered separately; a folder or a DICOMDIR stands for its X-rays. With
--sequence, they are frames of one motion (files, a folder, a multi-frame DICOM, a multi-page TIFF
or a video), each started where the motion so far leads to; with --init_pose FRAME=FILE ..., they
are tracked from those frames to both sides. With --views, as many X-rays as
there are calibrations belong to one instant (the following ones to the next instant): --calibration
states their cameras, and one pose is found from all of them, which determines the depth that a
single view leaves open. Several volumes (-v femur.nii.gz tibia.nii.gz --mask ...) are first
registered separately, then refined together, with attenuations that add along each ray.

Writes into OUT (for several X-rays OUT/<name of the X-ray>/, for frames of a file OUT/frame_0000/;
for several volumes, a folder <name of the volume>/ in each):
  parameters.pt    final pose, trajectory, verdict, metrics, pose in the scanner frame (read_pt.py
                   lists it)
  gt.png           the X-ray as registered: 8 bit, stretched, bone bright, black outside the valid
                   field, flipped for a mirrored bone
  init_image.png   DRR at the start pose
  final_img.png    DRR at the final pose (further views: gt_view2.png and so on)
  posed.ply        of a volume given as a surface: the surface at its pose, mm, in the frame of the
                   calibration (of the camera, for a single X-ray: x along columns, y along rows, z
                   from the source)
  slicer/          for 3D Slicer: camera and bone transforms (.tfm, LPS), the X-ray on its detector,
                   the outline of the bone (PNG, markups JSON), a given surface where it is in the
                   scanner's frame (PLY)
The last line on standard output is the path of parameters.pt. With --check, only check.png is
written and a table printed: they show whether X-ray, geometry and CT are consistent. With --repeat
parameters.pt, the registration that is recorded in that file is run again.

The verdict is ok, suspect or failed, with reasons, 95 % bounds of the error in mm and degrees, and,
for a bone, the chance that the pose is wrong (more than 2 mm in plane or 3 degrees off). The
exit code is 0 for ok and suspect, 3 for failed.

Next: create_drr.py, evaluation.py, visualize_3d_drr.py, animate_2d_pose.py.

Examples:
  python registration.py knee.dcm -v femur.nii.gz --mask femur_mask.nii.gz -c patient.pth -o results
  python registration.py cam1.tif cam2.tif --views --calibration cam1.txt cam2.txt \
      -v radius.nii.gz -o results
  python registration.py cam1.tif cam2.tif --views --calibration cam1.txt cam2.txt \
      -v femoral_component.stl tibial_tray.stl --material metal --search full -o results
  python registration.py --repeat results/parameters.pt -o again
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import files
from common.command_line import log, script
from common.command_line.beside import Submit, beside, share_heaps
from common.command_line.registration_flag_checks import check_flags
from common.command_line.registration_flags import add_registration_flags
from common.errors import InputError, going_on, raise_all

if TYPE_CHECKING:
    from concurrent.futures import Future

    from common.command_line.registration_inputs import Planned
    from common.registration.inputs import Inputs
    from common.registration.recording import Drawn
    from common.registration.register import Registration
    from common.registration.request import Followed, Request
    from common.registration.scene import View

logger = logging.getLogger("common.script")


# exit codes from the best to the worst
SEVERITY = (script.EXIT_DONE, script.EXIT_NOT_CONVERGED, script.EXIT_BAD_INPUT)


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    add_registration_flags(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    began = time.perf_counter()
    check_flags(args)
    share_heaps()
    from common.command_line.registration_inputs import plan, repeated
    from common.pose_network.checkpoint import load_checkpoint
    from common.registration.inputs import load_inputs

    problems: list[InputError] = []
    with beside() as reader, beside() as writer:
        checkpoint = load_checkpoint(args.checkpoint) if args.checkpoint else None
        planned = repeated(args) if args.repeat else plan(args, checkpoint)
        first = next((p.request for p in planned if p.request.init != "fixed"), planned[0].request)
        inputs = load_inputs(first, checkpoint)
        if args.check:
            codes = check_all(planned, inputs, problems)
        else:
            loading_s = time.perf_counter() - began
            codes = register_all(planned, inputs, loading_s, (reader, writer), problems)
    raise_all(problems)
    return max(codes, key=SEVERITY.index, default=script.EXIT_DONE)


def register_all(
    planned: Sequence[Planned],
    inputs: Inputs,
    loading_s: float,
    threads: tuple[Submit, Submit],
    problems: list[InputError],
) -> list[int]:
    """Register and record every instant, and return the exit codes; errors are collected.

    ``threads`` read the next X-rays and write the last results meanwhile.
    """
    from common.registration.inputs import load_views
    from common.registration.key_poses import Reached, Tracking, met

    read, write = threads
    sequence = planned[0].request.sequence
    keys = [n for n, each in enumerate(planned) if each.request.init == "fixed"]
    keyed = sequence and len(keys) < len(planned)  # not one start pose for all
    tracking: Tracking[Reached, Sequence[Followed]] = Tracking(
        len(planned),
        keys if keyed else [],
        planned[0].request.previous,
        Reached.without_views,
    )
    steps = tracking.steps
    codes: list[int] = []
    written: list[Future[int]] = []
    coming = [read(load_views, planned[step.frame].request, inputs) for step in steps[:1]]
    for number, step in enumerate(steps):
        clock, reached, after = time.perf_counter(), None, None
        with going_on(problems):
            following = [planned[each.frame].request for each in steps[number + 1 : number + 2]]
            reading, coming = coming[0], [read(load_views, one, inputs) for one in following]
            last = tracking.before(step) if sequence else None
            views = reading.result()
            reached = Reached(*register_next(planned[step.frame].request, views, inputs, last))
            after = followed(reached.found, last)
        with going_on(problems):
            every = tracking.reached(step, reached, after)
            if not every:
                continue
            done = met(*every) if len(every) == 2 else every[0]
            if not done.found[0].views:  # the other side failed
                done = done.seen_in(load_views(planned[step.frame].request, inputs))
            drawn = draw(done.found)
            runtime_s = {"loading": loading_s, "registration": time.perf_counter() - clock}
            # the folder before is complete, or its error known, before the next is begun
            codes += _results(written, problems)
            folders = planned[step.frame].folders
            written = [write(record, folders, done.request, done.found, drawn, runtime_s)]
    return codes + _results(written, problems)


def _results(written: Sequence[Future[int]], problems: list[InputError]) -> list[int]:
    """Return the exit codes of what was written; errors of files are collected."""
    codes = []
    for each in written:
        with going_on(problems):
            codes.append(each.result())
    return codes


def register_next(
    request: Request, views: Sequence[View], inputs: Inputs, last: Sequence[Followed] | None
) -> tuple[Request, list[Registration]]:
    """Register one instant, and return the request with what it started from.

    In a sequence, ``last`` is the state of each structure after the previous frame.
    """
    from dataclasses import replace

    from common.registration.inputs import for_request
    from common.registration.polarities import register_either

    if request.sequence:
        request = replace(request, previous=tuple(last) if last else None)
    inputs = for_request(inputs, request)
    found = register_either(
        views, inputs.structures, inputs.starter, request.seed, request.previous
    )
    return request, found


def followed(
    found: Sequence[Registration], last: Sequence[Followed] | None
) -> Sequence[Followed] | None:
    """Return what the next frame starts from: this frame, unless a structure in it has failed."""
    if any(each.verdict.code == "failed" for each in found):
        return last and [before.without_motion() for before in last]
    return [
        each.followed(before)
        for each, before in zip(found, last or [None] * len(found), strict=True)
    ]


def draw(found: Sequence[Registration]) -> list[Drawn]:
    """Return the DRRs of each result."""
    from common.registration import recording

    return [recording.draw(found, number) for number in range(len(found))]


def record(
    folders: Sequence[Path],
    request: Request,
    found: Sequence[Registration],
    drawn: Sequence[Drawn],
    runtime_s: dict[str, float],
) -> int:
    """Write the result of each structure, print its path, and return the exit code."""
    from common.registration import recording
    from common.results import names

    for number, (folder, each) in enumerate(zip(folders, found, strict=True)):
        made = files.output_folder(folder)
        recording.save(made, found, number, request, runtime_s, drawn[number])
        shown = folder.name if len(folders) > 1 else each.structure.ct.name
        images = " + ".join(xray.name for xray in request.xrays)
        logger.info(f"{images}, {shown}: {summary(each)}; {runtime_s['registration']:.1f} s")
        print(folder / names.PARAMETERS)
    failed = any(each.verdict.code == "failed" for each in found)
    return script.EXIT_NOT_CONVERGED if failed else script.EXIT_DONE


def summary(found: Registration) -> str:
    """Return verdict, 95 % bounds and reasons as one line."""
    verdict = found.verdict
    bounds = (
        f"{verdict.in_plane_95_mm:.2f} mm in plane, {verdict.depth_95_mm:.2f} mm in depth, "
        f"{verdict.rotation_95_deg:.2f} deg"
    )
    return "; ".join([f"{verdict.code}, error with 95 % below {bounds}", *verdict.reasons])


def check_all(planned: Sequence[Planned], inputs: Inputs, problems: list[InputError]) -> list[int]:
    """Check every instant, and return the exit codes; errors are collected."""
    from common.registration.inputs import load_views

    codes = []
    for each in planned:
        with going_on(problems):
            views = load_views(each.request, inputs)
            codes.append(check(each.folders, views, inputs, each.request.seed))
    return codes


def check(folders: Sequence[Path], views: Sequence[View], inputs: Inputs, seed: int) -> int:
    """Write check.png for each structure, print the table, and return the exit code.

    The code is 2 if a finding makes the registration impossible.
    """
    from common.registration import preflight
    from common.results import names

    flags, code = build_parser().settings, script.EXIT_DONE
    for folder, structure in zip(folders, inputs.structures, strict=True):
        reports = [
            report.worded(lambda text: log.with_flags(text, flags))
            for report in preflight.examine_views(views, structure, inputs.starter, seed)
        ]
        image = files.output_folder(folder) / names.CHECK_IMAGE
        titles = [f"--init {inputs.starter.method}"] * len(views)
        preflight.write_image(image, reports, [view.xray.as_uint8() for view in views], titles)
        print(preflight.table(reports))
        print(image)
        if preflight.impossible(reports):
            code = script.EXIT_BAD_INPUT
    return code


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
