"""The verdict on a pose: numbers (`assess`), a decision (`decide`), and sentences (`explain`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from common import geometry
from common.registration import trust
from common.registration.competition import RIVAL_SIMILARITY, Solution
from common.registration.cues import Cues, of_bone
from common.registration.header_says import contradictions, flip_tags
from common.registration.scene import Structure, View
from common.results.result import Rival, Verdict, VerdictCode

# between wrong and correct fits of knee bones; a correct scapula in a chest X-ray has 0.4
# (python benchmarks/accuracy.py)
FAILED_SIMILARITY, SUSPECT_SIMILARITY = 0.25, 0.75
# of a bone that is rendered with the CT around it, and of a whole CT: right ones in chest X-rays
# have 0.87 and more, wrong ones up to 0.84, and up to 0.81 of phantoms (benchmarks/README.md,
# 'Bones of the chest' and 'The verdict put to the test')
SUSPECT_WHOLE = 0.85
# fits that few candidates reached, above wrong and below correct ones of knee bones
# (python benchmarks/accuracy.py)
LONELY_AGREEMENT, LONELY_SIMILARITY = 0.1, 0.85
# wrong fits of a search had 0.65 and less (benchmarks/README.md, 'Template bank')
FOUND_SIMILARITY = 0.68
# similarity from which a search tries no other orientation of the image, whatever the chance of a
# wrong pose (benchmarks/README.md, 'Template bank')
CLEAR_SIMILARITY = 0.8
# evidence below the best of a sequence: a drifting femur of a phantom lost 0.07, correct frames
# 0.03 (benchmarks/README.md, 'Sequences'). Evidence of 0.9 and less varies more, that of metal in
# correct frames from 0.85 to 0.80: what is not explained may grow by half
LOST_EVIDENCE, MORE_UNEXPLAINED = 0.05, 1.5
# chance of a wrong pose; below the first, 20 of 964 fits were wrong, of subjects that the model was
# not made from (benchmarks/README.md, 'The verdict put to the test')
OK_BELOW, FAILED_ABOVE = 0.03, 0.5
# a lower similarity, few candidates or no partner do not count where the chance is this small: of
# held-out fits with a low similarity or few candidates, 65 of 156 right ones are below it and none
# of 371 wrong ones (benchmarks/README.md, 'The verdict put to the test')
SURE_BELOW, SURE_SIMILARITY = 0.003, 0.6
LARGE_IN_PLANE_MM, LARGE_ROTATION_DEG = 1.0, 2.0
FAILED_IN_VIEW, SUSPECT_IN_VIEW = 0.05, 0.5


class Reason(Enum):
    """A reason against ``ok``."""

    RIVAL = auto()
    POORLY_DETERMINED = auto()
    OUT_OF_VIEW = auto()
    LESS_THAN_BEFORE = auto()
    ASSUMED_GEOMETRY = auto()
    OVERLAP = auto()
    APART = auto()
    ALONE = auto()
    DOUBTFUL = auto()
    LONELY = auto()
    LOW_SIMILARITY = auto()
    MIRRORED = auto()
    HEADER = auto()


# doubts that a small chance of a wrong pose removes
FAINT = {Reason.LOW_SIMILARITY, Reason.LONELY}


@dataclass(frozen=True)
class Surroundings:
    """What other structures, other frames and further looks at the X-ray say of a pose."""

    overlap: float = 0.0  # fraction of the bone inside another, 0 if acceptable
    expected_evidence: float = 0.0  # the highest of a sequence, 0 without one
    mirrored: bool = False  # found only in the X-ray flipped left to right
    apart_mm: float = 0.0  # from where the joint with another bone lets it be
    alone: bool = False  # no clear fit, and the other bone of its joint is not found
    cues: Cues | None = None  # where they are measured, the chance of a wrong pose counts too


@dataclass(frozen=True)
class Assessment:
    """The numbers that decide the verdict. Standard deviations as in `Verdict`."""

    deviations: trust.Directions
    in_view: float
    similarity: float
    agreement: float
    evidence: float
    rival: Rival | None
    enough: float  # similarity below which it is suspect
    lone_bone: bool  # not a whole CT, which is larger than most images
    assumed: tuple[str, ...]  # geometry taken from the checkpoint
    against_header: tuple[str, ...] = ()  # what the header says of how the X-ray lies
    flip_tags: tuple[str, ...] = ()  # what in the header states a flipped X-ray, if it was flipped
    chance: float | None = None  # that the pose is wrong, if the cues for it are measured
    around: Surroundings = Surroundings()

    @property
    def in_usual_noise(self) -> float:
        """The similarity as it would be if the X-ray had no more noise than usual."""
        cues = self.around.cues
        return self.similarity / trust.signal_share(cues) ** 0.5 if cues else self.similarity


def judge(
    solution: Solution,
    views: Sequence[View],
    structure: Structure,
    around: Surroundings = Surroundings(),
) -> Verdict:
    """Return the verdict on a solution, with its reasons in words."""
    model, cues = trust.model(), around.cues
    chance = model.wrong(cues, len(views)) if cues else None
    numbers = replace(assess(solution, views, structure), chance=chance, around=around)
    code, reasons = decide(numbers)
    deviations = numbers.deviations
    bounds = model.bounds(
        deviations,
        trust.surface_errors(solution, views, structure),
        trust.kind_of(structure, views),
        trust.detector_errors(solution, views, structure),
    )
    return Verdict(
        code=code,
        reasons=tuple(explain(reason, numbers) for reason in reasons),
        in_plane_sd_mm=deviations.in_plane,
        depth_sd_mm=deviations.depth,
        rotation_sd_deg=deviations.rotation,
        in_view=numbers.in_view,
        similarity=numbers.similarity,
        agreement=numbers.agreement,
        rival=numbers.rival,
        in_plane_95_mm=bounds.in_plane,
        depth_95_mm=bounds.depth,
        rotation_95_deg=bounds.rotation,
        # the model knows knees: where it sees no doubt and something else does, it states nothing
        wrong_probability=chance if code == "ok" or Reason.DOUBTFUL in reasons else None,
    )


def is_ok(solution: Solution, views: Sequence[View], structure: Structure) -> bool:
    """Return whether a solution is ok, regardless of other structures, frames and headers."""
    return not set(decide(assess(solution, views, structure))[1]) - {Reason.HEADER}


def is_found(solution: Solution, views: Sequence[View], structure: Structure) -> bool:
    """Return whether a search may end at a solution: not every ``suspect`` pose is worth another.

    An assumed geometry, a bone partly out of view and a header that says otherwise stay as they are
    wherever the search goes on, and so does a similarity that is a little low if other start poses
    ended there too, and the rival of a metal part in a single view. A low similarity is enough, and
    few candidates are, where the chance of a wrong pose is that of an ``ok`` one, which knows how
    much of what is not explained is noise.
    """
    doubts = _doubts(solution, views, structure)
    return not doubts or (doubts <= FAINT and _has_small_chance(solution, views, structure))


def is_trusted(solution: Solution, views: Sequence[View], structure: Structure) -> bool:
    """Return whether a bone is found, with no more chance of a wrong pose than an ``ok`` one."""
    doubts = _doubts(solution, views, structure)
    return doubts <= FAINT and _has_small_chance(solution, views, structure)


def is_clear(solution: Solution, views: Sequence[View], structure: Structure) -> bool:
    """Return whether a search need not try another orientation of the image."""
    return solution.fit.similarity >= CLEAR_SIMILARITY and is_found(solution, views, structure)


def _doubts(solution: Solution, views: Sequence[View], structure: Structure) -> set[Reason]:
    """Return the reasons against a solution that a further search could remove."""
    numbers = assess(solution, views, structure)
    _, reasons = decide(numbers)
    against = set(reasons) - {Reason.ASSUMED_GEOMETRY, Reason.OUT_OF_VIEW, Reason.HEADER}
    little = numbers.similarity >= FOUND_SIMILARITY and structure.context is None
    if little and numbers.agreement >= LONELY_AGREEMENT:
        against -= {Reason.LOW_SIMILARITY}
    if structure.body.metal and len(views) == 1:  # a symmetric part has a rival wherever one looks
        against -= {Reason.RIVAL}
    return against


def _has_small_chance(solution: Solution, views: Sequence[View], structure: Structure) -> bool:
    if solution.fit.similarity < FOUND_SIMILARITY:
        return False
    cues = of_bone(solution, views, structure)
    return cues is not None and trust.model().wrong(cues, len(views)) < OK_BELOW


def assess(solution: Solution, views: Sequence[View], structure: Structure) -> Assessment:
    """Return the numbers of a solution, regardless of other structures and frames."""
    fit, body = solution.fit, structure.body
    pose = fit.poses[0]
    camera = pose @ views[0].rig_from_camera
    rival = None
    if solution.runner_up is not None:
        other = solution.runner_up
        error = geometry.pose_error(
            other.poses[0] @ views[0].rig_from_camera, camera, body.points, views[0].xray.detector
        )
        rival = Rival(error.in_plane_mm, error.rotation_deg, other.similarity)
    assumed = {what for view in views for what in view.xray.reading.get("assumed", ())}
    return Assessment(
        deviations=trust.deviations(solution, views, structure),
        in_view=min(view.share_in_view(body, pose) for view in views),
        similarity=fit.similarity,
        agreement=solution.agreement,
        evidence=solution.evidence,
        rival=rival,
        enough=SUSPECT_WHOLE if structure.context or body.complete else SUSPECT_SIMILARITY,
        lone_bone=structure.excess,
        assumed=tuple(sorted(assumed)),
        against_header=_against_header(views, structure, pose),
        flip_tags=tuple(flip_tags(views[0].xray, camera, structure.ct.lineage)),
    )


def _against_header(
    views: Sequence[View], structure: Structure, pose: np.ndarray
) -> tuple[str, ...]:
    """Return contradictions of a pose (volume_from_rig) with the headers, and what to change."""
    return tuple(
        f"{what}; {change}"
        for view in views
        for what, change in contradictions(
            view.xray, pose @ view.rig_from_camera, structure.ct.lineage
        )
    )


def decide(numbers: Assessment) -> tuple[VerdictCode, tuple[Reason, ...]]:
    """Return the verdict, and the reasons against ``ok``."""
    rival = numbers.rival
    sure = _is_sure(numbers)
    holds = {
        Reason.RIVAL: rival is not None
        and (rival.in_plane_mm > LARGE_IN_PLANE_MM or rival.rotation_deg > LARGE_ROTATION_DEG)
        and rival.similarity > numbers.similarity - RIVAL_SIMILARITY,
        Reason.POORLY_DETERMINED: numbers.deviations.in_plane > LARGE_IN_PLANE_MM
        or numbers.deviations.rotation > LARGE_ROTATION_DEG,
        Reason.OUT_OF_VIEW: numbers.lone_bone and numbers.in_view < SUSPECT_IN_VIEW,
        Reason.LESS_THAN_BEFORE: numbers.evidence
        < least_evidence(numbers.around.expected_evidence),
        Reason.ASSUMED_GEOMETRY: bool(numbers.assumed),
        Reason.OVERLAP: numbers.around.overlap > 0,
        Reason.APART: numbers.around.apart_mm > 0,
        Reason.ALONE: numbers.around.alone and not sure,
        Reason.DOUBTFUL: numbers.chance is not None and numbers.chance >= OK_BELOW,
        Reason.LONELY: numbers.agreement < LONELY_AGREEMENT
        and SUSPECT_SIMILARITY <= numbers.in_usual_noise < LONELY_SIMILARITY
        and not sure,
        Reason.LOW_SIMILARITY: numbers.in_usual_noise < numbers.enough and not sure,
        Reason.MIRRORED: numbers.around.mirrored,
        Reason.HEADER: bool(numbers.against_header),
    }
    reasons = tuple(reason for reason, true in holds.items() if true)
    hopeless = numbers.chance is not None and numbers.chance > FAILED_ABOVE
    if hopeless or numbers.similarity < FAILED_SIMILARITY or numbers.in_view < FAILED_IN_VIEW:
        return "failed", reasons
    return ("suspect" if reasons else "ok"), reasons


def _is_sure(numbers: Assessment) -> bool:
    """Return whether cues other than the similarity speak clearly for the pose of a single bone."""
    return (
        numbers.chance is not None
        and numbers.chance < SURE_BELOW
        and numbers.in_usual_noise >= SURE_SIMILARITY
        and numbers.enough == SUSPECT_SIMILARITY  # neither a whole CT nor a bone within one
    )


def least_evidence(best: float) -> float:
    """Return the evidence below which a frame of a sequence has lost the structure."""
    unexplained = MORE_UNEXPLAINED * (1 - best**2)
    return min(best - LOST_EVIDENCE, float(np.sqrt(max(0.0, 1 - unexplained))))


def explain(reason: Reason, numbers: Assessment) -> str:
    """Return a reason as a sentence for the user."""
    similarity = f"(similarity {numbers.similarity:.2f})"
    match reason:
        case Reason.RIVAL:
            rival = numbers.rival
            assert rival is not None
            return (
                f"another pose, {rival.in_plane_mm:.1f} mm and {rival.rotation_deg:.1f} deg away,"
                " fits nearly as well"
            )
        case Reason.POORLY_DETERMINED:
            sd = numbers.deviations
            return (
                "the image constrains the pose poorly (in plane"
                f" {sd.in_plane:.1f} mm, rotation {sd.rotation:.1f} deg)"
            )
        case Reason.OUT_OF_VIEW:
            return f"only {100 * numbers.in_view:.0f} % of the structure is inside the image"
        case Reason.LESS_THAN_BEFORE:
            return (
                f"evidence is lower than in the best frame ({numbers.evidence:.2f},"
                f" best {numbers.around.expected_evidence:.2f})"
            )
        case Reason.ASSUMED_GEOMETRY:
            verb, it = ("are", "them") if len(numbers.assumed) > 1 else ("is", "it")
            return (
                f"the {' and the '.join(numbers.assumed)} {verb} taken from the checkpoint, not"
                f" from the X-ray: depth and scale depend on {it}"
            )
        case Reason.OVERLAP:
            return f"{100 * numbers.around.overlap:.0f} % of the bone overlaps another bone"
        case Reason.APART:
            return (
                f"it is {numbers.around.apart_mm:.0f} mm from where its joint with the other bone"
                " lets it be: one of the two poses is wrong"
            )
        case Reason.ALONE:
            return (
                f"the other bone of its joint is not found, and this is no clear fit {similarity}"
            )
        case Reason.DOUBTFUL:
            assert numbers.chance is not None
            assert numbers.around.cues is not None
            return (
                f"it is wrong with a chance of {100 * numbers.chance:.0f} %:"
                f" {trust.leading_doubt(numbers.around.cues)} {similarity}"
            )
        case Reason.LONELY:
            return (
                "other candidates converged to different poses, and the similarity is low"
                f" {similarity}"
            )
        case Reason.LOW_SIMILARITY:
            return f"the DRR matches the X-ray poorly {similarity}"
        case Reason.HEADER:
            return "; ".join(numbers.against_header)
        case Reason.MIRRORED:
            stated = ", ".join(numbers.flip_tags)
            return (
                "the X-ray fits only if it is flipped left to right"
                + f", as its header states ({stated})" * bool(stated)
                + ": check the side of the bone and how the X-ray was exported, then state `flip`"
            )
