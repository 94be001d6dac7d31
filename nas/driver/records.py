"""Between the rows of the database and what a search works with: jobs, outcomes, what supernets derived."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from nas import fingerprints
from nas.controller import Derived, Evaluate, Outcome, Reuse, Score, TrainSupernet
from nas.costs import OWN
from nas.evaluator import Ancestor, AnyJob, Job, SupernetJob
from nas.executors.output import log_of, of_trials
from nas.product import backbone_of, candidate_of, default_with
from nas.settings.search import SearchConfig, validate
from nas.space import Architecture, Space
from nas.states import TrialState
from nas.storage.schema import Search, Trial
from nas.storage.trials import Derivations
from nas.training.checkpoint import CHECKPOINTS, Checkpoint
from nas.training.provenance import proposal_rng, training_seed

TRIAL = "trial"
"""Stands for a number in the names of checkpoints that trials of several numbers share."""

SAMPLE = 16
"""Architectures that a supernet scores besides those it derives."""

_SUPERNET = TypeAdapter(TrainSupernet)


def configuration(row: Search, **changes: Any) -> SearchConfig:
    """Return the configuration of a recorded search, with some settings changed.

    Raises:
        PluginError: a plug-in has changed since the search began.
        ConfigError: a change is wrong.
    """
    what = f"search '{row.name}'"
    with fingerprints.explained(row.plugins, what):
        config = validate({**row.config, **changes})
    fingerprints.check(row.plugins, config.make_space(), what)
    return config


class Records:
    """Reads the trials of one search, and makes its jobs.

    Args:
        name: of the search.
        config: of the search.
        space: of the search; reads and writes the texts of architectures.
        folder: of checkpoints; None to keep none.
        data: what the tasks are drawn from, as `nas.training.provenance.classes`.
        memory: bytes that a supernet's training takes; None: not known.
    """

    def __init__(
        self,
        name: str,
        config: SearchConfig,
        space: Space[Any],
        folder: Path | None,
        data: Mapping[str, str],
        memory: int | None = None,
    ) -> None:
        self._name, self._config, self._space, self._folder = name, config, space, folder
        self._data, self._memory = dict(data), memory
        self._parts: dict[int, Job] = {}
        """By the number of a trial that others may go on from."""
        self._left: set[int] = set()
        """Which of them may have left a checkpoint."""

    def supernet(
        self, number: int, supernet: TrainSupernet, attempt: int = 0, seed: int | None = None
    ) -> SupernetJob:
        """Return the job of a supernet.

        Without a seed it takes that of its number and attempt, so that under one search seed all strategies
        begin with equal weights. Besides what it derives, each scores the same uniform sample.
        """
        if seed is None:
            seed = training_seed(self._config.seed, f"supernet {number}", attempt)
        folder = None if self._folder is None else str(self._folder)
        name = f"{self._name}-{number}-{self._digest(document(supernet), seed)}"
        log = self._log(number, attempt)
        return SupernetJob(number, attempt, supernet, seed, name, folder, log, self._uniform(), self._memory)

    def _log(self, number: int, attempt: int) -> str | None:
        """Return the file of what an attempt at a trial prints."""
        if self._folder is None or self._config.looks_up:
            return None
        return log_of(of_trials(self._folder, self._name), str(number), attempt)

    def _digest(self, job: Any, seed: int) -> str:
        """Return a hash of what a training depends on, besides the versions that a checkpoint tells."""
        config = self._config.model_dump(mode="json", include={"space"})
        parts = [self._config.settings, config, self._data, job, seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _uniform(self) -> tuple[Architecture, ...]:
        """Return what random search under the same seed proposes first, if it chooses networks alone."""
        rngs = (proposal_rng(self._config.seed, number) for number in range(SAMPLE))
        return tuple(default_with(self._space, backbone_of(self._space).sample(rng)) for rng in rngs)

    def again(self, job: AnyJob, *, new_seed: bool) -> AnyJob:
        """Return another attempt at a job, with other weights or the same."""
        return self._attempt(job, job.attempt + 1, None if new_seed else job.seed)

    def deaths(self, job: AnyJob) -> int:
        """Return how many attempts since the last failure ended with a worker's death: they keep the seed."""
        if isinstance(job, Job) and job.parent is not None:  # it is not tried again if it fails
            return job.attempt
        for attempt in range(job.attempt, 0, -1):
            if self._fresh_seed(job, attempt) == job.seed:
                return job.attempt - attempt
        return job.attempt

    def _attempt(self, job: AnyJob, attempt: int, seed: int | None = None) -> AnyJob:
        if isinstance(job, SupernetJob):
            return self.supernet(job.number, job.supernet, attempt, seed)
        return self.evaluation(job.number, job.evaluation, attempt, seed)

    def _fresh_seed(self, job: AnyJob, attempt: int) -> int:
        """Return the seed of an attempt that begins with new weights."""
        if isinstance(job, SupernetJob):
            return training_seed(self._config.seed, f"supernet {job.number}", attempt)
        return training_seed(self._config.seed, self._network(job.architecture), attempt, job.repeat)

    def evaluation(self, number: int, evaluation: Evaluate, attempt: int = 0, seed: int | None = None) -> Job:
        """Return the job of an evaluation.

        Without a seed it takes that of its parent, or of its network, repeat and attempt: equal ones begin
        with equal weights.
        """
        architecture, repeat, episodes = evaluation.architecture, evaluation.repeat, evaluation.episodes
        parent = None if evaluation.parent is None else self._parts[evaluation.parent]
        if seed is None and parent is not None:
            seed = parent.seed
        if seed is None:
            seed = training_seed(self._config.seed, self._network(architecture), attempt, repeat)
        job = Job(number, attempt, architecture, seed, repeat, episodes, log=self._log(number, attempt))
        if self._folder is not None and not self._config.looks_up:
            text = self._space.text(architecture)
            digest = self._digest(text if parent is None else [text, episodes, parent.name], seed)
            job = replace(job, name=f"{self._name}-{TRIAL}-{digest}", folder=str(self._folder))
        if self._config.proposer.continues:
            job = replace(job, part=True, parent=evaluation.parent, lineage=_lineage(parent))
            self._parts[number] = job
            self._left.add(number)
        return job

    def job(self, trial: Trial) -> AnyJob:
        """Return the job of a trial that has not ended."""
        if trial.architecture is None:
            supernet = _SUPERNET.validate_python(trial.supernet)
            return self.supernet(trial.number, supernet, trial.attempt, trial.seed)
        architecture = self._space.decode(trial.architecture)
        evaluation = Evaluate(architecture, trial.repeat, trial.asked_episodes, trial.parent)
        return self.evaluation(trial.number, evaluation, trial.attempt, trial.seed)

    def inherits(self, job: Job) -> bool:
        """Return whether a training goes on from one of another network."""
        networks = {self._network(ancestor.architecture) for ancestor in job.lineage}
        return bool(networks) and networks != {self._network(job.architecture)}

    def _network(self, architecture: Architecture) -> str:
        return candidate_of(self._space, architecture).key

    def outcome(self, trial: Trial) -> Outcome:
        """Return what a trial ended with, without its measurements."""
        score = None
        if trial.score is not None:
            score = Score(
                trial.score,
                _number(trial.ci95),
                trial.episodes or 0,
                trial.split or "",
                trial.classes or "",
                trial.normalization or "",
            )
        return Outcome(
            TrialState(trial.state),
            None if trial.architecture is None else self._space.decode(trial.architecture),
            score,
            trial.train_episodes or 0,
            trial.seconds or 0.0,
            {name: cost for name in OWN if (cost := getattr(trial, name)) is not None},
            error=trial.error,
            reused=trial.reused,
            derived=tuple(
                Derived(self._space.decode(entry["architecture"]), _number(entry["score"]))
                for entry in trial.derived or ()
            ),
            repeat=trial.repeat,
            episodes=trial.asked_episodes,
            parent=trial.parent,
            continued=trial.continued_episodes or 0,
        )

    def forget_trials(self) -> None:
        """Delete the checkpoints that longer trainings would have gone on from."""
        if self._folder is not None:
            for checkpoint in checkpoints(self._folder, self._name):
                checkpoint.remove()

    def forget_parts(self, needed: Collection[int], going: Collection[AnyJob]) -> None:
        """Delete the checkpoints that parts of trainings left, but for those to go on from.

        Args:
            needed: numbers of trials.
            going: what runs, or waits to run again.
        """
        if self._folder is None:
            return
        kept = {*needed, *(job.number for job in going)}
        kept |= {job.parent for job in going if isinstance(job, Job) and job.parent is not None}
        names = {self._parts[number].name for number in kept if number in self._parts}
        for number in self._left - kept:
            if self._parts[number].name not in names:
                Checkpoint(self._folder, self._parts[number].name).remove()
            self._left.discard(number)

    def reused(self, proposal: Reuse, trial: Trial) -> Outcome:
        """Return the outcome of a trial that takes over another's score."""
        return replace(
            self.outcome(trial),
            state=TrialState.REUSED,
            architecture=proposal.architecture,
            seconds=0.0,
            reused=proposal.trial,
            continued=0,
        )

    def derivations(self, outcome: Outcome, epochs: Sequence[tuple[int, Derived]]) -> Derivations:
        """Return what a supernet derived, at last and after each epoch, as JSON."""
        final = [self._entry(derived) for derived in outcome.derived]
        return Derivations(final, [{"step": step, **self._entry(derived)} for step, derived in epochs])

    def _entry(self, derived: Derived) -> dict[str, Any]:
        score = derived.score if math.isfinite(derived.score) else None
        return {"architecture": self._space.text(derived.architecture), "score": score}


def document(supernet: TrainSupernet) -> dict[str, Any]:
    """Return a proposal as JSON."""
    written: dict[str, Any] = _SUPERNET.dump_python(supernet, mode="json")
    return written


def recordable(outcome: Outcome) -> Outcome:
    """Return an outcome as the database will tell it again: without a score that is not finite.

    What else is not finite becomes NaN, and a time 0.
    """
    score = outcome.score
    if score is not None:
        finite = math.isfinite(score.value)
        score = replace(score, ci95=_number(score.ci95)) if finite else None
    derived = tuple(Derived(found.architecture, _number(found.score)) for found in outcome.derived)
    seconds = outcome.seconds if math.isfinite(outcome.seconds) else 0.0
    return replace(outcome, score=score, seconds=seconds, derived=derived)


def checkpoints(folder: Path, name: str) -> Iterator[Checkpoint]:
    """Yield the checkpoints that the supernets and the trials of a search left in a folder."""
    own = re.compile(rf"\.?({re.escape(name)}-(?:\d+|{TRIAL})-[0-9a-f]{{16}})\.pt(\..*\.part)?")
    found = (own.fullmatch(path.name) for path in (folder / CHECKPOINTS).glob("*"))
    for stem in {match[1] for match in found if match}:
        yield Checkpoint(folder, stem)


def _lineage(parent: Job | None) -> tuple[Ancestor, ...]:
    if parent is None:
        return ()
    assert parent.episodes is not None, "a trial that is over has no children"
    return *parent.lineage, Ancestor(parent.architecture, parent.episodes, parent.name)


def forget(job: AnyJob) -> None:
    """Delete the checkpoint of a job that will not go on from it."""
    if isinstance(job, SupernetJob) and job.folder is not None:
        Checkpoint(Path(job.folder), job.name).remove()


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)
