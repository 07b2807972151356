"""Times of the frames of a run, from the header of its DICOM file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import InputError, reading
from common.files.pydicom_quiet import quiet
from common.xray.tags import number, numbers

MS_PER_S = 1000.0
# rates in frames per second, in this order after the times themselves
RATES = ("CineRate", "RecommendedDisplayFrameRate")
KNOWN = "FrameTimeVector, FrameTime, CineRate or RecommendedDisplayFrameRate"


def read_frame_times(path: Path) -> tuple[np.ndarray, str]:
    """Return the times (N,) of all frames in seconds from the first, and the tag that states them.

    FrameTimeVector has the interval before each frame, FrameTime the constant one, in milliseconds
    (DICOM PS3.3 C.7.6.5); then come the rates. Raises InputError if the file states none of them,
    or intervals that do not fit its frames.
    """
    import pydicom

    with reading(path, "a DICOM header", "export it again"), quiet():
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        count = int(number(header, "NumberOfFrames") or 1)
        intervals = numbers(header, "FrameTimeVector")
        interval = number(header, "FrameTime")
        rates = {name: number(header, name) for name in RATES}
    if intervals:
        if len(intervals) != count or min(intervals[1:], default=1.0) <= 0:
            raise InputError(
                path,
                f"FrameTimeVector has {len(intervals)} intervals, not all positive"
                if len(intervals) == count
                else f"FrameTimeVector has {len(intervals)} intervals for {count} frames",
                "a positive interval per frame",
                "state `fps`, or `time` as a text file",
            )
        return np.cumsum([0.0, *intervals[1:]]) / MS_PER_S, "FrameTimeVector"
    if interval is not None and interval > 0:
        return np.arange(count) * interval / MS_PER_S, "FrameTime"
    for name, rate in rates.items():
        if rate is not None and rate > 0:
            return np.arange(count) / rate, name
    raise InputError(
        path, "states no times of its frames", KNOWN, "state `fps`, or `time` as a text file"
    )
