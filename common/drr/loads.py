"""Loads of 16-bit voxels for the kernels of `joseph_kernel`, and 32-bit index arithmetic.

numba widens integers to 64 bits, and loads one voxel at a time. With these, a loop over the samples
of a ray becomes vector instructions that gather two neighbouring voxels with one load.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

# typed as the functions that generate code, not as those that are called
intrinsic: Any = extending.intrinsic

WORD, LONG = ir.IntType(32), ir.IntType(64)


@intrinsic
def pair(typing: Any, voxels: Any, at: Any) -> Any:
    """Return voxels[at] (int16) in the lower, and voxels[at + 1] in the upper half of an int32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        loaded = builder.load(builder.bitcast(pointer, WORD.as_pointer()))
        loaded.align = 2
        return loaded

    return types.int32(voxels, types.int32), code


@intrinsic
def prefetch(typing: Any, voxels: Any, at: Any) -> Any:
    """Ask for the cache line of voxels[at], which may be outside the array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        pointer = builder.bitcast(_pointer(context, builder, signature, arguments), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        read, second_level, data = WORD(0), WORD(2), WORD(1)
        builder.call(function, [pointer, read, second_level, data])
        return context.get_dummy_value()

    return types.void(voxels, types.int32), code


@intrinsic
def plus(typing: Any, a: Any, b: Any) -> Any:
    """Return a + b (int32)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return types.int32(types.int32, types.int32), code


@intrinsic
def times(typing: Any, a: Any, b: Any) -> Any:
    """Return a * b (int32)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.mul(*arguments)

    return types.int32(types.int32, types.int32), code


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Return the address of an element of a flat array."""
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [builder.sext(arguments[1], LONG)])
