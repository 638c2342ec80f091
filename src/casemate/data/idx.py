"""The IDX format of MNIST: an array of unsigned bytes behind a big-endian header.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats". Bytes 0 and 1 are
zero, byte 2 is the type of the values (0x08: unsigned byte, the only one that images and labels use), byte 3 the number
of dimensions; then each dimension as a 4-byte integer, then the values, last dimension fastest.
"""

import math
import struct

import numpy as np
from jaxtyping import UInt8

from casemate.errors import CasemateError

UNSIGNED_BYTE = 0x08


def decode(content: bytes, what: str) -> UInt8[np.ndarray, "..."]:
    """The array in `content`, a view of its bytes; `what` names the file in errors.

    Raises `CasemateError` for a wrong magic number, another type, a file cut short and bytes left over.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise CasemateError(f"{what} is no IDX file: it starts with {content[:4].hex(' ') or 'nothing'}; replace it")
    if content[2] != UNSIGNED_BYTE:
        raise CasemateError(
            f"{what} is an IDX file of type 0x{content[2]:02x}, where images and labels are unsigned bytes (0x08); "
            "replace it"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise CasemateError(f"{what} is cut short: {len(content)} bytes, of which the header alone takes {start}")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    expected = start + math.prod(shape)
    if len(content) != expected:
        fault = "is cut short" if len(content) < expected else "has bytes left over"
        raise CasemateError(
            f"{what} {fault}: its header promises {' x '.join(map(str, shape))} values, {expected} bytes in all, "
            f"and it holds {len(content)}; replace it"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def encode(values: UInt8[np.ndarray, "..."]) -> bytes:
    """`values` (1 to 255 dimensions) as an IDX file; `decode` gives them back."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, UNSIGNED_BYTE, values.ndim, *values.shape)
    return header + values.tobytes()
