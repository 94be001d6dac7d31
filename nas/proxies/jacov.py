"""How differently an untrained learner responds to different queries."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from nas.errors import Infeasible
from nas.proxies.base import Proxy, Subject

FLOOR = 1e-5
"""Added to eigenvalues: k of the paper."""


@final
class Jacov(Proxy):
    """The spread of the Jacobian's correlations (Mellor et al. 2020, arXiv 2006.04647v1).

    A row of the Jacobian is the gradient of the sum of all predictions in one query's input. With σ the
    eigenvalues of the correlation matrix of the rows, it is −Σ (log(σ + k) + 1 / (σ + k)).
    """

    name = "jacov"

    def measure(self, subject: Subject) -> float:
        """Return the score.

        Raises:
            Infeasible: the predictions do not depend on some query.
        """
        queries = subject.episode.query_x.detach().clone().requires_grad_()
        predictions = subject.learner(replace(subject.episode, query_x=queries))
        if not predictions.requires_grad:
            raise Infeasible("The predictions of this network do not depend on its inputs.")
        (jacobian,) = torch.autograd.grad(predictions.sum(), queries, allow_unused=True)
        rows = None if jacobian is None else jacobian.flatten(0, 1).flatten(1).double()
        if rows is None or (rows == rows[:, :1]).all(1).any():
            raise Infeasible("The predictions of this network do not depend on some of its inputs.")
        spectrum = torch.linalg.eigvalsh(torch.corrcoef(rows)) + FLOOR
        return float(-(spectrum.log() + 1 / spectrum).sum())
