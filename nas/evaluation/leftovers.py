"""Files that a search and its evaluations left behind, and that nothing needs any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from nas.driver.records import checkpoints
from nas.errors import ConfigError, NotFound
from nas.evaluation.artifacts import WEIGHTS, locate
from nas.evaluation.targets import file_name, lineage, network
from nas.evaluation.work import LINEAGES
from nas.executors.output import logs, of_evaluations, of_trials
from nas.files import writing
from nas.queries.leaderboard import Query, leaderboard
from nas.settings.evaluation import validate
from nas.states import EvaluationState, SearchState
from nas.storage.schema import Evaluation, Search, Trial
from nas.storage.store import Store
from nas.training.checkpoint import Checkpoint


class Leftover(NamedTuple):
    """A file that may go.

    Attributes:
        path: where it is.
        what: `checkpoint`, `lineage`, `log` or `weights`.
        bytes: its size.
    """

    path: Path
    what: str
    bytes: int


def leftovers(store: Store, search: Search, folder: Path, keep: int | None) -> list[Leftover]:
    """Return what may be deleted of a search that nobody drives.

    Checkpoints, of a completed search: it goes on without them. Lineages, of its evaluations that are
    completed: only longer trainings would go on from them, in less time, and none that is begun. What the
    workers of both printed. Weights, but those of the best of this search and of others that tried the same
    networks.

    Args:
        store: the database.
        search: in question.
        folder: of artifacts.
        keep: of how many of a search's best networks weights stay; None: of all.
    """
    found: dict[Path, str] = {}
    if search.state == SearchState.COMPLETED:
        found |= {left.path: "checkpoint" for left in checkpoints(folder, search.name)}
        found |= {log.path: "log" for log in logs(of_trials(folder, search.name))}
    rows = store.evaluations.of_search(search.id)
    done = [one for one in rows if one[0].state == EvaluationState.COMPLETED]
    printed = logs(of_evaluations(folder))
    over = {file_name(row.settings, space, key, row.seed) for row, space, key in done}
    found |= {log.path: "log" for log in printed if log.job in over}
    open_ = {stem for one in store.evaluations.unfinished() for stem in _stem(*one)}
    for row, space, key in done:
        for stem in {*_stem(row, space, key)} - open_:
            found[Checkpoint(folder, stem, LINEAGES).path] = "lineage"
    if keep is not None:
        best = {key for name in _trying(store, search) for key in _best(store, name, keep)}
        for row, _, key in done:
            if key not in best:
                found |= dict.fromkeys(_weights(store, row, folder), WEIGHTS)
    return [
        Leftover(path, what, path.stat().st_size) for path, what in sorted(found.items()) if path.is_file()
    ]


def delete(left: Leftover) -> None:
    """Delete a file.

    Raises:
        Unwritable: its folder cannot be written.
    """
    with writing(left.path):
        left.path.unlink(missing_ok=True)


def _stem(row: Evaluation, space: str, key: str) -> Iterator[str]:
    """Yield the stem of an evaluation's lineage; nothing where its plug-ins are no longer what they were."""
    with suppress(ConfigError):
        yield lineage(validate(row.config), row.environment.get("classes", {}), network(space, key), row.seed)


def _trying(store: Store, search: Search) -> list[str]:
    """Return the names of the searches that tried a network of which a search has an evaluation."""
    evaluated = select(Evaluation.architecture_id).where(Evaluation.origin_search_id == search.id)
    tried = select(Trial.search_id).where(Trial.architecture_id.in_(evaluated))
    with store.read() as session:
        return list(session.scalars(select(Search.name).where(Search.id.in_(tried)).order_by(Search.id)))


def _best(store: Store, search: str, count: int) -> set[str]:
    """Return the canonical keys of the best distinct networks of a search."""
    rows = leaderboard(store, Query(searches=(search,), limit=0))
    return {*[*dict.fromkeys(row.key for row in sorted(rows, key=lambda row: row.rank))][:count]}


def _weights(store: Store, row: Evaluation, folder: Path) -> Iterator[Path]:
    for file in store.evaluations.artifacts(row.id):
        if file.kind == WEIGHTS:
            with suppress(NotFound):
                yield locate(file, folder)
