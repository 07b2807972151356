"""Single modules of xvr, loaded from their files.

``import xvr.model`` or ``xvr.register`` run the package's ``__init__``, which imports its trainer,
wandb, torchio and matplotlib, and takes twice the time.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def xvr_module(file: str) -> ModuleType:
    """Return the module in ``file``, a path in the package such as "model/network.py".

    Raises ModuleNotFoundError if xvr is not installed.
    """
    name = "xvr_" + file.removesuffix(".py").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.util.find_spec("xvr")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'xvr'", name="xvr")
    path = Path(package.submodule_search_locations[0]) / file
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module {file} in package xvr", name=name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module
