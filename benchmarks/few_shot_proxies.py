"""Zero-cost proxies of networks of `few_shot`, with the weights that their first training begins with."""

from __future__ import annotations

import math
import time
from typing import Any

import pandas as pd

from nas import plugins
from nas.errors import Infeasible
from nas.evaluator import Context
from nas.proxies.base import Proxy, measured
from nas.space import Architecture
from nas.training.provenance import training_seed
from nas.training.proxies import subject

PROXIES = ("naswot", "jacov", "synflow", "snip", "grasp")
"""Those that look at a network: what is counted stands in the table anyway."""
TOOK = "cost_proxies"
"""Processor seconds of all of them, with what building the network took."""


def looked_at(context: Context, architecture: Architecture, seed: int) -> dict[str, float]:
    """Return the proxies of a network, −∞ where it has none, and the processor seconds of all."""
    began, found = time.process_time(), dict[str, float]()
    own = training_seed(seed, context.space.canonical(architecture), 0)
    untrained = subject(context.trainee(architecture), own)
    for name in PROXIES:
        proxy: Proxy = plugins.load("proxy", name)()
        try:
            found[name] = float(f"{measured(proxy, untrained):.6g}")
        except Infeasible:
            found[name] = -math.inf
    return {**found, TOOK: time.process_time() - began}


def lacking(table: pd.DataFrame) -> list[int]:
    """Return the numbers of the networks whose proxies a table lacks, ascending."""
    own = table[table["episodes"] == 0]
    return sorted(int(number) for number in own.loc[own[TOOK].isna(), "number"])


def filled(table: pd.DataFrame, found: dict[int, dict[str, float]]) -> pd.DataFrame:
    """Return a table with the proxies of some networks, by number, in the networks' own rows."""
    table, own = table.copy(), table["episodes"] == 0
    rows: dict[Any, int] = dict(zip(table.index[own], table.loc[own, "number"], strict=True))
    for row, number in rows.items():
        for name, value in found.get(number, {}).items():
            table.loc[row, name] = value
    return table
