"""Padded lengths: long enough, of few shapes, little waste."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowkit.data import padded_length


@settings(max_examples=200, deadline=None)
@given(length=st.integers(0, 1 << 20), multiple=st.integers(2, 200))
def test_a_padded_length_holds_the_length_and_wastes_little(length: int, multiple: int) -> None:
    padded = padded_length(length, multiple)
    assert padded >= length
    assert padded % multiple == 0, "a network that halves its input asked for it"
    assert padded - length < length / 4 + multiple


@pytest.mark.parametrize("multiple", [2, 8, 24, 64])
def test_few_shapes_remain(multiple: int) -> None:
    octaves = 14
    shapes = {padded_length(length, multiple) for length in range(1, 1 << octaves)}
    assert len(shapes) <= 4 * (octaves + 1)


@pytest.mark.parametrize("multiple", [2, 8, 64])
def test_longer_stays_longer_and_padding_twice_changes_nothing(multiple: int) -> None:
    padded = [padded_length(length, multiple) for length in range(1, 5000)]
    assert padded == sorted(padded)
    assert [padded_length(length, multiple) for length in padded] == padded


@pytest.mark.parametrize("multiple", [0, 1])
def test_without_a_multiple_the_length_stays(multiple: int) -> None:
    assert [padded_length(length, multiple) for length in range(2000)] == list(range(2000))
