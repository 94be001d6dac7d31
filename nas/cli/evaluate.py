"""The verb that trains to the end and tests: evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion
from nas.cli.interruption import continued_by
from nas.cli.options import DEFAULT_DB, ArtifactsOption, DbOption, RayAddressOption, typed
from nas.cli.output import Format, FormatOption, WideOption, emit, say
from nas.counts import counted
from nas.errors import ConfigError, NasError
from nas.executors import Name

if TYPE_CHECKING:
    from nas.evaluation.targets import Target, Targets
    from nas.queries.results import Difference, Identity, Result
    from nas.storage.schema import Evaluation

COLUMNS = (
    "search",
    "trial",
    "space",
    "task",
    "learner",
    "normalization",
    "seeds",
    "name",
    "test_score",
    "ci95_seeds",
    "ci95_episodes",
    "baseline",
    "difference",
    "difference_ci95_episodes",
    "difference_ci95_seeds",
    "difference_by_seed",
    "parameters",
    "macs",
    "seconds",
    "architecture",
)

DROP = (
    "normalization",
    "learner",
    "seconds",
    "macs",
    "seeds",
    "difference_by_seed",
    "parameters",
    "space",
    "task",
    "architecture",
    "ci95_seeds",
    "difference_ci95_seeds",
    "name",
    "trial",
    "baseline",
)
"""What a narrow terminal can do without, the least important first: each number keeps an interval."""


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(evaluate)


def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET",
            help="SEARCH/TRIAL, or SPACE:ARCHITECTURE such as chain:conv4.",
            autocompletion=completion.searches,
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="The K best distinct networks of --search.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="A search: --top takes its best, and SPACE:ARCHITECTURE is evaluated under its settings.",
            autocompletion=completion.searches,
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="An architecture to compare with, under the same settings and seeds; repeatable. Take that "
            "of the learner's paper: conv4_pool (max-pooling) for prototypical and matching networks; for "
            "MAML and its kin conv4 (strides) at 28×28 pixels, conv4_pool32 at 84×84.",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks, if other than the search's; `nas tasks` lists them.")
    ] = None,
    learner: Annotated[
        str | None, typer.Option(help="Learner, if other than the search's; `nas learners` lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as tasks.ways=20; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each architecture.")] = 3,
    train_episodes: Annotated[
        int | None,
        typer.Option(
            help="Training tasks at most. More than before goes on from there, unless the learning rate "
            "falls over the length. (default: 20000)"
        ),
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Training tasks between validations. (default: 1000)")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Validations without a better score after which training ends; 0: never. (default: 10)"
        ),
    ] = None,
    validation_episodes: Annotated[
        int | None, typer.Option(help="Tasks of one validation. (default: 500)")
    ] = None,
    test_episodes: Annotated[
        int | None, typer.Option(help="Tasks behind the test score, at least 1000. (default: 1000)")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings at a time. (default: one a GPU, or one a core without any)"),
    ] = None,
    executor: Annotated[Name, typer.Option(help="Where trainings run.")] = "process",
    ray_address: RayAddressOption = None,
    artifacts: ArtifactsOption = None,
    form: FormatOption = Format.TABLE,
    wide: WideOption = False,
    db: DbOption = DEFAULT_DB,
) -> None:
    """Train architectures at a full budget over several seeds, and score them once on test tasks.

    A trial keeps the tasks, learner and settings of its search. The weights kept are those that were best on
    validation tasks. What was interrupted, even killed, goes on with the same command. What was evaluated
    before under the same settings is not run again, even if the code has changed since, which is said; to run
    it again, evaluate SPACE:ARCHITECTURE into another database (--db).
    """
    from nas.evaluation.artifacts import folder
    from nas.evaluation.driver import Driver
    from nas.evaluation.targets import Targets
    from nas.plugins import import_from_here
    from nas.progress.evaluations import watching
    from nas.queries.results import compared
    from nas.storage.store import Store
    from nas.verbs import evaluating

    budget = {
        "train_episodes": train_episodes,
        "validate_every": validate_every,
        "patience": patience,
        "validation_episodes": validation_episodes,
        "test_episodes": test_episodes,
    }
    if executor != "ray" and ray_address not in (None, os.environ.get("RAY_ADDRESS")):
        raise ConfigError(f"--ray-address {ray_address}: nothing runs there without --executor ray.")
    import_from_here()
    with Store(db, create=True) as store:
        made = Targets(store, _changes(tasks, learner, budget, settings or []))
        chosen = made.choose(targets or [], top=top, search=search)
        beside = {
            target.identity: [made.baseline(text, target) for text in baseline or ()] for target in chosen
        }
        baselines = [other for others in beside.values() for other in others]
        everything = list({target.identity: target for target in (*chosen, *baselines)}.values())
        for remark in made.remarks:
            say(f"warning: {remark}")
        trainings = seeds * len(everything)
        say(
            f"{counted(trainings, 'evaluation')} ({counted(len(everything), 'architecture')} × "
            f"{counted(seeds, 'seed')}) on {chosen[0].task_label}."
        )
        files = folder(db, artifacts)
        with continued_by(typed(db)), ExitStack() as running:
            runs = running.enter_context(
                evaluating(
                    executor, made, files, say, trainings=trainings, workers=workers, ray_address=ray_address
                )
            )
            observer = running.enter_context(watching(trainings, say))
            rows = Driver(store, files, observer).run(everything, seeds, runs)
        evaluated = {target.identity: some for target, some in zip(everything, rows, strict=True)}
        pairs = {identity: [other.identity for other in others] for identity, others in beside.items()}
        named = {target.identity: target for target in everything}
        results = [row for found in compared(store, evaluated, pairs) for row in _rows(named, *found)]
        advice = _advice(made, chosen, baselines)
    if results or form is Format.JSON:
        emit(results, form, COLUMNS, drop=DROP, wide=wide)
    if results:
        _explain(results)
        for line in advice:
            say(line)
        say("More: `nas leaderboard --stage test`")
    _complain([row for some in rows for row in some])


def _changes(
    tasks: str | None, learner: str | None, budget: dict[str, int | None], settings: Sequence[str]
) -> Callable[[dict[str, Any]], None]:
    """Return what puts the options into a configuration."""
    from nas.settings.paths import assign
    from nas.settings.sections import choose

    def change(values: dict[str, Any]) -> None:
        for kind, plugin in (("tasks", tasks), ("learner", learner)):
            if plugin is not None:
                choose(values, kind, plugin)
        values["budget"] = {key: value for key, value in budget.items() if value is not None}
        for setting in settings:
            assign(values, setting)

    return change


def _rows(
    targets: Mapping[Identity, Target],
    identity: Identity,
    result: Result,
    found: Mapping[Identity, Difference],
) -> list[dict[str, Any]]:
    """Return a row for each baseline that a result is compared with; one where there is none."""
    own = {"name": targets[identity].name, **asdict(result)}
    pairs: list[tuple[str | None, Difference | None]] = [
        (_called(targets[other]), difference) for other, difference in found.items()
    ]
    return [
        {
            **own,
            "baseline": baseline,
            "difference": difference and difference.value,
            "difference_ci95_episodes": difference and difference.ci95_episodes,
            "difference_ci95_seeds": difference and difference.ci95_seeds,
            "difference_by_seed": difference and difference.by_seed,
        }
        for baseline, difference in pairs or [(None, None)]
    ]


def _called(target: Target) -> str:
    return target.name or f"{target.space}:{target.architecture}"


def _advice(made: Targets, chosen: Sequence[Target], baselines: Sequence[Target]) -> list[str]:
    """Return what the published networks are, and which one the learner's paper used."""
    from nas.evaluation.published import published

    known = published()
    used = dict.fromkeys(target.name for target in (*chosen, *baselines) if target.name)
    lines = [f"{name}: {known[name].source}." for name in used]
    for learner, own in {target.config.learner["name"]: made.own(target) for target in chosen}.items():
        if own is not None and own not in used:
            lines.append(
                f"The network of the paper on '{learner}' is {own} ({known[own].source}): compare with it by "
                f"--baseline {own}."
            )
    return lines


def _explain(results: Sequence[dict[str, Any]]) -> None:
    episodes = f"{results[0]['test_episodes']} test episodes"
    several = any(row["seeds"] > 1 for row in results)
    said = [f"test_score: mean over {f'the seeds, of {episodes} each' if several else episodes}."]
    if any(row["ci95_seeds"] is not None for row in results):
        said.append("ci95_seeds: half width over seeds (Student's t);")
    said.append("ci95_episodes: half width over episodes.")
    say(" ".join(said))
    if any(row["difference"] is not None for row in results):
        say("difference: test_score less the baseline's, paired by episode and seed.")
    for row in results:
        if row["test_not_finite"]:
            say(
                f"warning: {row['space']}:{row['architecture']}: {row['test_not_finite']} of "
                f"{row['seeds'] * row['test_episodes']} test episodes "
                f"{'has' if row['test_not_finite'] == 1 else 'have'} a prediction that is not finite, which "
                "counts as wrong."
            )


def _complain(rows: Sequence[Evaluation]) -> None:
    """Say which evaluations have no result, why, and which of them the same command takes up again.

    Raises:
        NasError: some have none.
    """
    from nas.evaluation.missing import fates, repeats

    missing = [row for row in rows if row.state != "completed"]
    if not missing:
        return
    have = "has" if len(missing) == 1 else "have"
    lines = [f"{len(missing)} of {counted(len(rows), 'evaluation')} {have} no result."]
    for heading, some in (
        ("The same command takes up again:", [row for row in missing if not repeats(row)]),
        ("Another try would end the same way:", [row for row in missing if repeats(row)]),
    ):
        if some:
            lines += [heading, *(f"  {fate}" for fate in fates(some, named=True))]
    raise NasError("\n".join(lines))
