"""From a trained supernet to a few architectures."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor

from nas.controller import Derived
from nas.space import Architecture, Role, Space
from nas.supernet import Relaxation

Mask = tuple[tuple[bool, ...], ...]
Choices = list[list[int]]

SPARE = 100
"""Draws beyond those asked for, for each architecture wanted, before a sampler is taken as exhausted."""


def most_probable(
    space: Space[Any], relaxation: Relaxation, mixture: Sequence[Tensor]
) -> Iterator[Architecture]:
    """Yield the derived architecture, then the next most probable ones, distinct by canonical key.

    The probability of an architecture is the product of its choices' weights over the relaxation's decisions.
    Where these are not the space's, as in DARTS, an edge that is left out is a choice with the role
    `ABSENT` which nobody made, and does not count: so that the product is largest for what the paper's rule
    derives. What the relaxation only grades does not count either, and of a decision that makes several
    choices, as the sub-policies of an augmentation are, each does.

    Next to one architecture lie those that are derived when one of its choices is forbidden; a heap keeps
    them. Each architecture is reached through more probable ones, so that the order is exact.

    Args:
        space: of the architectures.
        relaxation: derives them.
        mixture: a distribution over the choices of each of the relaxation's decisions.
    """
    weights = [
        w.detach().to("cpu", torch.float64).clamp_min(torch.finfo(torch.float64).tiny) for w in mixture
    ]
    own = {decision.name: decision.choices for decision in space.decisions}
    direct = [own.get(decision.name) == decision.choices for decision in relaxation.decisions]
    same = all(direct) and len(direct) == len(own)
    logs = [
        [
            0.0 if d.role(choice) is Role.ABSENT and not chosen else log
            for choice, log in enumerate(w.log().tolist())
        ]
        for d, w, chosen in zip(relaxation.decisions, weights, direct, strict=True)
    ]
    order, heap, keys = count(), list[tuple[float, int, Architecture, Choices, Mask]](), set[str]()
    free = tuple((True,) * len(w) for w in weights)
    masks = {free}

    counted = [i for i in range(len(weights)) if i not in relaxation.graded]

    def push(mask: Mask, unlike: Choices | None) -> None:
        allowed = [w * torch.tensor(m) for w, m in zip(weights, mask, strict=True)]
        architecture = relaxation.derive(allowed)
        if same:
            choices = [[choice] for choice in architecture.choices]
        else:
            relaxed = relaxation.mixture_of(architecture)
            choices = [relaxed[i].nonzero()[:, 0].tolist() for i in counted]
        if choices != unlike:
            cost = -math.fsum(
                logs[i][choice] for i, own in zip(counted, choices, strict=True) for choice in own
            )
            heapq.heappush(heap, (cost, next(order), architecture, choices, mask))

    push(free, None)
    while heap:
        _, _, architecture, choices, mask = heapq.heappop(heap)
        key = space.canonical(architecture)
        if key not in keys:
            keys.add(key)
            yield architecture
        for i, choice in ((i, choice) for i, own in zip(counted, choices, strict=True) for choice in own):
            row = tuple(kept and j != choice for j, kept in enumerate(mask[i]))
            smaller = (*mask[:i], row, *mask[i + 1 :])
            if any(row) and smaller not in masks:
                masks.add(smaller)
                push(smaller, choices)


def likeliest(
    space: Space[Any],
    relaxation: Relaxation,
    mixture: Sequence[Tensor],
    number: int,
    score: Callable[[Architecture], float],
) -> list[Derived]:
    """Return the `number` most probable architectures, the derived one first, each with its score."""
    found = islice(most_probable(space, relaxation, mixture), number)
    return [Derived(architecture, score(architecture)) for architecture in found]


def best_sampled(
    space: Space[Any],
    draw: Callable[[], Architecture],
    samples: int,
    number: int,
    score: Callable[[Architecture], float],
    further: Callable[[], Architecture] | None = None,
) -> list[Derived]:
    """Return the `number` architectures that score best among `samples` draws, distinct by canonical key.

    Where the draws hold fewer, more are made, a bounded number, by `further` if it is given. A score that is
    not a number ranks last.
    """
    drawn = dict[str, Architecture]()
    for made in range(samples + SPARE * number):
        if made >= samples and len(drawn) >= number:
            break
        architecture = (draw if made < samples else further or draw)()
        drawn.setdefault(space.canonical(architecture), architecture)
    scored = [Derived(architecture, score(architecture)) for architecture in drawn.values()]
    scored.sort(key=lambda derived: -math.inf if math.isnan(derived.score) else derived.score, reverse=True)
    return scored[:number]
