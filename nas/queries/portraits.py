"""Networks to look at: of a space, or as a trial of a search tried them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nas import plugins
from nas.drawing.graph import Drawing
from nas.errors import ConfigError
from nas.queries.chosen import Texts, network
from nas.queries.rows import record
from nas.settings.sections import BASES, make_space, make_tasks
from nas.settings_space import word
from nas.space import TaskShape
from nas.storage.store import Store

if TYPE_CHECKING:
    from nas.backbone import BackboneSpace
    from nas.space import Architecture

IMAGE = TaskShape((1, 28, 28), 5)
"""What networks are for where no tasks are named: images of Omniglot, five classes."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """A network, and what is to be said of it.

    Attributes:
        title: what it is called.
        space, architecture: of the network.
        chosen: what was chosen besides, by name.
        tasks: section of the search's tasks; None: it is of no search.
        input: of one example, where it is of no search.
    """

    title: str
    space: BackboneSpace
    architecture: Architecture
    chosen: Mapping[str, str]
    tasks: Mapping[str, Any] | None = None
    input: tuple[int, ...] = IMAGE.input

    @property
    def drawing(self) -> Drawing:
        """What is drawn of it; of a space that draws nothing, its decisions are listed."""
        graphs = self.space.graphs(self.architecture)
        values = {} if graphs else {name: str(v) for name, v in self.space.values(self.architecture).items()}
        return Drawing(self.title, graphs, self.space.operations, {**values, **self.chosen})

    @property
    def shape(self) -> TaskShape:
        """What the network is to fit: the search's tasks, or else its input, as `IMAGE`.

        Raises:
            DataMissing: the tasks' data is not on this machine.
        """
        return replace(IMAGE, input=self.input) if self.tasks is None else make_tasks(self.tasks).shape

    def layers(self) -> list[dict[str, Any]]:
        """Return the rows of `nas.layers.layers`.

        Raises:
            Infeasible: there is no network for the tasks.
            DataMissing: as `shape`.
        """
        from nas.layers import layers

        return [record(layer) for layer in layers(self.space, self.architecture, self.shape)]


def of_space(
    name: str, text: str, settings: Mapping[str, Any], input: tuple[int, ...] = IMAGE.input
) -> Portrait:
    """Return a network of a space.

    Args:
        name: of the space.
        text: of the architecture.
        settings: of the space.
        input: shape of one example.

    Raises:
        UnknownName: no such space, setting or architecture.
        ConfigError: a setting is wrong, or the text is no architecture.
    """
    cls: type = plugins.load("space", name, BASES["space"])
    space = make_space({"name": name, **plugins.resolve(cls, dict(settings), "space")})
    architecture = space.decode(text)
    known = next((f": {own}" for own, named in space.named.items() if named == architecture), "")
    return Portrait(f"{name}{known}", space, architecture, {}, input=input)


def of_trial(store: Store, reference: str, number: int) -> Portrait:
    """Return the network of a trial.

    Raises:
        NotFound: no such search, or it has no such trial.
        ConfigError: several searches begin so; the trial trained a supernet; or a plug-in is not installed.
    """
    search = store.search(reference)
    trial = store.trial(search.id, number)
    if trial.architecture is None:
        raise ConfigError(
            f"Trial {number} of '{search.name}' trained a supernet, not one network. "
            f"`nas show {search.name}/{number}` lists what it derived."
        )
    space = make_space(search.config["space"])
    text = network(trial.architecture, search.config.get("slots"))
    chosen = Texts(search.config.get("slots")).chosen(trial.architecture)
    score = "" if trial.score is None else f", score {trial.score:.4f}"
    return Portrait(
        f"{search.name}/{number}{score}",
        space,
        space.decode(text),
        {name: str(word(value)) for name, value in chosen.items()},
        search.config["tasks"],
    )
