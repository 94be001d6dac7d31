"""Cells of DARTS as the paper describes them: drawn, read from a text, wired node by node."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces.genotype import Edges
from search_spaces.separable import OPERATIONS, operation


def cells(operations: tuple[str, ...] = OPERATIONS) -> st.SearchStrategy[Edges]:
    """Draw the edges of a cell."""
    nodes = []
    for node in range(4):
        pairs = st.sampled_from(list(combinations(range(2 + node), 2)))
        ops = st.tuples(st.sampled_from(operations), st.sampled_from(operations))
        nodes.append(st.builds(lambda pair, op: tuple(zip(op, pair, strict=True)), pairs, ops))
    return st.builds(lambda *own: tuple(edge for edges in own for edge in edges), *nodes)


def cell(*nodes: str) -> Edges:
    """Read a cell such as `skip_connect0 sep_conv_3x31`, one text a node; a node left out is `none`."""
    texts = [*nodes, *["none0 none1"] * (4 - len(nodes))]
    return tuple((edge[:-1], int(edge[-1])) for text in texts for edge in text.split())


def maps(
    edges: Edges, modules: list[nn.Module], inputs: tuple[Tensor, Tensor], *, reduction: bool
) -> list[Tensor]:
    """A cell's nodes as the paper describes them, one module an edge, zeros left out."""
    states: list[Tensor | None] = list(inputs)
    for node in range(4):
        total = None
        for (name, state), module in list(zip(edges, modules, strict=True))[2 * node : 2 * node + 2]:
            x = states[state]
            if name != "none" and x is not None:
                y = module(x)
                total = y if total is None else total + y
        states.append(total)
    half = operation("max_pool_3x3", 1, 2)(inputs[0]) if reduction else inputs[0]
    like = next((node for node in states[2:] if node is not None), half)
    return [torch.zeros_like(like) if node is None else node for node in states[2:]]


def strides(edges: Edges, *, reduction: bool) -> list[int]:
    return [2 if reduction and state < 2 else 1 for _, state in edges]
