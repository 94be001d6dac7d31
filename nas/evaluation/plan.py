"""What is evaluated together: targets, their baselines, and what becomes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.counts import counted
from nas.evaluation.targets import Target, Targets
from nas.queries.results import Compared, Identity, against, compared
from nas.storage.schema import Evaluation
from nas.storage.store import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets, each with what it is compared with.

    Attributes:
        chosen: what was asked for.
        baselines: of each of them.
    """

    chosen: tuple[Target, ...]
    baselines: Mapping[Identity, tuple[Target, ...]]

    @property
    def everything(self) -> list[Target]:
        """Targets and baselines, each once."""
        beside = [target for some in self.baselines.values() for target in some]
        return list({target.identity: target for target in (*self.chosen, *beside)}.values())

    def said(self, seeds: int) -> str:
        """Return what is to run under so many seeds, in a sentence."""
        trainings = counted(seeds * len(self.everything), "evaluation")
        architectures = counted(len(self.everything), "architecture")
        label = self.chosen[0].task_label
        return f"{trainings} ({architectures} × {counted(seeds, 'seed')}) on {label}."

    def results(self, store: Store, rows: Sequence[Sequence[Evaluation]]) -> list[Compared]:
        """Return the result of each target and baseline that has one: a row for each of its baselines.

        Args:
            store: where the scores are.
            rows: the evaluations of `everything`, in its order.
        """
        targets = {target.identity: target for target in self.everything}
        evaluated = dict(zip(targets, rows, strict=True))
        pairs = {identity: [other.identity for other in some] for identity, some in self.baselines.items()}
        return [
            row
            for identity, result, differences in compared(store, evaluated, pairs)
            for row in against(
                result,
                targets[identity].name,
                [(targets[other].called, difference) for other, difference in differences.items()],
            )
        ]


def plan(
    targets: Targets,
    texts: Sequence[str],
    baselines: Sequence[str],
    *,
    top: int | None = None,
    search: str | None = None,
) -> Plan:
    """Return what is asked for.

    Args:
        targets: turns references into targets.
        texts: references, as `nas.evaluation.references.parse` reads them.
        baselines: of architectures of spaces, to compare each target with.
        top: how many of the best networks of `search` to add.
        search: of `top`; it gives the architectures of spaces their tasks, learner and settings, too.

    Raises:
        NotFound, ConfigError: as `Targets.choose` and `Targets.baseline`.
    """
    chosen = targets.choose(texts, top=top, search=search)
    beside = {
        target.identity: tuple(targets.baseline(text, target) for text in baselines) for target in chosen
    }
    return Plan(tuple(chosen), beside)
