"""Where each structure is in the X-rays of one instant: start poses, competition, verdict, and what one bone that is found says about the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import cli, geometry, search
from common.network import Checkpoint, predict_pose
from common.poserange import PoseRange
from common.pyramid import JUDGED, LEVELS, SILHOUETTE, Body, View
from common.refinement import Fit, Trace, assess, refine
from common.scene import Structure
from common.start import Winner, advance, better, compete, compete_from, evidence, follow
from common.verdict import SUSPECT_SIMILARITY, judge
from common.volumes import SOFT_TISSUE_HU, WATER_PER_MM, Volume
from common.xrays import Xray

SLIDING = 0.02  # of evidence: a frame that has so much less than the best of its sequence is tried from further starts
UNEQUAL = 0.05  # of evidence: a bone that has so much less than another in the same pictures is looked for beside it (a wrong ulna had 0.14 less than the radius and was ok)
OVERLAPPING = 0.2  # share of a bone inside another from which one of the two is wrong: a crop box holds some of its neighbour


@dataclass(frozen=True)
class Starter:
    """Finds start poses, volume_from_rig, best first."""

    method: str  # model, search, fixed or dicom
    ranges: PoseRange
    full: bool
    checkpoint: Checkpoint | None
    network: Any
    optimizer: str = "gauss-newton"  # or adam

    def __call__(self, views: Sequence[View], structure: Structure, method: str | None = None) -> list[np.ndarray]:
        method = method or self.method
        if method == "search":
            return search.search(views, structure.body, self.ranges, self.full)
        if method == "fixed":
            camera = given_pose(structure.given, views[0].xray, structure.ct.lineage.scanner_from_volume)
        elif method == "dicom":
            camera = positioner_pose(views[0].xray, structure.ct)
        else:
            camera = geometry.translation(structure.ct.isocentre_mm) @ geometry.camera_from_pose(self._predicted(views[0].xray))
        return [camera @ geometry.invert(views[0].rig_from_camera)]

    def _predicted(self, xray: Xray) -> np.ndarray:
        return predict_pose(self.network, self.checkpoint, xray)


@dataclass(frozen=True)
class Followed:
    """One structure in a sequence so far."""

    pose: np.ndarray  # volume_from_rig in the last frame that did not fail
    evidence: float  # the most that a frame has had: less is a pose that slides away while its similarity still looks well

    def then(self, winner: Winner) -> Followed:
        return Followed(winner.fit.poses[0], max(self.evidence, winner.evidence))


def register(
    views: Sequence[View], structures: Sequence[Structure], starter: Starter, seed: int, last: Sequence[Followed] | None = None
) -> list[tuple[np.ndarray, Winner, dict[str, Any]]]:
    """Pose of each structure in the views of one instant: (start, winner, verdict) of each. ``last`` is what the frames before have left, in a sequence.

    Raises InputError where a structure cannot be seen in the pictures.
    """
    check_sizes(views)
    found: list[tuple[np.ndarray, Winner]] = []
    for number, structure in enumerate(structures):
        carried = [last[number].pose @ geometry.invert(before.pose) @ winner.fit.poses[0] for before, (_, winner) in zip(last, found, strict=False)] if last else []
        found.append(find(views, structure, starter, seed, last[number] if last else None, carried))
    if len(structures) > 1:
        found = refine_together(views, structures, look_beside(views, structures, starter, seed, found))
    poses = [winner.fit.poses[0] for _, winner in found]
    occupied = [
        max((overlap(s, pose, other, at) for other, at in zip(structures, poses, strict=True) if other is not s), default=0.0) for s, pose in zip(structures, poses, strict=True)
    ]
    return [
        (start, winner, verdict_of(winner, views, structure, within if within >= OVERLAPPING else 0.0, before.evidence if before else 0.0))
        for structure, (start, winner), within, before in zip(structures, found, occupied, last or [None] * len(structures), strict=True)
    ]


def check_sizes(views: Sequence[View]) -> None:
    """InputError for a picture too small for the coarsest level, which needs eight pixels."""
    least_mm = 9 * LEVELS[0].pixel_mm
    for view in views:
        width, height = view.xray.detector.size_mm
        if min(width, height) < least_mm:
            raise cli.InputError(
                f"{view.xray.path}: measures {width:.0f} x {height:.0f} mm at the detector; expected {least_mm:.0f} mm or more a side; correct the pixel size, or give the whole picture"
            )


def find(views: Sequence[View], structure: Structure, starter: Starter, seed: int, last: Followed | None = None, carried: Sequence[np.ndarray] = ()) -> tuple[np.ndarray, Winner]:
    """Start pose and best refined pose of one structure by itself, from the starter's poses.

    In a sequence first from the frame before (``last``), then with candidates around it, then around where bones already found would have carried it.
    """

    def certain(winner: Winner | None) -> bool:
        return winner is not None and is_ok(winner, views, structure)

    name, body = views[0].xray.path.name, structure.body
    if last:
        winner = follow(views, body, last.pose)
        for pose in (last.pose, *carried):
            if winner and certain(winner) and winner.evidence > last.evidence - SLIDING:
                break
            winner = better(winner, compete(views, body, [pose], seed=seed))
        if winner and certain(winner):
            return winner.start, winner
        cli.note(f"{name}: lost {structure.ct.name} of the frame before; looking for it anew")
    starts = starter(views, structure)
    if starter.optimizer == "adam":
        winner = ascend(views, structure, starts[0])
    else:
        winner = compete_from(views, body, starts, seed)
        if starter.method == "model" and not certain(winner):
            cli.note(f"{name}: not certain from the network's start; searching the pose range too")
            winner = better(winner, compete_from(views, body, starter(views, structure, "search"), seed))
    if winner is None:
        raise cli.InputError(
            f"{views[0].xray.path}: the start pose shows nothing of {structure.ct.name} inside the picture; expected the bone in view; widen the pose range or use --init search"
        )
    return starts[0], winner


def look_beside(views: Sequence[View], structures: Sequence[Structure], starter: Starter, seed: int, found: list[tuple[np.ndarray, Winner]]) -> list[tuple[np.ndarray, Winner]]:
    """Bones that are not certain, explain less than the one with most evidence, or lie inside it, looked for beside that one: its shadow is taken out of the pictures, so that no neighbour of like shape misleads."""
    best = max(range(len(found)), key=lambda number: found[number][1].evidence)
    known, pose = structures[best], found[best][1].fit.poses[0]
    if found[best][1].fit.similarity < SUSPECT_SIMILARITY or starter.optimizer == "adam" or starter.method not in ("model", "search"):
        return found
    beside, cleared, again = geometry.apply(geometry.invert(pose), known.body.renderer.centre_mm), None, list(found)
    for number, (structure, (_, winner)) in enumerate(zip(structures, found, strict=True)):
        equal = winner.evidence > found[best][1].evidence - UNEQUAL and is_ok(winner, views, structure)
        if number == best or (equal and overlap(structure, winner.fit.poses[0], known, pose) < OVERLAPPING):
            continue
        cli.note(f"{views[0].xray.path.name}: {structure.ct.name} is less certain than {known.ct.name}; looking for it beside that")
        cleared = cleared or [without(view, known.body, pose) for view in views]
        starts = search.search(cleared, structure.body, starter.ranges, starter.full, near=search.Near(beside, radius(known.body) + radius(structure.body)))
        field = advance(cleared, structure.body, starts, 0, len(starts), seed) if starts else None
        other = field and compete(views, structure.body, [field.finals[0].pose], seed=seed)
        if other and (overlap(structure, winner.fit.poses[0], known, pose) >= OVERLAPPING or better(winner, other) is other):
            again[number] = starts[0], other
    return again


def overlap(one: Structure, pose_one: np.ndarray, other: Structure, pose_other: np.ndarray) -> float:
    """Share of a bone's points that lie in the dense voxels of another, each at its pose (volume_from_rig): none where two bones are where they belong."""
    points = geometry.apply(geometry.invert(pose_one), one.body.points)
    index = np.round(geometry.apply(geometry.invert(other.whole.affine), geometry.apply(pose_other, points))).astype(int)
    inside = ((index >= 0) & (index < other.whole.shape)).all(axis=1)
    dense = other.whole.data[tuple(index[inside].T)] > WATER_PER_MM * (1 + SOFT_TISSUE_HU / 1000)
    return float(dense.sum() / len(points))


def radius(body: Body) -> float:
    """Of the sphere around the body's centre that holds it, mm."""
    return float(np.linalg.norm(body.points - body.renderer.centre_mm, axis=1).max())


def without(view: View, body: Body, pose: np.ndarray) -> View:
    """The view less what a body at its pose (volume_from_rig) absorbs; the picture's unit follows from its local contrast in the body's silhouette."""
    from scipy.ndimage import gaussian_filter

    xray, level, camera = view.xray, LEVELS[1], pose @ view.rig_from_camera
    small = xray.coarser(level.pixel_mm)
    shadow = body.renderer.render(camera[None], small.detector)[0]
    inside = (shadow > SILHOUETTE * shadow.max()) & small.valid
    sigma = [level.highpass_mm / mm for mm in small.detector.pixel_mm[::-1]]
    rendered, seen = ((stack - gaussian_filter(stack, sigma))[inside] for stack in (shadow, small.image))
    unit = max(0.0, float(rendered @ seen) / max(float(rendered @ rendered), 1e-12))
    return replace(view, xray=replace(xray, image=xray.image - unit * body.renderer.render(camera[None], xray.detector)[0]))


def ascend(views: Sequence[View], structure: Structure, start: np.ndarray) -> Winner | None:
    """The reference optimiser's result from one start."""
    from common import adam  # brings torch

    trace = Trace()
    fit = adam.ascend(views, structure.body, start, trace)
    return fit and Winner(start, fit, trace, None, 1, 1.0, evidence(views, structure.body, fit))


def is_ok(winner: Winner, views: Sequence[View], structure: Structure) -> bool:
    return verdict_of(winner, views, structure)["verdict"] == "ok"


def verdict_of(winner: Winner, views: Sequence[View], structure: Structure, overlapping: float = 0.0, expected: float = 0.0) -> dict[str, Any]:
    return judge(winner, views, structure.body, lone_bone=structure.excess, overlapping=overlapping, expected=expected)


def refine_together(views: Sequence[View], structures: Sequence[Structure], found: list[tuple[np.ndarray, Winner]]) -> list[tuple[np.ndarray, Winner]]:
    """All structures refined at once from where each was found alone, so that where they overlap neither pulls the other."""
    trace = Trace()
    fit = refine(views, [s.body for s in structures], [winner.fit.poses[0] for _, winner in found], LEVELS[2:], trace)
    if fit is None:
        return found
    together = []
    for index, (start, winner) in enumerate(found):
        block = slice(6 * index, 6 * index + 6)
        alone = winner.trace.rows
        clock = alone[-1][2] if alone else 0.0
        joint = [([poses[index]], similarity, clock + seconds, pixel) for poses, similarity, seconds, pixel in trace.rows]
        alone_here = assess(views, [structures[index].body], [fit.poses[index]], JUDGED)
        own = Fit([fit.poses[index]], alone_here.similarity if alone_here else 0.0, fit.covariance[block, block])
        together.append((start, replace(winner, fit=own, trace=Trace(winner.trace.started, [*alone, *joint]))))
    return together


def given_pose(path: Path, xray: Xray, scanner_from_volume: np.ndarray) -> np.ndarray:
    """volume_from_camera of an earlier parameters.pt, or of a JSON whose ``camera`` is scanner_from_camera of the picture on disk."""
    if path.suffix.lower() != ".json":
        from common.results import load

        camera = np.array(load(path).scanner_pose[0]["camera"].tolist())
    else:
        content = cli.read_json(path, "a start pose with 'camera', 4x4")
        with cli.reading(path, "camera, a 4x4 matrix of numbers", "correct the file"):
            camera = np.array(content.get("camera"), dtype=float)
    camera = camera.reshape(-1, 4, 4)[0] if camera.size and camera.size % 16 == 0 else camera
    if not geometry.is_rigid(camera):
        raise cli.InputError(f"{path}: its camera is no rigid 4x4 transform; expected scanner_from_camera as in scanner_pose of parameters.pt; correct the file")
    turn = np.diag([-1.0, 1, 1, 1]) if xray.flipped else np.eye(4)
    start = geometry.invert(scanner_from_volume) @ camera @ turn
    if np.linalg.det(start[:3, :3]) < 0:
        raise cli.InputError(f"{path}: its camera is mirrored against the picture; expected the pose of the same X-ray and side; check --flip")
    return start


def positioner_pose(xray: Xray, ct: Volume) -> np.ndarray:
    """volume_from_camera of the C-arm's angles in the header: the patient is taken to lie as in the CT, the bone's middle in the isocentre."""
    from common.dicom import positioner_camera

    scanner_from_volume = ct.lineage.scanner_from_volume
    camera, _ = positioner_camera(xray.path, xray.frame)
    turn = np.diag([-1.0, 1, 1, 1]) if ct.lineage.mirrored else np.eye(4)
    return geometry.invert(scanner_from_volume) @ geometry.translation(geometry.apply(scanner_from_volume, ct.isocentre_mm)) @ camera @ turn
