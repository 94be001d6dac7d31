"""Settings to choose from, as a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from nas.space import Architecture, Choice, Decision, Space, TaskShape


@final
class Settings(Space[dict[str, Any]]):
    """A few values for each of some settings of one section, such as `lr` of a learner.

    Args:
        section: whose settings they are; the space is called so.
        choices: the values of each setting, no two alike.
        given: what the section says without a choice: the default, where it is one of the values.
    """

    def __init__(
        self, section: str, choices: Mapping[str, Sequence[Choice]], given: Mapping[str, Any]
    ) -> None:
        self._section, self._given = section, dict(given)
        self.decisions = tuple(Decision(setting, tuple(values)) for setting, values in choices.items())

    @property
    def name(self) -> str:
        """That of the section."""
        return self._section

    @property
    def default(self) -> Architecture:
        """What the section says; of a setting whose value there is none of the choices, the first."""
        values = ((d.choices, self._given.get(d.name)) for d in self.decisions)
        return Architecture(self.name, tuple(c.index(v) if v in c else 0 for c, v in values))

    def build(self, architecture: Architecture, shape: TaskShape) -> dict[str, Any]:
        """Return the value of each setting."""
        return dict(self.values(self.check(architecture)))

    def canonical(self, architecture: Architecture) -> str:
        """Return the text: other values make another training."""
        return self.encode(architecture)
