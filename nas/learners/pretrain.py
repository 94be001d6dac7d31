"""Pretraining on all tasks at once, then fine-tuning: what meta-learning must beat."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.folded import run
from nas.learners.network import Network, features_of, fit, normalized, predict
from nas.learners.update import Sgd, Update
from nas.space import TaskShape
from nas.tasks.base import Episode, Second


@final
class Pretrain(Learner):
    """Multi-task training, then fine-tuning on each task (the baseline of Finn et al. 2017, section 5.1).

    Training knows no tasks: the network learns every example of support and queries alike. In regression it
    is then fine-tuned as it is. In classification it learns to tell all classes of the training split apart,
    and a task gets a new head, from zero, on the pretrained backbone. Every weight is fine-tuned, by
    gradient descent on the mean loss over the support.

    A training step is the mean over `meta_batch` minibatches, each the examples of one task: batch norm takes
    its statistics from a task's examples alone, as it does in fine-tuning, and not from those of all.
    """

    name = "pretrain"
    regression = True
    sensitive = True
    rates = ("lr", "inner_lr")

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        inner_lr: Annotated[
            float, Field(gt=0, description="step size of fine-tuning on a task's mean support loss")
        ] = 0.01,
        test_steps: Annotated[int, Field(ge=1, description="steps of fine-tuning")] = 10,
        train_classes: Annotated[
            int | None, Field(ge=1, description="classes of the training split, if the tasks do not tell")
        ] = None,
        update: Update = Sgd,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        self.network = Network(normalized(backbone, self.normalization), shape.outputs)
        classes = train_classes or shape.train_classes
        self.classifier = nn.Linear(features_of(backbone), classes) if classes else None
        if classes:
            nn.init.zeros_(self.network.head.weight)
            nn.init.zeros_(self.network.head.bias)
        self.update = update(self.network.trainable, inner_lr)
        self.test_steps = test_steps

    def forward(self, episode: Episode) -> Tensor:
        """Fine-tune on each task's support, then predict its queries: `[T, Q, outputs]`.

        First-order: differentiable in φ, the gradients of fine-tuning taken for constants.
        """
        tuned = fit(self.network, episode, self.task_losses, self.update, self.test_steps, order=1)
        return predict(self.network, episode, self.normalization, tuned)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return the mean loss of the network, not fine-tuned, on support and queries alike, a scalar.

        Raises:
            ConfigError: neither `train_classes` nor the tasks say how many classes there are, or they are
                more; or it is set, in regression.
        """
        x = torch.cat([episode.support_x, episode.query_x], 1)
        y = torch.cat([episode.support_y, episode.query_y], 1)
        if episode.regression:
            if self.classifier is not None:
                raise ConfigError("learner.train_classes: these tasks are regression. Leave it out.")
            return self.mean_loss(run(self.network, x), y)
        classes = torch.from_numpy(episode.classes).to(y.device)
        if int(classes.min()) < 0:
            raise ConfigError(
                "learner.augmentation: 'pretrain' tells the classes of the split apart, and mixtures of "
                "classes are none of them. Set another augmentation, such as 'rotated_classes'."
            )
        if self.classifier is None or int(classes.max()) >= self.classifier.out_features:
            given = (
                f"{self.classifier.out_features}" if self.classifier else "missing, and not told by the tasks"
            )
            raise ConfigError(
                f"learner.train_classes: {given}, where the training split has a class number "
                f"{int(classes.max())}, counted from 0. Set how many classes the split has."
            )
        features = run(self.network.backbone, x).to(self.classifier.weight.dtype)
        return self.mean_loss(self.classifier(features), classes.gather(1, y), self._second(episode, classes))

    @staticmethod
    def _second(episode: Episode, classes: Tensor) -> Second | None:
        """Return the second labels of support and queries, by their classes in the split."""
        if episode.second is None:
            return None
        ones = episode.second.share.new_ones(episode.support_y.shape)
        labels = torch.cat([episode.support_y, episode.second.labels], 1)
        return Second(classes.gather(1, labels), torch.cat([ones, episode.second.share], 1))
