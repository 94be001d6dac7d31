"""Learning algorithms F_φ: from a support set and queries to predictions."""

from nas.learners.base import Learner

__all__ = ["Learner"]
