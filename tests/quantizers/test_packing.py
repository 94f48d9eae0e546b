"""Codes survive packing, at exactly their width."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mrecg.quantizers import packing
from mrecg.quantizers.packing import pack, unpack


@st.composite
def codes_of_a_grid(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Codes of some shape from `low` to `high`, and these bounds."""
    low = draw(st.integers(-(2**15), 2**15))
    high = draw(st.integers(low + 1, low + 2 ** draw(st.integers(1, 16)) - 1))
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    count = int(torch.Size(shape).numel())
    codes = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return torch.tensor(codes, dtype=torch.int64).reshape(shape), low, high


@given(codes_of_a_grid())
def test_unpack_returns_what_pack_took(given_codes: tuple[Tensor, int, int]) -> None:
    codes, low, high = given_codes
    packed = pack(codes, low, high)
    assert torch.equal(unpack(packed, low, high, tuple(codes.shape), torch.int64), codes)


@given(codes_of_a_grid())
def test_codes_take_their_width(given_codes: tuple[Tensor, int, int]) -> None:
    codes, low, high = given_codes
    bits = codes.numel() * (high - low).bit_length()
    assert pack(codes, low, high).numel() == (bits + 7) // 8


@given(codes_of_a_grid(), st.sampled_from([1, -1]))
def test_another_number_of_bytes_is_refused(
    given_codes: tuple[Tensor, int, int], more: int
) -> None:
    codes, low, high = given_codes
    packed = pack(codes, low, high)
    wrong = packed[:-1] if more < 0 else torch.cat([packed, packed[:1]])
    with pytest.raises(ValueError, match="hold no"):
        unpack(wrong, low, high, tuple(codes.shape), torch.int64)


@given(codes_of_a_grid())
def test_portions_change_no_byte(given_codes: tuple[Tensor, int, int]) -> None:
    codes, low, high = given_codes
    whole = pack(codes, low, high)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_AT_ONCE", 8)
        assert torch.equal(pack(codes, low, high), whole)
        assert torch.equal(unpack(whole, low, high, tuple(codes.shape), torch.int64), codes)


def test_the_lowest_bit_of_the_first_code_comes_first() -> None:
    """The layout in files: 3-bit codes 1, 2, 7 are the bits 100 010 111, filled up to whole bytes."""
    packed = pack(torch.tensor([1, 2, 7]), 0, 7)
    assert packed.tolist() == [0b11_010_001, 0b1]
