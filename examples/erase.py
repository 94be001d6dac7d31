"""An augmentation of one's own: a square of each training image is erased (DeVries & Taylor 2017)."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from nas.learners.augmentation import Augmentation

Size = Annotated[int, Field(ge=1, description="pixels of the square's side")]


class Erase(Augmentation):
    """Sets a square of each image to zero, at a place of its own."""

    name = "erase"

    def __init__(self, shape, *, size: Size = 4):
        super().__init__(shape)
        self.size = size

    def forward(self, episode, generator):
        """Erase in supports and queries."""
        support, queries = (self._erased(x, generator) for x in (episode.support_x, episode.query_x))
        return replace(episode, support_x=support, query_x=queries)

    def _erased(self, x, generator):
        """Erase a square of each of the images `[T, B, C, H, W]`."""
        far = []
        for side in x.shape[-2:]:
            first = torch.randint(1 - self.size, side, x.shape[:2], generator=generator)
            away = torch.arange(side) - first[..., None]
            far.append((away < 0) | (away >= self.size))
        kept = far[0][..., :, None] | far[1][..., None, :]
        return x * kept[:, :, None].to(x)
