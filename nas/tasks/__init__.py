"""Few-shot tasks: episodes and the sources that sample them."""

from nas.tasks.base import Episode, Split, TaskSource

__all__ = ["Episode", "Split", "TaskSource"]
