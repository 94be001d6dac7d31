"""Settings to choose from, as a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from nas.space import Architecture, Choice, Decision, Space, TaskShape


@final
class Settings(Space[dict[str, Any]]):
    """A few values for each of some settings of one section, such as `lr` of a learner.

    A value that is the section of a plugin is called by the plugin's name and settings, in one word:
    `shift_rotate(shift:2.0,angle:10.0)`.

    Args:
        section: whose settings they are; the space is called so.
        choices: the values of each setting, no two alike: texts, numbers or sections of plugins.
        given: what the section says without a choice: the default, where it is one of the values.
    """

    def __init__(self, section: str, choices: Mapping[str, Sequence[Any]], given: Mapping[str, Any]) -> None:
        self._section, self._given, self._choices = section, dict(given), dict(choices)
        self.decisions = tuple(
            Decision(setting, tuple(map(word, values))) for setting, values in choices.items()
        )

    @property
    def name(self) -> str:
        """That of the section."""
        return self._section

    @property
    def default(self) -> Architecture:
        """What the section says; of a setting whose value there is none of the choices, the first."""
        values = ((list(own), self._given.get(setting)) for setting, own in self._choices.items())
        return Architecture(self.name, tuple(own.index(v) if v in own else 0 for own, v in values))

    def build(self, architecture: Architecture, shape: TaskShape) -> dict[str, Any]:
        """Return the value of each setting, as `chosen` does."""
        return self.chosen(architecture)

    def chosen(self, architecture: Architecture) -> dict[str, Any]:
        """Return the value of each setting."""
        chosen = self.check(architecture).choices
        return {name: own[i] for (name, own), i in zip(self._choices.items(), chosen, strict=True)}

    def canonical(self, architecture: Architecture) -> str:
        """Return the text: other values make another training."""
        return self.encode(architecture)


def word(value: Any) -> Choice:
    """Return what the value of a setting is called among the choices of its decision."""
    if not isinstance(value, Mapping):
        choice: Choice = value
        return choice
    settings = ",".join(f"{key}:{own}" for key, own in value.items() if key != "name")
    return f"{value['name']}({settings})" if settings else str(value["name"])
