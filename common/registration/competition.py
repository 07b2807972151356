"""How start poses compete: candidates are spread around them, scored on the same pixels, the best refined, and the best of those is followed to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common import geometry
from common.registration.gauss_newton import Fit, Trace, refine
from common.registration.pyramid import LEVELS, WIDE, Body, Level, LevelView, Pyramid, View

COARSE, MIDDLE, FINE = LEVELS[:2], LEVELS[2:3], LEVELS[3:]
SCATTER_DEG, SCATTER_MM, SCATTER_DEPTH_MM = (
    8.0,
    10.0,
    30.0,
)  # radius of the candidates around a start
SCATTER_COUNT = 200
KEEP = 12  # candidates refined coarsely
FINALISTS = 3  # that go on to the level at which similarities are compared
HOPELESS = 0.15  # of evidence: a coarse fit that has so much less than the best does not catch up (of 32 searches the right one was first in each)
VALLEY_STEPS_DEG = (-14.0, -7.0, 7.0, 14.0)
VALLEY_WALKS = 4
VALLEY_GAIN = 2e-3  # of similarity: less is the same hollow
RIVAL_SIMILARITY = 0.03  # a fit that explains so little less is no worse
SAME_EVIDENCE = 1e-3
CLEAR_SIMILARITY = 0.9  # of a whole CT in sharp pictures, right ones had 0.92 and more, wrong ones up to 0.33 (chest); 0.81 on a small smooth phantom
SAME_DEG, SAME_MM = 6.0, 6.0  # candidates nearer than both are one


@dataclass(frozen=True)
class Solution:
    """The best of several refined starts."""

    start: np.ndarray  # volume_from_rig it came from
    fit: Fit
    trace: Trace
    runner_up: (
        Fit | None
    )  # the best fit that ended elsewhere on the way, None where all ended together
    candidates: int
    agreement: float  # share of the coarsely refined candidates that ended where the winner did
    evidence: float  # see `evidence`


def compete(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int = SCATTER_COUNT,
    keep: int = KEEP,
    seed: int = 0,
) -> Solution | None:
    """Refine the most promising of ``starts`` (volume_from_rig) and of poses scattered around the first of them; the fit that explains most wins.

    A whole CT comes back from far by itself: nothing else is tried where its one start ends well.
    Returns None where no candidate shows the body inside the pictures.
    """
    far = (
        Run.from_start(views, body, starts[0], (WIDE, *COARSE, *MIDDLE))
        if body.complete and len(starts) == 1
        else None
    )
    if far and clear(far):
        return finish(views, body, Field([far], [far], 1))
    field = advance(views, body, starts, scatter, keep, seed)
    if field and far:
        field = replace(field, finals=best_first([*field.finals, far]))
    return finish(views, body, field) if field else None


def compete_from(
    views: Sequence[View], body: Body, starts: Sequence[np.ndarray], seed: int = 0
) -> Solution | None:
    """`compete` around one start; a search's list competes by itself first, and what is scattered around its best then."""
    if len(starts) == 1:
        return compete(views, body, starts, seed=seed)
    field = advance(views, body, starts, 0, len(starts), seed)
    if field is None:
        return None
    first = field.finals[0]
    if not (body.complete and clear(first)):
        around = advance(views, body, [first.pose], SCATTER_COUNT, KEEP, seed)
        if around and around.finals[0].evidence > first.evidence - SAME_EVIDENCE:
            field = around
    return finish(views, body, field)


@dataclass(frozen=True)
class Field:
    """A competition that has come down to a few runs."""

    finals: list[Run]  # at the level where similarities are compared, best first
    coarse: list[Run]  # all that were refined coarsely
    candidates: int


def advance(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int,
    keep: int,
    seed: int,
) -> Field | None:
    """The competition of `compete` up to the level at which similarities are compared. None where no candidate is in view."""
    coarse, candidates = explore(views, body, starts, scatter, keep, seed)
    if not coarse:
        return None
    able = merge(
        [run for run in coarse if run.evidence > coarse[0].evidence - HOPELESS],
        views[0].rig_from_camera,
        body,
    )[:FINALISTS]
    finals = [
        run.further(views, body, MIDDLE) for run in [walk_valley(views, body, able[0]), *able[1:]]
    ]
    if len(starts) == 1:  # from a start that is near, coarse pictures of a slender bone lead away
        finals.append(Run.from_start(views, body, starts[0], MIDDLE))
    finals = best_first([run for run in finals if run])
    return Field(finals, coarse, candidates) if finals else None


def finish(views: Sequence[View], body: Body, field: Field) -> Solution | None:
    """The best run and its rival at full resolution."""
    best = field.finals[0].further(views, body, FINE)
    if best is None:
        return None

    def same(run: Run) -> bool:
        return alike(best.pose, run.pose, views[0].rig_from_camera, body)

    rival = next((run for run in field.finals[1:] if not same(run)), None)
    if (
        rival and rival.fit.similarity > best.fit.similarity - RIVAL_SIMILARITY
    ):  # a rival to be taken seriously is followed to the end
        rival = rival.further(views, body, FINE)
        rival = rival if rival and not same(rival) else None
    together = sum(run.starts for run in field.coarse if same(run)) / sum(
        run.starts for run in field.coarse
    )
    return Solution(
        best.start,
        best.fit,
        best.trace,
        rival.fit if rival else None,
        field.candidates,
        together,
        best.evidence,
    )


def follow(views: Sequence[View], body: Body, pose: np.ndarray) -> Solution | None:
    """Refined from one pose that is near, such as that of the frame before. None where it shows nothing inside the pictures."""
    run = Run.from_start(views, body, pose, LEVELS)
    return run.alone() if run else None


def better(one: Solution | None, other: Solution | None) -> Solution | None:
    """The winner that explains more of the picture; the first where both do equally."""
    if one is None or other is None:
        return one or other
    return other if other.evidence > one.evidence + SAME_EVIDENCE else one


def explore(
    views: Sequence[View],
    body: Body,
    starts: Sequence[np.ndarray],
    scatter: int,
    keep: int,
    seed: int,
) -> tuple[list[Run], int]:
    """Coarse fits of the ``keep`` most promising candidates, best first, and how many candidates there were."""
    candidates = [
        *starts,
        *scattered(starts[0], views[0].rig_from_camera, body, scatter, np.random.default_rng(seed)),
    ]
    scores = score(views, body, candidates, COARSE[0], candidates[: len(starts)])
    order = [i for i in np.argsort(-scores) if np.isfinite(scores[i])]
    chosen = distinct([candidates[i] for i in order], views[0].rig_from_camera, body, keep)
    runs = best_first(
        [run for pose in chosen if (run := Run.from_start(views, body, pose, COARSE[:1]))]
    )
    merged = merge(runs, views[0].rig_from_camera, body)
    return best_first(
        [further for run in merged if (further := run.further(views, body, COARSE[1:]))]
    ), len(candidates)


def merge(runs: Sequence[Run], rig_from_camera: np.ndarray, body: Body) -> list[Run]:
    """Runs (best first) that have come together made one: the best of them goes on."""
    merged: list[Run] = []
    for run in runs:
        twin = next(
            (
                i
                for i, other in enumerate(merged)
                if alike(other.pose, run.pose, rig_from_camera, body)
            ),
            None,
        )
        if twin is None:
            merged.append(run)
        else:
            merged[twin] = replace(merged[twin], starts=merged[twin].starts + 1)
    return merged


@dataclass(frozen=True)
class Run:
    """One start on its way through the levels."""

    start: np.ndarray  # volume_from_rig
    fit: Fit
    trace: Trace
    evidence: float
    starts: int = 1  # that came together in it

    @property
    def pose(self) -> np.ndarray:
        return self.fit.poses[0]

    @classmethod
    def from_start(
        cls, views: Sequence[View], body: Body, start: np.ndarray, levels: Sequence[Level]
    ) -> Run | None:
        """Refined from ``start``; None where the body lies outside all pictures."""
        trace = Trace()
        fit = refine(views, [body], [start], levels, trace)
        return cls(start, fit, trace, evidence(views, body, fit)) if fit else None

    def further(self, views: Sequence[View], body: Body, levels: Sequence[Level]) -> Run | None:
        """The same run after further levels."""
        fit = refine(views, [body], self.fit.poses, levels, self.trace)
        return replace(self, fit=fit, evidence=evidence(views, body, fit)) if fit else None

    def alone(self) -> Solution:
        """The winner where nothing competed."""
        return Solution(self.start, self.fit, self.trace, None, 1, 1.0, self.evidence)


def clear(run: Run) -> bool:
    """Whether the run of a whole CT explains so much of the picture that it is right: no wrong one comes near."""
    return run.fit.similarity > CLEAR_SIMILARITY


def best_first(runs: Sequence[Run]) -> list[Run]:
    """Runs that ended at one level, the one with most evidence first."""
    return sorted(runs, key=lambda run: -run.evidence)


def evidence(views: Sequence[View], body: Body, fit: Fit) -> float:
    """Similarity times the square root of the share in view: a shaft half outside the picture fits more easily than a whole bone."""
    return fit.similarity * float(
        np.sqrt(np.mean([share_in_view(view, body, fit.poses[0]) for view in views]))
    )


def share_in_view(view: View, body: Body, pose: np.ndarray) -> float:
    """Share of the body's points that a pose (volume_from_rig) projects into the picture's valid field."""
    column, row = (
        np.round(geometry.project(body.points, view.xray.detector, pose @ view.rig_from_camera))
        .astype(int)
        .T
    )
    inside = (
        (column >= 0)
        & (row >= 0)
        & (column < view.xray.detector.width)
        & (row < view.xray.detector.height)
    )
    return float(view.xray.valid[row[inside], column[inside]].sum() / len(body.points))


def walk_valley(views: Sequence[View], body: Body, run: Run) -> Run:
    """The best of a run and of fits started along the direction in which the pictures determine the pose least.

    A tibia seen from the side may turn by 10 degrees about its shaft, shift and depth following, and lose little: the cost is a long valley with several
    hollows. From each hollow the next are tried on both sides until none is deeper.
    """
    for _ in range(VALLEY_WALKS):
        covariance = run.fit.covariance
        turn = np.linalg.eigh(covariance[:3, :3])[1][:, -1]
        along = np.r_[
            turn, covariance[3:6, :3] @ np.linalg.pinv(covariance[:3, :3]) @ turn
        ]  # what translation goes with the turn
        starts = [
            geometry.twist(np.radians(angle) * along, body.renderer.centre_mm) @ run.pose
            for angle in VALLEY_STEPS_DEG
        ]
        tried = best_first(
            [
                other
                for start in starts
                if (other := Run.from_start(views, body, start, COARSE[-1:]))
            ]
        )
        if not tried or tried[0].evidence <= run.evidence + VALLEY_GAIN:
            return run
        run = replace(
            tried[0],
            start=run.start,
            trace=Trace(run.trace.started, run.trace.rows + tried[0].trace.rows),
        )
    return run


def scattered(
    pose: np.ndarray, rig_from_camera: np.ndarray, body: Body, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Poses around ``pose`` (volume_from_rig): uniform in rotation about the body's centre, in plane and, further, along the camera's depth."""
    depth_axis = (pose @ rig_from_camera)[:3, 2]
    poses = []
    for _ in range(count):
        turn = np.radians(rng.uniform(-1, 1, 3) * SCATTER_DEG)
        shift = rng.uniform(-1, 1, 3) * SCATTER_MM
        shift += depth_axis * rng.uniform(-1, 1) * (SCATTER_DEPTH_MM - SCATTER_MM)
        poses.append(geometry.twist(np.r_[turn, shift], body.renderer.centre_mm) @ pose)
    return poses


def score(
    views: Sequence[View],
    body: Body,
    poses: Sequence[np.ndarray],
    level: Level,
    zone_of: Sequence[np.ndarray],
) -> np.ndarray:
    """Weighted correlation of local contrast for each pose (volume_from_rig), mean over the views, all on one zone a view:
    the silhouettes of ``zone_of`` and 12 mm around them. -inf where a pose shows nothing inside a zone.
    """
    pyramid = Pyramid(views, [body] * len(zone_of), zone_of, level)
    return np.mean(
        [_score_view(frame, pyramid.bodies[0], poses, zone_of) for frame in pyramid.views], axis=0
    )


def _score_view(
    frame: LevelView, body: Body, poses: Sequence[np.ndarray], zone_of: Sequence[np.ndarray]
) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    renderer = body.renderer
    covered = (
        (body.outline or renderer).render(np.stack(zone_of) @ frame.rig_from_camera, frame.detector)
        > 0
    ).any(axis=0)
    zone = (
        binary_dilation(covered, iterations=max(1, round(12.0 / max(frame.detector.pixel_mm))))
        * frame.valid
    )
    if not zone.any():
        return np.full(len(poses), -np.inf)
    weights = zone / zone.sum()
    target = frame.features[0] - (weights * frame.features[0]).sum()
    scores = np.empty(len(poses))
    for first in range(0, len(poses), 64):
        images = frame.highpass(
            renderer.render(
                np.stack(poses[first : first + 64]) @ frame.rig_from_camera, frame.detector
            )
        )
        images = images - (images * weights).sum((1, 2))[:, None, None]
        energy = (weights * images**2).sum((1, 2)) * (weights * target**2).sum()
        scores[first : first + 64] = np.where(
            energy > 1e-16,
            (weights * images * target).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-16)),
            -np.inf,
        )
    return scores


def distinct(
    poses: Sequence[np.ndarray], rig_from_camera: np.ndarray, body: Body, count: int
) -> list[np.ndarray]:
    """The first ``count`` poses (volume_from_rig) that are not near-duplicates of one before them, as the camera sees them."""
    chosen: list[np.ndarray] = []
    for pose in poses:
        if not any(alike(other, pose, rig_from_camera, body) for other in chosen):
            chosen.append(pose)
        if len(chosen) == count:
            break
    return chosen


def alike(one: np.ndarray, other: np.ndarray, rig_from_camera: np.ndarray, body: Body) -> bool:
    """Whether two poses (volume_from_rig) are nearly the same to the camera. Depth hardly changes the picture, so it separates less."""
    here, there = geometry.invert(one @ rig_from_camera), geometry.invert(other @ rig_from_camera)
    apart = geometry.apply(here, body.renderer.centre_mm) - geometry.apply(
        there, body.renderer.centre_mm
    )
    return bool(
        geometry.rotation_angle_deg(here[:3, :3] @ there[:3, :3].T) < SAME_DEG
        and np.linalg.norm(apart * [1, 1, 0.2]) < SAME_MM
    )
