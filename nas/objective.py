"""What a search makes better: the score, a cost, or several of them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.costs import COSTS
from nas.errors import ConfigError, UnknownName, Unsupported
from nas.pareto import Point, nondominated

SCORE = "score"
"""Of which more is better."""

GOALS = (SCORE, *COSTS)
"""All that can be made better."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One of `GOALS`, or several, none of which counts more than another.

    Attributes:
        goals: each once.

    Raises:
        UnknownName: there is no such goal.
        ConfigError: there is none at all, or one twice.
    """

    goals: tuple[str, ...] = (SCORE,)

    def __post_init__(self) -> None:
        for goal in self.goals:
            if goal not in GOALS:
                raise UnknownName("goal in objective", goal, GOALS)
        if not self.goals or len(set(self.goals)) < len(self.goals):
            raise ConfigError(
                f"objective: {list(self.goals)}; name one or several of {', '.join(GOALS)}, each once."
            )

    @property
    def several(self) -> bool:
        """Whether there is a front in place of a best."""
        return len(self.goals) > 1

    def alone(self, controller: object) -> Objective:
        """Return this objective, for a controller that makes one goal better.

        Raises:
            Unsupported: there are several.
        """
        if self.several:
            raise Unsupported(
                f"objective: {self}; the controller {type(controller).__name__} makes one goal better. "
                "Choose one that takes several, such as 'nsga2', 'evolution' or 'random', or name one goal."
            )
        return self

    def point(self, values: Mapping[str, float | None]) -> Point | None:
        """Return values as coordinates of which less is better; None: one that counts is not known."""
        found = [values.get(goal) for goal in self.goals]
        point = tuple(
            -value if goal == SCORE else value
            for goal, value in zip(self.goals, found, strict=True)
            if value is not None and not math.isnan(value)
        )
        return point if len(point) == len(self.goals) else None

    def front(self, every: Sequence[Mapping[str, float | None]]) -> list[int]:
        """Return the indices, ascending, of the values that no others match in all goals and beat in one."""
        points = [(point, i) for i, values in enumerate(every) if (point := self.point(values)) is not None]
        points.sort()
        return sorted(points[place][1] for place in nondominated([point for point, _ in points]))

    def __str__(self) -> str:
        return ", ".join(self.goals)
