"""Names of the formats of `common.kinematics.exports`. Standard library only."""

FORMATS = (
    "csv", "json", "mot", "sto", "trc", "c3d", "xmalab", "tra", "jts", "slicer", "bids",
)  # fmt: skip
EVEN = ("trc", "c3d", "bids")  # need frames at a constant rate
TIMED = ("mot", "sto", *EVEN)  # need times
