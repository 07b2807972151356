"""Single modules of xvr, loaded by their file.

``import xvr.model`` or ``xvr.register`` run the package's ``__init__``, which pulls its trainer, wandb, torchio and matplotlib and costs twice the time.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def xvr_module(file: str) -> ModuleType:
    """The module in ``file``, relative to the package: "model/network.py"."""
    name = "xvr_" + file.removesuffix(".py").replace("/", "_")
    if name not in sys.modules:
        package = importlib.util.find_spec("xvr")
        spec = importlib.util.spec_from_file_location(
            name, Path(package.submodule_search_locations[0]) / file
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
