"""Bones around metal parts: what the metal hides, and the search around it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import registration
from common import files, geometry
from common.command_line.registration_flag_checks import check_flags
from common.command_line.registration_inputs import structures_of
from common.drr.renderer import make_renderer
from common.errors import InputError
from common.files.pictures import write_png
from common.geometry import Detector
from common.registration.joints import largest_overlap, overlap
from common.registration.neighbours import behind
from common.registration.recording import pose_uncertainty, save
from common.registration.register import register
from common.registration.scene import View
from common.registration.starts import Starter
from common.registration.structures import load_structure
from common.results import parameters_file
from common.review.reopening import open_result
from common.review.solving import registration_at
from common.synthetic import phantom, xray_simulation
from common.volume import nifti
from common.volume.attenuation import attenuation
from common.volume.lineage import Lineage
from common.volume.mesh import write_mesh
from common.volume.volume import Volume
from common.xray.xray import Xray

DETECTOR = Detector.centred(360, 360, 1100.0, (0.7, 0.7))


@pytest.fixture(scope="module")
def replaced(tmp_path_factory):
    """A knee with its replacement: structures (component, tray, femur), and an X-ray with truth.

    The CT of the femur is that of the knee before. All poses are the same.
    """
    folder = tmp_path_factory.mktemp("replaced")
    made = phantom.make(seed=4, spacing_mm=1.5, implant=True)
    lineage = Lineage(source={"name": "knee", "sha256": "knee"})
    nifti.save(folder / "ct.nii.gz", replace(made.ct, lineage=lineage))
    nifti.save(folder / "seg.nii.gz", replace(made.segmentation, lineage=lineage))
    paths = []
    for name, surface in made.implant.items():
        paths.append(folder / f"{name}.stl")
        write_mesh(paths[-1], *surface)
    structures = [load_structure(path, material="metal") for path in paths]
    label = phantom.LABELS["femur right"]
    structures.append(load_structure(folder / "ct.nii.gz", folder / "seg.nii.gz", [label]))
    centre = structures[0].body.centre_mm
    camera = xray_simulation.view(centre, (120.0, 5.0, 4.0), 800.0, (0.0, 20.0))
    hu = made.ct.data.astype(np.float32)
    left = np.indices(hu.shape)[0] * made.ct.affine[0, 0] + made.ct.affine[0, 3] < 0
    hu[left] = -1000.0
    renderer = make_renderer(Volume(attenuation(hu), made.ct.affine, Lineage()), "cpu")
    integrals = renderer.render(camera[None], DETECTOR)[0]
    integrals = integrals + xray_simulation.metal_integrals(paths, camera, DETECTOR)
    effects = xray_simulation.Effects(photons=8000.0, scatter=0.1)
    image = xray_simulation.simulate(integrals, 0.7, effects, np.random.default_rng(0))
    xray = Xray(image.astype(np.float32), np.ones(image.shape, bool), DETECTOR, Path("knee.png"))
    return structures, View(xray), camera


def test_what_metal_hides_is_not_compared_but_counts_as_in_view(replaced):
    (component, tray, femur), view, camera = replaced
    (clear,) = behind([view], [(component, camera), (tray, camera)])
    hidden = view.xray.valid & ~clear.xray.valid
    metal = xray_simulation.metal_integrals([component.ct.path, tray.ct.path], camera, DETECTOR)
    assert hidden[metal > 0.5].all()
    assert hidden.sum() < 2 * (metal > 0.5).sum()
    assert clear.share_in_view(femur.body, camera) == view.share_in_view(femur.body, camera)
    flipped = clear.flip()
    assert (flipped.hidden == clear.hidden[:, ::-1]).all()


@pytest.mark.slow
def test_a_bone_is_found_around_its_component_with_nothing_known(replaced):
    (component, tray, femur), view, camera = replaced
    found = register([view], [femur, component, tray], Starter("search"), 0)
    for one in found[:2]:
        error = geometry.pose_error(one.pose, camera, one.structure.body.points, DETECTOR)
        assert error.in_plane_mm < 0.3
        assert error.depth_mm < 3.0
        assert error.rotation_deg < 0.6
    # metal and bone are refined apart
    assert pose_uncertainty(found, ["femur", "component", "tray"]).bones == ("femur",)
    metal = [found[1], found[0], found[2]]
    names = ["component", "femur", "tray"]
    assert pose_uncertainty(metal, names).bones == ("component", "tray")


def test_a_reopened_bone_is_hidden_by_the_parts_that_hid_it_when_it_was_registered(
    replaced, tmp_path
):
    (component, tray, femur), view, camera = replaced
    xray = tmp_path / "knee.png"
    write_png(xray, view.xray.image.astype(np.uint16))
    files.write_json(tmp_path / "start.json", {"camera": camera.tolist()})
    words = ["-v", component.ct.path, tray.ct.path, femur.ct.path, "--mask", femur.mask]
    words += ["--labels", femur.labels[0], "--material", "metal", "--sdd", DETECTOR.sdd_mm]
    words += ["--pixel_spacing", DETECTOR.pixel_mm[0], "--bone", "bright", "--flip", "no"]
    words += ["--init", "fixed", "--init_pose", tmp_path / "start.json", "--quiet"]
    out = tmp_path / "out"
    assert registration.main([str(word) for word in (xray, *words, "-o", out)]) == 0
    femurs = out / "ct"
    opened = open_result(femurs)
    metal = xray_simulation.metal_integrals([component.ct.path, tray.ct.path], camera, DETECTOR)
    assert opened.seen[0].hidden[metal > 0.5].mean() > 0.99
    corrected = registration_at(opened, opened.pose, opened.pose)
    assert abs(corrected.solution.fit.similarity - opened.result.verdict.similarity) < 0.01
    save(femurs, [corrected], 0, opened.stored_request)
    assert open_result(femurs).hidden_by == opened.hidden_by
    opened.result.drr["hidden_by"] = []  # as if they had not been found
    parameters_file.save(femurs / "parameters.pt", opened.result)
    (alone,) = open_result(femurs).seen
    assert alone.hidden is None


def test_a_bone_inside_its_component_does_not_overlap_it(replaced):
    structures, _, camera = replaced
    poses = [camera] * len(structures)
    inside = overlap(structures[0], camera, structures[2], camera)
    assert inside > 0.2  # of the component, in a bone from before the operation
    assert [largest_overlap(number, structures, poses) for number in range(3)] == [0, 0, 0]


def test_labelmaps_belong_to_the_cts_and_materials_to_the_surfaces():
    flags = ["-v", "cup.stl", "femur.nii.gz", "stem.stl", "pelvis.nii.gz", "-o", "out"]
    masks = ["--mask", "femur_mask.nii.gz", "pelvis_mask.nii.gz", "--labels", "2", "5"]
    args = registration.build_parser().parse_args(["xray.dcm", *flags, *masks])
    bones = [(Path("femur_mask.nii.gz"), (2,), None), (Path("pelvis_mask.nii.gz"), (5,), None)]
    for materials in (["metal"], ["metal", "metal"], ["metal", "bone", "metal", "bone"]):
        args.material = materials
        check_flags(args)
        given = structures_of(args)
        assert given[1::2] == bones
        assert given[::2] == [(None, None, "metal")] * 2
    args.mask = [Path("one.nii.gz")]
    with pytest.raises(InputError, match="1 labelmaps for 4 volumes, 2 of them surfaces"):
        check_flags(args)
