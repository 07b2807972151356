"""Rigid alignment by shape: known motions are recovered; another bone does not converge."""

import numpy as np
import pytest

import coregister_cts
from common.errors import InputError
from common.geometry import apply, invert, rotation_angle_deg, rotation_matrix, twist
from common.volume import alignment, bone_shape, resampling
from common.volume.lineage import Lineage
from common.volume.volume import Volume


def move(volume: Volume, motion: np.ndarray, labels: bool = False) -> Volume:
    """The volume resampled after ``motion`` (4x4, RAS) on a grid of its own that covers it."""
    shape, affine = coregister_cts.covering_grid(volume, volume.affine, invert(motion))
    return resampling.resample(
        volume, shape, affine, invert(motion), nearest=labels, outside=0 if labels else -1000
    )


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [True, False], ids=["labelmap", "threshold"])
@pytest.mark.parametrize(
    "motion",
    [[0.1, -0.06, 0.15, 12, -20, 30], [-0.3, 0.25, -0.4, -35, 10, 5], [0, 0, 0, 0.6, 0.4, -0.7]],
    ids=["moderate", "large", "small"],
)
def test_a_known_motion_is_recovered(femur, motion, labelled):
    ct, labelmap = femur
    moving_from_reference = twist(np.array(motion, float), ct.isocentre_mm)
    moved = [move(ct, moving_from_reference), move(labelmap, moving_from_reference, labels=True)]
    bones = [
        bone_shape.BoneShape(ct, labelmap if labelled else None),
        bone_shape.BoneShape(moved[0], moved[1] if labelled else None),
    ]
    found = alignment.align(*bones)
    error = invert(moving_from_reference) @ found.moving_from_reference
    assert rotation_angle_deg(error[:3, :3]) < 0.3
    assert np.linalg.norm(apply(error, ct.isocentre_mm) - ct.isocentre_mm) < 0.3
    assert found.converged


@pytest.mark.slow
def test_a_bone_upside_down_is_aligned(femur):
    ct, labelmap = femur
    moving_from_reference = np.eye(4)
    moving_from_reference[:3, :3] = rotation_matrix([0, np.pi, 0]) @ rotation_matrix([0.2, 0, 0])
    found = alignment.align(
        bone_shape.BoneShape(ct, labelmap),
        bone_shape.BoneShape(
            move(ct, moving_from_reference), move(labelmap, moving_from_reference, labels=True)
        ),
    )
    error = invert(moving_from_reference) @ found.moving_from_reference
    assert rotation_angle_deg(error[:3, :3]) < 0.3


@pytest.mark.slow
def test_the_same_input_gives_the_same_answer(femur):
    ct, labelmap = femur
    motion = twist(np.array([0.1, 0, 0.1, 5, 5, 5]), ct.isocentre_mm)
    bones = (
        bone_shape.BoneShape(ct, labelmap),
        bone_shape.BoneShape(move(ct, motion), move(labelmap, motion, labels=True)),
    )
    np.testing.assert_array_equal(
        alignment.align(*bones).moving_from_reference, alignment.align(*bones).moving_from_reference
    )


@pytest.mark.slow
def test_another_bone_does_not_converge(femur):
    ball = np.linalg.norm(np.stack(np.indices((40, 40, 40)), -1) - 19.5, axis=-1) < 12
    affine = np.diag([2.5, 2.5, 2.5, 1])
    other = Volume(np.where(ball, 500, 0).astype(np.int16), affine, Lineage())
    found = alignment.align(
        bone_shape.BoneShape(*femur),
        bone_shape.BoneShape(other, Volume(ball.astype(np.uint8), affine, Lineage())),
    )
    assert not found.converged


def test_the_24_rotations_of_a_cube_are_different_rotations():
    turns = alignment.cube_rotations()
    assert len({turn.tobytes() for turn in (np.round(turn + 0.0) for turn in turns)}) == 24
    assert all(np.linalg.det(turn) == pytest.approx(1) for turn in turns)


def test_a_ct_without_bone_or_of_only_bone_is_rejected():
    for value in (-50, 700):
        with pytest.raises(InputError, match="bone"):
            bone_shape.BoneShape(
                Volume(np.full((8, 8, 8), value, np.int16), np.eye(4), Lineage()), None
            )


def test_distances_are_positive_inside_and_in_millimetres():
    """A slab of bone, 10 voxels of 2 mm thick: its centre is 9 mm deep.

    The surface is half a voxel beyond the outer voxels.
    """
    data = np.full((30, 12, 12), 40, np.int16)
    data[10:20] = 500
    distance = bone_shape.BoneShape(
        Volume(data, np.diag([2.0, 2, 2, 1]), Lineage()), None
    ).distance.data[:, 5, 5]
    np.testing.assert_allclose(distance[[10, 14, 9, 5]], [1, 9, -1, -9])
    assert distance[0] == -bone_shape.SHAPE_MM
