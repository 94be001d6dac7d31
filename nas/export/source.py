"""From a target and the database to the model that an evaluation trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from nas import plugins
from nas.errors import ConfigError, NotFound, Unreadable
from nas.evaluation.artifacts import WEIGHTS, locate
from nas.evaluation.config import validate
from nas.evaluation.references import SpaceReference, TrialReference, parse
from nas.evaluation.targets import tried
from nas.export.description import Description, Scored
from nas.export.model import Model
from nas.space import SearchSpace
from nas.storage.schema import Evaluation, EvaluationState
from nas.storage.store import Store

VERSIONS = ("nas", "torch", "python")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of a network's evaluations is meant.

    Attributes:
        tasks, learner: names of plugins.
        settings: begins the hash of the settings.
        seed: of the training; by default the one with the best score on validation tasks.
    """

    tasks: str | None = None
    learner: str | None = None
    settings: str | None = None
    seed: int | None = None


def find(store: Store, target: str, choice: Choice, folder: Path) -> Model:
    """Return the model of a completed evaluation.

    Args:
        store: where evaluations are.
        target: `SEARCH/TRIAL`, `SPACE:ARCHITECTURE` or an architecture's name.
        choice: which of the network's evaluations.
        folder: where the database keeps its files.

    Raises:
        ConfigError: it is no target, or a supernet, or evaluations under several settings match.
        NotFound: no such search or trial, no completed evaluation, or its weights are gone.
        DataMissing: the tasks' data, which tells the network's shape, is not on this machine.
        Unreadable: the weights cannot be read.
    """
    completed = _completed(_evaluations(store, parse(target)), target)
    row = _one(_matching(completed, target, choice), target, choice.seed)
    [weights] = [file for file in store.evaluations.artifacts(row.id) if file.kind == WEIGHTS]
    try:
        path = locate(weights, folder)
    except NotFound as error:
        seeds = 1 + max(other.seed for other in completed if other.settings == row.settings)
        raise NotFound(f"{error}\nOr train another seed: {_evaluate(target)} --seeds {seeds + 1}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its hash is right, so another torch wrote what this one cannot read
        raise Unreadable(f"torch {torch.__version__} cannot read the weights in {path}: {error}") from error
    return Model(describe(row), state)


def describe(row: Evaluation) -> Description:
    """Return what a completed evaluation says about its model.

    Raises:
        ConfigError: a plugin is not installed, or has changed.
        DataMissing: the tasks' data is not on this machine.
    """
    config = validate(row.config)
    space, shape = config.make_space(), config.make_tasks().shape
    validation = row.validation_score, row.validation_ci95, config.budget.validation_episodes
    names = Scored.model_fields
    return Description.model_validate(
        {
            "space": config.space,
            "architecture": row.architecture,
            "key": space.canonical(space.decode(row.architecture)),
            "input": shape.input,
            "outputs": shape.outputs,
            "train_classes": shape.train_classes,
            "learner": config.learner,
            "normalization": row.normalization,
            "precision": config.precision,
            "tasks": config.tasks,
            "task": row.task_label,
            "seed": row.seed,
            "train_episodes": row.best_episodes,
            "parameters": row.parameters,
            "macs": row.macs,
            "validation": dict(zip(names, validation, strict=True)),
            "test": dict(zip(names, (row.test_score, row.test_ci95, row.test_episodes), strict=True)),
            "split": row.split,
            "classes": row.classes,
            "versions": {name: row.environment[name] for name in VERSIONS if name in row.environment},
        }
    )


def _evaluations(store: Store, reference: TrialReference | SpaceReference) -> list[Evaluation]:
    """Return the evaluations of the network that is meant, in every state."""
    if isinstance(reference, TrialReference):
        _, trial, _ = tried(store, reference)
        return store.evaluations.of_trial(trial.id)
    with store.read() as session:
        of_space = select(Evaluation).where(Evaluation.space == reference.space).order_by(Evaluation.id)
        rows = list(session.scalars(of_space))
    matching = [row for row in rows if _means(row, reference.architecture)]
    if not matching:
        _space({"name": reference.space}).decode(reference.architecture)
    return matching


def _means(row: Evaluation, architecture: str) -> bool:
    """Return whether a text means an evaluation's network, in its space under its settings."""
    space = _space(row.config["space"])
    try:
        key = space.canonical(space.decode(architecture))
    except ConfigError:
        return False
    return key == space.canonical(space.decode(row.architecture))


def _space(section: Mapping[str, Any]) -> SearchSpace:
    settings = {key: value for key, value in section.items() if key != "name"}
    cls: type[SearchSpace] = plugins.load("space", section["name"], SearchSpace)
    return cls(**plugins.arguments(cls, plugins.resolve(cls, settings, "space")))


def _completed(rows: Sequence[Evaluation], target: str) -> list[Evaluation]:
    """Return the completed ones.

    Raises:
        NotFound: there is none; the message says what became of the others.
    """
    completed = [row for row in rows if row.state == EvaluationState.COMPLETED]
    if completed:
        return completed
    if not rows:
        raise NotFound(f"'{target}' was never evaluated, so it has no weights. Train it: {_evaluate(target)}")
    states = ", ".join(f"seed {row.seed} is {row.state}" for row in rows)
    raise NotFound(f"No evaluation of '{target}' is completed ({states}). Go on: {_evaluate(target)}")


def _matching(rows: Sequence[Evaluation], target: str, choice: Choice) -> list[Evaluation]:
    """Return those of the tasks, the learner and the settings asked for, all under the same settings.

    Raises:
        NotFound: there is none.
        ConfigError: their settings differ.
    """
    matching = [
        row
        for row in rows
        if choice.tasks in (None, row.tasks)
        and choice.learner in (None, row.learner)
        and row.settings.startswith(choice.settings or "")
    ]
    if not matching:
        raise NotFound(
            f"No evaluation of '{target}' has these --tasks, --learner and --settings. There are:\n"
            f"{_list(rows)}"
        )
    if len({row.settings for row in matching}) > 1:
        raise ConfigError(
            f"'{target}' was evaluated under several settings: choose with --tasks, --learner or "
            f"--settings.\n{_list(matching)}"
        )
    return matching


def _one(rows: Sequence[Evaluation], target: str, seed: int | None) -> Evaluation:
    """Return the one of a seed, or else the best on validation tasks.

    Raises:
        NotFound: none has this seed.
    """
    if seed is None:
        return max(rows, key=lambda row: (row.validation_score, -row.seed))
    chosen = [row for row in rows if row.seed == seed]
    if not chosen:
        seeds = ", ".join(str(row.seed) for row in sorted(rows, key=lambda row: row.seed))
        raise NotFound(
            f"--seed {seed}: no completed evaluation of '{target}' has this seed; there are {seeds}."
        )
    return chosen[0]


def _list(rows: Sequence[Evaluation]) -> str:
    """Return a line for each group under the same settings: how to choose it, and where they differ."""
    groups = {row.settings: row for row in rows}
    flat = {settings: dict(_leaves(row.config)) for settings, row in groups.items()}
    different = [
        key
        for key in dict.fromkeys(key for leaves in flat.values() for key in leaves)
        if len({json.dumps(leaves.get(key)) for leaves in flat.values()}) > 1
    ]
    lines = []
    for settings, row in groups.items():
        values = " ".join(f"{key}={flat[settings][key]}" for key in different if key in flat[settings])
        lines.append(f"  --settings {settings[:8]}  {row.task_label}, {row.learner}  {values}".rstrip())
    return "\n".join(lines)


def _leaves(section: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _evaluate(target: str) -> str:
    return f"nas evaluate {shlex.quote(target)}"
