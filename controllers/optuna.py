"""Optuna's samplers as a controller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from controllers.threads import one_thread
from nas.controller import Controller, Evaluate, Outcome
from nas.errors import ConfigError
from nas.objective import Objective
from nas.space import Architecture, Space
from nas.states import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

GENERATION = "NSGAIISampler:generation"
"""Where Optuna's genetic sampler keeps the generation of a trial."""


@final
class Optuna(Controller):
    """A sampler of Optuna (Akiba et al. 2019), over the decisions as categorical parameters.

    The sampler is made anew for each proposal and seeded by it. What it reads is a study in memory that is
    told every outcome in the order observed: completed and reused trials as complete, stopped ones as pruned,
    all others as failed. What is running counts as running. The genetic sampler's generations are full after
    `population` scored outcomes, in the order observed.

    Needs the extra `optuna`.
    """

    def __init__(
        self,
        space: Space[Any],
        seed: int,
        *,
        sampler: Annotated[
            Literal["tpe", "gp", "nsga2"],
            Field(description="Parzen estimators, a Gaussian process, or a genetic algorithm"),
        ] = "tpe",
        population: Annotated[int, Field(ge=2, description="of the genetic algorithm")] = 50,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "The controller 'optuna' needs that library; run `pip install 'nas-service[optuna]'`."
            ) from None
        self._space, self._sampler, self._population = space, sampler, population
        self._objective = Objective()
        self._told: list[tuple[str, Architecture, tuple[float, ...] | None, int]] = []
        self._parameters = {
            decision.name: optuna.distributions.CategoricalDistribution(tuple(range(len(decision.choices))))
            for decision in space.decisions
        }
        self._study: Study | None = None
        self._complete = self._passed = self._begun = 0

    def __getstate__(self) -> dict[str, Any]:
        made = {"_study": None, "_complete": 0, "_passed": 0, "_begun": 0}  # again of what was told
        return self.__dict__ | made

    def aim(self, objective: Objective) -> None:
        """Take any objective; each of its goals is one of the study's."""
        self._objective = objective

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Evaluate:
        """Propose what the sampler does of the next trial of the study."""
        import optuna

        failed = optuna.trial.TrialState.FAIL
        study = self._updated()
        study.sampler = self._made(int(rng.integers(2**32)), study)
        running = []
        for evaluation in pending:
            running.append(len(study.get_trials(deepcopy=False)))
            study.add_trial(self._trial("RUNNING", evaluation.architecture))
        with one_thread():
            asked = study.ask(dict(self._parameters))
        choices = tuple(int(asked.params[decision.name]) for decision in self._space.decisions)
        for told in (*running, asked.number):  # Optuna's samplers pass over failed trials
            study.tell(told, state=failed)
        return Evaluate(Architecture(self._space.name, choices))

    def observe(self, number: int, outcome: Outcome) -> None:
        """Keep what the study is to be told."""
        if outcome.architecture is None:
            return
        point, state = self._objective.point(outcome.values), "FAIL"
        if point is not None and outcome.state in (TrialState.COMPLETED, TrialState.REUSED):
            state = "COMPLETE"
        elif point is not None and outcome.state is TrialState.STOPPED:
            state = "PRUNED"
        self._told.append((state, outcome.architecture, point, outcome.train_episodes))

    def _made(self, seed: int, study: Study) -> BaseSampler:
        from optuna import samplers

        match self._sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed)
            case "gp":
                return samplers.GPSampler(seed=seed)
            case "nsga2":
                genetic = samplers.NSGAIISampler(seed=seed, population_size=self._population)
                # The first call for a generation returns its parents by rank and keeps them; further ones by
                # number, as `ask` does. The parents of the next generation depend on that order.
                for generation in range(self._begun, self._complete // self._population + 1):
                    genetic.get_parent_population(study, generation)
                self._begun = self._complete // self._population + 1
                return genetic

    def _updated(self) -> Study:
        """Return the study, told all that was observed."""
        if self._study is None:
            self._study, self._complete, self._passed, self._begun = self._empty(), 0, 0, 0
        for state, architecture, point, step in self._told[self._passed :]:
            trial = self._trial(state, architecture, point, step, self._complete // self._population)
            self._study.add_trial(trial)
            self._complete += state == "COMPLETE"
        self._passed = len(self._told)
        return self._study

    def _empty(self) -> Study:
        import optuna

        with _quiet():
            return optuna.create_study(directions=["minimize"] * len(self._objective.goals))

    def _trial(
        self,
        state: str,
        architecture: Architecture,
        point: tuple[float, ...] | None = None,
        step: int = 0,
        generation: int = 0,
    ) -> FrozenTrial:
        """Return a trial of the study."""
        from optuna import trial

        pruned, complete = state == "PRUNED" and not self._objective.several, state == "COMPLETE"
        return trial.create_trial(
            state=trial.TrialState[state],
            params=dict(zip(self._parameters, architecture.choices, strict=True)),
            distributions=dict(self._parameters),
            values=point if complete else None,
            intermediate_values={step: point[0]} if pruned and point else None,
            system_attrs={GENERATION: generation} if complete else None,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling that there is a study."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
