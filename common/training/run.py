"""What agnostic.py and finetuned.py do alike once they know their CTs and settings: check, train, write, report."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

import numpy as np

from common.pose_network import prediction
from common.pose_network.checkpoint import Checkpoint
from common.training import log
from common.training.loop import Interrupted, Progress, Trainer, centre_heads
from common.training.outputs import Outputs
from common.training.processes import Processes, processes
from common.training.sampling import PatientPool, Source, make_batch
from common.training.settings import Settings
from common.training.validation import make_validation
from common.volume import folders

logger = logging.getLogger(__name__)

HELD_OUT_FROM = 3  # patients; with fewer, held-out poses of the training patients must do
HELD_OUT_SHARE = 5


@dataclass(frozen=True)
class Job:
    """One training run, ready to start."""

    settings: Settings
    sources: list[Source]
    outputs: Outputs
    files: dict[str, str | None]  # volpath, maskpath, outpath, ckptpath of the config
    cache_gb: float
    wandb: str | None = None  # project of Weights & Biases
    start: Checkpoint | None = None  # weights to begin with
    resume: Checkpoint | None = None  # run to continue


def split_patients(sources: list[Source], seed: int) -> tuple[list[Source], list[Source]]:
    """(to train on, to validate on): a fifth is held out, at least one; with fewer than three patients both are all."""
    if len(sources) < HELD_OUT_FROM:
        return sources, sources
    order = np.random.default_rng([seed, 11]).permutation(len(sources))
    held = set(order[: max(1, len(sources) // HELD_OUT_SHARE)].tolist())
    return [s for k, s in enumerate(sources) if k not in held], [
        s for k, s in enumerate(sources) if k in held
    ]


def execute(job: Job, device: str) -> int | None:
    """Train, write the files and print the checkpoint's path. Raises InputError and `Interrupted`."""
    with processes(device) as among:
        if not among.first:
            logging.getLogger("common").setLevel(logging.WARNING)  # one process speaks for all
        settings = job.settings
        train_on, validate_on = split_patients(job.sources, settings.seed)
        logs = _logs(job, among)
        pool = PatientPool(train_on, settings.view, device, job.cache_gb, settings.seed)
        held = (
            pool
            if validate_on is train_on
            else PatientPool(validate_on, settings.view, device, job.cache_gb, settings.seed)
        )
        for each in {id(pool): pool, id(held): held}.values():
            each.check()
        validation = make_validation(held, settings.view, settings.p_augmentation, settings.seed)
        _announce(job, len(train_on), held is not pool, pool)
        trainer = Trainer(settings, _network(job), device, job.outputs, job.files, among)
        if among.first:
            _save_samples(job, pool)
        if job.resume:
            trainer.resume(job.resume)
        try:
            with logs as record:
                progress = trainer.fit(pool, validation, record)
        except Interrupted:
            logger.info(
                f"stopped after {trainer.progress.iteration} batches and saved; continue with"
                " --resume"
            )
            raise
        finally:
            if among.first and trainer.progress.history:
                _save_curve(job, trainer.progress)
        if among.first:
            _summary(progress)
            print(job.outputs.best)
    return None


def _logs(job: Job, among: Processes):
    """Opens the logs beside the CSV, in the first process. Raises InputError before that where --wandb cannot be served."""
    if not among.first:
        return contextlib.nullcontext(lambda row: None)
    outputs = job.outputs
    wandb = (
        log.wandb_starter(job.wandb, outputs.name, job.settings.config(**job.files), outputs.folder)
        if job.wandb
        else None
    )
    return log.opened(outputs.board, job.resume is None, wandb)


def _network(job: Job):
    """The network with fresh weights, the start's, or the resumed run's."""
    import torch

    torch.manual_seed(job.settings.seed)
    config = job.settings.config(**job.files)
    made = prediction.make_network(config)
    begin = job.resume or job.start
    if begin:
        prediction.load_weights(made, begin)
    else:
        centre_heads(made, job.settings)
    return made


def _announce(job: Job, patients: int, apart: bool, pool: PatientPool) -> None:
    settings, detector = job.settings, job.settings.view.detector
    budget = (
        f"{settings.iterations} batches" if settings.iterations else f"{settings.minutes:g} minutes"
    )
    logger.info(
        f"{settings.model_name} ({settings.parameterization}), {budget} of {settings.batch_size}"
        f" pictures, learning rate {settings.lr:g}"
    )
    logger.info(
        f"detector {detector.width} px of {detector.pixel_mm[0]:.3g} mm, SDD {detector.sdd_mm:g}"
        f" mm; poses {settings.view.pose_range}"
    )
    window = "" if pool.window == len(pool.sources) else f", {pool.window} at a time (--cache_gb)"
    first = job.sources[0]
    if first.mask is None and (beside := folders.labelmap_beside(first.ct)):
        logger.info(
            f"what else is in the CTs' boxes is taken for bone; --mask {beside.parent} trains on"
            " the bone alone and moves the others"
        )
    logger.info(
        f"{patients} CT{'s' if patients > 1 else ''}{window}; validation on held-out"
        f" {'patients' if apart else 'poses of the same CTs'}"
    )


def _save_samples(job: Job, pool: PatientPool) -> None:
    from common.training.plots import save_samples

    rng = np.random.default_rng([job.settings.seed, 13])
    images, _ = make_batch(pool.at(0, rng), job.settings.view, 32, job.settings.p_augmentation, rng)
    save_samples(job.outputs.samples, images[:, 0].numpy())


def _save_curve(job: Job, progress: Progress) -> None:
    from common.training.plots import save_curve

    save_curve(
        job.outputs.curve,
        progress.history,
        f"{job.outputs.name}: {job.settings.model_name}, {progress.history[-1]['pictures']}"
        " pictures",
    )


def _summary(progress: Progress) -> None:
    best = min(progress.history, key=lambda row: row["mtre_mm_median"])
    logger.info(
        f"{best['pictures']} pictures in {best['seconds'] / 60:.1f} min; held out, median (90th"
        f" percentile): {best['mtre_mm_median']:.1f} ({best['mtre_mm_p90']:.1f}) mm mTRE,"
        f" {best['in_plane_mm_median']:.1f} ({best['in_plane_mm_p90']:.1f}) mm in plane,"
        f" {best['depth_mm_median']:.1f} ({best['depth_mm_p90']:.1f}) mm depth,"
        f" {best['rotation_deg_median']:.1f} ({best['rotation_deg_p90']:.1f})°;"
        f" {100 * best['share_within_reach']:.0f} % within reach of refinement"
    )
