"""The IDX format: what is encoded comes back, and whatever is not whole is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from casemate.data import idx
from casemate.errors import CasemateError

arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))


@given(arrays)
def test_what_is_encoded_comes_back(values: np.ndarray) -> None:
    again = idx.decode(idx.encode(values), "x")
    assert again.shape == values.shape
    assert again.dtype == np.uint8
    assert np.array_equal(again, values)


def test_the_layout_is_the_published_one() -> None:
    # Two images of 1 x 3, written by hand: magic 0x00000803, three big-endian dimensions, the values.
    content = bytes.fromhex("00000803 00000002 00000001 00000003") + bytes([1, 2, 3, 4, 5, 255])
    assert idx.decode(content, "x").tolist() == [[[1, 2, 3]], [[4, 5, 255]]]


def test_an_array_that_is_not_contiguous_is_written_in_its_own_order() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    assert np.array_equal(idx.decode(idx.encode(values), "x"), values)


@given(arrays, st.data())
def test_cut_short_anywhere_is_refused(values: np.ndarray, data: st.DataObject) -> None:
    content = idx.encode(values)
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CasemateError, match=r"^x (is cut short|is no IDX file)"):
        idx.decode(content[:length], "x")


@given(arrays, st.binary(min_size=1, max_size=9))
def test_bytes_left_over_are_refused(values: np.ndarray, more: bytes) -> None:
    with pytest.raises(CasemateError, match=r"^x has bytes left over"):
        idx.decode(idx.encode(values) + more, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it starts with nothing"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "is no IDX file: it starts with 1f 8b 08 00"),
        (b"\0\0\x08\0", "is no IDX file"),  # no dimension
        (b"\0\0\x0d\x01\0\0\0\x01" + bytes(4), "type 0x0d"),  # float32
        (b"\0\0\x08\xff" + bytes(8), "cut short"),  # 255 dimensions promised
        (b"\0\0\x08\x03" + b"\xff" * 12, "cut short"),  # more values than any memory holds
    ],
)
def test_a_wrong_header_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        idx.decode(content, "x")
