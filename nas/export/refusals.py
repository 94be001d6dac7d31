"""What to say where there is no model to export: why, and the command that trains one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.driver.records import configuration
from nas.errors import Infeasible, NotFound
from nas.evaluation.incomplete import fates, repeats, seeds
from nas.export.evaluate_command import EvaluateCommand
from nas.export.selector import Selector, grouped, listed
from nas.product import candidate_of
from nas.states import EvaluationState, TrialState
from nas.storage.schema import Evaluation, Search, Trial


@dataclass(frozen=True, slots=True)
class Refusals:
    """The errors of one question.

    Attributes:
        selector: which evaluation is asked for.
        command: trains the target.
    """

    selector: Selector
    command: EvaluateCommand

    def evaluation(self) -> NotFound:
        """Return the error for a target that was never evaluated."""
        first = self.command.first(self.selector.tasks, self.selector.learner, self.selector.seed)
        return NotFound(
            f"'{self.command.target}' was never evaluated, so it has no weights. Train it: `{first}`"
        )

    def match(self, rows: Sequence[Evaluation]) -> NotFound:
        """Return the error for evaluations all of which have other tasks, learners or settings."""
        target = self.command.target
        asked = f"No evaluation of '{target}' has these --tasks, --learner and --settings. There are:\n"
        if self.selector.settings is not None:
            return NotFound(asked + listed(rows))
        first = self.command.first(self.selector.tasks, self.selector.learner, self.selector.seed)
        return NotFound(f"{asked}{listed(rows)}\nTrain one that has them: `{first}`")

    def completed(self, rows: Sequence[Evaluation]) -> NotFound:
        """Return the error for evaluations none of which is completed: what became of each, what to do."""
        lines = [f"No evaluation of '{self.command.target}' is completed."]
        groups = grouped(rows)
        for heading, group in groups.items():
            if len(groups) > 1:
                lines += [heading, *(f"  {line}" for line in self._open(group))]
            else:
                lines += self._open(group)
        return NotFound("\n".join(lines))

    def seed(self, rows: Sequence[Evaluation], seed: int) -> NotFound:
        """Return the error for a seed that has no completed evaluation among those of the same settings."""
        there = [row.seed for row in rows if row.state == EvaluationState.COMPLETED]
        error = (
            f"--seed {seed}: no completed evaluation of '{self.command.target}' has this seed, only "
            f"{seeds(there)}."
        )
        return NotFound("\n".join([error, *self._open(rows)]))

    def weights(self, error: NotFound, rows: Sequence[Evaluation]) -> NotFound:
        """Return the error for weights that cannot be found.

        Args:
            error: says so.
            rows: all evaluations of the same settings.
        """
        again = self.command.again(rows[0], _next(rows) - 1)
        return NotFound(f"{error}\nOr train them again: `{again} --lost-weights`")

    def _open(self, rows: Sequence[Evaluation]) -> list[str]:
        """Return what became of evaluations under the same settings, and what to do about it."""
        infeasible = [row for row in rows if row.state == EvaluationState.INFEASIBLE]
        if infeasible:
            why = [f"  {fate}" for fate in fates(infeasible, named=False)]
            return [*why, "  It is infeasible under these settings, whatever the seed."]
        asked = [row for row in rows if self.selector.seed in (None, row.seed)]
        open_ = [row for row in asked or rows if row.state != EvaluationState.COMPLETED]
        lines = [f"  {fate}" for fate in fates(open_, named=False)]
        if asked and all(map(repeats, asked)):
            return [*lines, f"  Train another seed: `{self.command.again(rows[0], _next(rows))}`"]
        wanted = 1 + max(row.seed for row in asked) if asked else 1 + (self.selector.seed or 0)
        return [*lines, f"  {'Go on' if asked else 'Train it'}: `{self.command.again(rows[0], wanted)}`"]


def refuse(search: Search, trial: Trial, selector: Selector) -> None:
    """Refuse a trial that no evaluation can train; one that only breaks a constraint of its search is let by.

    Raises:
        NotFound: the architecture is infeasible under the settings of the search.
        DataMissing: the search has constraints, and its data, which tells the shape, is not on this machine.
    """
    other = selector.tasks not in (None, search.tasks) or selector.learner not in (None, search.learner)
    if trial.state != TrialState.INFEASIBLE or trial.architecture is None or other:
        return
    reason = trial.error or ""
    if any(search.config["constraints"].values()):
        config = configuration(search)
        space = config.make_space()
        try:
            candidate = candidate_of(space, space.decode(trial.architecture))
            candidate.space.cost(candidate.architecture, config.make_tasks().shape)
        except Infeasible as error:
            reason = str(error)
        else:
            return
    reason = reason.strip().partition("\n")[0]
    raise NotFound(f"'{search.name}/{trial.number}' is infeasible, so it has no weights: {reason}")


def _next(rows: Sequence[Evaluation]) -> int:
    """Return how many seeds there are with one more than these."""
    return 2 + max(row.seed for row in rows)
