"""What an evaluation is made of, checked, with every default filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from nas.backbone import BackboneSpace
from nas.evaluator import Leg
from nas.executors.attempts import RETRIES, Retries
from nas.learners.base import Learner
from nas.precision import Precision
from nas.settings.phases import Phase, resolved
from nas.settings.sections import StrictModel, checked, make_space, make_tasks, maker, section
from nas.settings.slots import SECTIONS, explicit, validated, varied
from nas.space import TaskShape
from nas.tasks.base import TaskSource

TEST_EPISODES = 1000
"""Fewer test episodes than this are refused: their interval would hide the differences of interest."""

Count = Annotated[int, Field(lt=2**31)]

APART = {"retries"}
"""Settings that no result depends on: they are neither hashed nor recorded with it."""


class FullBudget(StrictModel):
    """How long to train, and on how many tasks to choose the weights and to judge them."""

    train_episodes: Annotated[Count, Field(ge=1, description="training tasks at most")] = 20_000
    validate_every: Annotated[Count, Field(ge=1, description="training tasks between validations")] = 1000
    patience: Annotated[
        Count, Field(ge=0, description="validations without a better score that end training; 0: none do")
    ] = 10
    validation_episodes: Annotated[Count, Field(ge=2, description="tasks of one validation")] = 500
    test_episodes: Annotated[Count, Field(ge=TEST_EPISODES, description="tasks behind the test score")] = (
        TEST_EPISODES
    )

    def validations(self) -> list[int]:
        """Return the training episodes after which to validate, ascending: the last is the budget."""
        marks = range(self.validate_every, self.train_episodes, self.validate_every)
        return [*marks, self.train_episodes]


RECORDED = frozenset({"base", "course"})
"""What the configuration of an evaluation records, and no user sets."""


class EvaluationConfig(StrictModel):
    """What is evaluated, and how: all but the architecture, the seed and the data."""

    space: Annotated[dict[str, Any], section("space")]
    tasks: Annotated[dict[str, Any], section("tasks")]
    learner: Annotated[dict[str, Any], section("learner")]
    base: Annotated[
        dict[str, dict[str, Any]],
        Field(description="of settings that a search chose: their values in its own sections"),
    ] = Field(default_factory=dict)
    phases: Annotated[
        list[Phase] | None,
        Field(description="settings of the learner and of training tasks that change while a network trains"),
    ] = None
    course: Annotated[list[Phase] | None, Field(description="phases that a search found")] = None
    precision: Precision = "auto"
    budget: FullBudget = FullBudget()
    retries: Retries = RETRIES

    @field_validator("base")
    @classmethod
    def _resolved(cls, base: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        """Check the values; what was chosen as it was is no choice."""
        found: dict[str, dict[str, Any]] = {}
        for kind, values in base.items():
            if kind in info.data or kind not in SECTIONS:
                own, section = validated(kind, values, info.data.get(kind)), info.data[kind]
                whole = explicit(kind, section)
                found[kind] = {key: value for key, value in own.items() if whole[key] != value}
        return {kind: own for kind, own in found.items() if own}

    @field_validator("phases", "course")
    @classmethod
    def _in_phases(cls, phases: list[Phase] | None, info: ValidationInfo) -> list[Phase] | None:
        return None if phases is None else resolved(phases, info.data)

    @property
    def spans(self) -> list[Leg]:
        """What a training goes through; none: its settings stay."""
        return [phase.span for phase in self.course or self.phases or ()]

    def at(self, span: Leg) -> EvaluationConfig:
        """Return the configuration with the settings of a span in its sections."""
        own = {kind: varied(kind, getattr(self, kind), values) for kind, values in span.settings.items()}
        return self.model_copy(update=own)

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The settings that a search chose along with the network, by section."""
        whole = {kind: explicit(kind, getattr(self, kind)) for kind in self.base}
        return {kind: {key: whole[kind][key] for key in own} for kind, own in self.base.items()}

    def make_space(self) -> BackboneSpace:
        """Return a new instance of the search space."""
        return make_space(self.space)

    def make_tasks(self) -> TaskSource:
        """Return a new instance of the task source; reads its data.

        Raises:
            DataMissing: the data is not on this machine.
        """
        return make_tasks(self.tasks)

    def make_learner(self, backbone: nn.Module, shape: TaskShape) -> Learner:
        """Return a new learner of the backbone."""
        learner: Learner = maker("learner", self.learner)(backbone, shape)
        return learner

    def digest(self, classes: Mapping[str, str], *, without: Literal["", "space"] = "") -> str:
        """Return a hash of the configuration and of the data.

        Args:
            classes: hash of the classes of each split.
            without: a section to leave out; without `space`, and so without what a search chose along with
                the network, equal hashes mean comparable scores.
        """
        unset = {name for name in ("base", "phases", "course") if not getattr(self, name)}
        parts = self.model_dump(mode="json", exclude={str(without), *unset, *APART})
        if without == "space":
            parts.pop("course", None)
        if without == "space":
            for kind, own in parts.pop("base", {}).items():
                parts[kind] = varied(kind, parts[kind], own)
        return _hash(parts | {"classes": dict(classes)})

    def lineage(self, classes: Mapping[str, str]) -> str:
        """Return a hash of what a training without phases depends on but its length and its seed."""
        passed: dict[str, Any] = {"budget": {"train_episodes", "test_episodes"}, "base": True}
        passed |= dict.fromkeys((*APART, "phases", "course"), True)
        return _hash(self.model_dump(mode="json", exclude=passed) | {"classes": dict(classes)})


def _hash(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def validate(values: Mapping[str, Any]) -> EvaluationConfig:
    """Return the checked configuration; where there are phases, its sections are those of the last one.

    Raises:
        UnknownName: no such setting, or no such plugin.
        ConfigError: a section is missing, or a value has the wrong type or is out of range.
    """
    config = checked(EvaluationConfig, values)
    return config.at(config.spans[-1]) if config.spans else config
