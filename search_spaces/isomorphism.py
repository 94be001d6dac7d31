"""Canonical order of a labelled acyclic graph: equal forms if and only if isomorphic."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

Label = tuple[int, ...]
Form = tuple[tuple[Label, tuple[int, ...]], ...]
"""Each vertex's label and sorted parents, vertices numbered in some order."""


def canonical_order(labels: Sequence[Label], parents: Sequence[Collection[int]]) -> list[int]:
    """Return an order of the vertices, parents first, that depends on the graph alone.

    Two graphs are isomorphic if and only if their `form`s in this order are equal. Vertices are told apart by
    refining colours; where that leaves several alike, each is tried and the least form wins. If two of them,
    set apart and completed anyhow, give the same form, an automorphism exchanges them and one is enough
    (after McKay & Piperno, Practical graph isomorphism II, 2014).

    Args:
        labels: of the vertices.
        parents: of each vertex, all smaller than it.
    """
    depth: list[int] = []
    for above in parents:
        depth.append(1 + max((depth[v] for v in above), default=-1))
    colours = _ranks([(d, *label) for d, label in zip(depth, labels, strict=True)])
    return _Search(labels, parents).least(colours)


def form(order: Sequence[int], labels: Sequence[Label], parents: Sequence[Collection[int]]) -> Form:
    """Return the graph with its vertices numbered in this order."""
    place = {vertex: i for i, vertex in enumerate(order)}
    return tuple((labels[v], tuple(sorted(place[p] for p in parents[v]))) for v in order)


class _Search:
    """The search for the least form. A colour is the number of vertices of smaller colours."""

    def __init__(self, labels: Sequence[Label], parents: Sequence[Collection[int]]) -> None:
        self.labels = labels
        self.parents = parents
        self.children: list[list[int]] = [[] for _ in labels]
        for child, above in enumerate(parents):
            for parent in above:
                self.children[parent].append(child)

    def least(self, colours: list[int]) -> list[int]:
        """Return the order of least form among those that refine the colours."""
        colours = self.refine(colours)
        alike = _first_alike(colours)
        if not alike:
            return sorted(range(len(colours)), key=colours.__getitem__)
        distinct: dict[Form, list[int]] = {}
        for vertex in alike:
            apart = _set_apart(colours, vertex)
            distinct.setdefault(self.form(self.complete(apart)), apart)
        return min(map(self.least, distinct.values()), key=self.form)

    def complete(self, colours: list[int]) -> list[int]:
        """Return one order that refines the colours, taking the first vertex wherever several are alike."""
        colours = self.refine(colours)
        while alike := _first_alike(colours):
            colours = self.refine(_set_apart(colours, alike[0]))
        return sorted(range(len(colours)), key=colours.__getitem__)

    def refine(self, colours: list[int]) -> list[int]:
        """Split each colour by the colours of parents and children until nothing changes, or all differ."""
        while len(set(colours)) < len(colours):
            finer = _ranks(
                [
                    (colour, *sorted(colours[p] for p in above), -1, *sorted(colours[c] for c in below))
                    for colour, above, below in zip(colours, self.parents, self.children, strict=True)
                ]
            )
            if finer == colours:
                break
            colours = finer
        return colours

    def form(self, order: Sequence[int]) -> Form:
        """Return the graph's form in this order."""
        return form(order, self.labels, self.parents)


def _ranks(keys: Sequence[tuple[int, ...]]) -> list[int]:
    """Return how many keys are smaller than each."""
    ranks: dict[tuple[int, ...], int] = {}
    for smaller, key in enumerate(sorted(keys)):
        ranks.setdefault(key, smaller)
    return [ranks[key] for key in keys]


def _first_alike(colours: Sequence[int]) -> list[int]:
    """Return the vertices of the least colour that several share; none if all differ."""
    ordered = sorted(colours)
    shared = next((a for a, b in pairwise(ordered) if a == b), None)
    return [vertex for vertex, colour in enumerate(colours) if colour == shared]


def _set_apart(colours: Sequence[int], vertex: int) -> list[int]:
    """Rank one vertex before the others of its colour."""
    return [c + (c == colours[vertex] and v != vertex) for v, c in enumerate(colours)]
