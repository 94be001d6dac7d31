"""Genotypes as the authors of DARTS print them: each cell a list of operations and the states they see."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from nas.errors import ConfigError
from search_spaces.separable import OPERATIONS
from search_spaces.stacked import INPUTS

NODES = 4
"""Of a cell. States 0 and 1 are the outputs of the two cells before it, states 2 to 5 its nodes."""

Edges: TypeAlias = tuple[tuple[str, int], ...]
"""Of a cell: each an operation and the state that it sees, two a node, the smaller state first."""


class Genotype(NamedTuple):
    """The normal and the reduction cell."""

    normal: Edges
    reduce: Edges


EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), … 8 pairs], normal_concat=range(2, 6), "
    "reduce=[… 8 pairs], reduce_concat=range(2, 6))"
)

_EDGE = r"""\((?:'{0}'|"{0}"),\d\)""".format("(?:" + "|".join(OPERATIONS) + ")")
_EDGES = rf"\[({_EDGE}(?:,{_EDGE}){{{2 * NODES - 1}}})\]"
_CONCAT = r"(?:range\(2,6\)|\[2,3,4,5\]|\(2,3,4,5\))"
_GENOTYPE = re.compile(
    rf"Genotype\(normal={_EDGES},normal_concat={_CONCAT},reduce={_EDGES},reduce_concat={_CONCAT}\)", re.ASCII
)


def printed(genotype: Genotype) -> str:
    """Return the text that Python prints for the paper's named tuple."""
    cells = (f"{kind}={list(edges)}, {kind}_concat=range(2, 6)" for kind, edges in genotype._asdict().items())
    return f"Genotype({', '.join(cells)})"


def parsed(text: str) -> Genotype | None:
    """Read a printed genotype, in whatever order a node's edges come; None: the text is none.

    Raises:
        ConfigError: a node takes a state twice, or one that does not come before it.
    """
    match = _GENOTYPE.fullmatch(re.sub(r"\s*([(),=\[\]])\s*", r"\1", text.strip()))
    if match is None:
        return None
    return Genotype(*(_cell(*pair) for pair in zip(Genotype._fields, match.groups(), strict=True)))


def _cell(kind: str, text: str) -> Edges:
    pairs = re.findall(r"(\w+)['\"],(\d)", text)
    edges = [(operation, int(state)) for operation, state in pairs]
    ordered: list[tuple[str, int]] = []
    for node in range(NODES):
        own = sorted(edges[2 * node : 2 * node + 2], key=lambda edge: edge[1])
        states = [state for _, state in own]
        if states[-1] >= INPUTS + node or any(a == b for a, b in pairwise(states)):
            raise ConfigError(
                f"Node {node} of the {kind} cell sees states {states[0]} and {states[1]}; it takes two "
                f"different ones of 0 to {INPUTS + node - 1}."
            )
        ordered += own
    return tuple(ordered)
