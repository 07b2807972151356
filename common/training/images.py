"""Training images: random poses that show the bone, line integrals of the layers, augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common import geometry
from common.errors import InputError
from common.geometry.pose_range import poses_from_parameters
from common.pose_network import prediction
from common.training import augmentation
from common.training.augmentation import LayerImages
from common.training.patient import Patient, Renderers
from common.training.view import TrainingView

LEAST_IN_VIEW = 0.25  # fraction of the bone's points on the detector
MOST_DRAWS = 100
GROUPS = 4  # parts of a batch; the CT of each part continues by a length of its own
# standard deviations of the motion of the body relative to the wanted bone
BODY_ANGLE_DEG, BODY_SHIFT_MM = 4.0, 3.0
# standard deviations of the motion of a labelled neighbour in the body, about its own centre
JOINT_ANGLE_DEG, JOINT_SHIFT_MM = 8.0, 4.0


@dataclass(frozen=True)
class Scenes:
    """Poses of one patient with their line integrals, before augmentation.

    ``poses`` are extrinsics (N, 4, 4). ``patient`` is None if the loss renders nothing more.
    """

    patient: Patient | None
    poses: torch.Tensor
    layers: LayerImages


def make_batch(
    patient: Patient, view: TrainingView, count: int, probability: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`images_of` random scenes of one patient."""
    scenes = make_scenes(patient, view, count, GROUPS, probability > 0, rng)
    return images_of(scenes, view, probability, rng)


def images_of(
    scenes: Sequence[Scenes], view: TrainingView, probability: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input images (B, 1, H, W) of the network and their extrinsics (B, 4, 4), float32, CPU.

    ``probability`` is that of each augmentation; 0 gives plain DRRs.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    layers = augmentation.join([scene.layers for scene in scenes])
    images = prediction.standardise_input(augmentation.compose(layers, probability, generator))
    return images.flip(3) if view.mirrored else images, torch.cat([scene.poses for scene in scenes])


def make_scenes(
    patient: Patient,
    view: TrainingView,
    count: int,
    groups: int,
    varied: bool,
    rng: np.random.Generator,
) -> list[Scenes]:
    """Render ``count`` random poses in ``groups``.

    With ``varied``, other bones move, and the patient continues beyond the CT by a random length
    per group: X-rays show more of a patient than a cropped CT, and a network that always sees the
    end of the CT infers size from the visible length (docs/training.md, 'Where the CT ends').
    """

    def group(poses: np.ndarray) -> Scenes:
        renderers = patient.renderers(draw_ends(patient, rng)) if varied else patient.ct_renderers
        layers = _render(renderers, patient, view, view.cameras(poses), varied, rng)
        return Scenes(patient, torch.as_tensor(poses, dtype=torch.float32), layers)

    poses = draw_poses(patient, view, count, rng)
    return [group(part) for part in np.array_split(poses, min(groups, count))]


def draw_poses(
    patient: Patient, view: TrainingView, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Random extrinsics (count, 4, 4) of the pose range that show the bone.

    Raises InputError if almost no pose of the range shows it.
    """
    kept = np.empty((0, 4, 4))
    for _ in range(MOST_DRAWS):
        poses = poses_from_parameters(view.pose_range.sample(count, rng))
        shown = [
            geometry.share_in_view(patient.points_mm, view.detector, camera) >= LEAST_IN_VIEW
            for camera in view.cameras(poses)
        ]
        kept = np.concatenate([kept, poses[shown]])
        if len(kept) >= count:
            return kept[:count]
    detector = view.detector
    raise InputError(
        patient.name,
        f"the bone falls on the detector ({detector.width} px of {detector.pixel_mm[0]:g} mm)"
        f" in {len(kept)} of {MOST_DRAWS * count} poses",
        "most poses",
        "correct the pose range, `delx` or `sdd`",
    )


def draw_ends(patient: Patient, rng: np.random.Generator) -> np.ndarray:
    """Random distances (2, 3) in mm from the faces of the CT to the ends of the rendered patient.

    Each end is the face in a third of the draws, out of view in a third, and otherwise between.
    """
    kind = rng.integers(3, size=(2, 3))
    return patient.beyond_mm * np.where(kind == 1, rng.uniform(size=(2, 3)), kind / 2)


def _render(
    renderers: Renderers,
    patient: Patient,
    view: TrainingView,
    cameras: np.ndarray,
    articulated: bool,
    rng: np.random.Generator,
) -> LayerImages:
    """Line integrals for cameras (B, 4, 4) of the canonical frame.

    ``articulated`` moves everything but the wanted bone, if there is a labelmap.
    """
    articulated = articulated and bool(renderers.others)
    half = view.detector.binned(2)
    body = cameras
    if articulated:
        body = _moved(cameras, BODY_ANGLE_DEG, BODY_SHIFT_MM, np.zeros(3), rng)
    others = None
    for renderer, centre_mm in renderers.others:
        at = body
        if articulated and centre_mm is not None:
            at = _moved(body, JOINT_ANGLE_DEG, JOINT_SHIFT_MM, centre_mm, rng)
        image = renderer.render(patient.cameras(at), half)
        others = image if others is None else others + image
    bone = renderers.bone.render(patient.cameras(cameras), view.detector)
    tissue = renderers.tissue.render(patient.cameras(body), half)
    return LayerImages(
        torch.from_numpy(bone)[:, None],
        torch.from_numpy(tissue)[:, None],
        None if others is None else torch.from_numpy(others)[:, None],
    )


def _moved(
    cameras: np.ndarray,
    angle_deg: float,
    shift_mm: float,
    centre_mm: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The cameras (B, 4, 4), each moved at random about ``centre_mm``: normally distributed."""
    deviations = [np.radians(angle_deg)] * 3 + [shift_mm] * 3
    motions = rng.normal(size=(len(cameras), 6)) * deviations
    return np.stack(
        [
            geometry.twist(motion, centre_mm) @ camera
            for motion, camera in zip(motions, cameras, strict=True)
        ]
    )
