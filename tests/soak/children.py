"""A process that forks scripts as children and kills them at given times.

The imports of the scripts are done once, so that a kill hits the work. One JSON list per line is
read, with script, argv, cwd, and optionally kill_after (seconds), memory_mb and file_bytes (limits
of the child) of each child. The answers have code (-9 if killed), seconds, out and err. Nothing is
rendered here: threads of numba and torch do not survive a fork.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PRELOADED = (
    "nibabel",
    "SimpleITK",
    "scipy.ndimage",
    "scipy.sparse.csgraph",
    "skimage.measure",
    "skimage.transform",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "PIL.Image",
    "pydicom.pixels",
    "plotly.graph_objects",
    "torch",
    "numba",
    "common.registration.recording",
    "common.drr.renderer",
    "common.registration.starts",
    "common.registration.verdict",
    "common.training.run",
)


def start(order: dict, out: int, err: int) -> int:
    """Fork a child that runs the script, and return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(order["cwd"])
        module = importlib.import_module(order["script"])
        if "memory_mb" in order:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + order["memory_mb"] * 2**20,) * 2)
        if "file_bytes" in order:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
        code = module.main(order["argv"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, kill_after: float | None) -> int:
    """Return the exit code of a child, -9 if it was killed."""
    deadline = time.monotonic() + (kill_after if kill_after is not None else 300)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.001)


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        orders = json.loads(line)
        pipes = [(os.pipe(), os.pipe()) for _ in orders]  # no files: their size may be limited
        began = time.monotonic()
        children = [
            start(order, out[1], err[1]) for order, (out, err) in zip(orders, pipes, strict=True)
        ]
        answers = []
        for child, order, pair in zip(children, orders, pipes, strict=True):
            answer = {
                "code": wait(child, order.get("kill_after")),
                "seconds": time.monotonic() - began,
            }
            for name, (reader, writer) in zip(("out", "err"), pair, strict=True):
                os.close(writer)
                with open(reader, errors="replace") as stream:
                    answer[name] = stream.read()
            answers.append(answer)
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    serve()
