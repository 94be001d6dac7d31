"""A trained learner in memory: its weights and description, and the modules rebuilt from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.chance import forked
from nas.errors import PluginError, Unreadable
from nas.export.description import Description
from nas.export.embedding import Embedding
from nas.learners.base import Learner
from nas.learners.network import Network
from nas.settings.sections import maker


@dataclass(frozen=True, slots=True)
class Model:
    """What a file holds.

    Attributes:
        description: how to rebuild the learner, and what it scored.
        weights: the learner's state by name, on the CPU.
    """

    description: Description
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trained learner, ready to predict.

    Attributes:
        description: what it is and what it scored.
        learner: F_φ: takes an `Episode`, returns the predictions of its queries; in evaluation mode.
        network: from a batch of inputs to features, and outputs if there is a head; shares the weights.
    """

    description: Description
    learner: Learner
    network: Embedding


def rebuild(model: Model) -> Loaded:
    """Build the learner from the installed plugins and give it its weights; torch's generator stays put.

    Raises:
        ConfigError: the plugins do not know the architecture or a setting.
        Infeasible: the architecture has no network for the shape.
        PluginError: the learner does not hold the backbone that it was given.
        Unreadable: the weights do not fit the network that the plugins build.
    """
    description = model.description
    space: BackboneSpace = maker("space", description.space)()
    architecture = space.decode(description.architecture)
    with forked():
        backbone = space.build(architecture, description.shape)
        learner: Learner = maker("learner", description.learner)(backbone, description.shape)
    try:
        learner.load_state_dict(dict(model.weights))
    except RuntimeError as error:
        raise Unreadable(
            f"The weights do not fit the network that the installed plugins build: {error}\n"
            f"They were trained with {_versions(description)}."
        ) from None
    learner.eval()
    return Loaded(description, learner, _embedding(learner, backbone, description))


def _embedding(learner: Learner, backbone: nn.Module, description: Description) -> Embedding:
    if not any(module is backbone for module in learner.modules()):
        raise PluginError(f"The learner '{learner.name}' does not hold the backbone that it was given.")
    networks = [m for m in learner.modules() if isinstance(m, Network) and m.backbone is backbone]
    head = networks[0].head if networks else None
    return Embedding(backbone, head, description.normalization).eval()


def _versions(description: Description) -> str:
    return ", ".join(f"{name} {version}" for name, version in description.versions.items())
