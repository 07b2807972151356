"""X-rays of phantom knees as varied as a clinic's, with the CT of each bone and exact truth.

What is registered is a CT of 0.8 to 1.4 mm voxels, tilted in the scanner, with a labelmap whose
surface is off by a smooth random field. What is X-rayed is another CT of the same patient, on
another grid and with the bones in another posture, with neighbours, soft tissue, scatter, blur,
noise, a tone curve and collimators. Everything follows from the numbers of patient and picture.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import files, geometry
from common.drr.renderer import Renderer, make_renderer
from common.geometry import Detector
from common.synthetic import phantom, xray_simulation
from common.volume.attenuation import attenuation
from common.volume.cropping import crop_bone
from common.volume.hounsfield import AIR_HU, MUSCLE_HU
from common.volume.lineage import Lineage
from common.volume.mesh import write_mesh
from common.volume.nifti import save
from common.volume.volume import Box, Volume, index_box

BONES = ("femur", "tibia")
FIRST_SEED = 1000  # of the phantoms
VARIATION = 1.5  # between patients, in multiples of the phantom's own
PADDING_MM = 5.0
SCENE_MM = 0.9  # voxels of what is X-rayed
SURFACE_MM, SURFACE_WIDTH_MM = 0.35, 6.0  # of the labelmap's error: standard deviation, width
METAL_POSTURE = 3  # of the phantom with a knee replacement; 1 and 2 are those of its legs
FLEXION_DEG = 30.0  # at most; more would leave the field of the phantom
BOTH_LEGS, CIRCLE, NEAR_EDGE = 0.25, 0.3, 0.25  # shares of the X-rays


class BoneFiles(NamedTuple):
    """The files of one bone."""

    ct: Path
    mask: Path
    label: int


@dataclass(frozen=True)
class Patient:
    """One patient: the files of each (bone, side), and where its bones are in their CT."""

    number: int
    ct: Path  # of both legs
    bones: dict[tuple[str, str], BoneFiles]
    scanner_from_knee: dict[str, np.ndarray]


@dataclass(frozen=True)
class Picture:
    """Two X-rays of one leg at one instant, with the truth of each bone."""

    name: str
    side: str
    xrays: tuple[Path, Path]  # PNG with its geometry beside it, bone bright
    cameras: tuple[np.ndarray, np.ndarray]  # (4, 4) scanner_from_camera in the scene
    # (4, 4) scanner_from_camera of the first X-ray, in the CT of the patient, of each bone
    truths: dict[str, np.ndarray]
    absent: str | None = None  # the bone that was removed from the scene
    # surfaces of metal parts that are in the scene, in the frame of its cameras
    metal: dict[str, Path] = field(default_factory=dict)


def rng_of(*what: object) -> np.random.Generator:
    """Return a generator that depends on ``what`` only."""
    return np.random.default_rng(zlib.crc32(repr(what).encode()))


def make_patient(number: int, folder: Path) -> Patient:
    """Make a patient and write its CT and cropped bones into a folder, unless they are there."""
    rng = rng_of("patient", number)
    spacing, thick = float(rng.uniform(0.8, 1.4)), float(rng.choice([1.0, 1.0, 1.5]))
    made = phantom.make(
        FIRST_SEED + number,
        (spacing, spacing, spacing * thick),
        axes=str(rng.choice(list(phantom.AXES))),
        tilt_deg=float(rng.uniform(-8, 8)),
        variation=VARIATION,
    )
    lineage = Lineage(source={"name": f"patient {number}", "sha256": f"patient {number}"})
    ct = replace(made.ct, lineage=lineage)
    labels = replace(_off_surface(made.segmentation, rng), lineage=lineage)
    bones = {}
    for bone in BONES:
        for side in phantom.SIDES:
            label = phantom.LABELS[f"{bone} {side}"]
            paths = [folder / f"{bone}_{side}{end}.nii.gz" for end in ("", "_mask")]
            bones[bone, side] = BoneFiles(*paths, label)
            if not all(path.exists() for path in paths):
                cropped = crop_bone(ct, labels, label, PADDING_MM)
                assert cropped is not None, "every phantom has every bone"
                for path, volume in zip(paths, cropped, strict=True):
                    save(path, volume)
    whole = folder / "legs.nii.gz"
    if not whole.exists():
        save(whole, ct)
    placed = made.truth["scanner_from_knee"]
    return Patient(
        number, whole, bones, {name: np.array(matrix) for name, matrix in placed.items()}
    )


def _off_surface(labels: Volume, rng: np.random.Generator) -> Volume:
    """Return a labelmap whose surfaces are displaced by a smooth random field."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    moved = np.zeros_like(labels.data)
    for name, label in phantom.LABELS.items():
        if name.split()[0] not in BONES:
            continue
        inside = _largest(labels.data == label)
        box: Box = index_box(inside, np.full(3, 8))
        part = inside[box]
        depth_mm = distance_transform_edt(part, labels.spacing_mm)
        distance_mm = depth_mm - distance_transform_edt(~part, labels.spacing_mm)
        field = gaussian_filter(rng.normal(size=part.shape), SURFACE_WIDTH_MM / labels.spacing_mm)
        moved[box][distance_mm + field * SURFACE_MM / field.std() > 0] = label
    return replace(labels, data=moved)


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest component of a mask: phantoms have islands."""
    from scipy.ndimage import label

    numbered, _ = label(mask)
    return numbered == np.bincount(numbered.ravel())[1:].argmax() + 1


def make_pictures(
    patient: Patient, posture: int, side: str, count: int, folder: Path
) -> Iterator[Picture]:
    """X-ray one leg in one posture from ``count`` directions; the last X-rays lack one bone.

    X-rays that are in the folder are not made again.
    """
    rng = rng_of("scene", patient.number, posture, side)
    scene = _scene(patient, rng, posture)
    truth_of = {
        bone: patient.scanner_from_knee[f"{bone} {side}"]
        @ geometry.invert(np.array(scene.truth["scanner_from_knee"][f"{bone} {side}"]))
        for bone in BONES
    }
    for number in range(count):
        name = f"p{patient.number}_{posture}{side[0]}{number}"
        own = rng_of("picture", name)
        absent = str(own.choice(BONES)) if number == count - 1 else None
        leg = _leg_of(scene, side, bool(own.random() < BOTH_LEGS), absent)
        cameras, xrays = _take_two(leg, scene, side, name, folder)
        truths = {bone: moved @ cameras[0] for bone, moved in truth_of.items()}
        yield Picture(name, side, xrays, cameras, truths, absent)


def make_whole_pictures(patient: Patient, count: int, folder: Path) -> Iterator[Picture]:
    """X-ray both legs as they lie in the CT, from ``count`` directions about a knee.

    X-rays that are in the folder are not made again.
    """
    rng = rng_of("whole", patient.number)
    tilt_deg = float(rng.uniform(5, 15))
    scene = phantom.make(
        FIRST_SEED + patient.number, SCENE_MM, tilt_deg=tilt_deg, variation=VARIATION
    )
    for number in range(count):
        name = f"p{patient.number}_whole{number}"
        side = str(rng.choice(phantom.SIDES))
        cameras, xrays = _take_two(scene.ct, scene, side, name, folder)
        yield Picture(name, side, xrays, cameras, {})


def make_metal_pictures(patient: Patient, count: int, folder: Path) -> Iterator[Picture]:
    """X-ray the right leg with a knee replacement from ``count`` directions.

    X-rays that are in the folder are not made again.
    """
    rng = rng_of("metal", patient.number)
    scene = _scene(patient, rng, METAL_POSTURE, implant=True)
    metal = {}
    for part, (vertices, triangles) in scene.implant.items():
        metal[part] = folder / f"p{patient.number}_{part}.stl"
        write_mesh(metal[part], vertices, triangles)
    leg = _leg_of(scene, "right", False, None)
    for number in range(count):
        name = f"p{patient.number}_metal{number}"
        cameras, xrays = _take_two(leg, scene, "right", name, folder, list(metal.values()))
        yield Picture(name, "right", xrays, cameras, {}, metal=metal)


def _scene(
    patient: Patient, rng: np.random.Generator, posture: int, implant: bool = False
) -> phantom.Phantom:
    """Return a patient in another posture, on another grid, with the knees bent at random."""
    return phantom.make(
        FIRST_SEED + patient.number,
        SCENE_MM,
        tilt_deg=float(rng.uniform(5, 15)),
        variation=VARIATION,
        posture=posture,
        flexion_deg=float(rng.uniform(0, FLEXION_DEG)),
        implant=implant,
    )


def _take_two(
    ct: Volume,
    scene: phantom.Phantom,
    side: str,
    name: str,
    folder: Path,
    metal: Sequence[Path] = (),
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[Path, Path]]:
    """X-ray a CT of a scene, with metal parts, by two cameras, and return cameras and files."""
    first = _camera_of(scene, side, rng_of("camera", name))
    second = _turned(first, scene, side, rng_of("X-ray", name, 1))
    paths = folder / f"{name}_0.png", folder / f"{name}_1.png"
    if not all(path.exists() for path in paths):
        renderer = make_renderer(Volume(attenuation(ct.data), ct.affine, ct.lineage), "cpu")
        for index, (camera, path) in enumerate(zip((first, second), paths, strict=True)):
            _take(renderer, camera, path, rng_of("detector", name, index), metal)
    return (first, second), paths


def _leg_of(scene: phantom.Phantom, side: str, both: bool, absent: str | None) -> Volume:
    """Return the CT of one leg, or of both, without the bone that is ``absent`` in it."""
    from scipy.ndimage import binary_dilation

    hu, affine = scene.ct.data.astype(np.float32), scene.ct.affine
    if absent:
        bone = scene.segmentation.data == phantom.LABELS[f"{absent} {side}"]
        hu[binary_dilation(bone)] = MUSCLE_HU
    if not both:
        steps = [
            affine[0, axis] * np.arange(n).reshape([-1 if axis == a else 1 for a in range(3)])
            for axis, n in enumerate(hu.shape)
        ]
        x = affine[0, 3] + steps[0] + steps[1] + steps[2]
        hu[(x < 0) == (side == "right")] = AIR_HU
    return Volume(hu, affine, Lineage())


def _centre_of(scene: phantom.Phantom, side: str) -> np.ndarray:
    """Return a point (3,) in the knee, RAS mm."""
    landmarks = scene.truth["landmarks"]
    return np.mean(
        [np.mean(list(landmarks[f"{bone} {side}"].values()), axis=0) for bone in BONES], axis=0
    )


def _camera_of(scene: phantom.Phantom, side: str, rng: np.random.Generator) -> np.ndarray:
    """Return scanner_from_camera (4, 4) of a view from any side, tilted, turned and shifted."""
    usual = rng.choice([0, 90, -90, 180]) + rng.normal(0, 20)
    azimuth = usual if rng.random() < 0.6 else rng.uniform(-180, 180)
    angles = (float(azimuth), float(rng.uniform(-25, 25)), float(rng.normal(0, 15)))
    reach = 60.0 if rng.random() < NEAR_EDGE else 25.0
    distance = float(rng.uniform(700, 1000))
    across, along = rng.uniform(-reach, reach, 2)
    return xray_simulation.view(
        _centre_of(scene, side), angles, distance, (float(across), float(along))
    )


def _turned(
    camera: np.ndarray, scene: phantom.Phantom, side: str, rng: np.random.Generator
) -> np.ndarray:
    """Return a second camera, turned by 50 to 110 degrees about the leg."""
    angle = np.radians(rng.uniform(50, 110)) * rng.choice([-1, 1])
    return geometry.twist(np.array([0, 0, angle, 0, 0, 0]), _centre_of(scene, side)) @ camera


def _take(
    renderer: Renderer,
    camera: np.ndarray,
    path: Path,
    rng: np.random.Generator,
    metal: Sequence[Path],
) -> None:
    """Simulate an X-ray and write it with its geometry."""
    size, pixel = int(rng.choice([360, 480])), float(rng.uniform(0.5, 0.8))
    middle = (size - 1) / 2
    sdd_mm = float(rng.uniform(1050, 1500))
    detector = Detector(size, size, sdd_mm, (pixel, pixel), (middle, middle))
    effects = xray_simulation.Effects(
        photons=float(rng.choice([1500, 4000, 12000])),
        scatter=float(rng.uniform(0, 0.2)),
        gamma=float(rng.uniform(0.6, 1.1)),
    )
    circle = rng.random() < CIRCLE
    integrals = renderer.render(camera[None], detector)[0]
    if metal:
        integrals = integrals + xray_simulation.metal_integrals(metal, camera, detector)
    image = xray_simulation.simulate(integrals, pixel, effects, rng)
    if circle:
        rows, columns = np.indices(image.shape) - middle
        image[np.hypot(rows, columns) > size / 2] = 0
    from PIL import Image

    stated = {
        "sdd_mm": detector.sdd_mm,
        "pixel_spacing_mm": list(detector.pixel_mm),
        "principal_point_px": list(detector.principal_px),
    }
    files.write_json(path.with_suffix(".json"), stated)
    with files.writing(path) as stream:
        Image.fromarray(image).save(stream, "PNG")
