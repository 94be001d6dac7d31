"""Networks to choose from: the space of backbones, and what each of them costs."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nas.counting import Counter, countable, lazy, parameters
from nas.errors import PluginError, Unsupported
from nas.space import Architecture, Space, TaskShape

if TYPE_CHECKING:
    from nas.supernet import Supernet


class Cost(NamedTuple):
    """What a backbone costs.

    Attributes:
        parameters: trainable weights.
        macs: multiply-accumulates for one example.
        activations: peak bytes of activations in a forward pass of one example without gradients, in float32:
            the input and all that is computed and still needed, without what a kernel takes for itself.
    """

    parameters: int
    macs: int
    activations: int


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


@dataclass(frozen=True, slots=True)
class Kinship:
    """How the weights of one network become those of another, by names in `state_dict`.

    Attributes:
        names: of the heir's tensors, each with the name of the parent's that it begins with; None: it begins
            anew. Tensors that are left out begin with those of the same name. Shapes must agree.
        silent: the heir's tensors that begin with zeros, so that what the parent lacks adds nothing at first.
    """

    names: Mapping[str, str | None] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()


class BackboneSpace(Space[nn.Module]):
    """A space of networks.

    A concrete space sets `name` to the one it is registered under. Its constructor takes keyword-only
    arguments alone: they are its settings. `published` may be filled with networks of papers under settings
    of their own, and `check_shape` replaced where some tasks fit none.
    """

    name: ClassVar[str]
    published: ClassVar[Mapping[str, Published]] = {}

    @abstractmethod
    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Build a backbone with fresh weights: `[batch, *shape.input]` to `[batch, out_features]`.

        The module has an int attribute `out_features`. Weights come from torch's default generator and are
        allocated on torch's default device.

        Raises:
            Infeasible: the architecture has no network for this shape.
        """

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse tasks that no architecture of this space has a network for; by default none is refused.

        A search and an evaluation ask before they begin.

        Raises:
            Infeasible: as `build` would, whatever the architecture.
        """

    def kinship(self, heir: Architecture, parent: Architecture) -> Kinship:
        """Return which weights of a parent's network those of an heir's begin with.

        By default, those of the same names and shapes. Where names count parts in an order that changes from
        one network to the next, a space replaces this.
        """
        return Kinship()

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

    def cost(self, architecture: Architecture, shape: TaskShape) -> Cost:
        """Count what a backbone costs on the meta device: nothing is allocated, nothing computed.

        Raises:
            Infeasible: as `build`.
            PluginError: what was built is no backbone; see `check_backbone`.
        """
        return count(countable(lambda: self.build(architecture, shape)), shape)


def count(backbone: nn.Module, shape: TaskShape) -> Cost:
    """Count what a backbone on the meta device costs.

    Raises:
        PluginError: it is no backbone; see `check_backbone`.
    """
    example = torch.empty(1, *shape.input, device="meta")
    with torch.no_grad():
        if any(map(lazy, backbone.modules())):
            backbone(example)  # weights are no activations: they are made before
        with Counter(example) as counter:
            features = backbone(example)
    check_backbone(backbone, features, 1)
    weights = parameters(backbone)
    if weights is None:
        raise PluginError(
            f"The backbone of class {_class(backbone)} has a lazy layer that got no input: its weights have "
            "no shape. Leave it out, or call it."
        )
    return Cost(weights, counter.flops // 2, counter.peak)


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
