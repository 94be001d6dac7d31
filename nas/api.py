"""The Python face: what the verbs of the command line do, with the same words.

A section, such as `space`, is a plugin's name, or a mapping with its name and settings, such as
`{"name": "few_shot", "channels": 16}`. Any other setting is a keyword argument: a section,
`budget={"train_episodes": 500}`, or a path, `**{"budget.train_episodes": 500}`. `db` is a database's URL;
without one it is `NAS_DB`, or `sqlite:///nas.db`. Every error is one of `nas.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from nas import counts, verbs
from nas.chance import undisturbed
from nas.comparison import comparison
from nas.comparison.comparison import Comparison
from nas.comparison.groups import find
from nas.errors import ConfigError, NasError
from nas.evaluation import incomplete
from nas.evaluation.artifacts import folder
from nas.evaluation.plan import plan
from nas.evaluation.targets import Targets
from nas.executors import Name as Executor
from nas.launching import launched
from nas.plugins import import_from_here
from nas.progress.searches import progress
from nas.queries import answer as answers
from nas.queries import boards, searches
from nas.queries import leaderboard as ranks
from nas.queries import trials as tried
from nas.queries.answer import Answer
from nas.queries.leaderboard import LeaderboardRow, Query
from nas.queries.ranking import Ranked
from nas.queries.results import Compared
from nas.queries.rows import frame, record
from nas.queries.searches import SearchDetails
from nas.queries.trials import TrialDetails, TrialRow
from nas.settings.paths import put
from nas.settings.search import validate
from nas.settings.sections import choose, read
from nas.settings.warm_start import begin
from nas.storage import DEFAULT_DB
from nas.storage.store import Store
from nas.verbs import Say, Session

if TYPE_CHECKING:
    import pandas as pd

Section = str | Mapping[str, Any]
"""A plugin's name, or its section of a configuration."""

Stage = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class SearchHandle:
    """A search in a database; what it is asked is read there anew.

    Attributes:
        name: its name.
        db: the database's URL.
    """

    name: str
    db: str = field(repr=False)

    @property
    def state(self) -> str:
        """`running`, `completed`, `stopped`, `interrupted` or `failed`."""
        with Store(self.db) as store:
            return searches.state(store.search(self.name))

    @property
    def trials(self) -> tuple[TrialRow, ...]:
        """All trials so far, in the order proposed."""
        return self.show().trial_rows

    @property
    def best(self) -> LeaderboardRow | None:
        """The completed trial with the best score; None: there is none."""
        with Store(self.db) as store:
            rows = ranks.leaderboard(store, Query(searches=(self.name,), limit=1))
        return rows[0] if rows else None

    @property
    def answer(self) -> Answer | None:
        """What it recommends, and how sure that is; None: it has no score, or makes several things better."""
        with Store(self.db) as store:
            return answers.answer(store, self.name)

    def show(self) -> SearchDetails:
        """Return all that is known of the search."""
        with Store(self.db) as store:
            return searches.details(store, self.name)

    def leaderboard(self, *, sort: str = "score", limit: int = 20) -> pd.DataFrame:
        """Return its best trials, as `nas.leaderboard` does."""
        return leaderboard(self.name, sort=sort, limit=limit, db=self.db)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What came of evaluations.

    Attributes:
        results: of each architecture, a row for each baseline that it is compared with.
    """

    results: tuple[Compared, ...]

    def frame(self) -> pd.DataFrame:
        """Return the results as a pandas data frame, a column each field."""
        return frame([record(row) for row in self.results], Compared)


def search(
    config: str | Path | None = None,
    *,
    space: Section | None = None,
    controller: Section | None = None,
    tasks: Section | None = None,
    learner: Section | None = None,
    evaluator: Section | None = None,
    trials: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    name: str | None = None,
    executor: Executor | None = None,
    scheduler: str | Mapping[str, Any] | None = None,
    derive: int | None = None,
    warm_start_from: str | Iterable[str] | None = None,
    ray_address: str | None = None,
    artifacts: str | Path | None = None,
    db: str | None = None,
    resume_or_start: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> SearchHandle:
    """Run a search to its end, as `nas run` does, and return it.

    An interrupt leaves it as `nas.resume` takes it up.

    Args:
        config: a TOML file; arguments win over it.
        space: search space; `nas spaces` lists them.
        controller: what proposes architectures.
        tasks: what they are tried on.
        learner: what learns from a few examples.
        evaluator: what makes scores; `train` by default.
        trials: architectures to try; 32 by default.
        workers: trials at a time; by default one a core, and one at all with `inline`.
        seed: of everything random; 0 by default.
        name: by default made from its parts.
        executor: where trials run; by default in this process (`inline`), as a notebook needs it. A script
            that chooses `process` calls this below `if __name__ == "__main__":`.
        scheduler: its name, or its settings: how trials train for unequal lengths.
        derive: architectures that a one-shot controller derives and evaluates.
        warm_start_from: names of earlier searches, whose best networks are tried first.
        ray_address: of a Ray cluster; trials then run there by default.
        artifacts: folder of checkpoints; by default `NAS_ARTIFACTS`, or one beside the database.
        db: URL of the database, which is made where there is none.
        resume_or_start: whether to go on with the search of this name if there is one; a completed one is
            returned as it is.
        quiet: whether to show no progress, and say nothing.
        settings: any other setting, by name or by path.

    Raises:
        ConfigError: a setting is wrong or missing, or the name is taken; with `resume_or_start`, by a search
            with other settings or one that a live process runs.
        TooManyFailures: more trials failed than `max_failed` allows.
        Infeasible: every architecture was.
        KeyboardInterrupt: with a note on how to go on.
    """
    import_from_here()
    text, values = (None, {}) if config is None else read(Path(config))
    if "controllers" in values:
        raise ConfigError(
            f"controllers: {config} is the file of a benchmark; `nas benchmark {config}` runs it."
        )
    given = {"space": space, "controller": controller, "tasks": tasks, "learner": learner}
    for kind, section in {**given, "evaluator": evaluator}.items():
        if section is not None:
            _choose(values, kind, section)
    options = {"trials": trials, "workers": workers, "seed": seed, "name": name, "executor": executor}
    values.update({key: value for key, value in options.items() if value is not None})
    if scheduler is not None:
        _merge(values, "scheduler", {"name": scheduler} if isinstance(scheduler, str) else scheduler)
    if derive is not None:
        put(values, "controller.derive", derive, f"derive={derive}")
    if earlier := _several(warm_start_from):
        begin(values, earlier)
    _set(values, settings)
    at_a_time = values.get("workers")
    verbs.fill_in(values, verbs.place(ray_address, "inline"))
    resolved, url, say = validate(values), _database(db), _say(quiet)
    if resume_or_start and resolved.name is None:
        raise ConfigError("resume_or_start: it goes by the name of the search; give it as name=…")
    with _undisturbed(), Store(url, create=True, patient=resume_or_start) as store, ExitStack() as running:
        if resume_or_start:
            going: AbstractContextManager[Session | None] = launched(
                store, resolved, say, source=text, workers=at_a_time, ray_address=ray_address
            )
        else:
            going = verbs.started(store, resolved, say, source=text, ray_address=ray_address)
        session = running.enter_context(going)
        if session is None:
            return SearchHandle(str(resolved.name), url)
        return _run(session, url, artifacts, say, quiet)


def resume(
    name: str,
    *,
    trials: int | str | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    artifacts: str | Path | None = None,
    db: str | None = None,
    quiet: bool = False,
) -> SearchHandle:
    """Continue a search from the database, as `nas resume` does: nothing recorded is run again, nothing lost.

    Args:
        name: of the search, whole, or `@last`.
        trials: the new number of trials, or `"+20"` to add some; a number that adds none starts nothing.
        workers: trials at a time; by default as before.
        ray_address: of a Ray cluster.
        artifacts: folder of checkpoints; by default `NAS_ARTIFACTS`, or one beside the database.
        db: URL of the database.
        quiet: whether to show no progress, and say nothing.

    Raises:
        NotFound: no such search.
        ConfigError: the name is not whole, or a live process runs the search.
        PluginError: a plug-in has changed since the search began.
        TooManyFailures, Infeasible, KeyboardInterrupt: as of `search`.
    """
    import_from_here()
    url, say = _database(db), _say(quiet)
    with _undisturbed(), Store(url) as store:
        row = store.search(name, whole=True)
        wanted = row.trials if trials is None else verbs.total(str(trials), row.trials)
        if str(trials).startswith("+") and wanted == row.trials:
            return SearchHandle(row.name, url)
        with verbs.resumed(
            store, row, say, trials=wanted, workers=workers, ray_address=ray_address
        ) as session:
            return _run(session, url, artifacts, say, quiet)


def evaluate(
    *targets: str,
    top: int | None = None,
    search: str | None = None,
    baseline: str | Iterable[str] | None = None,
    tasks: Section | None = None,
    learner: Section | None = None,
    seeds: int = 3,
    train_episodes: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    validation_episodes: int | None = None,
    test_episodes: int | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    ray_address: str | None = None,
    artifacts: str | Path | None = None,
    db: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Evaluated:
    """Train architectures to the end over several seeds, and score them once on test tasks: `nas evaluate`.

    What was evaluated before under the same settings is not run again; what was interrupted goes on.

    Args:
        targets: `SEARCH/TRIAL`, or `SPACE:ARCHITECTURE` such as `chain:conv4`.
        top: the so many best networks of `search`, too.
        search: of `top`; `SPACE:ARCHITECTURE` is evaluated under its settings.
        baseline: architectures to compare with, under the same settings and seeds.
        tasks: if other than the search's.
        learner: if other than the search's.
        seeds: trainings of each architecture.
        train_episodes: training tasks at most; 20,000 by default.
        validate_every: training tasks between validations; 1,000 by default.
        patience: validations without a better score that end training; 10 by default, 0: none do.
        validation_episodes: tasks of one validation; 500 by default.
        test_episodes: tasks behind the test score, 1,000 at least.
        workers: trainings at a time.
        executor: where trainings run; by default in this process (`inline`), as a notebook needs it.
        ray_address: of a Ray cluster; trainings then run there by default.
        artifacts: folder of weights and checkpoints; by default `NAS_ARTIFACTS`, or one beside the database.
        db: URL of the database, which is made where there is none.
        quiet: whether to show no progress, and say nothing.
        settings: any other setting, by name or by path.

    Raises:
        NotFound: no such search or trial.
        ConfigError: a target or a setting is wrong or missing.
        NasError: an evaluation has no result; those of the others are in the database.
        KeyboardInterrupt: the same call goes on.
    """
    budget = {
        "train_episodes": train_episodes,
        "validate_every": validate_every,
        "patience": patience,
        "validation_episodes": validation_episodes,
        "test_episodes": test_episodes,
    }

    def change(values: dict[str, Any]) -> None:
        for kind, section in (("tasks", tasks), ("learner", learner)):
            if section is not None:
                _choose(values, kind, section)
        values["budget"] = {key: value for key, value in budget.items() if value is not None}
        _set(values, settings)

    import_from_here()
    url, say = _database(db), _say(quiet)
    with _undisturbed(), Store(url, create=True) as store:
        made = Targets(store, change)
        planned = plan(made, targets, _several(baseline), top=top, search=search)
        with _continued("The same call goes on.", say, quiet):
            rows = verbs.evaluated(
                store,
                made,
                planned,
                folder(url, _artifacts(artifacts)),
                say,
                seeds=seeds,
                executor=executor or verbs.place(ray_address, "inline"),
                workers=workers,
                ray_address=ray_address,
                quiet=quiet,
            )
        results = planned.results(store, rows)
    complaint = incomplete.complaint([row for some in rows for row in some])
    if complaint is not None:
        raise NasError(complaint)
    return Evaluated(tuple(results))


def leaderboard(
    search: str | Iterable[str] | None = None,
    *,
    space: str | None = None,
    controller: str | None = None,
    tasks: str | None = None,
    learner: str | None = None,
    max_parameters: int | str | None = None,
    max_macs: int | str | None = None,
    max_activations: int | str | None = None,
    max_latency: float | None = None,
    max_latency_batch: float | None = None,
    max_seconds: float | None = None,
    state: str | Iterable[str] | None = None,
    sort: str = "score",
    limit: int = 20,
    pareto: str | Iterable[str] | None = None,
    where: str | Iterable[str] | None = None,
    by: str | None = None,
    stage: Stage = "validation",
    db: str | None = None,
) -> pd.DataFrame:
    """Rank trials, or full evaluations, across searches, as `nas leaderboard` does: a column each field.

    Scores compare within one `protocol`; each protocol is ranked from 1, the newest first.

    Args:
        search: only these: names, unique beginnings of names, or `@last`.
        space: only this search space.
        controller: only this controller.
        tasks: only these tasks, by their name or label.
        learner: only this learner.
        max_parameters: at most so many weights, a number or a text such as `20k`.
        max_macs: at most so many multiply-accumulates.
        max_activations: at most so many bytes of activations.
        max_latency: at most so many seconds of a forward pass of one example.
        max_latency_batch: at most so many seconds of a forward pass of 32 examples.
        max_seconds: at most so many seconds of a worker.
        state: trials in these states; by default `completed`.
        sort: the column to rank by.
        limit: rows of each protocol; 0 for all.
        pareto: only rows that no other beats in these fields, such as `"score,parameters"`.
        where: only what a search chose along with the network, such as `"learner.lr=0.01"`.
        by: such a setting: only the best of each of its values.
        stage: `validation`: trials of searches; `test`: what evaluations found.
        db: URL of the database.

    Raises:
        NotFound: no database, or nothing of a name that is given.
        ConfigError: no such column, field or state, or it is of the other stage.
    """
    limits = {
        "parameters": _count("max_parameters", max_parameters),
        "macs": _count("max_macs", max_macs),
        "activations": _count("max_activations", max_activations),
        "latency": max_latency,
        "latency_batch": max_latency_batch,
        "seconds": max_seconds,
    }
    query = Query(
        searches=_several(search),
        space=space,
        controller=controller,
        tasks=tasks,
        learner=learner,
        limits={name: limit for name, limit in limits.items() if limit is not None},
        states=_several(state) or ("completed",),
        sort=sort,
        limit=limit,
        pareto=tuple(part.strip() for text in _several(pareto) for part in text.split(",")),
        where=_several(where),
        by=by,
    )
    if stage not in ("validation", "test"):
        raise ConfigError(f"stage={stage!r}: it is 'validation' or 'test'.")
    with Store(_database(db)) as store:
        if stage == "test":
            return frame(boards.records(boards.tests(store, query)), Ranked)
        return frame(boards.records(boards.trials(store, query)), LeaderboardRow)


def compare(*names: str, complete: bool = False, db: str | None = None) -> Comparison:
    """Compare searches at equal cost, as `nas compare` does; `.frame()` of the result is its table.

    Args:
        names: of searches, beginnings of names (all that begin so), patterns such as `a-*-1`, or `@last`.
        complete: whether to leave out searches that are not complete.
        db: URL of the database.

    Raises:
        NotFound: a name means no search, or none has a score.
        ConfigError: their scores do not compare, or no name is given.
    """
    if not names:
        raise ConfigError("Compare which searches? Give names; `nas ls` lists them.")
    import_from_here()
    with Store(_database(db)) as store:
        return comparison.compare(store, find(store, names), complete=complete)


def show(target: str, *, db: str | None = None) -> SearchDetails | TrialDetails:
    """Return a search with its trials, or one trial in full, as `nas show` prints them.

    Args:
        target: `SEARCH` or `SEARCH/TRIAL`; a search by its name, a unique beginning of it, or `@last`.
        db: URL of the database.

    Raises:
        NotFound: no such search or trial.
        ConfigError: several searches begin so, or the trial is no number.
    """
    name, number = tried.split(target)
    with Store(_database(db)) as store:
        return searches.details(store, name) if number is None else tried.details(store, name, number)


def _run(session: Session, db: str, artifacts: str | Path | None, say: Say, quiet: bool) -> SearchHandle:
    row, length = session.row, session.config.budget.train_episodes
    again = f"Continue: nas.resume({row.name!r})"
    say(session.plan)
    with (
        _continued(again, say, quiet),
        progress(row, length, session.store, say, quiet=quiet) as observer,
    ):
        given = _artifacts(artifacts)
        ended = session.run(observer, folder(db, given), named=given is not None)
    if ended.state == "stopped":
        say(f"Stopped on request. {again}")
    if ended.infeasible is not None:
        say(ended.infeasible)
    return SearchHandle(row.name, db)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave torch's generators and threads as they are: trainings in this process set both."""
    threads = torch.get_num_threads()
    try:
        with undisturbed:
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _continued(how: str, say: Say, quiet: bool) -> Iterator[None]:
    """Say how to go on if the block is interrupted; if quiet, in a note of the interrupt."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        words = f"All that is done is saved. {how}"
        if quiet:
            interrupt.add_note(words)
        say(words)
        raise


def _choose(values: dict[str, Any], kind: str, section: Section) -> None:
    """Put a section into a configuration; what it does not set stays if the plugin stays."""
    if isinstance(section, str):
        choose(values, kind, section)
        return
    if isinstance(section.get("name"), str):
        choose(values, kind, section["name"])
    _merge(values, kind, section)


def _set(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for path, value in settings.items():
        if isinstance(value, Mapping) and "." not in path:
            _merge(values, path, value)
        else:
            put(values, path, _plain(value), f"{path}={value!r}")


def _merge(values: dict[str, Any], kind: str, section: Mapping[str, Any]) -> None:
    """Put each setting of a section; one by a path goes where that leads."""
    if not section:
        values.setdefault(kind, {})
    for key, value in section.items():
        put(values, f"{kind}.{key}", _plain(value), f"{kind}.{key}={value!r}")


def _plain(value: Any) -> Any:
    """Return a value as a file of settings has it."""
    return str(value) if isinstance(value, Path) else value


def _count(option: str, given: int | str | None) -> int | None:
    try:
        return counts.read(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _several(given: str | Iterable[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _database(db: str | None) -> str:
    return db or os.environ.get("NAS_DB") or DEFAULT_DB


def _artifacts(given: str | Path | None) -> Path | None:
    found = given or os.environ.get("NAS_ARTIFACTS")
    return Path(found) if found else None


def _say(quiet: bool) -> Say:
    return (lambda line: None) if quiet else _print


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
