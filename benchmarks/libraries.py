#!/usr/bin/env python
"""Own code against libraries that could replace it: seconds, peak memory and import time.

Needs ``connected-components-3d``, ``filelock`` and ``msgspec`` beside the requirements. Each row is
measured in a process of its own.

    python benchmarks/libraries.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# what is measured: name, preparation, the measured statement
LABELMAP = """
import numpy as np
rng = np.random.default_rng(0)
data = np.zeros((512, 512, 750), np.uint8, order="F")
data[100:400, 150:350, 50:700] = 1
data[120:380, 170:330, 60:690] = 0
at = tuple(rng.integers(0, n, 2000) for n in data.shape)
data[at] = 1
"""
ROWS = [
    ("components, runs (ours)", LABELMAP,
     "import segmentation_preprocessing as s; s.keep_largest_components(data, [1])"),
    ("components, cc3d", LABELMAP,
     "import cc3d; cc3d.largest_k(data == 1, k=1, connectivity=26)"),
    ("components, scipy.ndimage.label", LABELMAP,
     "from scipy import ndimage; c, n = ndimage.label(data == 1, np.ones((3, 3, 3)));"
     " np.bincount(c.ravel())"),
    ("10,000 rotation matrices, ours", "import numpy as np",
     "from common import geometry\n"
     "for _ in range(10000): geometry.rotation_matrix((0.1, 0.2, 0.3))"),
    ("10,000 rotation matrices, scipy", "import numpy as np",
     "from scipy.spatial.transform import Rotation\n"
     "for _ in range(10000): Rotation.from_rotvec((0.1, 0.2, 0.3)).as_matrix()"),
    ("300 outputs claimed, ours",
     "import tempfile, pathlib; d = pathlib.Path(tempfile.mkdtemp())",
     "from common.files import locks\n"
     "with locks.claiming():\n"
     "    for i in range(300): assert locks.claim(d / str(i))"),
    ("300 outputs claimed, filelock",
     "import tempfile, pathlib; d = pathlib.Path(tempfile.mkdtemp())",
     "import filelock\n"
     "held = [filelock.FileLock(d / f'{i}.lock') for i in range(300)]\n"
     "for one in held: one.acquire(timeout=0)\n"
     "for one in held: one.release()"),
    ("1,000 result files read, json", "import json; text = json.dumps({'a': [[1.0] * 4] * 4} | "
     "{str(i): {'x': i, 'y': 'text'} for i in range(50)})",
     "import json\nfor _ in range(1000): json.loads(text)"),
    ("1,000 result files read, msgspec", "import json; text = json.dumps({'a': [[1.0] * 4] * 4} | "
     "{str(i): {'x': i, 'y': 'text'} for i in range(50)})",
     "import msgspec\nfor _ in range(1000): msgspec.json.decode(text)"),
]  # fmt: skip

MEASURE = """
import resource, time
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
exec({before!r})
memory, began = peak(), time.perf_counter()
exec({statement!r})
print(f"{{time.perf_counter() - began:.2f}} | {{peak() - memory:.0f}}")
"""


def main() -> None:
    print("| what | seconds, with import | MiB above the data |\n|---|---|---|")
    for name, before, statement in ROWS:
        code = MEASURE.format(before=before, statement=statement)
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        print(f"| {name} | {run.stdout.strip() or run.stderr.splitlines()[-1]} |", flush=True)


if __name__ == "__main__":
    main()
