"""A space from any model: choices that are marked where the model is made.

    def model(shape):
        width = nas.width("width", [8, 16, 32])
        body = [nn.Conv2d(shape.input[0], width, 3, padding=1), nas.choice("act", [nn.ReLU, nn.SiLU])]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())


    Model = nas.space_of(model)

The function, or the class of a module, is called with the shape of the tasks. It is called once to learn what
can be chosen, on torch's meta device, and once for each network that is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from nas.backbone import BackboneSpace, check_backbone
from nas.drawing.graph import Graph, Vertex, chained
from nas.errors import ConfigError, PluginError
from nas.space import Architecture, Decision, TaskShape

EXAMPLE = TaskShape((3, 32, 32), 5)
"""The tasks that a model is made for where its choices are learned."""

Condition = tuple[int, frozenset[int]]
"""A decision, and those of its choices under which what depends on it is there."""


class MakesNetwork(Protocol):
    """Makes a network for the shape of the tasks: a function, or the class of a module."""

    __name__: str
    __module__: str

    def __call__(self, shape: TaskShape) -> nn.Module:
        """Return the network; `[batch, *shape.input]` to `[batch, out_features]`."""


@dataclass
class _Trace:
    """What is marked, in the order in which it is met."""

    decisions: list[Decision] = field(default_factory=list)
    conditions: list[tuple[Condition, ...]] = field(default_factory=list)
    within: tuple[Condition, ...] = ()

    def add(self, name: str, choices: Sequence[Any]) -> int:
        if name in (decision.name for decision in self.decisions):
            raise ConfigError(
                f"The choice '{name}' is marked twice. Give each a name of its own, such as '{name}2'; in a "
                f"loop, f'{name}{{i}}'."
            )
        if not choices:
            raise ConfigError(f"The choice '{name}' has nothing to choose from. Give it an option.")
        self.decisions.append(Decision(name, tuple(choices)))
        self.conditions.append(self.within)
        return len(self.decisions) - 1

    @contextmanager
    def under(self, decision: int, choices: frozenset[int]) -> Iterator[None]:
        before = self.within
        self.within = (*before, (decision, choices))
        try:
            yield
        finally:
            self.within = before


_state: ContextVar[_Trace | Mapping[str, int] | None] = ContextVar("_state", default=None)
"""What marks do: they are traced, they answer with a choice, or neither, where a model is made by itself."""


def _chosen(name: str, state: Mapping[str, int]) -> int:
    if name not in state:
        raise PluginError(
            f"The model marks the choice '{name}', which it did not mark when it was traced. What it marks "
            "must depend on its marks alone, and not on the tasks or on chance."
        )
    return state[name]


def choice(name: str, options: Sequence[Any] | Mapping[str, Any]) -> Any:
    """Return one of several options: the first, unless a search chooses.

    Args:
        name: of the decision, its own in the model.
        options: such as modules, numbers or texts. What can be called is called, without arguments, if it is
            chosen, so that only this module is made; marks within it count where it is chosen. A mapping
            gives the options names.

    Raises:
        ConfigError: the name is taken, or there are no options.
    """
    values = list(options.values()) if isinstance(options, Mapping) else list(options)
    state = _state.get()
    if isinstance(state, _Trace):
        names = list(options) if isinstance(options, Mapping) else _names(values)
        place = state.add(name, names)
        made = []
        for i, option in enumerate(values):
            with state.under(place, frozenset({i})):
                made.append(_made(option))
        return made[0]
    return _made(values[_chosen(name, state) if state is not None else 0])


def width(name: str, widths: Sequence[int]) -> int:
    """Return one of several numbers of channels: the first, unless a search chooses.

    Raises:
        ConfigError: the name is taken, or there are no widths, or one is given twice.
    """
    if len(set(widths)) < len(widths):
        raise ConfigError(f"The widths of '{name}' have one twice (given: {list(widths)}).")
    found: int = choice(name, widths)
    return found


def depth(name: str, depths: Sequence[int], make: Callable[[int], nn.Module]) -> nn.Sequential:
    """Return blocks one after the other: as many as the first of several numbers, unless a search chooses.

    Args:
        name: of the decision.
        depths: how many blocks.
        make: makes a block by its number, from 0; marks within it need names of their own, and count where
            the block is there.

    Raises:
        ConfigError: the name is taken, or there are no depths, or one is given twice.
    """
    if len(set(depths)) < len(depths):
        raise ConfigError(f"The depths of '{name}' have one twice (given: {list(depths)}).")
    state = _state.get()
    if not isinstance(state, _Trace):
        return nn.Sequential(*map(make, range(choice(name, depths))))
    place, blocks = state.add(name, depths), list[nn.Module]()
    for number in range(max(depths)):
        with state.under(place, frozenset(i for i, own in enumerate(depths) if own > number)):
            blocks.append(make(number))
    return nn.Sequential(*blocks[: depths[0]])


def _made(option: Any) -> Any:
    return option() if callable(option) and not isinstance(option, nn.Module) else option


def _names(options: Sequence[Any]) -> list[str | int | float]:
    """Return what options are called: themselves, or after what makes them; equal names are numbered."""
    names = [_name(option) for option in options]
    if len(set(names)) == len(names):
        return names
    return [f"{name}{i}" for i, name in enumerate(names, 1)]


def _name(option: Any) -> str | int | float:
    if isinstance(option, str | int | float) and not isinstance(option, bool):
        return option
    if isinstance(option, partial):
        return _name(option.func)
    name = getattr(option, "__name__", type(option).__name__)
    return "option" if name == "<lambda>" else str(name)


class MarkedSpace(BackboneSpace):
    """The space of a model whose choices are marked; see `space_of`.

    Decisions are the marks, in the order in which they are met. Those within an option or a block that is not
    chosen are inactive, and are left out of the canonical key. The model as it is, with the first of all
    options, is the default and the named architecture `given`.
    """

    model: ClassVar[MakesNetwork]
    shape: ClassVar[TaskShape]

    def __init__(self) -> None:
        trace = _Trace()
        token = _state.set(trace)
        try:
            with torch.device("meta"):
                type(self).model(type(self).shape)
        finally:
            _state.reset(token)
        if not trace.decisions:
            raise ConfigError(
                f"The model '{type(self).model.__name__}' marks no choice. Mark some where it is made, by "
                "nas.choice, nas.width or nas.depth."
            )
        self.decisions = tuple(trace.decisions)
        self._conditions = tuple(trace.conditions)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self).model, type(self).shape, self.name)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """The model as it is, as `given`."""
        return {"given": self.default}

    def active(self, architecture: Architecture) -> list[int]:
        """Return the decisions that matter: all but those within what is not chosen."""
        choices = self.check(architecture).choices
        return [
            place
            for place, conditions in enumerate(self._conditions)
            if all(choices[other] in allowed for other, allowed in conditions)
        ]

    def canonical(self, architecture: Architecture) -> str:
        """Return the active decisions with their choices."""
        values = self.values(self.check(architecture))
        names = (self.decisions[place].name for place in self.active(architecture))
        return " ".join(f"{name}={values[name]}" for name in names)

    def graphs(self, architecture: Architecture) -> tuple[Graph, ...]:
        """Return the active decisions and what is chosen, in a row."""
        values = self.values(architecture)
        names = (self.decisions[place].name for place in self.active(architecture))
        return (chained("choices", (Vertex(name, str(values[name])) for name in names)),)

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Make the model with these choices.

        Raises:
            PluginError: it is no backbone, or marks other choices than when it was traced.
        """
        choices = self.check(architecture).choices
        active = {self.decisions[place].name: choices[place] for place in self.active(architecture)}
        token = _state.set(active)
        try:
            network = type(self).model(shape)
        finally:
            _state.reset(token)
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"The model '{type(self).model.__name__}' made a {type(network).__name__}, and no nn.Module."
            )
        if not hasattr(network, "out_features"):
            network.out_features = _width(network, shape)
        return network


def _width(network: nn.Module, shape: TaskShape) -> Any:
    """Return how many features a network returns for an example; it is left as it was."""
    device = next((p.device for p in network.parameters()), torch.get_default_device())
    training = network.training
    with torch.no_grad():
        features = network.eval()(torch.zeros(1, *shape.input, device=device))
    network.train(training)
    width_ = features.shape[1] if isinstance(features, torch.Tensor) and features.dim() > 1 else 0
    network.out_features = width_  # type: ignore[assignment]
    check_backbone(network, features, 1)
    return width_


def space_of(
    model: MakesNetwork, *, shape: TaskShape = EXAMPLE, name: str | None = None
) -> type[MarkedSpace]:
    """Return the space of a model in which choices are marked, as a plug-in.

    Put it into a module under a name, `Mine = nas.space_of(model)`, and give it to a search as `module:Mine`.

    Args:
        model: called with the shape of the tasks, it makes the network: a function, or the class of a module.
        shape: of the tasks for which it is made to learn what it marks.
        name: of the space; default: that of the model.
    """
    named = name or model.__name__.lower()
    own = {
        "name": named,
        "model": staticmethod(model),
        "shape": shape,
        "__module__": model.__module__,
        "__doc__": model.__doc__,
    }
    return type(f"{model.__name__}Space", (MarkedSpace,), own)


def _restored(model: MakesNetwork, shape: TaskShape, name: str) -> MarkedSpace:
    return space_of(model, shape=shape, name=name)()
