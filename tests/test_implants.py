"""Registration of metal parts in simulated X-rays, and what their symmetry leaves open."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common import geometry
from common.geometry import Detector
from common.registration.gauss_newton import refine
from common.registration.pyramid import LEVELS, LevelView
from common.registration.register import register
from common.registration.scene import View
from common.registration.starts import Starter
from common.registration.structures import load_structure
from common.registration.twins import twin, with_twin
from common.synthetic import xray_simulation
from common.synthetic.implant_shape import COMPONENTS, components
from common.synthetic.knee_shape import sample_shape
from common.volume.mesh import read_mesh, write_mesh
from common.xray.header import Reading
from common.xray.xray import Xray

DETECTOR = Detector.centred(320, 320, 1000.0, (0.8, 0.8))
TISSUE, BLUR_PX = 1.2, 1.0  # attenuation at the middle of the limb; blur of the detector
SCATTER = 0.15  # of the open beam, which metal does not take away


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Paths of the two components of a phantom's knee replacement."""
    folder = tmp_path_factory.mktemp("implant")
    made = components(sample_shape(np.random.default_rng(3)))
    for name, surface in made.items():
        write_mesh(folder / f"{name}.stl", *surface)
    return [folder / f"{name}.stl" for name in COMPONENTS]


def view_of(paths: list[Path], pose: np.ndarray, seed: int = 0) -> View:
    """An X-ray of metal parts in a limb at a pose (volume_from_camera)."""
    from scipy.ndimage import gaussian_filter

    metal = xray_simulation.metal_integrals(paths, pose, DETECTOR)
    column = (np.arange(DETECTOR.width) - 160) / 130
    limb = TISSUE * np.sqrt(np.clip(1 - column**2, 0, None)) * np.ones((DETECTOR.height, 1))
    beam = gaussian_filter(np.exp(-metal - limb), BLUR_PX) + SCATTER * np.exp(-limb / 2)
    rng = np.random.default_rng(seed)
    beam = np.clip(beam + rng.normal(0, 0.004, beam.shape), 1e-3, None)
    image = np.maximum(-np.log(beam / beam.max()), 0).astype(np.float32)
    return View(Xray(image, np.ones(image.shape, bool), DETECTOR, Path("simulated.png")))


def camera_at(centre: np.ndarray, degrees: tuple[float, float, float]) -> np.ndarray:
    return xray_simulation.view(centre, degrees, 750.0, (0.0, 0.0))


def error(found: np.ndarray, true: np.ndarray, centre: np.ndarray) -> tuple[float, float, float]:
    """Rotation in degrees, and the centre's distance in plane and in depth, mm."""
    turn = geometry.rotation_angle_deg(found[:3, :3].T @ true[:3, :3])
    apart = geometry.apply(geometry.invert(found), centre) - geometry.apply(
        geometry.invert(true), centre
    )
    return turn, float(np.hypot(*apart[:2])), abs(float(apart[2]))


@pytest.mark.parametrize("degrees", [(80.0, 5.0, 3.0), (30.0, -10.0, 5.0)])
def test_a_femoral_component_is_refined_to_its_pose_in_one_view(parts, degrees):
    structure = load_structure(parts[0], material="metal")
    centre = structure.body.centre_mm
    true = camera_at(centre, degrees)
    view = view_of([parts[0]], true)
    start = geometry.twist(np.r_[np.radians([3, -2, 2]), 2.0, -2.0, 3.0], centre) @ true
    fit = refine([view], [structure.body], [start], LEVELS[1:])
    turn, in_plane, depth = error(fit.poses[0], true, centre)
    assert turn < 0.8
    assert in_plane < 0.15
    assert depth < 4.0
    assert fit.similarity > 0.8


def test_parts_that_hide_each_other_are_refined_together(parts):
    structures = [load_structure(path, material="metal") for path in parts]
    true = camera_at(structures[0].body.centre_mm, (10.0, 45.0, 5.0))
    view, bodies = view_of(parts, true), [structure.body for structure in structures]
    starts = [
        geometry.twist(np.r_[np.radians([1, -1, 1]), 1.0, -1.0, 1.0], body.centre_mm) @ true
        for body in bodies
    ]
    fit = refine([view], bodies, starts, LEVELS[2:])
    # 0.89 if what two parts take from the beam added up, and the tray half a degree off
    assert fit.similarity > 0.94
    for pose, body, largest in zip(fit.poses, bodies, ((0.5, 0.2), (0.3, 0.3)), strict=True):
        turn, in_plane, _ = error(pose, true, body.centre_mm)
        assert turn < largest[0]
        assert in_plane < largest[1]


def test_the_derivative_of_parts_that_hide_each_other_is_that_of_differences(parts):
    bodies = [load_structure(path, material="metal").body for path in parts]
    true = camera_at(bodies[0].centre_mm, (10.0, 45.0, 5.0))
    blank = np.zeros((DETECTOR.height, DETECTOR.width), np.float32)
    view = View(Xray(blank, np.ones(blank.shape, bool), DETECTOR, Path("blank.png")))
    pyramid = LevelView(view, bodies, np.stack([true, true])[None], LEVELS[2])

    def shown(tray: np.ndarray) -> np.ndarray:
        return pyramid.render(bodies, np.array([0]), np.stack([true, tray])[None]).contrast[0]

    step = np.array([0, 0, 0, 0.05, 0, 0])
    ahead, behind = (
        shown(geometry.twist(sign * step, bodies[1].centre_mm) @ true) for sign in (1, -1)
    )
    expected, found = (ahead[0] - behind[0]) / 0.1, shown(true)[1 + 6 + 3]
    assert np.abs(expected).max() > 0.01
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_metal_is_not_excluded_as_metal_where_it_is_registered(parts):
    structure = load_structure(parts[0], material="metal")
    true = camera_at(structure.body.centre_mm, (80.0, 5.0, 3.0))
    noise = np.random.default_rng(0).normal(1, 0.01, (DETECTOR.height, DETECTOR.width))
    noise[155:162, 155:162] = 3.0  # the head of a screw
    view = View(
        Xray(noise.astype(np.float32), np.ones(noise.shape, bool), DETECTOR, Path("screw.png"))
    )
    level = LEVELS[2]
    kept = LevelView(view, [structure.body], true[None, None], level)
    cut = LevelView(view, [replace(structure.body, metal=False)], true[None, None], level)
    assert kept.valid.sum() > cut.valid.sum() + 9


@pytest.mark.slow
def test_both_components_are_found_from_nothing_in_one_view(parts):
    structures = [load_structure(path, material="metal") for path in parts]
    true = camera_at(structures[0].body.centre_mm, (80.0, 5.0, 3.0))
    starter = Starter("search")
    found = register([view_of(parts, true)], structures, starter, seed=0)
    turn, in_plane, depth = error(found[0].pose, true, structures[0].body.centre_mm)
    assert found[0].verdict.code == "ok"
    assert turn < 0.8
    assert in_plane < 0.15
    assert depth < 4.0
    # a tray has two poses: the right one is found, or named
    tray = structures[1]
    poses = [found[1].pose]
    if found[1].solution.runner_up:
        poses.append(found[1].solution.runner_up.poses[0])
    turns = [error(pose, true, tray.body.centre_mm)[0] for pose in poses]
    assert min(turns) < 3.0


def test_a_tray_is_symmetric_and_a_femoral_component_is_not(parts):
    femoral, tray = (load_structure(path, material="metal") for path in parts)
    assert len(tray.mirror_planes) == 1
    assert not femoral.mirror_planes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_component_of_a_phantom_is_one_closed_part(seed, tmp_path):
    for name, surface in components(sample_shape(np.random.default_rng(seed))).items():
        write_mesh(tmp_path / f"{name}.stl", *surface)
        assert read_mesh(tmp_path / f"{name}.stl").remarks == ()


def test_the_twin_of_a_symmetric_part_has_nearly_its_silhouette(parts):
    tray = load_structure(parts[1], material="metal")
    true = camera_at(tray.body.centre_mm, (60.0, 12.0, 0.0))
    view = View(view_of([parts[1]], true).xray)
    other = twin(true, view, tray.mirror_planes[0], tray.body.centre_mm)
    assert geometry.is_rigid(other)
    assert np.linalg.det(other[:3, :3]) == pytest.approx(1.0)
    assert geometry.rotation_angle_deg(other[:3, :3].T @ true[:3, :3]) > 10
    images = tray.body.renderer.render(np.stack([true, other]), DETECTOR)
    covered = images > 0.5
    shared = (covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()
    assert shared > 0.85


def test_a_tray_that_is_followed_from_the_frame_before_still_names_its_twin(parts):
    from common.registration.competition import follow

    tray = load_structure(parts[1], material="metal")
    true = camera_at(tray.body.centre_mm, (25.0, 6.0, 2.0))
    views = [view_of([parts[1]], true)]
    followed = follow(views, tray.body, [true], LEVELS)
    assert followed.runner_up is None
    twins = with_twin(views, tray, followed, seed=0)
    assert twins.candidates == 1
    turn, in_plane, _ = error(twins.fit.poses[0], true, tray.body.centre_mm)
    assert (turn < 1.0) & (in_plane < 0.2)
    rival = twins.runner_up.poses[0]
    assert geometry.rotation_angle_deg(rival[:3, :3].T @ true[:3, :3]) > 10
    assert twins.runner_up.similarity > 0.8


def test_the_posed_surface_of_a_result_is_the_surface_at_its_pose(parts, tmp_path):
    from common.registration import recording
    from common.registration.competition import follow
    from common.registration.register import Registration
    from common.registration.verdict import judge

    structure = load_structure(parts[0], material="metal")
    true = camera_at(structure.body.centre_mm, (80.0, 5.0, 3.0))
    view = view_of([parts[0]], true)
    view = replace(view, xray=replace(view.xray, path=parts[0], reading=Reading()))
    solution = follow([view], structure.body, [true], LEVELS)
    verdict = judge(solution, [view], structure)
    recording.save(tmp_path, [Registration(structure, (view,), true, solution, verdict)], 0)
    posed = read_mesh(tmp_path / "posed.ply")
    pose = geometry.invert(solution.fit.poses[0])
    expected = geometry.apply(pose, structure.surface[0])
    np.testing.assert_allclose(posed.vertices.min(axis=0), expected.min(axis=0), atol=1e-2)
    np.testing.assert_allclose(posed.vertices.max(axis=0), expected.max(axis=0), atol=1e-2)
    # and in 3D Slicer, which turns what is stated to be LPS
    shown = read_mesh(tmp_path / "slicer" / "femoral_component_surface.ply")
    in_scanner = geometry.apply(shown.scanner_from_file, shown.vertices)
    original = read_mesh(parts[0]).vertices
    np.testing.assert_allclose(in_scanner.min(axis=0), original.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(in_scanner.max(axis=0), original.max(axis=0), atol=1e-3)
    assert not np.allclose(shown.scanner_from_file, np.eye(4))
