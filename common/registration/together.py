"""Joint refinement of the structures of one instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.registration.found import Found
from common.registration.gauss_newton import Fit, assess_fit, continued, refine
from common.registration.pyramid import JUDGED, LEVELS
from common.registration.scene import Structure, View
from common.registration.uncertainty import own_first
from common.registration.verdict import is_found


def refine_together(
    views: Sequence[View], structures: Sequence[Structure], found: Sequence[Found]
) -> list[Found]:
    """Refine structures that are found jointly, from their separate solutions.

    Where two of them overlap in the image, neither then displaces the other. Each keeps its own
    similarity, assessed without the others. One that is not found stays as it is: where it is
    wrong, it would displace the others.
    """
    together = list(found)
    certain = [
        number
        for number, (structure, one) in enumerate(zip(structures, found, strict=True))
        if is_found(one.solution, views, structure)
    ]
    if len(certain) < 2:
        return together
    alone = [found[number].solution.fit for number in certain]
    bodies = [structures[number].body for number in certain]
    joint = refine(views, bodies, [fit.poses[0] for fit in alone], LEVELS[2:])
    if joint is None:
        return together
    for index, number in enumerate(certain):
        pose = joint.poses[index]
        judged = assess_fit(views, [bodies[index]], [pose], JUDGED)
        block = slice(6 * index, 6 * index + 6)
        own = [replace(each, poses=[each.poses[index]]) for each in joint.trace]
        fit = Fit(
            [pose],
            judged.similarity if judged else 0.0,
            joint.covariance[block, block],
            continued(alone[index].trace, own),
            own_first(joint.covariance, index),
        )
        solution = replace(found[number].solution, fit=fit)
        together[number] = Found(found[number].start, solution)
    return together
