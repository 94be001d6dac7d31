"""A drawing in a terminal: for each value what leads to it, a line an operation."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len

from nas.drawing.graph import Drawing, Graph, Vertex

INDENT = "  "


def sketch(drawing: Drawing, width: int) -> str:
    """Return the graphs of a drawing as lines; only rows of parts are broken to fit the width."""
    parts = []
    for graph in drawing.graphs:
        lines = _row(graph, width) if _is_row(graph) else _values(graph)
        parts.append("\n".join([graph.title, *(INDENT + line for line in lines)]))
    return "\n\n".join(parts)


def _is_row(graph: Graph) -> bool:
    """Return whether each vertex follows the one before it, and no arrow carries an operation."""
    ways = [(arrow.source, arrow.target) for arrow in graph.arrows]
    following = [(place, place + 1) for place in range(len(graph.vertices) - 1)]
    return sorted(ways) == following and not any(arrow.operation for arrow in graph.arrows)


def _row(graph: Graph, width: int) -> Iterator[str]:
    line = ""
    for place, vertex in enumerate(graph.vertices):
        part = ("→ " if place else "") + _told(vertex)
        if line and cell_len(INDENT + line + " " + part) > width:
            yield line
            line = INDENT + part
        else:
            line = f"{line} {part}".lstrip()
    yield line


def _values(graph: Graph) -> Iterator[str]:
    sources = max((cell_len(graph.vertices[arrow.source].label) for arrow in graph.arrows), default=0)
    operations = max((cell_len(arrow.operation) for arrow in graph.arrows), default=0)
    if not graph.arrows:
        yield "empty"
    for target, vertex in enumerate(graph.vertices):
        into = [arrow for arrow in graph.arrows if arrow.target == target]
        carried = [arrow for arrow in into if arrow.operation]
        passed = [graph.vertices[arrow.source].label for arrow in into if not arrow.operation]
        for number, arrow in enumerate(carried, 1):
            dash = "╌" if arrow.identity else "─"
            source = graph.vertices[arrow.source].label
            begin = f"{source}{' ' * (sources - cell_len(source))} {dash * 2} {arrow.operation} "
            line = begin + dash * (operations - cell_len(arrow.operation) + 2)
            last = number == len(carried)
            bend = ("─" if len(carried) == 1 else "┴") if last else ("┐" if number == 1 else "┤")
            yield f"{line}{bend}" + (f"→ {_told(vertex)}" if last and not passed else "")
        if passed:
            yield f"{', '.join(passed)} → {_told(vertex)}"


def _told(vertex: Vertex) -> str:
    return f"{vertex.label} ({vertex.detail})" if vertex.detail else vertex.label
