"""From a target and the database to the model that an evaluation trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from nas import fingerprints, plugins
from nas.backbone import BackboneSpace
from nas.errors import ConfigError, NotFound, Unreadable
from nas.evaluation.artifacts import WEIGHTS, locate
from nas.evaluation.references import SpaceReference, TrialReference, parse
from nas.evaluation.targets import inherited, network_of, tried
from nas.evaluator import Chosen
from nas.export.description import Description, Scored
from nas.export.evaluate_command import EvaluateCommand
from nas.export.model import Model
from nas.export.refusals import Refusals, refuse
from nas.export.selector import Selector, listed
from nas.settings.evaluation import validate
from nas.settings.sections import make_space
from nas.settings.slots import varied
from nas.states import EvaluationState
from nas.storage.schema import Evaluation
from nas.storage.store import Store
from nas.tasks.appearance import appearance

VERSIONS = ("nas", "torch", "python")


def find(store: Store, target: str, selector: Selector, folder: Path, options: str = "") -> Model:
    """Return the model of a completed evaluation.

    Args:
        store: where evaluations are.
        target: `SEARCH/TRIAL`, `SPACE:ARCHITECTURE` or an architecture's name.
        selector: which of the network's evaluations.
        folder: where the database keeps its files.
        options: what a `nas evaluate` needs to find the same folder, quoted.

    Raises:
        ConfigError: it is no target, or a supernet, or evaluations under several settings match.
        NotFound: no such search or trial, no completed evaluation, or its weights are gone; the message says
            why, and with which command to train the network, if it can be trained.
        DataMissing: the tasks' data, which tells the network's shape, is not on this machine.
        Unreadable: the weights cannot be read.
    """
    reference = parse(target)
    if isinstance(reference, TrialReference):
        search, trial, text = tried(store, reference)
        target = f"{search.name}/{trial.number}"
        architecture, chosen = network_of(search, text)
        own = inherited(search, chosen)
        if chosen:
            rows = [row for row in _of_network(store, own["space"], architecture) if _chose(row, chosen)]
        else:
            rows = store.evaluations.of_trial(trial.id)
        if not rows:
            refuse(search, trial, selector)
    else:
        rows, own = _of_space(store, reference), {}
    refusals = Refusals(selector, EvaluateCommand(target, own, options))
    row, same = _choose(rows, selector, refusals)
    [weights] = [file for file in store.evaluations.artifacts(row.id) if file.kind == WEIGHTS]
    try:
        path = locate(weights, folder)
    except NotFound as error:
        raise refusals.weights(error, same) from None
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
    what = f"the evaluation of '{row.architecture}'"
    with fingerprints.explained(row.plugins, what):
        config = validate(row.config)
    space, tasks = config.make_space(), config.make_tasks()
    fingerprints.check(row.plugins, space, what)
    shape = tasks.shape
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
            "phases": config.course or config.phases,
            "chosen": config.chosen,
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
            "appearance": appearance(tasks, "train"),
            "versions": {name: row.environment[name] for name in VERSIONS if name in row.environment},
        }
    )


def _of_network(store: Store, section: Mapping[str, Any], architecture: str) -> list[Evaluation]:
    """Return the evaluations of an architecture of a space under its settings."""
    space = _space(section)
    return store.evaluations.of_network(space.name, space.canonical(space.decode(architecture)))


def _chose(row: Evaluation, chosen: Chosen) -> bool:
    """Return whether an evaluation has settings."""
    return all(varied(kind, row.config[kind], own) == row.config[kind] for kind, own in chosen.items())


def _of_space(store: Store, reference: SpaceReference) -> list[Evaluation]:
    """Return the evaluations of an architecture of a space, in every state."""
    with store.read() as session:
        of_space = select(Evaluation).where(Evaluation.space == reference.space).order_by(Evaluation.id)
        rows = list(session.scalars(of_space))
    fixed = (reference.settings or {}).items()
    matching = [
        row
        for row in rows
        if fixed <= _settings(row.config["space"]).items() and _means(row, reference.architecture)
    ]
    if not matching:
        _space({"name": reference.space, **dict(fixed)}).decode(reference.architecture)
    return matching


def _means(row: Evaluation, architecture: str) -> bool:
    """Return whether a text means an evaluation's network, in its space under its settings."""
    with fingerprints.explained(row.plugins, f"the evaluation of '{row.architecture}'"):
        space = _space(row.config["space"])
    try:
        key = space.canonical(space.decode(architecture))
    except ConfigError:
        return False
    return key == space.canonical(space.decode(row.architecture))


def _space(section: Mapping[str, Any]) -> BackboneSpace:
    return make_space({"name": section["name"], **_settings(section)})


def _settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space's settings, with the defaults of those that are newer than the section."""
    cls = plugins.load("space", section["name"], BackboneSpace)
    return plugins.resolve(cls, {key: value for key, value in section.items() if key != "name"}, "space")


def _choose(
    rows: Sequence[Evaluation], selector: Selector, refusals: Refusals
) -> tuple[Evaluation, list[Evaluation]]:
    """Return the completed evaluation that is meant, and all of the same settings, by seed.

    Raises:
        NotFound: there is none.
        ConfigError: some are completed under several settings.
    """
    if not rows:
        raise refusals.evaluation()
    matching = [row for row in rows if selector.matches(row)]
    if not matching:
        raise refusals.match(rows)
    completed = [row for row in matching if row.state == EvaluationState.COMPLETED]
    if not completed:
        raise refusals.completed(matching)
    if len({row.settings for row in completed}) > 1:
        raise ConfigError(
            f"'{refusals.command.target}' was evaluated under several settings: choose with --tasks, "
            f"--learner or --settings.\n{listed(completed)}"
        )
    same = sorted((r for r in matching if r.settings == completed[0].settings), key=lambda row: row.seed)
    if selector.seed is None:
        return max(completed, key=lambda row: (row.validation_score, -row.seed)), same
    for row in completed:
        if row.seed == selector.seed:
            return row, same
    raise refusals.seed(same, selector.seed)
