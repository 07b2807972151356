# PYTHON_ARGCOMPLETE_OK
"""Show the content of a PyTorch file: keys, types, shapes, data types and small values.

It opens checkpoints, parameters.pt and plain tensors, and lists their content nested and indented.
No code in the file is executed: a file with Python objects other than tensors, numbers, texts and
dates is rejected, because loading it would run code.

reads   .pt or .pth, zip or legacy format, from any device
writes  nothing; the listing is printed on standard output
step    any: after agnostic.py or finetuned.py (model.pth), or registration.py (parameters.pt)

example
  python read_pt.py results/parameters.pt --depth 2
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import files
from common.command_line import script
from common.errors import InputError, printable

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger("common.script")

WHAT = "a PyTorch file (.pt, .pth)"
DEPTH = 6
FEW = 16  # elements of a tensor that is printed in full
LONG_TEXT = 100  # characters
# elements of a tensor whose range is shown; a hostile file can claim any number of elements
MOST_ELEMENTS = 2**27
MANY_ITEMS = 60  # of one dictionary or list; a network has hundreds of weights


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="file to show (.pt, .pth)")
    parser.add_argument(
        "--depth",
        type=int,
        default=DEPTH,
        metavar="N",
        help="levels of nesting to show (default: %(default)s)",
    )
    parser.add_argument(
        "--items",
        type=int,
        default=MANY_ITEMS,
        metavar="N",
        help="entries of one dictionary or list to show (default: %(default)s)",
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="also load objects that run code from the file: only for files that you trust",
    )
    return parser


def describe(
    value: Any,
    name: str = "",
    depth: int = DEPTH,
    items: int = MANY_ITEMS,
    arrays: str = "ndarray",
    indent: int = 0,
) -> Iterator[str]:
    """Describe a value and its content, down to ``depth`` levels, in lines.

    ``arrays`` is what arrays are called; those of `tensor_archive.load` stand for tensors.
    """
    lead = "  " * indent + (f"{name}: " if name else "")
    children = _children(value)
    if children is None:
        yield lead + _leaf(value, arrays)
        return
    kind = type(value).__name__
    yield f"{lead}{kind} of {len(children)}" + ("" if depth > 0 or not children else " ...")
    if depth <= 0:
        return
    for key, child in children[:items]:
        yield from describe(child, str(key), depth - 1, items, arrays, indent + 1)
    if len(children) > items:
        yield "  " * (indent + 1) + f"... {len(children) - items} more (--items {len(children)})"


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """Return (key, child) pairs of a container.

    Returns None for a leaf, which includes short lists of plain numbers and texts.
    """
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        plain = all(isinstance(child, bool | int | float | str | None) for child in value)
        if plain and len(value) <= FEW and len(_text(value)) <= LONG_TEXT:
            return None
        return [(f"[{i}]", child) for i, child in enumerate(value)]
    return None


def _leaf(value: Any, arrays: str) -> str:
    import numpy as np

    if isinstance(value, np.ndarray):
        return _array(arrays, value)
    # without torch, a file has no objects of it
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        return _tensor(value)
    if isinstance(value, str | bytes) and len(value) > LONG_TEXT:
        return f"{type(value).__name__} of {len(value)}: {value[:LONG_TEXT]!r}..."
    text = _text(value)
    shown = text if len(text) <= 2 * LONG_TEXT else text[: 2 * LONG_TEXT] + "..."
    return f"{type(value).__name__} = {shown}"


def _text(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not print integers of many thousand digits
        return "a number too long to print"


def _tensor(value: torch.Tensor) -> str:
    """Describe a tensor of any kind: it may be sparse, quantized or of a type that numpy lacks."""
    kind, dtype = type(value).__name__, str(value.dtype).removeprefix("torch.")
    tensor = value.detach()
    if not 0 < tensor.numel() <= MOST_ELEMENTS or tensor.is_quantized:
        return _head(kind, value.shape, dtype)
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    tensor = tensor.double() if tensor.dtype.is_floating_point else tensor
    return _array(kind, tensor.resolve_conj().resolve_neg().numpy(), dtype)


def _head(kind: str, shape: Sequence[int], dtype: str) -> str:
    return f"{kind} {'x'.join(map(str, shape)) or 'scalar'} {dtype}"


def _array(kind: str, array: np.ndarray, dtype: str = "") -> str:
    import numpy as np

    head = _head(kind, array.shape, dtype or str(array.dtype))
    if not 0 < array.size <= MOST_ELEMENTS:
        return head
    if array.size <= FEW:
        shown = array.astype(np.float64) if array.dtype.kind == "f" else array
        return f"{head} = {_rounded(shown.tolist())}"
    if array.dtype.kind not in "iuf":  # truth values, complex numbers
        return head
    finite = array[np.isfinite(array)]
    if not finite.size:
        return f"{head}, no finite value"
    broken = array.size - finite.size
    mean = finite.mean(dtype=np.float64)
    numbers = f"{float(finite.min()):.6g} to {float(finite.max()):.6g}, mean {mean:.6g}"
    return f"{head}, {numbers}" + (f", {broken} NaN or infinite" if broken else "")


def _rounded(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_rounded, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def load(path: Path, unsafe: bool = False) -> tuple[Any, str]:
    """Return the content of a file, and what its arrays are called in `describe`.

    Raises InputError as `torch_files.load`.
    """
    from common.files import tensor_archive

    # without torch, whose import takes longer than all else
    with contextlib.suppress(tensor_archive.NotPlainError):
        return tensor_archive.load(path), "Tensor"
    from common.files import torch_files

    return torch_files.load(path, WHAT, unsafe), "ndarray"


def run(args: argparse.Namespace) -> int | None:
    path = files.existing_file(args.file, WHAT)
    if args.depth < 0 or args.items < 1:
        raise InputError(
            f"--depth {args.depth} --items {args.items}",
            "out of range",
            "a depth of at least 0 and at least 1 item",
            "correct them",
        )
    if args.unsafe:
        logger.warning(f"{path}: opened with --unsafe; code in the file is executed")
    content, arrays = load(path, args.unsafe)
    for line in describe(content, path.name, args.depth, args.items, arrays):
        print(printable(line))
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
