"""A searched cell whose edges are weighted sums of operations: what the supernets of all cells compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from torch import Tensor, nn

from search_spaces.cells import ABSENT, Carried, Edge, Pair, or_zero
from search_spaces.mixed.mixing import of_the_batch
from search_spaces.mixed.pointwise import Convolved
from search_spaces.mixed.source import Source
from search_spaces.mixed.weighted_sum import Plain, weighted_sum


class MixedEdges(nn.Module):
    """Every operation on every edge of a cell; a node is the weighted sum of what its edges bring.

    Each edge has weights of its own. What operations on one value share is computed once: its ReLU, its
    pooled maps, every other pixel of it.

    Args:
        preprocessing: one module an input.
        pairs: the edges, sorted by node: where each begins and ends, and what else tells it from others.
        operations: names, in the order of the choices.
        make: makes an operation by its name, for the edges of a source. One without weights computes the same
            on all edges of a source.
    """

    def __init__(
        self,
        preprocessing: Iterable[nn.Module],
        pairs: Sequence[tuple[int, ...]],
        operations: Sequence[str],
        make: Callable[[str, int], nn.Module],
    ) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.names = tuple(operations)
        self.preprocessing = nn.ModuleList(of_the_batch(own, affine=False) for own in preprocessing)
        present = [name for name in operations if name != ABSENT]
        self.edges = nn.ModuleList(
            nn.ModuleDict({name: of_the_batch(make(name, source), affine=False) for name in present})
            for source, *_ in pairs
        )
        self._shared = frozenset(
            name for own in self.edges for name, module in own.named_children() if _weightless(module)
        )

    def values(
        self, inputs: Sequence[Tensor], mixture: Sequence[Sequence[Tensor]], edges: Sequence[Carried]
    ) -> dict[int, Tensor]:
        """Return the inputs that are read, and the nodes that an edge reaches.

        Args:
            inputs: of the cell.
            mixture: weights of the operations, edge by edge.
            edges: what to compute, sorted by node; each begins at an input or where another ends.
        """
        sources = dict[int, Source]()
        for number in {edge.source for edge in edges} & set(range(len(inputs))):
            sources[number] = Source(self._prepared(number, inputs[number]), self._leaving(number, edges))
        for node, arriving in groupby(edges, key=lambda edge: edge.node):
            terms = [term for edge in arriving for term in self._terms(sources[edge.source], edge, mixture)]
            sources[node] = Source(weighted_sum(terms), self._leaving(node, edges))
        return {number: source.x for number, source in sources.items()}

    def operation(self, edge: Carried) -> nn.Module:
        """Return the operation of an edge."""
        own = self.edges[self.pairs.index(edge.pair)]
        assert isinstance(own, nn.ModuleDict)
        return own[edge.operation]

    def _prepared(self, number: int, x: Tensor) -> Tensor:
        module = self.preprocessing[number]
        if isinstance(module, nn.Identity):
            return x
        return weighted_sum(Source(x).through(module, x.new_ones(())))

    def _terms(
        self, source: Source, edge: Carried, mixture: Sequence[Sequence[Tensor]]
    ) -> Sequence[Convolved | Plain]:
        """Return what an edge adds to its node."""
        weight = mixture[self.pairs.index(edge.pair)][self.names.index(edge.operation)]
        module = self.operation(edge)
        if edge.operation in self._shared:
            return [Plain(source.pooled(edge.operation, module), weight)]
        return source.through(module, weight)

    def _leaving(self, number: int, edges: Sequence[Carried]) -> list[nn.Module]:
        """Return the operations with weights on a value."""
        leaving = (edge for edge in edges if edge.source == number)
        return [self.operation(edge) for edge in leaving if edge.operation not in self._shared]


class MixedCell(MixedEdges):
    """A mixed cell of one input and one output, its last node: `[B, C, H, W]` to the same shape."""

    def __init__(
        self, pairs: Sequence[Pair], operations: Sequence[str], make: Callable[[str], nn.Module]
    ) -> None:
        super().__init__([nn.Identity()], pairs, operations, lambda name, source: make(name))
        self.output = pairs[-1][1]

    def forward(self, x: Tensor, mixture: Sequence[Sequence[Tensor]], edges: Sequence[Edge]) -> Tensor:
        """Return the output, zero if no path leads to it; see `values`."""
        return or_zero(self.values([x], mixture, edges).get(self.output), x)


def _weightless(module: nn.Module) -> bool:
    """Return whether an operation computes the same on all edges of a source."""
    return not isinstance(module, nn.Identity) and next(module.parameters(), None) is None
