"""What every controller promises, as a suite of tests; and a search in memory to try one with."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from nas.backbone import BackboneSpace
from nas.controller import (
    Controller,
    Derived,
    Evaluate,
    Finish,
    Inherited,
    Outcome,
    Proposal,
    Reject,
    Reuse,
    Score,
    TrainSupernet,
)
from nas.errors import Unsupported
from nas.objective import Objective
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.wrappers import WarmStarted

Make = Callable[[int], Controller]
"""From a seed to a new controller."""

Evaluation = Callable[[int, Architecture], Outcome]
"""From a trial's number and its architecture to a final outcome."""

Sharing = Callable[[int, TrainSupernet], Outcome]
"""From a trial's number and the supernet it trains to a final outcome."""

WHOLE, SHORT = 300, 75
"""Training episodes of trials that completed, and of those that were stopped early."""

ENDINGS = (
    TrialState.COMPLETED,
    TrialState.COMPLETED,
    TrialState.STOPPED,
    TrialState.FAILED,
    TrialState.INFEASIBLE,
)

_SUPERNET = TypeAdapter(TrainSupernet)

_SEARCHES: dict[str, Any] = {
    "seed": st.integers(0, 2**32 - 1),
    "trials": st.integers(1, 40),
    "workers": st.integers(1, 5),
}
_quick = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of `propose`: with what, after how many outcomes, and the answer."""

    number: int
    pending: tuple[Evaluate, ...]
    observed: int
    proposal: Proposal | None


@dataclass(slots=True)
class Run:
    """What happened in a search: every question in order, and every outcome in the order observed."""

    asked: list[Asked] = field(default_factory=list)
    history: list[tuple[int, Outcome]] = field(default_factory=list)

    @property
    def proposals(self) -> list[Proposal]:
        """The proposals by trial number; one to finish is none."""
        answers = (question.proposal for question in self.asked)
        return [answer for answer in answers if answer is not None and not isinstance(answer, Finish)]

    @property
    def finished(self) -> bool:
        """Whether the controller had nothing more to propose."""
        return any(isinstance(question.proposal, Finish) for question in self.asked)

    @property
    def best(self) -> Outcome:
        """The outcome with the highest score."""
        return max((o for _, o in self.history if o.score), key=lambda outcome: value(outcome))


def value(outcome: Outcome) -> float:
    """Return an outcome's score, which it must have."""
    assert outcome.score is not None
    return outcome.score.value


def generator(seed: int, number: int) -> np.random.Generator:
    """Return the generator that trial `number` of a search draws from."""
    return np.random.default_rng([seed, number])


def completed(score: Callable[[Architecture], float]) -> Evaluation:
    """Return the evaluation that completes every trial with a score of its architecture alone."""
    return lambda _, architecture: Outcome(
        TrialState.COMPLETED, architecture, Score(score(architecture), ci95=0.0, episodes=1)
    )


def mixed(seed: int, endings: Sequence[TrialState] = ENDINGS) -> Evaluation:
    """Return an evaluation that ends trials in any of `endings`, with coarse random scores: many tie."""

    def evaluate(number: int, architecture: Architecture) -> Outcome:
        rng = np.random.default_rng([seed, number, 1])
        state = endings[int(rng.integers(len(endings)))]
        if state in (TrialState.COMPLETED, TrialState.STOPPED):
            score = Score(round(float(rng.random()), 1), 0.1, 10)
            return Outcome(state, architecture, score, WHOLE if state is TrialState.COMPLETED else SHORT)
        return Outcome(state, architecture, error="by chance")

    return evaluate


def inherited(space: BackboneSpace, seed: int) -> list[Inherited]:
    """Return what an earlier search may have found: random networks, no two of which rank alike."""
    rng = np.random.default_rng([seed, 3])
    drawn = {space.canonical(a): a for a in (space.sample(rng) for _ in range(12))}
    shares = (rng.permutation(len(drawn)) + 0.5) / len(drawn)
    return [Inherited(a, float(share), "earlier") for a, share in zip(drawn.values(), shares, strict=True)]


def shared(
    space: BackboneSpace, seed: int, endings: Sequence[TrialState] = (TrialState.COMPLETED,)
) -> Sharing:
    """Return a supernet training that ends in any of `endings`, and derives random architectures."""

    def train(number: int, supernet: TrainSupernet) -> Outcome:
        rng = np.random.default_rng([seed, number, 2])
        state = endings[int(rng.integers(len(endings)))]
        if state is not TrialState.COMPLETED:
            return Outcome(state, None, error="by chance")
        drawn = {space.canonical(a): a for a in (space.sample(rng) for _ in range(supernet.derive))}
        scores = sorted(rng.random(len(drawn)), reverse=True)
        derived = (Derived(*pair) for pair in zip(drawn.values(), map(float, scores), strict=True))
        return Outcome(state, None, derived=tuple(derived))

    return train


def _unshared(number: int, supernet: TrainSupernet) -> Outcome:
    raise AssertionError(f"Trial {number} trains a supernet, but the simulation was not told how.")


def simulate(
    controller: Controller,
    evaluate: Evaluation,
    *,
    trials: int,
    seed: int = 0,
    workers: int = 1,
    share: Sharing = _unshared,
) -> Run:
    """Run a search in memory; with several workers, trials end in a random order.

    Args:
        controller: who proposes.
        evaluate: ends a trial of an architecture.
        trials: how many at most.
        seed: of the generators, and of the order of endings.
        workers: trials at a time.
        share: ends a trial of a supernet.

    Raises:
        AssertionError: the controller waits though nothing is pending.
    """
    run, running = Run(), dict[int, Evaluate | TrainSupernet]()
    outcomes: dict[int, Outcome] = {}
    order = np.random.default_rng(seed)

    def observe(number: int, outcome: Outcome) -> None:
        run.history.append((number, outcome))
        outcomes[number] = outcome
        controller.observe(number, outcome)

    def reused(architecture: Architecture, trial: int) -> Outcome:
        taken = replace(outcomes[trial], state=TrialState.REUSED, architecture=architecture, seconds=0.0)
        return replace(taken, reused=trial, measurements=())

    number, waiting = 0, False
    while number < trials or running:
        if number < trials and len(running) < workers and not waiting:
            pending = tuple(job for job in running.values() if isinstance(job, Evaluate))
            proposal = controller.propose(number, pending, generator(seed, number))
            run.asked.append(Asked(number, pending, len(run.history), proposal))
            match proposal:
                case None:
                    assert running, f"Trial {number} waits for a result, but nothing is pending."
                    waiting = True
                    continue
                case Finish():
                    trials = number
                    continue
                case Evaluate() | TrainSupernet():
                    running[number] = proposal
                case Reuse(architecture, trial):
                    observe(number, reused(architecture, trial))
                case Reject(architecture, reason, repeat, episodes, parent):
                    rejected = Outcome(TrialState.INFEASIBLE, architecture, error=reason)
                    observe(number, replace(rejected, repeat=repeat, episodes=episodes, parent=parent))
            number += 1
        else:
            ended = list(running)[int(order.integers(len(running)))]
            match running.pop(ended):
                case Evaluate(architecture, repeat, episodes, parent):
                    ending = evaluate(ended, architecture)
                    if episodes is not None and ending.train_episodes:
                        ending = replace(ending, train_episodes=min(episodes, ending.train_episodes))
                        if ending.state is TrialState.COMPLETED:
                            ending = replace(ending, state=TrialState.PAUSED)
                    observe(ended, replace(ending, repeat=repeat, episodes=episodes, parent=parent))
                case TrainSupernet() as supernet:
                    observe(ended, share(ended, supernet))
            waiting = False
    return run


class ControllerSuite(ABC):
    """Tests that a controller passes on any space. Inherit it and say how yours is made.

    ```python
    class TestMine(ControllerSuite):
        @pytest.fixture
        def space(self):
            return Toy()

        @pytest.fixture
        def make(self, space):
            return lambda seed: Mine(space, seed, population=4)
    ```

    Choose settings that let it learn within some twenty trials.
    """

    @abstractmethod
    def space(self) -> BackboneSpace:
        """Fixture: the space to search."""

    @abstractmethod
    def make(self, space: BackboneSpace) -> Make:
        """Fixture: a function from a seed to a new controller."""

    @_quick
    @given(**_SEARCHES)
    def test_proposals_are_valid(
        self, space: BackboneSpace, make: Make, seed: int, trials: int, workers: int
    ) -> None:
        """Each architecture is one of the space and survives as a text in JSON; so does a supernet's."""
        run = self._simulate(space, make(seed), trials, seed, workers)
        assert len(run.proposals) == len(run.history)
        assert len(run.proposals) == trials or run.finished
        for proposal in run.proposals:
            if isinstance(proposal, TrainSupernet):
                assert _SUPERNET.validate_json(_SUPERNET.dump_json(proposal)) == proposal
                continue
            assert not isinstance(proposal, Finish)
            architecture = space.check(proposal.architecture)
            assert all(type(choice) is int for choice in architecture.choices)
            assert space.decode(json.loads(json.dumps(space.encode(architecture)))) == architecture

    @_quick
    @given(**_SEARCHES)
    def test_propose_is_pure(
        self, space: BackboneSpace, make: Make, seed: int, trials: int, workers: int
    ) -> None:
        """It answers equal questions equally, changes no state and draws from the given generator alone."""
        self._simulate(space, _Watched(make(seed)), trials, seed, workers)

    @_quick
    @given(**_SEARCHES, cut=st.floats(0, 1))
    def test_replay_resumes(
        self, space: BackboneSpace, make: Make, seed: int, trials: int, workers: int, cut: float
    ) -> None:
        """A new instance that observes the history up to any point goes on exactly as the first did."""
        run = self._simulate(space, make(seed), trials, seed, workers)
        _goes_on(make(seed), run, seed, cut)

    @pytest.mark.parametrize("state", [TrialState.STOPPED, TrialState.FAILED, TrialState.INFEASIBLE])
    def test_survives_bad_trials(self, space: BackboneSpace, make: Make, state: TrialState) -> None:
        """It goes on proposing, or says that it has nothing more to propose, when every trial ends badly."""
        share = shared(space, 0, [state])
        run = simulate(make(0), mixed(0, [state]), trials=40, workers=3, share=share)
        assert len(run.proposals) == 40 or run.finished

    @_quick
    @given(**_SEARCHES)
    def test_scores_of_unequal_lengths_do_not_mix(
        self, space: BackboneSpace, make: Make, seed: int, trials: int, workers: int
    ) -> None:
        """Scores of a short length count among themselves: a constant added to all changes nothing."""
        endings = mixed(seed, (TrialState.COMPLETED, TrialState.STOPPED))
        share = shared(space, seed)
        runs = [
            simulate(
                _Offset(make(seed), offset), endings, trials=trials, seed=seed, workers=workers, share=share
            )
            for offset in (0, 1024)
        ]
        assert runs[0].proposals == runs[1].proposals

    def test_takes_several_goals_or_refuses(self, space: BackboneSpace, make: Make) -> None:
        """It refuses an objective with two goals, or searches on, whether costs are known or not."""
        controller = make(0)
        try:
            controller.aim(Objective(("score", "macs")))
        except Unsupported:
            return
        endings = mixed(0)

        def evaluate(number: int, architecture: Architecture) -> Outcome:
            outcome = endings(number, architecture)
            return replace(outcome, costs={"macs": number % 5}) if number % 3 else outcome

        run = simulate(controller, evaluate, trials=40, workers=3, share=shared(space, 0))
        assert len(run.proposals) == 40 or run.finished

    @settings(_quick, max_examples=4)
    @given(**_SEARCHES, cut=st.floats(0, 1))
    def test_a_warm_start_resumes_or_is_refused(
        self, space: BackboneSpace, make: Make, seed: int, trials: int, workers: int, cut: float
    ) -> None:
        """With what earlier searches found, the best of it comes first, and a replay goes on as before."""
        known = inherited(space, seed)
        best = sorted({space.canonical(one.architecture): one.share for one in known}.items(), key=_last)

        def warm() -> Controller:
            controller = WarmStarted(make(seed), space, 3)
            controller.inherit(known)
            return controller

        try:
            first = warm()
        except Unsupported:
            return
        run = self._simulate(space, first, trials, seed, workers)
        proposed = (space.canonical(p.architecture) for p in run.proposals if isinstance(p, Evaluate))
        tried = list(dict.fromkeys(proposed))[:3]  # of which some may have been trained longer in between
        assert tried == [key for key, _ in best[-1:-4:-1]][: len(tried)]
        _goes_on(warm(), run, seed, cut)

    def test_nothing_inherited_changes_nothing(self, space: BackboneSpace, make: Make) -> None:
        """A warm start from nothing is a start like any other."""
        with_nothing = make(0)
        try:
            with_nothing.inherit(())
        except Unsupported:
            return
        runs = [self._simulate(space, controller, 20, 0, 2) for controller in (make(0), with_nothing)]
        assert runs[0].proposals == runs[1].proposals

    @staticmethod
    def _simulate(space: BackboneSpace, controller: Controller, trials: int, seed: int, workers: int) -> Run:
        share = shared(space, seed, (TrialState.COMPLETED, TrialState.COMPLETED, TrialState.FAILED))
        return simulate(controller, mixed(seed), trials=trials, seed=seed, workers=workers, share=share)


def _goes_on(resumed: Controller, run: Run, seed: int, cut: float) -> None:
    """Assert that a new instance proposes what a run did, from the given share of its history on."""
    observed = 0
    for asked in run.asked:
        if asked.observed < int(cut * len(run.history)):
            continue
        for number, outcome in run.history[observed : asked.observed]:
            resumed.observe(number, outcome)
        observed = asked.observed
        again = resumed.propose(asked.number, asked.pending, generator(seed, asked.number))
        assert again == asked.proposal


def _last(pair: tuple[str, float]) -> float:
    return pair[1]


@final
class _Offset(Controller):
    """Adds a constant to the scores of each length but the whole: one of its own to each length.

    Scores are in eighths, so that no sum is rounded.
    """

    def __init__(self, controller: Controller, offset: float) -> None:
        self._controller, self._offset = controller, offset

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        return self._controller.propose(number, pending, rng)

    def observe(self, number: int, outcome: Outcome) -> None:
        if outcome.score is not None:
            added = self._offset * outcome.train_episodes if outcome.train_episodes < WHOLE else 0
            score = replace(outcome.score, value=round(8 * outcome.score.value) / 8 + added)
            outcome = replace(outcome, score=score)
        self._controller.observe(number, outcome)


@final
class _Watched(Controller):
    """Asks the inner controller everything twice, and asserts that `propose` leaves no trace."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def propose(self, number: int, pending: Sequence[Evaluate], rng: np.random.Generator) -> Proposal | None:
        before = _state(self._controller), _global_chance()
        answer = self._controller.propose(number, pending, copy.deepcopy(rng))
        assert (_state(self._controller), _global_chance()) == before
        assert self._controller.propose(number, pending, rng) == answer
        return answer

    def observe(self, number: int, outcome: Outcome) -> None:
        self._controller.observe(number, outcome)


class _Pickler(pickle.Pickler):
    """Leaves spaces out: what they cache is no state of a controller."""

    def persistent_id(self, obj: object) -> str | None:
        return obj.name if isinstance(obj, Space) else None


def _state(controller: Controller) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(controller)
    return stream.getvalue()


def _global_chance() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), pickle.dumps(state), torch.get_rng_state().tolist()
