"""Counts as people write them."""

from __future__ import annotations

import pytest
from facts import refusal
from hypothesis import given
from hypothesis import strategies as st

from nas import counts
from nas.settings.resources import Constraints


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("20000", 20_000),
        ("20k", 20_000),
        ("20.6K", 20_600),
        ("1.5M", 1_500_000),
        ("20_000", 20_000),
    ],
)
def test_what_tables_print_is_read(text: str, count: int) -> None:
    assert counts.read(text) == count
    assert count == 0 or Constraints(max_parameters=text).max_parameters == count


@given(st.integers(0, 10**12))
def test_a_printed_count_is_read_as_nearly_itself(count: int) -> None:
    assert counts.read(counts.write(count)) == pytest.approx(count, rel=0.05)


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5x", "1e5k", "nan", "99999999999999999999"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with refusal(ValueError, "count"):
        counts.read(text)


def test_a_noun_is_in_the_plural_but_for_one() -> None:
    found = [counts.counted(count, "GPU") for count in (0, 0.5, 1, 1.0, 2.0, 1_500)]
    assert found == ["0 GPUs", "0.5 GPUs", "1 GPU", "1 GPU", "2 GPUs", "1,500 GPUs"]


def test_a_time_is_in_hours_minutes_and_seconds() -> None:
    assert [counts.clock(seconds) for seconds in (0.4, 59.6, 3_723, 360_000)] == [
        "0:00:00",
        "0:01:00",
        "1:02:03",
        "100:00:00",
    ]
