"""Surfaces: read, checked, closed, and turned into voxels of known volume and material."""

import logging

import numpy as np
import pytest
import pyvista

from common import geometry
from common.drr.renderer import make_renderer
from common.errors import InputError
from common.geometry import Detector
from common.volume import attenuation, materials, nifti
from common.volume.mesh import read_mesh, write_mesh
from common.volume.voxelise import load_surface, occupancy
from pipeline import import_mesh


def part(radius: float = 20.0) -> pyvista.PolyData:
    """A ball, off the grid of voxels."""
    return pyvista.Sphere(
        radius=radius, center=(3.13, -40.27, 11.31), theta_resolution=90, phi_resolution=90
    ).clean()


def saved(folder, surface, name: str = "part.stl"):
    surface.save(folder / name)
    return folder / name


def volume_mm3(path, voxel_mm: float = 0.5) -> float:
    share, _ = occupancy(read_mesh(path), voxel_mm)
    return float(share.sum()) * voxel_mm**3


@pytest.mark.parametrize("voxel_mm", [0.4, 0.5, 1.0])
def test_a_box_of_odd_size_has_its_volume_in_voxels(tmp_path, voxel_mm):
    box = pyvista.Box(bounds=(0, 30.3, -5, 12.17, 2.2, 9.9)).triangulate()
    assert volume_mm3(saved(tmp_path, box), voxel_mm) == pytest.approx(30.3 * 17.17 * 7.7, rel=3e-3)


@pytest.mark.parametrize("ending", ["stl", "ply", "obj", "vtp", "gii"])
def test_every_format_gives_the_same_voxels(tmp_path, ending):
    surface = part()
    path = tmp_path / f"part.{ending}"
    if ending == "gii":
        import nibabel

        arrays = [
            nibabel.gifti.GiftiDataArray(
                surface.points.astype(np.float32), "NIFTI_INTENT_POINTSET"
            ),
            nibabel.gifti.GiftiDataArray(
                surface.regular_faces.astype(np.int32), "NIFTI_INTENT_TRIANGLE"
            ),
        ]
        nibabel.save(nibabel.GiftiImage(darrays=arrays), path)
    else:
        surface.save(path)
    assert volume_mm3(path) == pytest.approx(surface.volume, rel=2e-3)


def slicer_export(path, points, triangles, space: str) -> None:
    """A surface whose axes are stated as 3D Slicer states them."""
    if path.suffix == ".vtp":
        surface = pyvista.PolyData.from_regular_faces(points, triangles)
        surface.add_field_data([space], "SPACE")
        surface.save(path)
    elif path.suffix == ".obj":
        lines = [f"# 3D Slicer output. SPACE={space}"]
        lines += [f"v {x} {y} {z}" for x, y, z in points]
        lines += ["f {} {} {}".format(*corners) for corners in triangles + 1]
        path.write_text("\n".join(lines))
    else:
        write_mesh(path, points, triangles, space)


@pytest.mark.parametrize("ending", ["stl", "ply", "obj", "vtp"])
def test_a_surface_in_lps_is_where_3d_slicer_shows_it(tmp_path, ending):
    surface = part()
    for space, signs in (("LPS", [-1, -1, 1]), ("RAS", [1, 1, 1])):
        path = tmp_path / f"{space}.{ending}"
        slicer_export(path, surface.points * signs, surface.regular_faces, space)
        ct = load_surface(path, "metal", 1.0)
        inside = np.argwhere(ct.data > ct.data.max() / 2)
        centre = geometry.apply(ct.affine, inside).mean(axis=0)
        placed = geometry.apply(ct.lineage.scanner_from_volume, centre)
        assert np.allclose(placed, [3.13, -40.27, 11.31], atol=0.05)


def test_a_voxel_at_the_surface_holds_the_share_that_is_inside(tmp_path):
    box = pyvista.Box(bounds=(0, 10.25, 0, 10.25, 0, 10.25)).triangulate()
    share, affine = occupancy(read_mesh(saved(tmp_path, box)), 0.5)
    profile = share[share.shape[0] // 2, share.shape[1] // 2]
    centres = affine[2, 3] + 0.5 * np.arange(len(profile))
    expected = np.clip(
        (np.minimum(centres + 0.25, 10.25) - np.maximum(centres - 0.25, 0)) / 0.5, 0, 1
    )
    np.testing.assert_allclose(profile, expected, atol=1e-4)


def test_a_surface_that_is_inside_out_is_turned(tmp_path):
    surface = part()
    path = saved(tmp_path, surface.flip_faces())
    assert "inside out" in read_mesh(path).remarks[0]
    assert volume_mm3(path) == pytest.approx(surface.volume, rel=2e-3)


def test_a_cavity_stays_empty(tmp_path):
    hollow = part() + part(10.0).flip_faces()
    assert volume_mm3(saved(tmp_path, hollow)) == pytest.approx(
        part().volume - part(10.0).volume, rel=3e-3
    )


def test_parts_that_overlap_count_once_and_are_named(tmp_path, caplog):
    two = part() + part(10.0).translate((18.0, 0, 0))
    with caplog.at_level(logging.WARNING):
        volume = load_surface(saved(tmp_path, two), "metal")
    assert "2 separate parts" in caplog.text
    assert "overlaps itself" in caplog.text
    inside = (volume.data > materials.surface_hu(volume.lineage)).sum() / 8
    assert part().volume < inside < 0.995 * (part().volume + part(10.0).volume)


def test_a_small_gap_is_closed_with_a_remark(tmp_path):
    surface = part()
    path = saved(tmp_path, surface.remove_cells([5000]))
    assert "gaps were closed" in read_mesh(path).remarks[0]
    assert volume_mm3(path) == pytest.approx(surface.volume, rel=2e-3)


def test_an_open_surface_is_refused(tmp_path):
    cut = part().clip(normal="z", origin=(0, 0, 20))
    with pytest.raises(InputError, match="is open"):
        read_mesh(saved(tmp_path, cut.triangulate()))


def test_a_surface_that_crosses_itself_much_is_refused(tmp_path):
    three = part() + part().translate((1, 0, 0)) + part().translate((0, 1, 0))
    with pytest.raises(InputError, match="does not cross itself"):
        load_surface(saved(tmp_path, three), "bone")


@pytest.mark.parametrize(("scale", "unit"), [(0.001, "m"), (1 / 25.4, "inch"), (0.1, "cm")])
def test_another_unit_is_named_and_can_be_stated(tmp_path, scale, unit):
    path = saved(tmp_path, part().scale(scale))
    with pytest.raises(InputError, match=f"{unit} \\(") as caught:
        read_mesh(path)
    assert "import_mesh.py" in str(caught.value)
    sides = np.ptp(read_mesh(path, unit).vertices, axis=0)
    np.testing.assert_allclose(sides, 40.0, rtol=2e-3)


def test_what_is_no_surface_is_one_line(tmp_path):
    (tmp_path / "text.stl").write_text("solid nothing\n")
    with pytest.raises(InputError, match=r"text\.stl"):
        read_mesh(tmp_path / "text.stl")
    saved(tmp_path, pyvista.PolyData(np.random.default_rng(0).normal(size=(50, 3))), "points.ply")
    with pytest.raises(InputError, match="no triangles"):
        read_mesh(tmp_path / "points.ply")


@pytest.mark.slow
def test_a_million_triangles_are_voxelised_in_seconds(tmp_path):
    surface = pyvista.Icosphere(radius=20.0, nsub=8)
    assert surface.n_cells > 1_000_000
    assert volume_mm3(saved(tmp_path, surface)) == pytest.approx(surface.volume, rel=2e-3)


def test_without_a_material_bone_is_assumed_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        volume = load_surface(saved(tmp_path, part()))
    assert "assumed to be bone" in caplog.text
    assert materials.material_of(volume.lineage) == "bone"


def test_a_cortical_shell_is_dense_at_its_surface_only(tmp_path):
    volume = load_surface(saved(tmp_path, part()), "cortical-shell")
    profile = volume.data[volume.shape[0] // 2, volume.shape[1] // 2]
    assert profile.max() == materials.CORTICAL_HU
    assert profile[len(profile) // 2] == materials.TRABECULAR_HU
    dense = (profile > 1000).sum() / 2  # two shells, voxels of half a millimetre
    assert dense == pytest.approx(2 * materials.SHELL_MM, abs=1.0)


def test_an_imported_surface_keeps_its_voxels_and_its_material(tmp_path, capsys):
    path = saved(tmp_path, part().scale(0.001))
    arguments = ["-i", str(path), "--material", "metal", "--unit", "m", "-o", str(tmp_path / "out")]
    assert import_mesh.main(arguments) == 0
    read = nifti.load_ct(tmp_path / "out" / "part.nii.gz")
    direct = load_surface(path, "metal", unit="m")
    np.testing.assert_array_equal(read.data, direct.data)
    np.testing.assert_allclose(read.affine, direct.affine, atol=1e-4)
    assert materials.is_metal(read.lineage)
    assert read.lineage.source["sha256"] == direct.lineage.source["sha256"]


def test_a_drr_of_metal_saturates_and_its_derivative_is_that_of_the_image(tmp_path):
    volume = load_surface(saved(tmp_path, part()), "metal", voxel_mm=1.0)
    shown = attenuation.select_structures(
        volume, None, None, materials.rendered_above_hu(volume.lineage)
    )
    renderer = make_renderer(shown, "cpu")
    detector = Detector.centred(40, 40, 1000.0, (2.0, 2.0))
    camera = np.eye(4)
    camera[:3, 3] = volume.isocentre_mm - [0, 0, 800.0]
    image, jacobian = renderer.render_with_jacobian(camera[None], detector)
    assert 0.99 < image.max() <= 1.0
    assert image.min() == 0.0
    step = 1e-2 * np.eye(6)[3]
    moved = [
        renderer.render((geometry.twist(sign * step, renderer.centre_mm) @ camera)[None], detector)
        for sign in (1, -1)
    ]
    np.testing.assert_allclose((moved[0] - moved[1])[0] / 2e-2, jacobian[0, 3], atol=0.02)


def test_a_written_surface_is_read_again(tmp_path):
    mesh = read_mesh(saved(tmp_path, part()))
    write_mesh(tmp_path / "again.ply", mesh.vertices, mesh.triangles)
    assert read_mesh(tmp_path / "again.ply").volume_mm3 == pytest.approx(mesh.volume_mm3, rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-i text.txt", "ends in .txt"),
        ("-i part.stl --voxel_mm 90", "0.1 to 5 mm"),
        ("-i part.stl --unit m", "longest side is 4e+04 mm"),
        ("-i part.stl ./part.stl", "files of the same name"),
    ],
)
def test_import_mesh_refuses_in_one_line(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, part())
    (tmp_path / "text.txt").write_text("no surface")
    assert import_mesh.main([*flags.split(), "--material", "metal", "-o", "out"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1]
    assert not (tmp_path / "out").exists()
