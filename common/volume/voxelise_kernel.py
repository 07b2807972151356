"""Scan conversion of triangles: how much of each voxel is inside of a closed surface."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def add_crossings(vertices, triangles, offsets, whole, part):
    """Add the crossings of lines along the third axis with triangles.

    vertices: (V, 3) in voxels, a voxel from one whole number to the next; triangles: (T, 3),
    counterclockwise seen from outside. offsets: (S, 2) of the lines in each pillar of voxels, in
    0..1. whole, part: (I, J, K), to which each crossing is added, +1 where a line leaves the
    surface and -1 where it enters: to ``whole`` in the voxel of the crossing, for all voxels below,
    and to ``part`` by the share of the voxel that is below the crossing.
    """
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        x0, y0, z0 = vertices[a]
        x1, y1, z1 = vertices[b]
        x2, y2, z2 = vertices[c]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0:
            continue
        sign = 1.0 if area > 0 else -1.0
        for i in range(int(np.floor(min(x0, x1, x2))), int(np.floor(max(x0, x1, x2))) + 1):
            for j in range(int(np.floor(min(y0, y1, y2))), int(np.floor(max(y0, y1, y2))) + 1):
                for s in range(len(offsets)):
                    x, y = i + offsets[s, 0], j + offsets[s, 1]
                    u = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                    v = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                    if u < 0 or v < 0 or u + v >= 1:
                        continue
                    z = u * z0 + v * z1 + (1 - u - v) * z2
                    k = int(np.floor(z))
                    whole[i, j, k] += sign
                    part[i, j, k] += sign * (z - k)
