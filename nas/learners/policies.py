"""Policies of augmentation: which operations images pass through, and how strong they are."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Annotated, Any, Literal, NamedTuple, final

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from nas.errors import ConfigError, UnknownName, Unsupported
from nas.learners.augmentation import Augmentation, Relaxed
from nas.learners.operations import PAPER, Draw, Kind, Operations, draw, usual
from nas.plugins import Choices
from nas.settings_space import Options, Settings
from nas.space import Architecture, Decision, TaskShape
from nas.supernet import Mixture
from nas.tasks.base import Episode

BINS = 30
"""Magnitudes of TrivialAugment besides 0 (Müller & Hutter 2021, §3)."""

LEVELS = 9
"""Magnitudes of AutoAugment besides 0, and ten steps of its probabilities (Cubuk et al. 2019, §3)."""


class Application(NamedTuple):
    """An operation of a sub-policy, how likely it is, and its magnitude from 0 to `LEVELS`."""

    operation: str
    probability: float
    level: int


Images = Annotated[Kind, Field(description="what images show: it says which operations there are")]
Names = Annotated[
    str,
    Field(
        min_length=1,
        description="names joined by +, or all: those on such images that keep their class",
    ),
]
Where = Annotated[
    Literal["examples", "support", "query", "task", "shot"],
    Field(
        description="what passes through: every image by itself, those of the support or of the queries "
        "alone, each class as a whole, or copies of the support that are added to it"
    ),
]


def named(images: Kind, operations: str) -> tuple[str, ...]:
    """Return the names that a setting `operations` gives."""
    return usual(images) if operations == "all" else tuple(dict.fromkeys(operations.split("+")))


class ImagePolicy(Augmentation):
    """Draws operations and magnitudes, and passes images through them.

    Raises:
        ConfigError: the inputs are not such images, an operation is unknown, or it gives images of another
            class and they do not pass through it class by class.
    """

    @abstractmethod
    def __init__(
        self,
        shape: TaskShape,
        *,
        images: Images = "strokes",
        operations: Names = "all",
        where: Where = "examples",
    ) -> None:
        super().__init__(shape)
        self.where = where
        path = "learner.augmentation"
        names = named(images, operations)
        try:
            self.operations = Operations(images, names)
        except (ConfigError, UnknownName) as error:
            raise ConfigError(f"{path}.operations: {error}") from None
        try:
            self.operations.check(shape.input)
        except ConfigError as error:
            raise ConfigError(f"{path}.images={images}: {error}") from None
        if (changing := self.operations.changing) and where != "task":
            raise ConfigError(
                f"{path}.operations: {', '.join(changing)} would give images of another class. Leave it out, "
                f"or set {path}.where=task: a class then passes through as a whole."
            )

    @abstractmethod
    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose operations and magnitudes.

        Args:
            count: of images, or of classes.
            generator: the only source of chance, on the CPU.

        Returns:
            Places in `operations.names`, −1 for none, and magnitudes from 0 to 1, both `[count, N]`.
        """

    def forward(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Pass the images of supports or queries, or whole classes, through the policy."""
        if self.where == "task":
            return self._classes(episode, generator)
        if self.where in ("support", "shot") and not episode.shots:
            raise ConfigError(
                f"learner.augmentation.where={self.where}: it augments the support of a task, and ordinary "
                "data has none. Set query."
            )
        if self.where == "shot":
            return self._copied(episode, generator)
        support, query = episode.support_x, episode.query_x
        if self.where == "query":
            return replace(episode, query_x=self._passed(query, generator))
        if self.where == "support":
            return replace(episode, support_x=self._passed(support, generator))
        both = self._passed(torch.cat([support, query], 1), generator)
        count = support.shape[1]
        return replace(episode, support_x=both[:, :count], query_x=both[:, count:])

    def _passed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Pass images `[T, B, C, H, W]` through, each by itself."""
        images = x.flatten(0, 1)
        return self.applied(images, self._drawn(len(images), generator)).view_as(x)

    def applied(self, images: Tensor, drawn: Draw) -> Tensor:
        """Return images `[B, C, H, W]` after what was drawn for each."""
        return self.operations(images, drawn)

    def _drawn(self, count: int, generator: torch.Generator) -> Draw:
        return draw(*self.choose(count, generator), generator)

    def _copied(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Add a copy of each support image to its class, so that there are twice as many shots."""
        copies = self._passed(episode.support_x, generator)
        by_class = (len(episode), episode.ways, episode.shots, *copies.shape[2:])
        both = torch.cat([x.view(by_class) for x in (episode.support_x, copies)], 2)
        return replace(
            episode,
            support_x=both.flatten(1, 2),
            support_y=episode.support_y.repeat_interleave(2, 1),
            shots=2 * episode.shots,
        )

    def _classes(self, episode: Episode, generator: torch.Generator) -> Episode:
        """Pass each class of each task through as a whole."""
        if episode.regression or not episode.shots:
            raise ConfigError(
                "learner.augmentation.where=task: whole classes are those of few-shot classification, and "
                "these tasks are none. Set examples."
            )
        drawn = self._drawn(len(episode) * episode.ways, generator)
        first = episode.ways * torch.arange(len(episode))[:, None]

        x = torch.cat([episode.support_x, episode.query_x], 1)
        y = torch.cat([episode.support_y, episode.query_y], 1).cpu()
        passed = self.applied(x.flatten(0, 1), drawn.at((first + y).flatten())).view_as(x)
        count = episode.support_x.shape[1]
        classes = episode.classes
        if self.operations.changing:
            classes = 8 * classes + self._symmetry(drawn).view(-1, episode.ways).numpy()
        return replace(
            episode,
            support_x=passed[:, :count],
            query_x=passed[:, count:],
            classes=classes,
        )

    def _symmetry(self, drawn: Draw) -> Tensor:
        """Return which of the eight symmetries of a square the turns and flips of each class make: `[B]`.

        4 for a mirror image, plus the quarter turns after it.
        """
        turns = torch.zeros(len(drawn.which), dtype=torch.int64)
        mirrored = torch.zeros_like(turns)
        for number in range(drawn.which.shape[1]):
            step = drawn.step(number)
            is_ = {
                name: (step.which == place) & (step.magnitude != 0)
                for place, name in enumerate(self.operations.names)
            }
            none = torch.zeros_like(turns, dtype=torch.bool)
            turns = torch.where(is_.get("quarter_turn", none), turns + step.magnitude.sign().long(), turns)
            turns = torch.where(is_.get("flip_x", none), -turns, turns)
            turns = torch.where(is_.get("flip_y", none), 2 - turns, turns)
            mirrored ^= (is_.get("flip_x", none) | is_.get("flip_y", none)).long()
        return 4 * mirrored + turns % 4

    def tabled(self, policy: Sequence[Sequence[Application]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the operations of sub-policies, their probabilities and magnitudes, `[sub-policies, most]`.

        Raises:
            ConfigError: an operation is not among `operations`.
        """
        known = {name: place for place, name in enumerate(self.operations.names)}
        for part in (part for sub in policy for part in sub):
            if part.operation not in known:
                raise ConfigError(
                    f"learner.augmentation.policy: {UnknownName('operation', part.operation, known)}"
                )
        longest = max(map(len, policy))
        rows = [
            [(known[operation], p, level) for operation, p, level in sub]
            + [(-1, 0.0, 0)] * (longest - len(sub))
            for sub in policy
        ]
        table = torch.tensor(rows, dtype=torch.float64)
        return table[..., 0].long(), table[..., 1].float(), (table[..., 2] / LEVELS).float()


@final
class RandAugment(ImagePolicy):
    """A few operations after one another, drawn for each image, all of one magnitude.

    Cubuk et al. (2020). As there, doing nothing is one of the operations.
    """

    name = "randaugment"

    def __init__(
        self,
        shape: TaskShape,
        *,
        count: Annotated[int, Field(ge=1, le=10, description="operations that an image passes through")] = 2,
        magnitude: Annotated[
            float, Field(ge=0, le=1, description="share of what an operation does at most")
        ] = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(shape, **settings)
        self.count, self.magnitude = count, magnitude

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose operations uniformly, with replacement."""
        which = torch.randint(-1, len(self.operations.names), (count, self.count), generator=generator)
        return which, torch.full(which.shape, self.magnitude)


@final
class TrivialAugment(ImagePolicy):
    """One operation for each image, of a magnitude of its own; nothing to set.

    Müller & Hutter (2021). As there, doing nothing is one of the operations, and magnitudes are uniform.
    """

    name = "trivialaugment"

    def __init__(self, shape: TaskShape, **settings: Any) -> None:
        super().__init__(shape, **settings)

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose an operation and a magnitude uniformly."""
        which = torch.randint(-1, len(self.operations.names), (count, 1), generator=generator)
        return which, torch.randint(BINS + 1, (count, 1), generator=generator) / BINS


def parse(text: str) -> list[list[Application]]:
    """Read a policy: `rotate:0.5:3+thin:0.2:7/shear_x:1.0:9` is one of two operations and one of one.

    Raises:
        ValueError: it is no policy.
    """
    return [[_application(part) for part in sub.split("+")] for sub in text.split("/")]


def unparse(policy: Sequence[Sequence[Application]]) -> str:
    """Return the text of a policy, which `parse` reads."""
    return "/".join("+".join(":".join(map(str, part)) for part in sub) for sub in policy)


def _application(text: str) -> Application:
    found = re.fullmatch(r"(\w+):(1(?:\.0*)?|0(?:\.[0-9]{0,4})?):([0-9])", text)
    if found is None:
        raise ValueError(
            f"'{text}' is no operation with a probability from 0 to 1, of four decimals at most, and a "
            f"magnitude from 0 to {LEVELS}, as rotate:0.5:3 is. Join those of a sub-policy by +, and "
            "sub-policies by /"
        )
    return Application(found[1], float(found[2]), int(found[3]))


def canonical(text: str) -> str:
    """Return a policy as it is written.

    Raises:
        ValueError: it is none.
    """
    return unparse(parse(text))


def choices(settings: Mapping[str, Any]) -> list[Any]:
    """Return what the text of a policy is put together of, given the settings of `autoaugment`.

    Five sub-policies of two operations, each with eleven probabilities and ten magnitudes: 30 decisions.

    Raises:
        ConfigError: there are no such images.
    """
    operations = list(_operations(settings))
    probabilities = [step / 10 for step in range(11)]
    one = [operations, ":", probabilities, ":", list(range(LEVELS + 1))]
    sub = [*one, "+", *one]
    return [*sub, "/", *sub, "/", *sub, "/", *sub, "/", *sub]


def flat_choices(settings: Mapping[str, Any]) -> list[Any]:
    """Return what the text of a policy of `pba` is put together of, given its settings.

    Two entries of each operation, each with eleven probabilities and ten magnitudes; all 0 is the first.

    Raises:
        ConfigError: there are no such images.
    """
    probabilities, levels = [step / 10 for step in range(11)], list(range(LEVELS + 1))
    entries = [name for name in _operations(settings) for _ in range(2)]
    found = [[f"+{name}:", probabilities, ":", levels] for name in entries]
    return [found[0][0][1:], *found[0][1:], *chain.from_iterable(found[1:])]


def _operations(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if settings["images"] not in PAPER:
        raise ConfigError(f"learner.augmentation.images: expected {' or '.join(PAPER)}.")
    return named(settings["images"], settings["operations"])


PolicyText = Annotated[
    str,
    AfterValidator(canonical),
    Choices(choices),
    Field(
        description="sub-policies, as rotate:0.5:3+thin:0.2:7/shear_x:1.0:9; any, where a search chooses it"
    ),
]


@final
class AutoAugment(ImagePolicy):
    """A policy as AutoAugment searches for: sub-policies of operations with probabilities and magnitudes.

    Cubuk et al. (2019). A sub-policy is drawn uniformly for each image; each of its operations happens with
    its probability. Magnitudes go up to 9 in whole steps.

    Raises:
        ConfigError: the policy has an operation that is not among `operations`.
    """

    name = "autoaugment"

    def __init__(self, shape: TaskShape, *, policy: PolicyText, **settings: Any) -> None:
        super().__init__(shape, **settings)
        self.policy = parse(policy)
        self._which, self._probability, self._magnitude = self.tabled(self.policy)
        self._settings = {"shape": shape, **settings}

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose a sub-policy, and which of its operations happen."""
        sub = torch.randint(len(self.policy), (count,), generator=generator)
        chance = self._probability[sub]
        happens = torch.rand(chance.shape, generator=generator) < chance
        return torch.where(happens, self._which[sub], -1), self._magnitude[sub]

    def relax(self, space: Settings, setting: str) -> Relaxed:
        """Return the relaxation of its policy, where it is chosen as a whole, from `any`."""
        return RelaxedPolicy(space, setting, **self._settings)


COUNTS = (0.2, 0.3, 0.5)
"""Probabilities that 0, 1 or 2 operations are done to an image (Ho et al. 2019, Algorithm 2)."""


def _flat(text: str) -> str:
    """Return a policy as it is written.

    Raises:
        ValueError: it is none, or has sub-policies.
    """
    policy = parse(text)
    if len(policy) > 1:
        raise ValueError("it is one list of operations, joined by +, without sub-policies")
    return unparse(policy)


FlatText = Annotated[
    str,
    AfterValidator(_flat),
    Choices(flat_choices),
    Field(description="operations, as rotate:0.5:3+thin:0.2:7; any, where a search chooses it"),
]


@final
class PopulationAugment(ImagePolicy):
    """A policy as population-based augmentation searches for: a list of operations, in no order.

    Ho et al. (2019). For each image a number of operations is drawn, 0, 1 or 2 with probability 0.2, 0.3 and
    0.5. Operations come in a random order, and each happens with its probability, until so many did. A policy
    that a search chooses has each operation twice, with probabilities in tenths and magnitudes up to 9.

    Raises:
        ConfigError: the policy has an operation that is not among `operations`.
    """

    name = "pba"

    def __init__(self, shape: TaskShape, *, policy: FlatText, **settings: Any) -> None:
        super().__init__(shape, **settings)
        [self.policy] = parse(policy)
        self._which, self._probability, self._magnitude = (row[0] for row in self.tabled([self.policy]))

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose how many operations, their order, and which of them happen."""
        shape = (count, len(self.policy))
        many = torch.multinomial(torch.tensor(COUNTS), count, replacement=True, generator=generator)
        order = torch.rand(shape, generator=generator).argsort(1)
        happens = torch.rand(shape, generator=generator) < self._probability[order]
        turn = happens.cumsum(1) * happens
        which, magnitude = [], []
        for number in range(1, len(COUNTS)):
            here = turn == number
            place = order.gather(1, here.int().argmax(1, keepdim=True))
            done = here.any(1, keepdim=True) & (many[:, None] >= number)
            which.append(torch.where(done, self._which[place], -1))
            magnitude.append(self._magnitude[place])
        return torch.cat(which, 1), torch.cat(magnitude, 1)


SUBPOLICIES = 5
"""Of a policy that is derived (Cubuk et al. 2019, §3)."""

STEPS = 10
"""Of a probability that is derived, from 0 to 1."""


@final
class RelaxedPolicy(ImagePolicy, Relaxed):
    """Pairs of different operations, each drawn by its weight (DADA, Li et al. 2020, arXiv 2003.03780).

    Each operation of a pair happens with a probability, at a magnitude; both are of this pair alone. Under a
    mixture of zeros and ones, but for magnitudes, all images pass through the same operations; else each
    draws its own. Only the magnitude has a gradient, a straight-through one: that of each pixel of what
    an operation gave, summed over pixels, whatever the operation. Nothing of it reaches the images.

    It derives the five pairs of the largest weights, each with its probabilities and magnitudes rounded to
    the steps of the space. With fewer than five pairs, they come several times.

    Args:
        space: the settings that can be chosen of the learner.
        setting: which of them the policy belongs to.
        shape: of tasks.
        settings: as of `ImagePolicy`.

    Raises:
        Unsupported: the policy is not chosen from `any`, or there is only one operation.
    """

    name = "relaxed"

    def __init__(self, space: Settings, setting: str, shape: TaskShape, **settings: Any) -> None:
        super().__init__(shape, **settings)
        self._space, self._setting = space, setting
        section = dict(space.chosen(space.default)[setting])
        offered = choices(section)
        options = Options(setting, {"name": section["name"], "policy": offered})
        path = f"slots.{space.name}.{setting}"
        if not set(options.decisions) <= set(space.decisions):
            raise Unsupported(f'{path}.policy: gradients lead to the whole policy alone. Set policy="any".')
        names = self.operations.names
        if len(names) < 2:
            raise Unsupported(f"{path}.operations: gradients lead to pairs of operations. Name two or more.")
        self._pairs = list(combinations(names, 2))
        found = [Decision("pair", tuple("+".join(pair) for pair in self._pairs))]
        for pair in self._pairs:
            for name in pair:
                of = f"{'+'.join(pair)}.{name}"
                found += [Decision(f"{of}.happens", (0, 1)), Decision(f"{of}.magnitude", (0, LEVELS))]
        self.decisions = tuple(found)
        self.graded = frozenset(range(1, len(found)))
        self.drawn = frozenset((0, *range(1, len(found), 2)))
        self.conditions = {
            i: (0, (i - 1) // 4) if i % 2 else (i - 1, 1)  # a magnitude matters where its operation happens
            for i in range(1, len(found))
        }
        which = [[names.index(name) for name in pair] for pair in self._pairs]
        self._which = torch.tensor(which)
        self.mixture = [torch.full((len(d.choices),), 1 / len(d.choices)) for d in found]

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose pairs, and which of their operations happen; magnitudes have a graph."""
        weights = self.mixture[0].detach().cpu()
        pairs = weights.double().multinomial(count, replacement=True, generator=generator)
        used, rows = torch.unique(pairs, return_inverse=True)
        table = torch.stack([self._table(int(pair)) for pair in used]).cpu()[rows]
        happens = torch.rand(count, 2, generator=generator) < table[..., 0].detach()
        return torch.where(happens, self._which[pairs], -1), table[..., 1]

    def _table(self, pair: int) -> Tensor:
        """Return of both operations the probability and the magnitude, `[2, 2]`."""
        of_pair = self.mixture[1 + 4 * pair : 5 + 4 * pair]
        return torch.stack([weights[1] for weights in of_pair]).view(2, 2)

    def applied(self, images: Tensor, drawn: Draw) -> Tensor:
        """Return the images, with the gradient of each pixel as that of the magnitudes."""
        with torch.no_grad():
            out = super().applied(images, drawn)
        if not drawn.magnitude.requires_grad:
            return out
        sign = 1 - 2 * torch.signbit(drawn.magnitude.detach()).to(drawn.magnitude)
        own = torch.where(drawn.which >= 0, sign * drawn.magnitude, 0).sum(1)
        felt: Tensor = (own - own.detach()).to(out)
        return out + felt.view(-1, 1, 1, 1)

    def derive(self, mixture: Mixture) -> Architecture:
        """Return the policy of the largest weights among those that are not 0."""
        weights = mixture[0].tolist()
        order = sorted((i for i, weight in enumerate(weights) if weight), key=lambda i: (-weights[i], i))
        chosen = sorted((order * SUBPOLICIES)[:SUBPOLICIES], key=order.index)
        return self._of(unparse([self._sub(pair, mixture) for pair in chosen]))

    def _sub(self, pair: int, mixture: Mixture) -> list[Application]:
        grades = [float(weights[1] / weights.sum()) for weights in mixture[1 + 4 * pair : 5 + 4 * pair]]
        rounded = [
            (round(STEPS * p) / STEPS, round(LEVELS * m))
            for p, m in zip(grades[::2], grades[1::2], strict=True)
        ]
        return [Application(name, *own) for name, own in zip(self._pairs[pair], rounded, strict=True)]

    def _of(self, policy: str) -> Architecture:
        values = self._space.chosen(self._space.default)
        return self._space.find({**values, self._setting: {**values[self._setting], "policy": policy}})

    def mixture_of(self, architecture: Architecture) -> list[Tensor]:
        """Return the weights of the pairs of a policy, and its probabilities and magnitudes.

        Raises:
            Unsupported: it has a sub-policy that is no pair of different operations, in their order, or a
                pair twice in two ways.
        """
        policy = parse(self._space.chosen(architecture)[self._setting]["policy"])
        found = [torch.zeros(len(self._pairs)), *(torch.tensor([1.0, 0.0]) for _ in self.decisions[1:])]
        subs = dict[int, list[Application]]()
        for sub in policy:
            names = tuple(part.operation for part in sub)
            pair = self._pairs.index(names) if names in self._pairs else None
            if pair is None or subs.setdefault(pair, sub) != sub:
                raise Unsupported(f"The policy {unparse(policy)} has no mixture: {unparse([sub])}.")
            found[0][pair] += 1 / len(policy)
            for place, (_, probability, level) in enumerate(sub):
                for offset, grade in ((1, probability), (2, level / LEVELS)):
                    found[4 * pair + 2 * place + offset] = torch.tensor([1 - grade, grade])
        return found
