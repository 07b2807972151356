"""A phantom knee that bends by a known amount in front of an X-ray source at rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from common import geometry
from common.geometry import Detector
from common.synthetic import phantom, xray_simulation
from common.volume.hounsfield import AIR_HU
from common.volume.lineage import Lineage
from common.volume.volume import Volume

BONES = ("femur", "tibia")
MOST_DEG = 45.0  # of flexion; more would leave the field of the phantom


@dataclass(frozen=True)
class Instant:
    """One X-ray of the bending knee."""

    flexion_deg: float  # of the shank from the phantom's straight leg
    image: np.ndarray  # (H, W) uint16, bone bright
    cameras: dict[str, np.ndarray]  # (4, 4) of each bone: scanner_from_camera in the CT at rest


def course(low_deg: float, high_deg: float, frames: int) -> np.ndarray:
    """Return flexion (N,), degrees: from low to high and back, with a turning point at high."""
    phase = np.linspace(0, 2 * np.pi, frames)
    return low_deg + (high_deg - low_deg) * (1 - np.cos(phase)) / 2


def bend(
    rest: phantom.Phantom,
    side: str,
    flexion_deg: np.ndarray,
    angles_deg: tuple[float, float, float],
    distance_mm: float,
    detector: Detector,
    effects: xray_simulation.Effects,
    rng: np.random.Generator,
) -> Iterator[Instant]:
    """X-ray one leg of a patient at each flexion (N,).

    ``rest`` is the patient at the time of the CT, with the same seed and grid. The camera is aimed
    at the knee; only its leg is in the beam. Rendered exactly, as `xray_simulation` does.
    """
    spacing = tuple(float(x) for x in rest.ct.spacing_mm)
    camera = xray_simulation.view(knee_of(rest, side), angles_deg, distance_mm, (0.0, 0.0))
    at_rest = rest.truth["scanner_from_knee"]
    rendered: dict[float, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
    for angle in flexion_deg:
        key = round(float(angle), 6)  # the way back has the postures of the way there
        if key not in rendered:
            scene = phantom.make(
                rest.truth["seed"],
                (spacing[0], spacing[1], spacing[2]),
                flexion_deg=float(angle),
                bent=True,
            )
            placed = scene.truth["scanner_from_knee"]
            cameras = {}
            for bone in BONES:
                name = f"{bone} {side}"
                moved = np.array(placed[name]) @ geometry.invert(np.array(at_rest[name]))
                cameras[bone] = geometry.invert(moved) @ camera
            leg = one_leg(scene.ct, side)
            integrals = xray_simulation.render_strips(leg, camera, detector, progress=False)
            rendered[key] = integrals, cameras
        integrals, cameras = rendered[key]
        image = xray_simulation.simulate(integrals, detector.pixel_mm[0], effects, rng)
        yield Instant(float(angle), image, cameras)


def knee_of(patient: phantom.Phantom, side: str) -> np.ndarray:
    """Return a point (3,) in the knee, RAS mm: the middle of the landmarks of both bones."""
    landmarks = patient.truth["landmarks"]
    return np.mean(
        [np.mean(list(landmarks[f"{bone} {side}"].values()), axis=0) for bone in BONES], axis=0
    )


def one_leg(ct: Volume, side: str) -> Volume:
    """Return a CT with air in place of the other leg, which lies beyond x = 0."""
    hu, affine = ct.data.copy(), ct.affine
    steps = [
        affine[0, axis] * np.arange(n).reshape([-1 if axis == a else 1 for a in range(3)])
        for axis, n in enumerate(hu.shape)
    ]
    x = affine[0, 3] + steps[0] + steps[1] + steps[2]
    hu[np.broadcast_to((x < 0) == (side == "right"), hu.shape)] = AIR_HU
    return Volume(hu, affine, Lineage())


def truth_entries(instants: list[Instant], names: list[str], side: str) -> dict[str, Any]:
    """Return the content of ``movement_truth.json``, without the images."""
    return {
        "schema": "movement-truth/1",
        "side": side,
        "frame": "scanner_from_camera of each bone, RAS mm of the CT: as if the bone had stayed",
        "frames": [
            {
                "name": name,
                "flexion_deg": round(each.flexion_deg, 6),
                **{bone: camera.tolist() for bone, camera in each.cameras.items()},
            }
            for name, each in zip(names, instants, strict=True)
        ],
    }
