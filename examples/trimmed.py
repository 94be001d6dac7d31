"""A weighting of one's own: the examples with the largest losses, perhaps mislabelled, do not count."""

from typing import Annotated

from pydantic import Field

from nas.learners.weighting import Weighting

Share = Annotated[float, Field(ge=0, lt=1, description="share of the examples that do not count")]


class Trimmed(Weighting):
    """Leaves out a share of each task's examples, those with the largest losses."""

    name = "trimmed"

    def __init__(self, *, share: Share = 0.2):
        super().__init__()
        self.share = share

    def forward(self, losses, targets):
        """Return 1 where the loss is among the smaller ones, else 0."""
        largest = losses.quantile(1 - self.share, dim=1, keepdim=True)
        return (losses <= largest).to(losses)
