"""Names of measurements that one part of the service takes and another looks for."""

TEST_SCORE = "test_score"
"""A trial's score on test data, where an evaluator knows it: recorded, never shown to a controller."""

VALIDATION_SCORE = "validation_score"
"""A score on validation tasks in the course of an evaluation's training."""

SKIPS = "skips"
"""How many choices of the architecture that a supernet would derive are skip connections."""

ALPHA = "alpha"
"""The softmax of α, as one name for all metrics that `alpha_metric` makes."""


def alpha_metric(decision: str, choice: str | int | float) -> str:
    """Return the metric of one choice's weight in the softmax of α, recorded after each epoch of a supernet.

    It is `alpha/DECISION/CHOICE`, such as `alpha/stage1.node1.from0/conv_3x3`; no `/` in the decision's name.
    """
    return f"{ALPHA}/{decision}/{choice}"


def alpha_choice(metric: str) -> tuple[str, str] | None:
    """Return the decision and the choice whose weight a metric is; None: it is another metric."""
    match metric.split("/", 2):
        case [kind, decision, choice] if kind == ALPHA:
            return decision, choice
    return None


SHARED = "shared_score"
"""A score with a supernet's weights, as one name for all metrics that `shared_metric` makes."""


def shared_metric(architecture: str) -> str:
    """Return the metric of an architecture's score with the weights of a trained supernet, by its text.

    It is recorded for what random search under the same seed begins with: a sample that nobody selected.
    """
    return f"{SHARED}/{architecture}"


def shared_architecture(metric: str) -> str | None:
    """Return the text of the architecture whose shared score a metric is; None: it is another metric."""
    kind, _, text = metric.partition("/")
    return text if kind == SHARED and text else None


def family(metric: str) -> str:
    """Return `ALPHA` or `SHARED` where that stands for a metric and others; else the metric itself."""
    kind = metric.partition("/")[0]
    return kind if kind in (ALPHA, SHARED) else metric
