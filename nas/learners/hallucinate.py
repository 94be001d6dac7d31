"""Learning from imaginary data: examples made up from those that there are, before a class is learned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.errors import ConfigError
from nas.learners.base import Learner
from nas.learners.folded import Weights
from nas.learners.inner import InnerSteps, adapt
from nas.learners.network import by_class, embed, features_of, normalized
from nas.learners.update import Sgd
from nas.learners.weighting import MEAN_OVER
from nas.space import TaskShape
from nas.tasks.base import Episode

Readout = Literal["prototypical", "matching", "logistic"]
By = Literal["generator", "shift", "noise", "calibration"]


@final
class Hallucinate(Learner):
    """Low-shot learning from imaginary data (Wang et al. 2018): φ is the backbone and what imagines.

    Each class gets `imagined` examples more, in feature space. An imagined example is G(x, z), from an
    example of the class drawn at random, its seed, and noise. G is a perceptron that begins as the identity
    of x. Then a readout learns from real and imagined examples alike, by prototypes, by matching or by a
    logistic head that begins at zero in every task; the loss on the queries trains G with the rest.

    In place of G there may be what it must beat: a `shift` of the seed without noise, by a perceptron of as
    many parameters; Gaussian `noise` on the seed, of a learned size; or `calibration` (Yang et al. 2021),
    draws from a normal distribution around the seed and the training classes that are nearest to it.

    Classifies only. The variance that the noise makes is recorded as `imagined_variance`: where it falls to
    zero, nothing is imagined.

    Raises:
        Infeasible: the backbone has no features.
    """

    name = "hallucinate"
    recent: Tensor
    """The variance of what is imagined, an average over recent meta-steps; −1: there was none."""

    def __init__(
        self,
        backbone: nn.Module,
        shape: TaskShape,
        *,
        readout: Annotated[Readout, Field(description="what learns from the examples")] = "prototypical",
        by: Annotated[By, Field(description="what imagines: G, or one of its rivals")] = "generator",
        imagined: Annotated[int, Field(ge=0, description="examples more of each class")] = 1,
        temperature: Annotated[float, Field(gt=0, description="of matching, by the cosine")] = 0.1,
        inner_lr: Annotated[float, Field(gt=0, description="rate of the logistic head")] = 0.1,
        inner_steps: InnerSteps = 10,
        neighbours: Annotated[int, Field(ge=1, description="training classes of a calibration")] = 2,
        spread: Annotated[float, Field(ge=0, description="added to variances of a calibration")] = 0.21,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, shape, **settings)
        features = features_of(backbone)
        self.backbone = normalized(backbone, self.normalization)
        self.readout, self.imagined, self.temperature = readout, imagined, temperature
        self.imagination = _imagination(by, features, shape, neighbours, spread)
        self.update = Sgd({}, inner_lr)
        self.inner_steps = inner_steps
        self.register_buffer("recent", torch.tensor(-1.0))

    def forward(self, episode: Episode) -> Tensor:
        """Return logits `[T, Q, ways]`.

        Raises:
            ConfigError: the task is regression.
        """
        self.check(episode)
        support, queries = embed(self.backbone, episode, self.normalization, joint=True)
        with torch.autocast(support.device.type, enabled=False):
            examples = by_class(support, episode)
            if self.training:
                self.imagination.see(examples, episode)
            if self.imagined:
                examples = torch.cat([examples, self._imagine(examples)], 2)
            return self._read(examples, queries.to(examples.dtype))

    def measurements(self) -> Mapping[str, float]:
        """Return the mean variance over noise of what is imagined, in recent training."""
        told = {} if self.recent < 0 else {"imagined_variance": float(self.recent)}
        return {**super().measurements(), **told}

    def _imagine(self, examples: Tensor) -> Tensor:
        """Return imagined examples `[T, ways, imagined, D]` for `[T, ways, shots, D]`."""
        tasks, ways, shots, width = examples.shape
        if not self.training:  # the same for every task
            generator = torch.Generator().manual_seed(0)
            chosen = torch.arange(self.imagined).remainder(shots).to(examples.device)
            noise = torch.randn(ways, self.imagined, width, generator=generator).to(examples)
            return self.imagination(examples[:, :, chosen], noise.expand(tasks, -1, -1, -1))  # type: ignore[no-any-return]
        chosen = torch.randint(shots, (tasks, ways, self.imagined, 1), device=examples.device)
        seeds = examples.gather(2, chosen.expand(-1, -1, -1, width))
        found: Tensor = self.imagination(seeds, torch.randn_like(seeds))
        with torch.no_grad():
            other = self.imagination(seeds, torch.randn_like(seeds))
            variance = ((found - other) ** 2).mean() / 2
            before = torch.where(self.recent < 0, variance.to(self.recent), self.recent)
            self.recent.copy_(before.lerp(variance.to(self.recent), 1 / MEAN_OVER))
        return found

    def _read(self, examples: Tensor, queries: Tensor) -> Tensor:
        """Return logits of queries `[T, Q, D]`, learned from `[T, ways, examples, D]`."""
        match self.readout:
            case "prototypical":
                return -((queries[:, :, None] - examples.mean(2)[:, None]) ** 2).sum(-1)
            case "matching":
                compared = F.normalize(examples, dim=-1, eps=1e-6).flatten(1, 2)
                cosines = F.normalize(queries, dim=-1, eps=1e-6) @ compared.mT
                attention = (cosines / self.temperature).log_softmax(-1)
                return attention.unflatten(-1, examples.shape[1:3]).logsumexp(-1)  # type: ignore[no-untyped-call,no-any-return]
            case "logistic":
                return self._fitted(examples, queries)

    def _fitted(self, examples: Tensor, queries: Tensor) -> Tensor:
        tasks, ways, count, width = examples.shape
        rows = examples.flatten(1, 2)
        labels = torch.arange(ways, device=rows.device).repeat_interleave(count).expand(tasks, -1)
        begin = {"weight": rows.new_zeros(tasks, width, ways), "bias": rows.new_zeros(tasks, 1, ways)}

        def logits(x: Tensor, head: Weights) -> Tensor:
            return torch.baddbmm(head["bias"], x, head["weight"])

        head = adapt(
            lambda head: self.task_losses(logits(rows, head), labels),
            {name: weight.requires_grad_() for name, weight in begin.items()},
            self.update,
            self.inner_steps,
            order=2,
        ).weights
        return logits(queries, head)


class _Imagination(nn.Module, ABC):
    """From seeds and noise, `[T, ways, imagined, D]` each, to imagined examples."""

    @abstractmethod
    def forward(self, seeds: Tensor, noise: Tensor) -> Tensor: ...

    def see(self, examples: Tensor, episode: Episode) -> None:
        """Take note of training tasks and their examples' features `[T, ways, shots, D]`."""


class _Generator(_Imagination):
    """A perceptron of three layers over seed and noise; at the start it returns the seed, to the bit.

    Positive and negative parts of the seed pass through hidden units of their own, which the first two
    layers copy and the last one joins again. Weights of the noise begin at zero.
    """

    def __init__(self, features: int, *, noisy: bool) -> None:
        super().__init__()
        self.noisy = noisy
        hidden = 2 * features
        self.first, self.second = nn.Linear(2 * features, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, features)
        eye = torch.eye(features)
        both = torch.cat([eye, -eye])
        with torch.no_grad():
            self.first.weight.copy_(torch.cat([both, torch.zeros_like(both)], 1))
            self.second.weight.copy_(torch.eye(hidden))
            self.last.weight.copy_(both.T)
            for layer in (self.first, self.second, self.last):
                layer.bias.zero_()

    def forward(self, seeds: Tensor, noise: Tensor) -> Tensor:
        noise = noise if self.noisy else torch.zeros_like(noise)
        hidden = self.first(torch.cat([seeds, noise], -1)).relu()
        found: Tensor = self.last(self.second(hidden).relu())
        return found


class _Noise(_Imagination):
    """The seed plus Gaussian noise, whose size is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_size = nn.Parameter(torch.tensor(math.log(0.1)))

    def forward(self, seeds: Tensor, noise: Tensor) -> Tensor:
        return seeds + self.log_size.exp() * noise


class _Calibration(_Imagination):
    """Draws from N(μ′, Σ′), with means and variances of the training classes nearest to the seed.

    μ′ is the mean of the seed and the means of these classes, Σ′ that of their variances plus `spread`, on
    the diagonal alone. Statistics are averages over the training so far.
    """

    means: Tensor
    variances: Tensor
    seen: Tensor

    def __init__(self, features: int, classes: int, neighbours: int, spread: float) -> None:
        super().__init__()
        self.neighbours, self.spread = neighbours, spread
        self.register_buffer("means", torch.zeros(classes, features))
        self.register_buffer("variances", torch.zeros(classes, features))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def see(self, examples: Tensor, episode: Episode) -> None:
        x = examples.detach().flatten(0, 1)
        numbers = torch.from_numpy(episode.classes).flatten().to(x.device)
        own = (numbers >= 0) & (numbers < len(self.seen))  # mixtures and turned classes are none of them
        x, numbers = x[own], numbers[own]
        mean = x.mean(1).to(self.means)
        new = ~self.seen[numbers, None]
        before = torch.where(new, mean, self.means[numbers])
        deviation = ((x - before[:, None]) ** 2).mean(1)
        self.means[numbers] = before.lerp(mean, 0.1)
        self.variances[numbers] = torch.where(new, deviation, self.variances[numbers].lerp(deviation, 0.1))
        self.seen[numbers] = True

    def forward(self, seeds: Tensor, noise: Tensor) -> Tensor:
        known = self.means[self.seen]
        if len(known) < self.neighbours:  # of an untrained learner
            return seeds + math.sqrt(self.spread) * noise
        nearest = torch.cdist(seeds.flatten(0, 2), known).topk(self.neighbours, largest=False).indices
        means, variances = known[nearest].sum(1), self.variances[self.seen][nearest].mean(1)
        mean = (seeds + means.view_as(seeds)) / (self.neighbours + 1)
        found: Tensor = mean + (variances.view_as(seeds) + self.spread).sqrt() * noise
        return found


def _imagination(by: By, features: int, shape: TaskShape, neighbours: int, spread: float) -> _Imagination:
    match by:
        case "generator" | "shift":
            return _Generator(features, noisy=by == "generator")
        case "noise":
            return _Noise()
        case "calibration":
            if shape.train_classes is None:
                raise ConfigError(
                    "learner.by: 'calibration' goes by the classes of the training split, and these tasks do "
                    "not tell how many there are. Set learner.by to generator, shift or noise."
                )
            return _Calibration(features, shape.train_classes, neighbours, spread)
