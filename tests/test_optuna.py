"""Optuna's samplers as a controller, compared with a study of Optuna's own."""

import sys

import numpy as np
import optuna
import pytest
from facts import refusal
from grids import rest_slow

from controllers.optuna import Optuna
from nas.controller import Evaluate, Outcome
from nas.errors import ConfigError
from nas.objective import Objective
from nas.space import Architecture
from nas.states import TrialState
from nas.testing.controllers import ControllerSuite, Make, completed, generator, mixed, shared, simulate
from nas.testing.toys import Toy

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=6),
}


class TestGenetic(ControllerSuite):
    @pytest.fixture
    def space(self) -> Toy:
        return Toy(layers=3)

    @pytest.fixture
    def make(self, space: Toy) -> Make:
        return lambda seed: Optuna(space, seed, sampler="nsga2", population=4)


@pytest.mark.parametrize("sampler", rest_slow(SAMPLERS, ("tpe", "nsga2")))
def test_one_worker_is_optuna(sampler: str) -> None:
    """A study that is asked and told by Optuna's own means, its sampler seeded as ours at each trial."""
    space, trials = Toy(layers=3), 15 if sampler == "gp" else 40
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    parameters = {
        decision.name: optuna.distributions.CategoricalDistribution(tuple(range(len(decision.choices))))
        for decision in space.decisions
    }
    expected = []
    for number in range(trials):
        study.sampler = SAMPLERS[sampler](seed=int(generator(0, number).integers(2**32)))
        if sampler == "nsga2":  # Optuna orders parents in another way the first time that it is asked
            study.sampler.get_parent_population(study, number // 6)
        trial = study.ask(parameters)
        expected.append(Architecture("toy", tuple(trial.params.values())))
        study.tell(trial, -space.score(expected[-1]))
    controller = Optuna(space, 0, sampler=sampler, population=6)
    run = simulate(controller, completed(space.score), trials=trials)
    assert [proposal.architecture for proposal in run.proposals] == expected


def test_what_runs_and_what_was_stopped_count() -> None:
    space = Toy(layers=3)
    run = simulate(Optuna(space, 0), mixed(0), trials=30, workers=1)
    told = Optuna(space, 0)
    for number, outcome in run.history:
        told.observe(number, outcome)
    states = [trial.state.name for trial in told._updated().get_trials(deepcopy=False)]
    names = {TrialState.COMPLETED: "COMPLETE", TrialState.STOPPED: "PRUNED"}
    assert states == [names.get(outcome.state, "FAIL") for _, outcome in run.history]
    proposals = {
        told.propose(40, pending, generator(0, 40)).architecture
        for pending in ((), [Evaluate(space.sample(generator(1, n))) for n in range(8)])
    }
    assert len(proposals) == 2


def test_several_goals_are_directions_of_the_study() -> None:
    space = Toy(layers=3)
    controller = Optuna(space, 0, sampler="nsga2", population=4)
    controller.aim(Objective(("score", "macs")))
    rng = np.random.default_rng(0)
    for number in range(12):
        architecture = space.sample(rng)
        costs = {"macs": float(sum(architecture.choices))}
        outcome = completed(space.score)(number, architecture)
        controller.observe(number, Outcome(outcome.state, architecture, outcome.score, costs=costs))
    trials = controller._updated().get_trials(deepcopy=False)
    assert [len(trial.values) for trial in trials] == [2] * 12
    space.check(controller.propose(12, (), generator(0, 12)).architecture)


def test_the_study_is_told_each_outcome_once() -> None:
    space = Toy()
    controller = Optuna(space, 0)
    for number in range(5):
        controller.observe(number, completed(space.score)(number, space.sample(generator(0, number))))
    study = controller._updated()
    controller.propose(5, (), generator(0, 5))
    assert controller._updated() is study
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    assert len(complete) == 5


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with refusal(ConfigError, "pip install 'nas-service[optuna]'"):
        Optuna(Toy(), 0)


@pytest.mark.parametrize(("seed", "workers"), [(11, 3), (17, 1)])
def test_parents_of_all_generations_are_found_again(seed: int, workers: int) -> None:
    """Parents of equal rank are in the order in which Optuna first met them, generation after generation."""
    space = Toy(layers=3)
    made, resumed = (Optuna(space, seed, sampler="nsga2", population=4) for _ in range(2))
    share = shared(space, seed, (TrialState.COMPLETED, TrialState.COMPLETED, TrialState.FAILED))
    run = simulate(made, mixed(seed), trials=40, seed=seed, workers=workers, share=share)
    observed = 0
    for asked in run.asked[3 * len(run.asked) // 4 :]:
        for number, outcome in run.history[observed : asked.observed]:
            resumed.observe(number, outcome)
        observed = asked.observed
        assert resumed.propose(asked.number, asked.pending, generator(seed, asked.number)) == asked.proposal
