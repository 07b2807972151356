"""What follows from the used part of a budget: learning rate, augmentation, and saves."""

from __future__ import annotations

import math

from common.training.checkpoints import TrainingState
from common.training.settings import Settings

VALIDATIONS = 10  # per run
MOST_ITERATIONS_UNSAVED, MOST_MINUTES_UNSAVED = 1000, 5.0


def used(settings: Settings, state: TrainingState) -> float:
    """Fraction of the budget that is used; it can exceed 1 at the end."""
    if settings.iterations is not None:
        return state.iteration / settings.iterations
    return state.seconds / (_minutes(settings) * 60)


def rate_factor(settings: Settings, state: TrainingState) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine to zero."""
    done, warmup = min(used(settings, state), 1.0), settings.warmup
    if done < warmup:
        return max(done / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def augmentation_probability(settings: Settings, state: TrainingState, iteration: int) -> float:
    """Probability of each augmentation in the batch of an iteration.

    It grows from 0: training begins with the bone alone.
    """
    if not settings.effects_full_at:
        return settings.p_augmentation
    if settings.iterations is not None:
        done = iteration / settings.iterations
    else:
        done = used(settings, state)
    grown = min(1.0, done / settings.effects_full_at)
    return settings.p_augmentation * grown


def saves_due(settings: Settings, state: TrainingState) -> int:
    """Number of validations and checkpoints that are due by now."""
    if settings.iterations is not None:
        most = MOST_ITERATIONS_UNSAVED / settings.iterations
    else:
        most = MOST_MINUTES_UNSAVED / _minutes(settings)
    every = min(1 / VALIDATIONS, most)
    done = used(settings, state)
    return math.ceil(1 / every) + 1 if done >= 1 else math.floor(done / every + 1e-9)


def _minutes(settings: Settings) -> float:
    assert settings.minutes is not None  # Settings has one of the two budgets
    return settings.minutes
