"""The weights of one network as the beginning of another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.backbone import BackboneSpace
from nas.chance import forked
from nas.learners.base import Learner
from nas.space import Architecture, TaskShape


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a learner with one network takes over of a learner with another.

    Attributes:
        space: of both networks.
        heir, parent: the networks.
        shape: the tasks'.
    """

    space: BackboneSpace
    heir: Architecture
    parent: Architecture
    shape: TaskShape

    def __call__(self, learner: Learner, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors for the heir's learner, by their names; what is not among them begins anew.

        What a learner has besides its network, such as a head, is taken over where all of it has the names
        and shapes that it had: much of it belongs to parameters by their number.

        Args:
            learner: the heir's.
            saved: the state of the parent's learner.
        """
        own, prefix = learner.state_dict(), self._prefix(learner)
        kin = self.space.kinship(self.heir, self.parent)
        sources = {f"{prefix}{name}": source and f"{prefix}{source}" for name, source in kin.names.items()}
        found = dict[str, Tensor]()
        besides = [
            {name: x.shape for name, x in state.items() if not name.startswith(prefix)}
            for state in (own, saved)
        ]
        for name, x in own.items():
            source = sources.get(name, name)
            taken = saved.get(source) if source is not None else None
            if name in besides[0] and besides[0] != besides[1]:
                taken = None
            if taken is not None and taken.shape == x.shape:
                found[name] = taken
        silent = {name: own[name] for name in (f"{prefix}{name}" for name in kin.silent) if name in own}
        return found | {name: torch.zeros_like(x) for name, x in silent.items()}

    def _prefix(self, learner: Learner) -> str:
        """Return what precedes the names of the network's parameters in those of the learner's."""
        with torch.device("meta"), forked():
            network = dict(self.space.build(self.heir, self.shape).named_parameters()).keys()
        for name, part in learner.named_modules():
            if name and dict(part.named_parameters()).keys() == network:
                return f"{name}."
        return "\0"  # no name begins so: nothing belongs to the network
