"""One recorded trial, run again by itself."""

from __future__ import annotations

from collections.abc import Sequence

from nas.controller import Outcome
from nas.driver.records import Records, configuration
from nas.driver.trials import Trials
from nas.errors import ConfigError, NasError
from nas.executors.worker import reports
from nas.states import TrialState
from nas.storage.schema import Search, Trial
from nas.training.provenance import classes

SCORED = (TrialState.COMPLETED, TrialState.PAUSED, TrialState.STOPPED)
"""States of trials that have a score of their own."""


class Rerun:
    """A trial with its settings and its seed, in the precision that `auto` was, and its data.

    Args:
        search: that the trial is of.
        lineage: the trials that its training went through, the first one first and itself last.

    Raises:
        ConfigError: the trial has no score of its own, or the data has changed since.
        PluginError: a plug-in has changed since the search began.
        DataMissing: the data is not on this machine.
    """

    def __init__(self, search: Search, lineage: Sequence[Trial]) -> None:
        *self._ancestors, trial = lineage
        name = f"{search.name}/{trial.number}"
        if trial.state not in SCORED:
            raise ConfigError(
                f"{name} is {trial.state}, so there is no score to compare with; see `nas show {name}`."
            )
        resources = search.config["resources"]
        precision = search.environment.get("precision", resources["precision"])
        here = {"executor": "inline", "workers": 1, "resources": {**resources, "precision": precision}}
        self._config = configuration(search, **here)
        self._search, self._trial, self._tasks = search, trial, self._config.make_source()
        recorded, self._classes = search.environment.get("classes"), classes(self._tasks)
        if recorded not in (None, self._classes):
            raise ConfigError(
                f"The data of search '{search.name}' has changed since: its classes were {recorded}, and are "
                f"{self._classes}. Bring the data back."
            )

    def run(self) -> Outcome:
        """Run it to where it ended, at the last rung if it was stopped there; return how it ended.

        Raises:
            NasError: it has no score this time.
        """
        config, trial = self._config, self._trial
        records = Records(self._search.name, config, config.make_space(), None, self._classes)
        for ancestor in self._ancestors:
            records.job(ancestor)
        job = records.job(trial)
        outcome = None
        for outcome in reports(Trials(config, self._tasks), job):
            reached = outcome.train_episodes >= (trial.train_episodes or 0)
            if trial.state == TrialState.STOPPED and outcome.score and reached:
                break
        if outcome is None or outcome.score is None:
            why = "" if outcome is None or not outcome.error else f": {outcome.error.strip()}"
            raise NasError(f"{self._search.name}/{trial.number} has no score this time{why}")
        return outcome
