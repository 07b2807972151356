# PYTHON_ARGCOMPLETE_OK
"""Look inside a PyTorch file: keys, types, shapes, data types and small values, nested and indented.

Opens model checkpoints, parameters.pt and plain tensors. Nothing in the file is run: a file that holds other Python objects than
tensors, numbers, texts and dates is refused, because loading it would call whatever its author put in.

reads   .pt or .pth, zip or legacy format, from any device
writes  nothing; the listing goes to the standard output
step    any: after agnostic.py, finetuned.py (model.pth) or registration.py (parameters.pt)

example
  python read_pt.py results/parameters.pt --depth 2
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from common import files
from common.command_line import script
from common.errors import InputError, printable

logger = logging.getLogger("common.script")


WHAT = "a PyTorch file (.pt, .pth)"
DEPTH = 6
FEW = 16  # elements of a tensor that are printed in full
LONG_TEXT = 100
MOST_ELEMENTS = (
    2**27
)  # of a tensor whose numbers are summed up; a hostile file can claim any number without holding them
MANY_ITEMS = 60  # of one dictionary or list; a network has hundreds of weights


def build_parser() -> argparse.ArgumentParser:
    parser = script.build_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="file to look into (.pt, .pth)")
    parser.add_argument(
        "--depth",
        type=int,
        default=DEPTH,
        metavar="N",
        help=f"levels of nesting to show (default: {DEPTH})",
    )
    parser.add_argument(
        "--items",
        type=int,
        default=MANY_ITEMS,
        metavar="N",
        help=f"entries to show of one dictionary or list (default: {MANY_ITEMS})",
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="unpickle everything, which runs code from the file: only for files of your own",
    )
    return parser


def describe(
    value: Any, name: str = "", depth: int = DEPTH, items: int = MANY_ITEMS, indent: int = 0
) -> Iterator[str]:
    """Lines that describe a value and, down to ``depth`` levels, what it holds."""
    lead = "  " * indent + (f"{name}: " if name else "")
    children = _children(value)
    if children is None:
        yield lead + _leaf(value)
        return
    kind = type(value).__name__
    yield f"{lead}{kind} of {len(children)}" + ("" if depth > 0 or not children else " ...")
    if depth <= 0:
        return
    for key, child in children[:items]:
        yield from describe(child, str(key), depth - 1, items, indent + 1)
    if len(children) > items:
        yield "  " * (indent + 1) + f"... {len(children) - items} more (--items {len(children)})"


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """(key, child) pairs of a container; None for a leaf, also for short lists of plain numbers and texts."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        plain = all(isinstance(child, bool | int | float | str | None) for child in value)
        return (
            None
            if plain and len(value) <= FEW and len(_text(value)) <= LONG_TEXT
            else [(f"[{i}]", child) for i, child in enumerate(value)]
        )
    return None


def _leaf(value: Any) -> str:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, str | bytes) and len(value) > LONG_TEXT:
        return f"{type(value).__name__} of {len(value)}: {value[:LONG_TEXT]!r}..."
    text = _text(value)
    return (
        f"{type(value).__name__} ="
        f" {text if len(text) <= 2 * LONG_TEXT else text[: 2 * LONG_TEXT] + '...'}"
    )


def _text(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no integers of many thousand digits
        return "a number too long to write"


def _array(value: Any) -> str:
    import torch

    shape = "x".join(map(str, value.shape)) or "scalar"
    dtype = str(value.dtype).removeprefix("torch.")
    head = f"{type(value).__name__} {shape} {dtype}"
    tensor = torch.as_tensor(value).detach()
    if not 0 < tensor.numel() <= MOST_ELEMENTS or tensor.is_quantized:
        return head
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    if tensor.numel() <= FEW:
        rounded = tensor.double() if tensor.dtype.is_floating_point else tensor
        return f"{head} = {_rounded(rounded.tolist())}"
    if tensor.dtype == torch.bool or tensor.dtype.is_complex:
        return head
    numbers = tensor.double()
    finite = numbers[numbers.isfinite()]
    if not finite.numel():
        return f"{head}, no finite value"
    broken = numbers.numel() - finite.numel()
    return f"{head}, {finite.min():.6g} to {finite.max():.6g}, mean {finite.mean():.6g}" + (
        f", {broken} NaN or infinite" if broken else ""
    )


def _rounded(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_rounded, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def run(args: argparse.Namespace) -> int | None:
    from common.files import torch_files

    path = files.existing_file(args.file, WHAT)
    if args.depth < 0 or args.items < 1:
        raise InputError(
            f"--depth {args.depth} --items {args.items}",
            "out of range",
            "depth of 0 and above and items of 1 and above",
            "correct them",
        )
    if args.unsafe:
        logger.warning(f"{path}: opened with --unsafe; code in the file is run")
    for line in describe(
        torch_files.load(path, WHAT, args.unsafe), path.name, args.depth, args.items
    ):
        print(printable(line))
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
