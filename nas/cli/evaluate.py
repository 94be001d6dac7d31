"""The verb that trains to the end and tests: evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import completion
from nas.cli.interruption import continued_by
from nas.cli.messages import LogFormat
from nas.cli.options import (
    DEFAULT_DB,
    ArtifactsOption,
    DbOption,
    LogFormatOption,
    RayAddressOption,
    SettingsOption,
    artifacts_folder,
    typed,
)
from nas.cli.output import Format, FormatOption, WideOption, emit, events, say
from nas.counts import counted
from nas.errors import NasError
from nas.executors import Name

if TYPE_CHECKING:
    from nas.evaluation.plan import Plan
    from nas.evaluation.targets import Targets
    from nas.queries.results import Compared

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
    "activations",
    "latency",
    "latency_batch",
    "seconds",
    "architecture",
    "chosen",
)

DROP = (
    "normalization",
    "learner",
    "seconds",
    "activations",
    "latency_batch",
    "latency",
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
    settings: SettingsOption = None,
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
    executor: Annotated[
        Name | None,
        typer.Option(help="Where trainings run. (default: process; ray where --ray-address is given)"),
    ] = None,
    lost_weights: Annotated[
        bool,
        typer.Option(
            "--lost-weights",
            help="Train again what was evaluated before and whose weights are gone; the new result takes the "
            "place of the one before.",
        ),
    ] = False,
    ray_address: RayAddressOption = None,
    log_format: LogFormatOption = LogFormat.TEXT,
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
    from nas.evaluation import incomplete
    from nas.evaluation.artifacts import gone
    from nas.evaluation.plan import plan
    from nas.evaluation.targets import Targets
    from nas.plugins import import_from_here
    from nas.queries.chosen import apart
    from nas.queries.rows import record
    from nas.storage.store import Store
    from nas.verbs import evaluated, place

    budget = {
        "train_episodes": train_episodes,
        "validate_every": validate_every,
        "patience": patience,
        "validation_episodes": validation_episodes,
        "test_episodes": test_episodes,
    }
    import_from_here()
    with Store(db, create=True) as store:
        made = Targets(store, _changes(tasks, learner, budget, settings or []))
        planned = plan(made, targets or [], baseline or [], top=top, search=search)
        at = executor or place(ray_address, "process")
        files = artifacts_folder(db, artifacts, cluster=at == "ray")
        with continued_by(typed(db)):
            rows = evaluated(
                store,
                made,
                planned,
                files,
                say,
                seeds=seeds,
                executor=at,
                workers=workers,
                ray_address=ray_address,
                lost_weights=lost_weights,
                log=events(),
            )
        results = planned.results(store, rows)
        advice = _advice(made, planned)
        lost = sum(gone(store, row, files) for some in rows for row in some)
        if lost:
            advice.append(
                f"warning: the weights of {counted(lost, 'evaluation')} are gone from {files}, so that "
                "none of them can be exported. With --lost-weights they are trained again."
            )
    if results or form is Format.JSON:
        shown, columns = [record(row) for row in results], [name for name in COLUMNS if name != "chosen"]
        if form in (Format.TABLE, Format.MARKDOWN) and any(row["chosen"] for row in shown):
            shown, columns = [apart(row) for row in shown], [*COLUMNS]
        emit(shown, form, columns, drop=DROP, wide=wide)
    if results:
        _explain(results)
        for line in advice:
            say(line)
        say("More: `nas leaderboard --stage test`")
    complaint = incomplete.complaint([row for some in rows for row in some])
    if complaint is not None:
        raise NasError(complaint)


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
        for text in settings:
            assign(values, text)

    return change


def _advice(made: Targets, planned: Plan) -> list[str]:
    """Return what the published networks are, and which one the learner's paper used."""
    from nas.evaluation.published import published

    known = published()
    used = dict.fromkeys(target.name for target in planned.everything if target.name)
    lines = [f"{name}: {known[name].source}." for name in used]
    for learner, own in {
        target.config.learner["name"]: made.own(target) for target in planned.chosen
    }.items():
        if own is not None and own not in used:
            lines.append(
                f"The network of the paper on '{learner}' is {own} ({known[own].source}): compare with it by "
                f"--baseline {own}."
            )
    return lines


def _explain(results: Sequence[Compared]) -> None:
    episodes = f"{results[0].test_episodes} test episodes"
    several = any(row.seeds > 1 for row in results)
    said = [f"test_score: mean over {f'the seeds, of {episodes} each' if several else episodes}."]
    if any(row.ci95_seeds is not None for row in results):
        said.append("ci95_seeds: half width over seeds (Student's t);")
    said.append("ci95_episodes: half width over episodes.")
    say(" ".join(said))
    if any(row.difference is not None for row in results):
        say("difference: test_score less the baseline's, paired by episode and seed.")
    for row in results:
        if row.test_not_finite:
            say(
                f"warning: {row.space}:{row.architecture}: {row.test_not_finite} of "
                f"{row.seeds * row.test_episodes} test episodes "
                f"{'has' if row.test_not_finite == 1 else 'have'} a prediction that is not finite, which "
                "counts as wrong."
            )
