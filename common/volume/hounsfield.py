"""Hounsfield units (HU) of air and tissues, and the thresholds that tell them apart.

The only place for these numbers, so that two steps which need the same one agree. The attenuation
of a Hounsfield unit is in `common.volume.attenuation`.
"""

from __future__ import annotations

# -------------------------------------------------------------------------------------- materials

AIR_HU = -1000.0  # by definition; water is 0
FAT_HU = -100.0
SOFT_TISSUE_HU = 40.0  # mean of muscle, skin and vessels around a bone
MUSCLE_HU = 55.0

# ------------------------------------------------------------------------------------- thresholds

# a voxel above this belongs to the body, with its skin
BODY_HU = -300.0

# lowest value that scanners store for air, as they keep HU + 1024; lower values are padding
LOWEST_AIR_HU = -1024.0
# a CT whose lowest voxel is above this contains neither air nor fat
NO_AIR_ABOVE_HU = -200
# a label whose mean is below this lies in air: no bone is less dense than fat
BELOW_FAT_HU = -150

# lowest and highest value of a CT's densest voxel: some bone; metal at most, 30,710 in the extended
# range of scanners
DENSEST_HU = (100, 40_000)

# a voxel above this is denser than muscle and than organs without contrast agent
ABOVE_MUSCLE_HU = 150.0
# a voxel above this counts as bone in an alignment without labelmaps
BONE_HU = 200
# iso-surface of bone that is drawn
BONE_SURFACE_HU = 250.0
