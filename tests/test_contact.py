"""Distances between the bones of a knee: analytic condyles and plateaus, bands, labelmaps."""

import csv
import dataclasses

import numpy as np
import pytest
import pyvista
from bones import femur_labelmap, tibia_labelmap
from test_kinematics import (
    ANATOMY,
    CAMERA,
    command,
    covariance,
    frame,
    joint,
    left,
    save,
    scene,
    template,
    tibia_camera,
)

from common import geometry
from common.errors import InputError
from common.kinematics import frame_file
from common.kinematics.contact import Mesh, contact, load_mesh, plateau_of
from common.kinematics.movement import Movement, movement
from common.volume import nifti
from common.volume.lineage import Lineage
from pipeline import kinematics

__all__ = ["scene", "template"]  # fixtures
RADIUS, APART, GAP = 20.0, 23.0, 3.0


def mesh(surface: pyvista.PolyData) -> Mesh:
    surface = surface.triangulate().clean()
    return Mesh(np.asarray(surface.points, float), surface.faces.reshape(-1, 4)[:, 1:])


def condyles() -> Mesh:
    """Two spheres on the femur's Z."""
    spheres = [
        pyvista.Sphere(radius=RADIUS, center=(0, 0, z), theta_resolution=120, phi_resolution=120)
        for z in (-APART, APART)
    ]
    return mesh(spheres[0].append_polydata(spheres[1]))


def plate() -> Mesh:
    """A block whose upper face is the plateau, level with the tibia's origin."""
    grid = pyvista.ImageData(
        dimensions=(61, 11, 81), spacing=(1, 2, 1), origin=(-30.0, -20.0, -40.0)
    )
    return mesh(grid.extract_surface(algorithm="dataset_surface"))


def moves(*poses: np.ndarray, spread: np.ndarray | None = None) -> Movement:
    count = len(poses)
    covariances = np.tile(np.zeros((6, 6)) if spread is None else spread, (count, 1, 1))
    names = tuple(f"f{number}" for number in range(count))
    stacked = np.stack(poses)
    values = np.where(np.isfinite(stacked[:, :1, 0]), np.zeros((count, 6)), np.nan)
    return Movement(names, values, covariances, covariances, stacked, covariances)


def below(gap: float = GAP, x: float = 0.0) -> np.ndarray:
    """proximal_from_distal of a tibia ``gap`` below the condyles and ``x`` ahead of them."""
    return geometry.translation(np.array([x, -RADIUS - gap, 0]))


def test_the_least_distance_is_below_each_condyle():
    missing = np.full((4, 4), np.nan)
    tilt = geometry.twist(np.array([np.radians(2), 0, 0, 0, 0, 0]), np.zeros(3))
    plateau = plateau_of(plate(), "right")
    found = contact(moves(below(), below(4, 5), missing, below() @ tilt), condyles(), plateau)
    np.testing.assert_allclose(found.least[:2], [[3, 3], [4, 4]], atol=0.03)
    # medial is at -Z of a right knee; places are in the tibia's frame
    np.testing.assert_allclose(found.places()[0, 0], [0, 0, -APART], atol=0.8)
    np.testing.assert_allclose(found.places()[1, 1], [-5, 0, APART], atol=0.8)
    assert np.isnan(found.least[2]).all()
    assert np.isnan(found.places()[2]).all()
    # a turn about X by 2 degrees lowers the plateau by 0.8 mm at +Z and lifts it at -Z
    change = APART * np.sin(np.radians(2))
    np.testing.assert_allclose(found.least[3] - 3, [-change, change], atol=0.05)
    lefts = contact(moves(below() @ tilt), condyles(), plateau_of(plate(), "left"))
    np.testing.assert_allclose(lefts.least[0], found.least[3, ::-1], atol=1e-9)


def test_bones_that_overlap_have_a_negative_distance():
    found = contact(moves(below(-1.5)), condyles(), plateau_of(plate(), "right"))
    np.testing.assert_allclose(found.least[0], -1.5, atol=0.03)


def test_the_near_area_is_that_of_a_sphere_over_a_plane():
    found = contact(moves(below()), condyles(), plateau_of(plate(), "right"))
    # nearer than 6 mm: within the circle where the sphere's centre is 26 mm away
    expected = np.pi * ((RADIUS + 6) ** 2 - (RADIUS + GAP) ** 2)
    np.testing.assert_allclose(found.near_areas()[0], expected, rtol=0.03)


def test_the_band_of_the_distance_agrees_with_sampling():
    spread = covariance(1)
    plateau = plateau_of(plate(), "right")
    found = contact(moves(below(), spread=spread), condyles(), plateau)
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(6), spread, 300)
    poses = [geometry.twist(each, np.zeros(3)) @ below() for each in draws]
    sampled = contact(moves(*poses), condyles(), plateau).least
    np.testing.assert_allclose(1.96 * sampled.std(axis=0), found.half[0], rtol=0.12)


def test_a_plateau_that_is_cut_off_is_refused():
    half = plate()
    kept = (half.vertices[half.triangles][:, :, 2] < 0).all(axis=1)
    with pytest.raises(InputError, match="triangles of a lateral plateau"):
        plateau_of(Mesh(half.vertices, half.triangles[kept]), "right")


# ------------------------------------------------------------------------------------------- script


@pytest.fixture
def masks(scene):
    """Labelmaps of both analytic bones in the scanner frame, beside the scene."""
    paths = []
    for name, make in (("femur", femur_labelmap), ("tibia", tibia_labelmap)):
        volume = make(ANATOMY)
        paths.append(scene / f"{name}_mask.nii.gz")
        plain = dataclasses.replace(volume, lineage=Lineage(np.eye(4)))
        nifti.save(paths[-1], plain)
        paths[-1].with_name(f"{name}_mask.json").unlink()
    return paths


def test_labelmaps_give_the_distances_of_both_compartments(scene, masks, template, capsys):
    sixes = np.array([[5.0, 0, 0, 0, 4, 27], [25, 0, 0, 1, 2, 26], [50, 0, 0, 0, 0, 28]])
    lists = ("g1", "g2", "g3")
    for name, six in zip(lists, sixes, strict=True):
        save(template, scene / name / "femur", "femur", CAMERA, name)
        save(template, scene / name / "tibia", "tibia", tibia_camera(six), name)
    flags = ["--contact", *map(str, masks), "--fps", "10"]
    assert kinematics.main([*command(scene, lists, lists), *flags]) == 0
    with open(scene / "knee/contact.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == list(lists)
    assert (scene / "knee/contact.png").read_bytes().startswith(b"\x89PNG")
    # against the distance of the analytic condyles, whose axis is the femur's Z
    joints = [joint(six, covariance(2)) for six in sixes]
    found = movement(joints, (frame("femur"), frame("tibia")), left)
    tibia = load_mesh(masks[1], frame("tibia"))
    plateau = plateau_of(tibia, "left")
    for number, row in enumerate(rows):
        points = geometry.apply(found.proximal_from_distal[number], plateau.points)
        for name, (low, high) in (("medial", (13, 33)), ("lateral", (-32, -14))):
            across = points[plateau.compartment(name)]
            below = across[(across[:, 2] > low) & (across[:, 2] < high)]
            least = (np.hypot(below[:, 0], below[:, 1]) - 20).min()
            assert float(row[f"{name}_distance_mm"]) == pytest.approx(least, abs=0.35)
            assert float(row[f"{name}_distance_mm_low"]) < float(row[f"{name}_distance_mm"])
    assert "which a CT does not show" in capsys.readouterr().err


def test_a_labelmap_of_another_place_and_a_joint_that_is_no_knee_are_refused(scene, masks, capsys):
    away = dataclasses.replace(
        frame("tibia"), scanner_from_frame=geometry.translation(np.array([0, 0, 300.0])) @ ANATOMY
    )
    frame_file.save(scene / "tibia.json", away)
    assert kinematics.main([*command(scene), "--contact", *map(str, masks)]) == 2
    assert "mm away from the frame of the tibia" in capsys.readouterr().err
    assert not (scene / "knee").exists()
    flags = ["--order", "ZXY", "--contact", *map(str, masks)]
    assert kinematics.main([*command(scene), *flags]) == 2
    assert "given with --order" in capsys.readouterr().err
