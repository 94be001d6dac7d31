"""Proposals, canonical keys, texts, costs and seeds that were recorded: the same on every machine."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULE = runpy.run_path(str(ROOT / "benchmarks" / "proposals.py"))
RECORD: dict[str, str] = json.loads((ROOT / "tests" / "golden" / "proposals.json").read_text())
COUNTED = ("costs", "within limits")
"""Networks are built and counted for these."""

NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if any(word in name for word in COUNTED) else name
    for name in RECORD
]


def test_the_record_has_every_entry() -> None:
    assert MODULE["exact"]().keys() == RECORD.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_recorded(name: str) -> None:
    """Rows are compared by their hashes; the first that differs is shown as it is now."""
    rows = MODULE["exact"]()[name]()
    now, recorded = MODULE["digest"](rows).split(), RECORD[name].split()
    differing = [i for i, pair in enumerate(zip(now, recorded, strict=False)) if pair[0] != pair[1]]
    assert not differing, f"row {differing[0]} is now: {rows[differing[0]]}"
    assert len(now) == len(recorded)
