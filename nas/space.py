"""What can be chosen: decisions, architectures and the spaces that they span."""

from __future__ import annotations

import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nas.errors import ConfigError, PluginError, UnknownName, Unsupported

if TYPE_CHECKING:
    from nas.supernet import Supernet

Choice = str | int | float


@dataclass(frozen=True, slots=True)
class Decision:
    """One named categorical decision, such as `normal.node2.op1`.

    Attributes:
        name: unique in its space.
        choices: what can be chosen.
        anchors: for each choice that takes earlier parts of the network as its input, the indices of the
            decisions made last about those parts; controllers may attend to them (Zoph & Le 2017, §3.3).
            Empty: no choice does.
    """

    name: str
    choices: tuple[Choice, ...]
    anchors: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture:
    """One choice per decision of a space, each an index into that decision's choices."""

    space: str
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TaskShape:
    """What a network must fit.

    Attributes:
        input: shape of one example: (channels, height, width), or (features,).
        outputs: classes of one task, or dimensions of the target in regression.
        train_classes: of all training tasks together; None where tasks have no classes, or do not tell.
    """

    input: tuple[int, ...]
    outputs: int
    train_classes: int | None = None


class Cost(NamedTuple):
    """What a backbone costs: trainable weights, and multiply-accumulates for one example."""

    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Published:
    """A network of a paper, for others to be compared with.

    Attributes:
        architecture: its text.
        settings: of the space, those that make it the paper's.
        source: what it is and where it is from, in a few words.
        learners: those whose papers used it, by registered name.
        side: height of the images that these papers used it on.
    """

    architecture: str
    settings: Mapping[str, Any]
    source: str
    learners: tuple[str, ...]
    side: int


class SearchSpace(ABC):
    """An ordered list of categorical decisions, and how a choice of them becomes a network.

    A concrete space sets `name` (the one it is registered under) and `decisions`, and implements `build` and
    `canonical`. Its constructor takes keyword-only arguments alone: they are its settings. `encode` and
    `decode` may be replaced where the literature has a notation of its own, `named` filled with
    architectures that have a name, `published` with networks of papers under settings of their own, and
    `check_shape` where some tasks fit none. All else follows from the decisions.
    """

    name: ClassVar[str]
    published: ClassVar[Mapping[str, Published]] = {}
    decisions: tuple[Decision, ...]

    @abstractmethod
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build a backbone with fresh weights: `[batch, *shape.input]` to `[batch, out_features]`.

        The module has an int attribute `out_features`. Weights come from torch's default generator and are
        allocated on torch's default device.

        Raises:
            Infeasible: the architecture has no network for this shape.
        """

    @abstractmethod
    def canonical(self, architecture: Architecture) -> str:
        """Return a key such that equal keys mean equal networks: isomorphic encodings fold into one."""

    def check_shape(self, shape: TaskShape) -> None:  # noqa: B027
        """Refuse tasks that no architecture of this space has a network for; by default none is refused.

        A search and an evaluation ask before they begin.

        Raises:
            Infeasible: as `build` would, whatever the architecture.
        """

    @property
    def named(self) -> Mapping[str, Architecture]:
        """Architectures of this space that the literature knows by a name; `decode` reads those names."""
        return {}

    def text(self, architecture: Architecture) -> str:
        """Return an architecture as people know it, which `decode` reads: by its name, or its text form."""
        names = (name for name, known in self.named.items() if known == architecture)
        return next(names, None) or self.encode(architecture)

    def encode(self, architecture: Architecture) -> str:
        """Return the text form, the inverse of `decode`: each decision with its value, `layer0=16 layer1=8`.

        Where these are not words, or two choices of a decision read alike, it is the indices of choices,
        joined by dots.
        """
        chosen = self.check(architecture).choices
        if not self._values_tell:
            return ".".join(map(str, chosen))
        return " ".join(
            f"{decision.name}={decision.choices[i]}"
            for decision, i in zip(self.decisions, chosen, strict=True)
        )

    def decode(self, text: str) -> Architecture:
        """Read a text form, a name from `named`, or the indices of choices joined by dots.

        Raises:
            ConfigError: the text is no architecture of this space.
        """
        if text in self.named:
            return self.named[text]
        choices = self._indices(text) or self._valued(text)
        if choices is None:
            first = Architecture(self.name, (0,) * len(self.decisions))
            form = f"a value for each of its {len(self.decisions)} decisions, such as '{self.encode(first)}'"
            raise self.unreadable(text, form)
        return self.check(Architecture(self.name, choices))

    def _indices(self, text: str) -> tuple[int, ...] | None:
        parts = text.split(".")
        return tuple(map(int, parts)) if all(re.fullmatch("-?[0-9]{1,9}", part) for part in parts) else None

    def _valued(self, text: str) -> tuple[int, ...] | None:
        values = [pair.partition("=") for pair in text.split()]
        if [name for name, _, _ in values] != [decision.name for decision in self.decisions]:
            return None
        known = [[*map(str, decision.choices)] for decision in self.decisions]
        read = [(texts, value) for texts, (_, _, value) in zip(known, values, strict=True)]
        return tuple(t.index(v) for t, v in read) if all(v in t for t, v in read) else None

    @cached_property
    def _values_tell(self) -> bool:
        """Whether names and values are words, and no two values of a decision read alike."""
        choices = [[*map(str, decision.choices)] for decision in self.decisions]
        words = [*(decision.name for decision in self.decisions), *chain.from_iterable(choices)]
        return all(re.fullmatch(r"[^\s=]+", word) for word in words) and all(
            len(set(texts)) == len(texts) for texts in choices
        )

    def unreadable(self, text: str, form: str) -> ConfigError:
        """Return the error for a text that `decode` cannot read.

        Args:
            text: as given.
            form: describes the texts that it can read, with an example.
        """
        if self.named and text.isidentifier():
            return UnknownName(
                "architecture", text, self.named, f"Or give {form}.", of=f"the space '{self.name}'"
            )
        names = f"; or a name: {', '.join(sorted(self.named))}" if self.named else ""
        return ConfigError(f"'{text}' is no architecture of space '{self.name}': expected {form}{names}.")

    def check(self, architecture: Architecture) -> Architecture:
        """Return the architecture if it belongs to this space.

        Raises:
            ConfigError: another space's architecture, or a choice out of range.
        """
        if architecture.space != self.name:
            raise ConfigError(f"An architecture of space '{architecture.space}' was given to '{self.name}'.")
        if len(architecture.choices) != len(self.decisions):
            raise ConfigError(
                f"Space '{self.name}' has {len(self.decisions)} decisions, the architecture makes "
                f"{len(architecture.choices)} choices."
            )
        for decision, choice in zip(self.decisions, architecture.choices, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise ConfigError(
                    f"Choice {choice} of decision '{decision.name}' in space '{self.name}' is out of range: "
                    f"it has {len(decision.choices)} choices."
                )
        return architecture

    def values(self, architecture: Architecture) -> dict[str, Choice]:
        """Return what was chosen, by decision name."""
        return {d.name: d.choices[i] for d, i in zip(self.decisions, architecture.choices, strict=True)}

    @cached_property
    def size(self) -> int:
        """Number of encodings, isomorphic ones counted apart."""
        return math.prod(len(d.choices) for d in self.decisions)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly and independently."""
        return Architecture(self.name, tuple(int(rng.integers(len(d.choices))) for d in self.decisions))

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one decision, drawn uniformly among those that have a choice, to another choice."""
        free = [i for i, d in enumerate(self.decisions) if len(d.choices) > 1]
        if not free:
            return architecture
        site = free[int(rng.integers(len(free)))]
        shift = 1 + int(rng.integers(len(self.decisions[site].choices) - 1))
        return self._with(architecture, site, shift)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each choice from one of two parents with equal probability (uniform crossover)."""
        take = rng.random(len(self.decisions)) < 0.5
        pairs = zip(a.choices, b.choices, take, strict=True)
        return Architecture(self.name, tuple(x if first else y for x, y, first in pairs))

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield every architecture that differs in exactly one decision."""
        for site, decision in enumerate(self.decisions):
            for shift in range(1, len(decision.choices)):
                yield self._with(architecture, site, shift)

    def supernet(self, shape: TaskShape) -> Supernet:
        """Build every architecture at once, with fresh shared weights, as `build` makes them.

        Raises:
            Unsupported: this space has none.
            Infeasible: as `build`.
        """
        raise Unsupported(
            f"Space '{self.name}' has no supernet, so architectures cannot share weights. Choose another "
            "space, or a controller that trains each architecture from scratch, such as 'evolution'."
        )

    def _with(self, architecture: Architecture, site: int, shift: int) -> Architecture:
        choices = list(architecture.choices)
        choices[site] = (choices[site] + shift) % len(self.decisions[site].choices)
        return Architecture(self.name, tuple(choices))

    def one_hot(self, architecture: Architecture) -> npt.NDArray[np.float32]:
        """Return the concatenated one-hot choices, `[Σ choices]`."""
        return np.concatenate(
            [
                np.eye(len(d.choices), dtype=np.float32)[i]
                for d, i in zip(self.decisions, architecture.choices, strict=True)
            ]
        )

    def from_one_hot(self, vector: Sequence[float] | npt.NDArray[np.float32]) -> Architecture:
        """Return the architecture with the largest entry of each decision's block of `[Σ choices]`."""
        ends = np.cumsum([len(d.choices) for d in self.decisions])
        blocks = np.split(np.asarray(vector), ends[:-1])
        return Architecture(self.name, tuple(int(block.argmax()) for block in blocks))

    def cost(self, architecture: Architecture, shape: TaskShape) -> Cost:
        """Count a backbone's weights and multiply-accumulates on the meta device: nothing is allocated.

        Raises:
            Infeasible: as `build`.
            PluginError: what was built is no backbone; see `check_backbone`.
        """
        with torch.device("meta"):
            backbone = self.build(architecture, shape).eval()
            example = torch.empty(1, *shape.input)
        with torch.no_grad(), _FlopCounter() as counter:  # type: ignore[no-untyped-call]
            features = backbone(example)
        check_backbone(backbone, features, 1)
        parameters = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        return Cost(parameters, counter.flops // 2)


def width_of(backbone: nn.Module) -> int:
    """Return how many features a backbone says that it has.

    Raises:
        PluginError: it does not say.
    """
    found = getattr(backbone, "out_features", None)
    try:
        return operator.index(found)  # type: ignore[arg-type]
    except TypeError:
        raise PluginError(
            f"The backbone of class {_class(backbone)} has no int attribute `out_features` (found: "
            f"{found!r}). Set it to the number of features that the network returns for an example."
        ) from None


def check_backbone(backbone: nn.Module, features: object, examples: int) -> None:
    """Refuse a backbone that does not return `[batch, out_features]`.

    Args:
        backbone: in question.
        features: what it returned.
        examples: how many examples it was given.

    Raises:
        PluginError: it returned something else, or does not say how many features it has.
    """
    expected = [examples, width_of(backbone)]
    shape = list(features.shape) if isinstance(features, Tensor) else None
    if shape != expected:
        found = f"a tensor of shape {shape}" if shape is not None else f"a {type(features).__name__}"
        raise PluginError(
            f"The backbone of class {_class(backbone)} returned {found} for {examples} "
            f"example{'s' * (examples > 1)}; expected a tensor of shape {expected}: [batch, out_features]. "
            "Average or flatten maps, or correct `out_features`."
        )


def _class(backbone: nn.Module) -> str:
    return f"{type(backbone).__module__}.{type(backbone).__qualname__}"


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own flop formulas; `torch.utils.flop_counter.FlopCounterMode` without its module tree.

    Batch norms and rectifiers are free and keep the shape, yet the meta device spends most of a network's
    time on them: they are answered here.
    """

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operator = func.overloadpacket
        if operator is torch.ops.aten.relu:
            return torch.empty_like(args[0])
        if operator is torch.ops.aten.native_batch_norm:
            statistic = args[0].new_empty(args[0].shape[1])
            return torch.empty_like(args[0]), statistic, statistic
        out = func(*args, **(kwargs or {}))
        if operator in flop_registry:
            self.flops += flop_registry[operator](*args, **(kwargs or {}), out_val=out)
        return out
