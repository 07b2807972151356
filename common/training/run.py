"""One training run from its job to its files: check the CTs, train, and write model and plots."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from common.pose_network import prediction
from common.training import metrics, plots
from common.training.checkpoints import TrainingState
from common.training.images import make_batch
from common.training.interruption import Interrupted
from common.training.job import Job, split_patients
from common.training.loop import Trainer
from common.training.network import centre_heads
from common.training.pool import PatientPool
from common.training.processes import Processes, join_processes
from common.training.sources import Source
from common.training.validation import make_validation
from common.volume import folders

logger = logging.getLogger(__name__)

SAMPLES = 32  # images on the sheet of samples


def train(job: Job) -> Path | None:
    """Train and write the files of the run.

    Returns the path of the best checkpoint, or None in every process but the first. Raises
    InputError if a CT, a setting or an output is invalid, and `Interrupted` after Ctrl-C or
    SIGTERM, when the state is saved.
    """
    settings = job.settings
    with join_processes(job.device) as among:
        writer = _metrics_writer(job, among)
        pool, held = _pools(job)
        validation = make_validation(held, settings.view, settings.p_augmentation, settings.seed)
        _announce(job, pool, held)
        trainer = Trainer(settings, _network(job), job.device, job.outputs, job.config, among)
        if among.first:
            _save_samples(job, pool)
        if job.resume:
            trainer.resume(job.resume)
        try:
            with writer as record:
                state = trainer.fit(pool, validation, record)
        except Interrupted:
            logger.info(
                f"stopped after {trainer.state.iteration} batches; the state is saved, continue"
                " with `resume`"
            )
            raise
        finally:
            if among.first and trainer.state.history:
                _save_curve(job, trainer.state)
        if not among.first:
            return None
        logger.info(metrics.best(state.history))
        return job.outputs.best


def _metrics_writer(
    job: Job, among: Processes
) -> AbstractContextManager[Callable[[metrics.Row], None]]:
    """Where the metrics go in addition to the CSV file; nowhere but from the first process.

    Raises InputError if Weights & Biases is requested but not installed.
    """
    if not among.first:
        return contextlib.nullcontext(lambda row: None)
    outputs, wandb = job.outputs, None
    if job.wandb:
        wandb = metrics.wandb_starter(job.wandb, outputs.name, job.config, outputs.folder)
    return metrics.metrics_writer(outputs.board, job.resume is None, wandb)


def _pools(job: Job) -> tuple[PatientPool, PatientPool]:
    """Checked patients to train on and to validate on; the same pool if none is held out."""
    settings = job.settings

    def pool(sources: Sequence[Source]) -> PatientPool:
        return PatientPool(sources, settings.view, job.device, job.cache_gb, settings.seed)

    train_on, validate_on = split_patients(job.sources, settings.seed)
    trained = pool(train_on)
    held = trained if validate_on is train_on else pool(validate_on)
    trained.check()
    if held is not trained:
        held.check()
    return trained, held


def _network(job: Job) -> torch.nn.Module:
    """The network, with the weights that the job begins with."""
    torch.manual_seed(job.settings.seed)
    network = prediction.make_network(job.config)
    begin = job.resume or job.start
    if begin:
        prediction.load_weights(network, begin)
    else:
        centre_heads(network, job.settings)
    return network


def _announce(job: Job, pool: PatientPool, held: PatientPool) -> None:
    """Log what is trained, on which images and patients."""
    settings, detector = job.settings, job.settings.view.detector
    budget = (
        f"{settings.iterations} batches" if settings.iterations else f"{settings.minutes:g} minutes"
    )
    logger.info(
        f"{settings.model_name} ({settings.parameterization}), {budget}, {settings.batch_size}"
        f" images per batch, learning rate {settings.lr:g}"
    )
    logger.info(
        f"detector {detector.width} px of {detector.pixel_mm[0]:.3g} mm, SDD {detector.sdd_mm:g}"
        f" mm; poses {settings.view.pose_range}"
    )
    first = job.sources[0]
    if first.mask is None and (labelmap := folders.labelmap_beside(first.ct)):
        logger.info(
            "other structures in the crop box are trained on as bone; use"
            f" `mask` {labelmap.parent} to train on the bone alone and to move the others"
        )
    patients = len(pool.sources)
    window = "" if pool.window == patients else f", {pool.window} at a time (`cache_gb`)"
    held_out = "poses of the same CTs" if held is pool else "patients"
    logger.info(
        f"{patients} CT{'s' if patients > 1 else ''}{window}; validation on held-out {held_out}"
    )


def _save_samples(job: Job, pool: PatientPool) -> None:
    rng = np.random.default_rng([job.settings.seed, 13])
    view, probability = job.settings.view, job.settings.p_augmentation
    images, _ = make_batch(pool.at(0, rng), view, SAMPLES, probability, rng)
    plots.save_samples(job.outputs.samples, images[:, 0].numpy())


def _save_curve(job: Job, state: TrainingState) -> None:
    count = state.history[-1]["pictures"]
    title = f"{job.outputs.name}: {job.settings.model_name}, {count} images"
    plots.save_curve(job.outputs.curve, state.history, title)
