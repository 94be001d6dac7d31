"""LEO: a task's head is decoded from a code of few numbers, and the inner loop moves the code."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.folded import Weights
from nas.learners.inner import Order, adapt
from nas.learners.network import by_class, embed, features_of, normalized
from nas.learners.update import LearnedRates
from nas.space import TaskShape
from nas.tasks.base import Episode

LEAST = 1e-10
"""Of a deviation."""

Steps = Annotated[int, Field(ge=0, description="gradient steps on the codes of a task")]


@final
class Leo(Learner):
    """Latent embedding optimization (Rusu et al. 2019): φ is an encoder, a relation net, a decoder and rates.

    Every support example is encoded, and every two codes related; their means over a class are mean and
    deviation of the class's code. A decoder makes weights of a linear head from codes, in the same way. A
    task takes `inner_steps` gradient steps on its codes, at a learned rate for each of their numbers, then
    `weight_steps` on the weights. In training both are drawn at every decoding, in evaluation they are
    means. Classifies only.

    It is meant for features of a network that is trained and stays as it is: the tasks `features`. With
    `end_to_end` the backbone learns, too.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "leo"
    sensitive = True
    rates = ("inner_lr", "weight_lr", "lr")
    heavy = ("inner_steps", "weight_steps")

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        latent: Annotated[int, Field(ge=1, description="numbers of a code")] = 64,
        hidden: Annotated[int, Field(ge=1, description="width of the relation net")] = 128,
        dropout: Annotated[float, Field(ge=0, lt=1, description="of features, in training")] = 0.3,
        inner_lr: Annotated[float, Field(gt=0, description="rate of the codes, at the start")] = 1.0,
        inner_steps: Steps = 5,
        weight_lr: Annotated[float, Field(gt=0, description="rate of the weights, at the start")] = 1e-3,
        weight_steps: Annotated[int, Field(ge=0, description="gradient steps on the decoded weights")] = 5,
        order: Order = 2,
        divergence: Annotated[
            float, Field(ge=0, description="β: of the codes' distribution from N(0, 1)")
        ] = 0.1,
        encoder_penalty: Annotated[
            float, Field(ge=0, description="γ: on the distance of the first codes from the adapted ones")
        ] = 1e-6,
        weight_penalty: Annotated[float, Field(ge=0, description="λ₁: on squared weights")] = 1e-8,
        orthogonality: Annotated[
            float, Field(ge=0, description="λ₂: on cosines between what the numbers of a code decode to")
        ] = 0.1,
        clip: Annotated[
            float, Field(gt=0, description="of a gradient's numbers, and then of the norm of each tensor's")
        ] = 0.1,
        end_to_end: Annotated[
            bool, Field(description="whether the backbone learns, from images or from what else there is")
        ] = False,
        lr: Annotated[float, Field(gt=0, description="learning rate of Adam on φ")] = 5e-4,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, lr=lr, **settings)
        self.features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.encoder = nn.Linear(self.features, latent, bias=False)
        self.relation = nn.Sequential(
            *(nn.Linear(2 * latent, hidden, bias=False), nn.ReLU()),
            *(nn.Linear(hidden, hidden, bias=False), nn.ReLU()),
            nn.Linear(hidden, 2 * latent, bias=False),
        )
        self.decoder = nn.Linear(latent, 2 * self.features, bias=False)
        self.code_rates = LearnedRates({"code": torch.empty(latent)}, inner_lr)
        self.weight_rates = LearnedRates({"weight": torch.empty(self.features)}, weight_lr)
        self.dropout = nn.Dropout(dropout)
        self.inner_steps, self.weight_steps = inner_steps, weight_steps
        self.order: Order = order
        self.divergence, self.encoder_penalty = divergence, encoder_penalty
        self.weight_penalty, self.orthogonality = weight_penalty, orthogonality
        self.clip, self.end_to_end = clip, end_to_end
        self.passes = 1 + (inner_steps + weight_steps) // 2 if order == 2 else 1

    def forward(self, episode: Episode) -> Tensor:
        """Adapt codes and weights to each task's support, then predict its queries: `[T, Q, ways]`.

        Raises:
            ConfigError: the task is regression; or these are images, and nobody has trained the backbone.
        """
        return self._learned(episode)[0]

    def meta_loss(self, episode: Episode) -> Tensor:
        """Return the loss on the queries, and the penalties."""
        predictions, codes = self._learned(episode)
        loss = self.mean_loss(predictions, episode.query_y, episode.second)
        distance = ((codes.adapted.detach() - codes.first) ** 2).mean()
        return (
            loss
            + self.divergence * divergence(codes.first, codes.noise, codes.deviation)
            + self.encoder_penalty * distance
            + self.weight_penalty * self._squares()
            + self.orthogonality * correlation(self.decoder.weight)
        )

    def _learned(self, episode: Episode) -> tuple[Tensor, Codes]:
        self.check(episode)
        if episode.support_x.dim() > 3 and not self.end_to_end:
            raise ConfigError(
                f"learner.end_to_end: '{self.name}' learns from features of a trained network, and these "
                "tasks are images. Write features with `nas export TARGET -o features.npz` and set the tasks "
                "'features', or set learner.end_to_end=true to train the backbone as well."
            )
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        with torch.autocast(support.device.type, enabled=False):
            dtype = self.encoder.weight.dtype
            support, queries = support.to(dtype), queries.to(dtype)
            mean, deviation = self.encoded(by_class(support, episode))
            noise = self._noise(mean)
            first = mean + deviation * noise

            def loss(codes: Weights) -> Tensor:
                return self.task_losses(
                    self._classified(support, self.decoded(codes["code"])), episode.support_y
                )

            def refined(weights: Weights) -> Tensor:
                return self.task_losses(self._classified(support, weights["weight"]), episode.support_y)

            start = {"code": first}
            code = adapt(loss, start, self.code_rates, self.inner_steps, order=self.order).weights["code"]
            begin = {"weight": self.decoded(code)}
            steps = self.weight_steps
            weight = adapt(refined, begin, self.weight_rates, steps, order=self.order).weights["weight"]
            return self._classified(queries, weight), Codes(first, noise, deviation, code)

    def encoded(self, support: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the codes of each class, as often as it has shots.

        Args:
            support: features `[T, ways, shots, D]`.

        Returns:
            Both `[T, ways, shots, latent]`.
        """
        ways, shots = support.shape[1:3]
        codes = self.encoder(self.dropout(support.flatten(1, 2)))
        count = codes.shape[1]
        pairs = torch.cat(
            [codes[:, :, None].expand(-1, -1, count, -1), codes[:, None].expand(-1, count, -1, -1)], -1
        )
        related = self.relation(pairs).mean(2).unflatten(1, (ways, shots)).mean(2, keepdim=True)
        mean, spread = related.expand(-1, -1, shots, -1).chunk(2, -1)
        return mean, (spread.exp() - 1).clamp(min=LEAST)

    def decoded(self, codes: Tensor) -> Tensor:
        """Return weights of a head for codes `[T, ways, shots, latent]`: `[T, ways, shots, D]`."""
        mean, spread = self.decoder(codes).chunk(2, -1)
        if not self.training:
            return mean  # type: ignore[no-any-return]
        deviation = spread.exp() - 1 + math.sqrt(2 / (self.features + codes.shape[1]))
        return mean + deviation.clamp(min=LEAST) * self._noise(mean)  # type: ignore[no-any-return]

    def _classified(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return logits `[T, B, ways]`, the mean over the weights that a class has."""
        return self.dropout(features) @ weights.mean(2).mT  # type: ignore[no-any-return]

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn_like(like) if self.training else torch.zeros_like(like)

    def _squares(self) -> Tensor:
        parts = (self.encoder, *self.relation, self.decoder)
        weights = [part.weight for part in parts if isinstance(part, nn.Linear)]
        return torch.stack([(weight**2).sum() for weight in weights]).sum() / 2

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam, which clips gradients; it leaves out the backbone unless that learns, too."""
        backbone = set() if self.end_to_end else set(self.backbone.parameters())
        parameters = [p for p in self.parameters() if p not in backbone]
        optimizer = torch.optim.Adam([{"params": parameters}], lr=self.lr, fused=True)
        optimizer.register_step_pre_hook(self._clip)
        return optimizer

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.clamp_(-self.clip, self.clip)
                    nn.utils.clip_grad_norm_([parameter], self.clip)


class Codes(NamedTuple):
    """The codes of a task's classes, `[T, ways, shots, latent]` each.

    Attributes:
        first: as they were drawn, mean + deviation · noise.
        noise: from N(0, 1).
        deviation: of the draw.
        adapted: after the gradient steps.
    """

    first: Tensor
    noise: Tensor
    deviation: Tensor
    adapted: Tensor


def divergence(codes: Tensor, noise: Tensor, deviation: Tensor) -> Tensor:
    """Return the mean of log q(z) − log p(z) over codes z = μ + σ ε, with q = N(μ, σ²) and p = N(0, 1).

    It is an estimate of the Kullback-Leibler divergence by one sample, a mean over numbers and no sum.
    """
    return (codes**2 / 2 - noise**2 / 2 - deviation.log()).mean()


def correlation(weight: Tensor) -> Tensor:
    """Return the mean square of cos − 1 between the columns of a decoder's weight `[outputs, latent]`."""
    columns = F.normalize(weight, dim=0)
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return ((columns.mT @ columns - identity) ** 2).mean()
