"""Line integrals through voxels and their pose derivatives on the CPU, in one pass over each ray.

Joseph's method (P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982): a ray is sampled where it
crosses the voxel planes of its dominant axis, with bilinear interpolation in the plane. There is no
tensor of sample points.

The derivative is that of the discrete sum. With a source s, a ray direction d (to the pixel) and
h = d / d_m for the dominant axis m, the sample on plane k is at x(k) = s + t d with
t = (k - s_m) / d_m. When the ray moves, the sample stays on its plane and moves in it by
(ds - h ds_m) + t (dd - h dd_m), and the step length changes by -dd_m / d_m. So the sums of g and
t g over the ray (g: in-plane slope of the volume) give the derivative by all six pose parameters,
for any voxel spacing and axes.

Voxels are those of `common.drr.voxels`: 16 bits, in a layer of zeros that makes the integral
continuous at the border of the volume. A load fetches two neighbours along the first axis, so a
sample takes two loads, or four where the first axis is the dominant one. What it was measured
against: benchmarks/README.md, 'What was tried for the ray caster'.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from common.drr.bricks import TILE
from common.drr.loads import pair, plus, prefetch, times
from common.drr.parallel import parallel

# distance kept from the last plane, voxels: the upper neighbour exists in single precision
EPSILON = 1e-3
# voxels along the first axis that rays share a prefetched cache line of 32 over
SHARED = 30.0


@numba.njit(inline="always")
def _interval(start, slope, last, low, high):
    """Return the part of [low, high] where 0 <= start + slope * k <= last."""
    if abs(slope) < 1e-9:
        if start < 0.0 or start > last:
            return 1.0, 0.0
        return low, high
    inverse = 1.0 / slope
    a = -start * inverse
    b = (last - start) * inverse
    return max(low, min(a, b)), min(high, max(a, b))


@numba.njit(inline="always")
def _step(rays, b, r, c, axis):
    """Return the voxels along an axis from the source to pixel (r, c) of view b."""
    return rays[b, 1, axis] + c * rays[b, 2, axis] + r * rays[b, 3, axis]


@numba.njit(cache=True)
def _dominant(rays, b, r, c):
    """Return the axis with the largest step to a pixel, and whether the step is positive."""
    m, step = 0, _step(rays, b, r, c, 0)
    for axis in (1, 2):
        other = _step(rays, b, r, c, axis)
        if abs(other) > abs(step):
            m, step = axis, other
    return m, step > 0


@numba.njit(cache=True)
def _same_axis(rays, b, r, begin, width):
    """Return the dominant axis of pixel (r, begin), and the first column after it with another.

    The pixels with one dominant axis and sign are convex, so a bisection finds their end.
    """
    first = _dominant(rays, b, r, begin)
    if _dominant(rays, b, r, width - 1) == first:
        return first[0], width
    low, high = begin, width - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _dominant(rays, b, r, middle) == first:
            low = middle
        else:
            high = middle
    return first[0], high


@numba.njit(inline="always")
def _in_plane(m):
    """Return the other two axes, the first axis of the volume first if it is one of them."""
    return 1 if m == 0 else 0, 1 if m == 2 else 2


@numba.njit(inline="always")
def _planes(rays, b, r, c, m, u, v, sizes, near, far):
    """Return first plane, number of planes, in-plane start and slope of a ray, and 1 / d_m.

    The planes lie between the shares ``near`` and ``far`` of the way from source to pixel.
    """
    d = _step(rays, b, r, c, m)
    inverse = 1.0 / d
    hu = _step(rays, b, r, c, u) * inverse
    hv = _step(rays, b, r, c, v) * inverse
    source = rays[b, 0, m]
    xu = rays[b, 0, u] - source * hu
    xv = rays[b, 0, v] - source * hv
    enters, leaves = source + max(0.0, near) * d, source + min(1.0, far) * d
    low = max(0.0, min(enters, leaves))
    high = min(sizes[m] - 1.0, max(enters, leaves))
    low, high = _interval(xu, hu, sizes[u] - 1.0 - EPSILON, low, high)
    low, high = _interval(xv, hv, sizes[v] - 1.0 - EPSILON, low, high)
    if high < low:
        return np.int32(0), np.int32(0), 0.0, 0.0, hu, hv, inverse
    first = math.ceil(low)
    count = np.int32(math.floor(high) - first + 1)
    return np.int32(first), count, xu + first * hu, xv + first * hv, hu, hv, inverse


@numba.njit(inline="always")
def _length(detectors, b, r, c):
    """Return the distance from the source to pixel (r, c) of view b, mm."""
    x = (c - detectors[b, 0]) * detectors[b, 2]
    y = (r - detectors[b, 1]) * detectors[b, 3]
    return math.sqrt(x * x + y * y + detectors[b, 4] * detectors[b, 4])


@numba.njit(inline="always")
def _lower(both):
    """Return the first voxel of a pair."""
    return np.float32(np.int32(both << np.int32(16)) >> np.int32(16))


@numba.njit(inline="always")
def _upper(both):
    """Return the second voxel of a pair."""
    return np.float32(both >> np.int32(16))


@numba.njit(inline="always")
def _corners(voxels, at, su, sv):
    """Return the voxels at an index, one further along u, and both of them one further along v."""
    if su == 1:
        near, far = pair(voxels, at), pair(voxels, plus(at, sv))
        return _lower(near), _upper(near), _lower(far), _upper(far)
    beside = plus(at, su)
    return (
        _lower(pair(voxels, at)),
        _lower(pair(voxels, beside)),
        _lower(pair(voxels, plus(at, sv))),
        _lower(pair(voxels, plus(beside, sv))),
    )


@numba.njit(inline="always")
def _sum(voxels, base, count, sm, su, sv, pu, pv, hu, hv):
    """Return the sum of the interpolated voxels of a ray."""
    total = np.float32(0.0)
    for k in range(count):
        x = pu + hu * np.float32(k)
        y = pv + hv * np.float32(k)
        i = np.int32(x)
        j = np.int32(y)
        fx = x - np.float32(i)
        fy = y - np.float32(j)
        at = plus(plus(base, times(np.int32(k), sm)), plus(times(i, su), times(j, sv)))
        v00, v10, v01, v11 = _corners(voxels, at, su, sv)
        edge = v00 + (v10 - v00) * fx
        total += edge + (v01 + (v11 - v01) * fx - edge) * fy
    return total


@numba.njit(inline="always")
def _sums(voxels, base, count, sm, su, sv, pu, pv, hu, hv):
    """Return the sums of the interpolated voxels, of their slopes, and of k times the slopes."""
    total = np.float32(0.0)
    gu, gv, kgu, kgv = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(count):
        step = np.float32(k)
        x = pu + hu * step
        y = pv + hv * step
        i = np.int32(x)
        j = np.int32(y)
        fx = x - np.float32(i)
        fy = y - np.float32(j)
        at = plus(plus(base, times(np.int32(k), sm)), plus(times(i, su), times(j, sv)))
        v00, v10, v01, v11 = _corners(voxels, at, su, sv)
        slope0 = v10 - v00
        slope1 = v11 - v01
        edge = v00 + slope0 * fx
        across = v01 + slope1 * fx - edge
        along = slope0 + (slope1 - slope0) * fy
        total += edge + across * fy
        gu += along
        gv += across
        kgu += along * step
        kgv += across * step
    return total, gu, gv, kgu, kgv


@numba.njit(cache=True)
def _fetch(voxels, sizes, strides, rays, b, r, c, m, u, v, near, far):
    """Prefetch the voxels around a ray, of a volume that no cache holds."""
    first, count, pu, pv, hu, hv, _ = _planes(rays, b, r, c, m, u, v, sizes, near, far)
    su, sv, sm = strides[u], strides[v], strides[m]
    for k in range(count):
        i, j = np.int32(pu + hu * k), np.int32(pv + hv * k)
        at = np.int32((first + k) * sm + i * su + j * sv)
        prefetch(voxels, at)
        prefetch(voxels, np.int32(at + sv))


@numba.njit(inline="always")
def _sharing(rays, b):
    """Return how many neighbouring pixels share a cache line, about."""
    return min(64, max(4, int(SHARED / max(abs(rays[b, 2, 0]), 0.1))))


@parallel(fastmath=True)
def integrate(voxels, scale, sizes, strides, ahead, tiles, rays, detectors, out):
    """Compute the line integrals of B views.

    voxels: (n,) int16, the padded array, flat; scale: of a voxel; sizes, strides: (3,) of that
    array, the first stride is 1; ahead: whether to prefetch the voxels of the next row.
    tiles: where the rays of each tile may meet something, see `bricks.reached`.
    rays: (B, 4, 3) in voxels: source, step from source to pixel (0, 0), steps to the next column
    and to the next row.
    detectors: (B, 5) principal point (column, row), pixel width and height in mm, SDD in mm.
    out: (B, H, W) zeros, voxel value times mm.
    """
    batch, height, width = out.shape
    for job in numba.prange(batch * height):
        b = job // height
        r = job - b * height
        sharing = _sharing(rays, b)
        begin = 0
        while begin < width:
            m, end = _same_axis(rays, b, r, begin, width)
            u, v = _in_plane(m)
            su, sv, sm = np.int32(strides[u]), np.int32(strides[v]), np.int32(strides[m])
            for c in range(begin, end):
                near, far = tiles[b, r // TILE, c // TILE]
                if near > far:
                    continue
                if ahead and (c - begin) % sharing == 0:
                    middle = c + sharing // 2
                    _fetch(voxels, sizes, strides, rays, b, r + 1, middle, m, u, v, near, far)
                first, count, pu, pv, hu, hv, inverse = _planes(
                    rays, b, r, c, m, u, v, sizes, near, far
                )
                base = times(first, sm)
                x, y = np.float32(pu), np.float32(pv)
                dx, dy = np.float32(hu), np.float32(hv)
                if su == 1:
                    total = _sum(voxels, base, count, sm, np.int32(1), sv, x, y, dx, dy)
                else:
                    total = _sum(voxels, base, count, sm, su, sv, x, y, dx, dy)
                out[b, r, c] = total * np.float32(
                    scale * _length(detectors, b, r, c) * abs(inverse)
                )
            begin = end


@parallel(fastmath=True)
def integrate_with_jacobian(
    voxels,
    scale,
    sizes,
    strides,
    ahead,
    tiles,
    rays,
    detectors,
    world_rays,
    voxel_from_world,
    centre,
    out,
    jacobian,
):
    """Compute the line integrals of B views and their derivative by a left twist of the camera.

    Arguments as for `integrate`, and
    world_rays: (B, 4, 3) the same rays in mm of the volume frame; voxel_from_world: (3, 3);
    centre: (3,) mm, about which the twist rotates.
    jacobian: (B, 6, H, W) zeros, per radian (rotation vector) and per mm (translation), along the
    axes of the volume frame.
    """
    batch, height, width = out.shape
    for job in numba.prange(batch * height):
        b = job // height
        r = job - b * height
        lever_x = world_rays[b, 0, 0] - centre[0]
        lever_y = world_rays[b, 0, 1] - centre[1]
        lever_z = world_rays[b, 0, 2] - centre[2]
        sharing = _sharing(rays, b)
        begin = 0
        while begin < width:
            m, end = _same_axis(rays, b, r, begin, width)
            u, v = _in_plane(m)
            su, sv, sm = np.int32(strides[u]), np.int32(strides[v]), np.int32(strides[m])
            ux, uy, uz = voxel_from_world[u, 0], voxel_from_world[u, 1], voxel_from_world[u, 2]
            vx, vy, vz = voxel_from_world[v, 0], voxel_from_world[v, 1], voxel_from_world[v, 2]
            mx, my, mz = voxel_from_world[m, 0], voxel_from_world[m, 1], voxel_from_world[m, 2]
            for c in range(begin, end):
                near, far = tiles[b, r // TILE, c // TILE]
                if near > far:
                    continue
                if ahead and (c - begin) % sharing == 0:
                    middle = c + sharing // 2
                    _fetch(voxels, sizes, strides, rays, b, r + 1, middle, m, u, v, near, far)
                first, count, pu, pv, hu, hv, inverse = _planes(
                    rays, b, r, c, m, u, v, sizes, near, far
                )
                if count <= 0:
                    continue
                base = times(first, sm)
                x, y = np.float32(pu), np.float32(pv)
                dx, dy = np.float32(hu), np.float32(hv)
                if su == 1:
                    total, gu, gv, kgu, kgv = _sums(
                        voxels, base, count, sm, np.int32(1), sv, x, y, dx, dy
                    )
                else:
                    total, gu, gv, kgu, kgv = _sums(voxels, base, count, sm, su, sv, x, y, dx, dy)
                step_mm = scale * _length(detectors, b, r, c) * abs(inverse)
                integral = total * step_mm
                t0 = (first - rays[b, 0, m]) * inverse
                # by the source (s) and by the direction (d), along the axes u, v and m
                s_u, s_v = gu * step_mm, gv * step_mm
                s_m = -hu * s_u - hv * s_v
                d_u = t0 * s_u + kgu * step_mm * inverse
                d_v = t0 * s_v + kgv * step_mm * inverse
                d_m = -hu * d_u - hv * d_v - integral * inverse
                s_x = ux * s_u + vx * s_v + mx * s_m
                s_y = uy * s_u + vy * s_v + my * s_m
                s_z = uz * s_u + vz * s_v + mz * s_m
                d_x = ux * d_u + vx * d_v + mx * d_m
                d_y = uy * d_u + vy * d_v + my * d_m
                d_z = uz * d_u + vz * d_v + mz * d_m
                w_x = _step(world_rays, b, r, c, 0)
                w_y = _step(world_rays, b, r, c, 1)
                w_z = _step(world_rays, b, r, c, 2)
                out[b, r, c] = integral
                jacobian[b, 0, r, c] = lever_y * s_z - lever_z * s_y + w_y * d_z - w_z * d_y
                jacobian[b, 1, r, c] = lever_z * s_x - lever_x * s_z + w_z * d_x - w_x * d_z
                jacobian[b, 2, r, c] = lever_x * s_y - lever_y * s_x + w_x * d_y - w_y * d_x
                jacobian[b, 3, r, c] = s_x
                jacobian[b, 4, r, c] = s_y
                jacobian[b, 5, r, c] = s_z
            begin = end
