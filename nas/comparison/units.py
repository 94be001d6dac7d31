"""What axes count: the score of a search, and what trials measure along the way."""

from __future__ import annotations

from nas.metrics import SKIPS
from nas.storage.schema import Search

MEASURES = {
    "score": "validation {score}",
    "supernet_score": "validation {score} of the supernet",
    "derived_score": "validation {score} of what it would derive, with shared weights",
    "train_loss": "training loss",
    "alpha_entropy": "entropy of the weights by α, mean over decisions (nats)",
    "policy_entropy": "entropy of the policy, mean over decisions (nats)",
    SKIPS: "skip connections of what it would derive",
}
"""Labels of metrics that the service itself takes."""

COSTS = {
    "activations": "peak activations (bytes)",
    "latency": "latency (s)",
    "latency_batch": "latency of a batch (s)",
    "macs": "multiply-accumulates",
    "seconds": "worker time (s)",
}
"""Labels of costs that are not their names."""


def cost_name(cost: str) -> str:
    """Return the label of an axis of a cost."""
    return COSTS.get(cost, cost)


def score_name(search: Search, lowest: float, *, test: bool = False) -> str:
    """Return what a search's scores are: of trained networks accuracies, or negative errors in regression.

    Args:
        search: whose.
        lowest: of its scores; errors alone are below 0.
        test: whether those on test data are meant.
    """
    if search.config["tasks"] is None:
        column = search.config["evaluator"].get("test_metric" if test else "metric")
        return "score" if column is None else f"score ({column})"
    if search.config["evaluator"]["name"] != "train":
        return "score"
    return "accuracy" if lowest >= 0 else "−MSE"


def metric_name(search: Search, metric: str, lowest: float) -> str:
    """Return the label of an axis of a metric, of which this is the lowest value."""
    label = MEASURES.get(metric, metric.replace("_", " "))
    return label.format(score=score_name(search, lowest))
