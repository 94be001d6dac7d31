"""Phases: settings of the learner and of training tasks that change while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from nas.errors import ConfigError
from nas.evaluator import Leg
from nas.settings.sections import StrictModel
from nas.settings.slots import SECTIONS, choosable, explicit, validated


class Phase(StrictModel):
    """A part of a training under settings of its own; the next one goes on with its weights."""

    episodes: Annotated[
        int,
        Field(ge=1, lt=2**31, description="its length: all of them are stretched or shortened to the budget"),
    ]
    learner: Annotated[dict[str, Any], Field(description="settings of the learner in this phase")] = Field(
        default_factory=dict
    )
    tasks: Annotated[dict[str, Any], Field(description="settings of training tasks in this phase")] = Field(
        default_factory=dict
    )

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Those that it sets, by section."""
        return {slot: own for slot in SECTIONS if (own := getattr(self, slot))}

    @property
    def span(self) -> Leg:
        """It, as a training is given it."""
        return Leg(self.episodes, self.settings)


def resolved(
    phases: Sequence[Phase], sections: Mapping[str, Any], slots: Mapping[str, Any] | None = None
) -> list[Phase]:
    """Return phases that set the same settings, each as its plugin takes it.

    What a phase leaves out is as in the section, whatever the phase before has.

    Args:
        phases: one or more.
        sections: those of the configuration that are in order, resolved, by name.
        slots: what a search chooses, by section.

    Raises:
        UnknownName: no such setting.
        ConfigError: there is no phase; a value is wrong; a search chooses the setting, too; or scores under
            its values would not compare.
    """
    if not phases:
        raise ConfigError("phases: give one or more, each with its episodes; or leave it out.")
    usual = {
        slot: explicit(slot, section) for slot, section in sections.items() if slot in SECTIONS and section
    }
    changing = {slot: {key for phase in phases for key in phase.settings.get(slot, ())} for slot in usual}
    found = []
    for number, phase in enumerate(phases):
        own = {slot: {key: usual[slot].get(key) for key in sorted(keys)} for slot, keys in changing.items()}
        for slot, values in phase.settings.items():
            if slot not in sections:
                continue
            where = f"phases.{number}.{slot}"
            for setting in values:
                choosable(slot, setting, sections[slot], where)
                if setting in (slots or {}).get(slot, {}):
                    raise ConfigError(f"{where}.{setting}: slots.{slot} chooses it. Leave one of them out.")
            own[slot] |= validated(slot, values, sections[slot], where)
        found.append(Phase(episodes=phase.episodes, **own))
    return found
