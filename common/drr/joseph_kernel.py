"""Line integrals through voxels and their pose derivatives on the CPU, in one pass over each ray.

Joseph's method (P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982): a ray is sampled where it
crosses the voxel planes of its dominant axis, with bilinear interpolation in the plane. A sample
takes four loads, and there is no tensor of sample points.

The derivative is that of the discrete sum. With a source s, a ray direction d (to the pixel) and
h = d / d_m for the dominant axis m, the sample on plane k is at x(k) = s + t d with
t = (k - s_m) / d_m. When the ray moves, the sample stays on its plane and moves in it by
(ds - h ds_m) + t (dd - h dd_m), and the step length changes by -dd_m / d_m. So the sums of g and
t g over the ray (g: in-plane slope of the volume) give the derivative by all six pose parameters,
for any voxel spacing and axes.

Arrays of voxels are those of `pad`: one layer of zeros makes the integral continuous at the border
of the volume.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# distance kept from the last plane, voxels: the upper neighbour exists in single precision
EPSILON = 1e-3


def pad(volume: np.ndarray) -> np.ndarray:
    """Return ``volume`` (I, J, K) in a layer of zeros, float32, first index fastest."""
    padded = np.zeros(tuple(n + 2 for n in volume.shape), np.float32, order="F")
    padded[1:-1, 1:-1, 1:-1] = volume
    return padded


@numba.njit(inline="always")
def _interval(start, slope, last, low, high):
    """Return the part of [low, high] where 0 <= start + slope * k <= last."""
    if abs(slope) < 1e-9:
        if start < 0.0 or start > last:
            return 1.0, 0.0
        return low, high
    a = -start / slope
    b = (last - start) / slope
    return max(low, min(a, b)), min(high, max(a, b))


@numba.njit(inline="always")
def _dominant(dx, dy, dz):
    """Return the axis with the largest step, and the other two."""
    ax, ay, az = abs(dx), abs(dy), abs(dz)
    if ax >= ay and ax >= az:
        return 0, 1, 2
    if ay >= az:
        return 1, 0, 2
    return 2, 0, 1


@numba.njit(inline="always")
def _direction(rays, b, r, c):
    """Return the voxel steps from the source to pixel (r, c) of view b."""
    return (rays[b, 1, 0] + c * rays[b, 2, 0] + r * rays[b, 3, 0],
            rays[b, 1, 1] + c * rays[b, 2, 1] + r * rays[b, 3, 1],
            rays[b, 1, 2] + c * rays[b, 2, 2] + r * rays[b, 3, 2])  # fmt: skip


@numba.njit(inline="always")
def _planes(source, d, m, u, v, sizes):
    """Return first plane, number of planes, in-plane start and slope of a ray in the volume."""
    hu = d[u] / d[m]
    hv = d[v] / d[m]
    xu = source[u] - source[m] * hu
    xv = source[v] - source[m] * hv
    low = max(0.0, min(source[m], source[m] + d[m]))
    high = min(sizes[m] - 1.0, max(source[m], source[m] + d[m]))
    low, high = _interval(xu, hu, sizes[u] - 1.0 - EPSILON, low, high)
    low, high = _interval(xv, hv, sizes[v] - 1.0 - EPSILON, low, high)
    if high < low:
        return 0, 0, 0.0, 0.0, hu, hv
    first = math.ceil(low)
    return first, math.floor(high) - first + 1, xu + first * hu, xv + first * hv, hu, hv


@numba.njit(inline="always")
def _length(detectors, b, r, c):
    """Return the distance from the source to pixel (r, c) of view b, mm."""
    x = (c - detectors[b, 0]) * detectors[b, 2]
    y = (r - detectors[b, 1]) * detectors[b, 3]
    return math.sqrt(x * x + y * y + detectors[b, 4] * detectors[b, 4])


@numba.njit(parallel=True, fastmath=True, cache=True, nogil=True)
def integrate(voxels, sizes, strides, rays, detectors, out):
    """Compute the line integrals of B views.

    voxels: (n,) the padded array, flat; sizes, strides: (3,) of that array.
    rays: (B, 4, 3) in voxels: source, step from source to pixel (0, 0), steps to the next column
    and to the next row.
    detectors: (B, 5) principal point (column, row), pixel width and height in mm, SDD in mm.
    out: (B, H, W), voxel value times mm.
    """
    batch, height, width = out.shape
    for job in numba.prange(batch * height):
        b = job // height
        r = job - b * height
        source = rays[b, 0]
        for c in range(width):
            d = _direction(rays, b, r, c)
            m, u, v = _dominant(d[0], d[1], d[2])
            first, count, pu, pv, hu, hv = _planes(source, d, m, u, v, sizes)
            su, sv, sm = np.int32(strides[u]), np.int32(strides[v]), np.int32(strides[m])
            pu32, pv32, hu32, hv32 = np.float32(pu), np.float32(pv), np.float32(hu), np.float32(hv)
            base = np.int32(first) * sm
            total = np.float32(0.0)
            for k in range(count):
                x = pu32 + hu32 * np.float32(k)
                y = pv32 + hv32 * np.float32(k)
                i = np.int32(x)
                j = np.int32(y)
                fx = x - np.float32(i)
                fy = y - np.float32(j)
                at = base + np.int32(k) * sm + i * su + j * sv
                v00 = voxels[np.uint32(at)]
                v01 = voxels[np.uint32(at + sv)]
                edge = v00 + (voxels[np.uint32(at + su)] - v00) * fx
                total += edge + (v01 + (voxels[np.uint32(at + su + sv)] - v01) * fx - edge) * fy
            out[b, r, c] = total * np.float32(_length(detectors, b, r, c) / abs(d[m]))


@numba.njit(parallel=True, fastmath=True, cache=True, nogil=True)
def integrate_with_jacobian(
    voxels, sizes, strides, rays, detectors, world_rays, voxel_from_world, centre, out, jacobian
):
    """Compute the line integrals of B views and their derivative by a left twist of the camera.

    Arguments as for `integrate`, and
    world_rays: (B, 4, 3) the same rays in mm of the volume frame; voxel_from_world: (3, 3);
    centre: (3,) mm, about which the twist rotates.
    jacobian: (B, 6, H, W) per radian (rotation vector) and per mm (translation), along the axes of
    the volume frame.
    """
    batch, height, width = out.shape
    for job in numba.prange(batch * height):
        b = job // height
        r = job - b * height
        source = rays[b, 0]
        lever = (
            world_rays[b, 0, 0] - centre[0],
            world_rays[b, 0, 1] - centre[1],
            world_rays[b, 0, 2] - centre[2],
        )
        gradient_s = np.empty(3)
        gradient_d = np.empty(3)
        for c in range(width):
            d = _direction(rays, b, r, c)
            m, u, v = _dominant(d[0], d[1], d[2])
            first, count, pu, pv, hu, hv = _planes(source, d, m, u, v, sizes)
            if count <= 0:
                out[b, r, c] = 0.0
                for q in range(6):
                    jacobian[b, q, r, c] = 0.0
                continue
            su, sv, sm = np.int32(strides[u]), np.int32(strides[v]), np.int32(strides[m])
            pu32, pv32, hu32, hv32 = np.float32(pu), np.float32(pv), np.float32(hu), np.float32(hv)
            base = np.int32(first) * sm
            total = np.float32(0.0)
            gu, gv, kgu, kgv = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for k in range(count):
                step = np.float32(k)
                x = pu32 + hu32 * step
                y = pv32 + hv32 * step
                i = np.int32(x)
                j = np.int32(y)
                fx = x - np.float32(i)
                fy = y - np.float32(j)
                at = base + np.int32(k) * sm + i * su + j * sv
                v00 = voxels[np.uint32(at)]
                v01 = voxels[np.uint32(at + sv)]
                slope0 = voxels[np.uint32(at + su)] - v00
                slope1 = voxels[np.uint32(at + su + sv)] - v01
                edge = v00 + slope0 * fx
                across = v01 + slope1 * fx - edge
                along = slope0 + (slope1 - slope0) * fy
                total += edge + across * fy
                gu += along
                gv += across
                kgu += along * step
                kgv += across * step
            step_mm = _length(detectors, b, r, c) / abs(d[m])
            integral = total * step_mm
            t0 = (first - source[m]) / d[m]
            gradient_s[u] = gu * step_mm
            gradient_s[v] = gv * step_mm
            gradient_s[m] = -hu * gradient_s[u] - hv * gradient_s[v]
            gradient_d[u] = t0 * gradient_s[u] + kgu * step_mm / d[m]
            gradient_d[v] = t0 * gradient_s[v] + kgv * step_mm / d[m]
            gradient_d[m] = -hu * gradient_d[u] - hv * gradient_d[v] - integral / d[m]
            sx, sy, sz, dx, dy, dz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for q in range(3):
                sx += voxel_from_world[q, 0] * gradient_s[q]
                sy += voxel_from_world[q, 1] * gradient_s[q]
                sz += voxel_from_world[q, 2] * gradient_s[q]
                dx += voxel_from_world[q, 0] * gradient_d[q]
                dy += voxel_from_world[q, 1] * gradient_d[q]
                dz += voxel_from_world[q, 2] * gradient_d[q]
            wx = world_rays[b, 1, 0] + c * world_rays[b, 2, 0] + r * world_rays[b, 3, 0]
            wy = world_rays[b, 1, 1] + c * world_rays[b, 2, 1] + r * world_rays[b, 3, 1]
            wz = world_rays[b, 1, 2] + c * world_rays[b, 2, 2] + r * world_rays[b, 3, 2]
            out[b, r, c] = integral
            jacobian[b, 0, r, c] = lever[1] * sz - lever[2] * sy + wy * dz - wz * dy
            jacobian[b, 1, r, c] = lever[2] * sx - lever[0] * sz + wz * dx - wx * dz
            jacobian[b, 2, r, c] = lever[0] * sy - lever[1] * sx + wx * dy - wy * dx
            jacobian[b, 3, r, c] = sx
            jacobian[b, 4, r, c] = sy
            jacobian[b, 5, r, c] = sz
