"""PyTorch's file format (.pt) for arrays and plain types, written and read without PyTorch.

Importing torch takes as long as a registration, and a result has but a few matrices and an image.
``torch.load(..., weights_only=True)`` opens the files, with tensors in place of the arrays.

The format is that of torch.save since 1.6: an uncompressed ZIP with ``data.pkl``, a pickle of
protocol 2, and the raw elements of each tensor in ``data/<key>`` (torch/serialization.py).
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import MACHINE

FOLDER = "archive"  # in the ZIP; its name has no meaning
VERSION = b"3\n"  # of the format
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in STORAGES.items()}


class NotPlainError(Exception):
    """A file or an object that holds more than arrays and plain types."""


def save(stream: BinaryIO, content: Any) -> None:
    """Write arrays, numbers, texts, None, lists, tuples and dictionaries of these.

    Raises NotPlainError for anything else.
    """
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{FOLDER}/data.pkl", "w") as file:
            pickler = _Pickler(file)
            pickler.dump(content)
        parts = {f"data/{key}": array.tobytes() for key, array in enumerate(pickler.arrays)}
        for name, part in ({"byteorder": b"little"} | parts | {"version": VERSION}).items():
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}"), part)  # without a date


def load(path: str | Path) -> Any:
    """Return the content of a file, with arrays in place of tensors; no code of it runs.

    Raises NotPlainError if it is no such archive or holds other types, OSError if the operating
    system refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Unpickler(archive).load()
    except Exception as error:  # a pickle that is damaged on purpose can raise nearly any
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in MACHINE:
            raise
        raise NotPlainError(str(error)) from error


class _Pickler(pickle._Pickler):
    """Writes plain types, and arrays as the tensors that torch.save would write.

    The pickler in Python, as only it can name PyTorch's functions without importing them.
    """

    dispatch = pickle._Pickler.dispatch.copy()
    write: Callable[[bytes], None]
    save: Callable[[Any], None]

    def __init__(self, file: Any):
        super().__init__(file, protocol=2)
        self.arrays: list[np.ndarray] = []

    def save_reduce(self, *_: Any, obj: Any = None, **__: Any) -> None:
        """Refuse what is not a plain type."""
        raise NotPlainError(f"{type(obj).__name__} is not a plain type")

    def save_global(self, obj: Any, name: Any = None) -> None:
        """Refuse functions and classes."""
        raise NotPlainError(f"{name or obj} is not a plain type")

    def save_array(self, array: np.ndarray) -> None:
        """Write a tensor: a call with storage, offset, size, strides and two settings."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in NAMES:
            raise NotPlainError(f"an array of {array.dtype} is not a tensor")
        key = str(len(self.arrays))
        self.arrays.append(array)
        self._write_global("torch._utils", "_rebuild_tensor_v2")
        self.write(pickle.MARK)
        self.write(pickle.MARK)
        self.save("storage")
        self._write_global("torch", NAMES[array.dtype])
        for part in (key, "cpu", array.size):
            self.save(part)
        self.write(pickle.TUPLE + pickle.BINPERSID)
        for part in (0, array.shape, tuple(n // array.itemsize for n in array.strides), False):
            self.save(part)
        self._write_global("collections", "OrderedDict")  # of hooks, none
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE)
        self.write(pickle.TUPLE + pickle.REDUCE)

    dispatch[np.ndarray] = save_array  # ty: ignore[invalid-assignment]

    def _write_global(self, module: str, name: str) -> None:
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())


class _Unpickler(pickle.Unpickler):
    """Reads what `save` or torch.save has written, if it is of plain types and tensors."""

    def __init__(self, archive: zipfile.ZipFile):
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise NotPlainError("not a PyTorch archive")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise NotPlainError("compressed")
        self._archive, self._folder = archive, pickles[0].removesuffix("/data.pkl")
        order = f"{self._folder}/byteorder"
        if (archive.read(order).decode() if order in entries else sys.byteorder) != "little":
            raise NotPlainError("not little-endian")
        super().__init__(io.BytesIO(archive.read(pickles[0])))

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what stands for one of PyTorch's names; raise for any other."""
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _array
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module_name == "torch" and global_name in STORAGES:
            return STORAGES[global_name]
        raise NotPlainError(f"{module_name}.{global_name} is not a plain type")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return the elements of a storage."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise NotPlainError(f"a {kind} is not a storage")
        return np.frombuffer(self._archive.read(f"{self._folder}/data/{key}"), dtype, count)


def _array(
    elements: np.ndarray, offset: int, size: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return the array of a stored tensor: a copy, of the elements that it shows."""
    if math.prod(size) > elements.size:
        raise NotPlainError("a tensor with more elements than are stored")
    steps = np.array(strides, dtype=np.int64) * elements.itemsize
    # numpy checks that the elements lie within the buffer
    shown = np.ndarray(size, elements.dtype, elements, offset * elements.itemsize, tuple(steps))
    return np.array(shown)
