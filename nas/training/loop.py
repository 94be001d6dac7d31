"""The meta-training loop: one step after another, and a state from which it continues bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nas.backbone import BackboneSpace
from nas.chance import forked
from nas.errors import ConfigError, Diverged, Infeasible, PluginError, Unsupported
from nas.learners.augmentation import chance
from nas.learners.base import Learner, remedy
from nas.learners.schedule import constant
from nas.learners.weighting import Judged
from nas.precision import Arithmetic, Precision, choose
from nas.space import Architecture, TaskShape
from nas.tasks.base import Episode, Split, TaskSource
from nas.training import generators
from nas.training.checkpoint import Checkpoint
from nas.training.rates import Rates

BUILT = 3
"""How many architectures a rehearsal builds."""

LEARNED_FROM: tuple[Split, ...] = ("train", "validation")
"""The splits that a search draws tasks from."""

TRIED = 10
"""How many may raise an error before it gives up."""

StateDict = dict[str, Any]
"""Plain containers, numbers and tensors: `torch.load` reads it with `weights_only=True`."""


class Turn(NamedTuple):
    """Where a training goes on under other settings, or with another network.

    Attributes:
        at: training episodes; of a step that passes them, its end.
        make: returns the learner with those settings, and what it learns from.
        inherit: returns what a learner with another network than before takes over of a state, by name; None:
            the network is the same.
    """

    at: int
    make: Callable[[], tuple[Learner, TaskSource]]
    inherit: Callable[[Learner, Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None


class Training:
    """One learner's meta-training on tasks of the training classes.

    Before each meta-step the learning rates are the optimizer's initial ones times `learner.decay(done /
    episodes)`. Weights, and whatever else the learner draws, come from torch's global generator, which
    `start` seeds; tasks come from a generator of their own, and their augmentation from one for each step.

    At a turn it goes on in its state with another learner: weights, the optimizer's moments, and tasks.

    Attributes:
        learner: what learns, in training mode.
        arithmetic: where and in which precision.
        done: training episodes so far.

    Args:
        learner: placed by `arithmetic.prepare`.
        tasks: samples the episodes.
        episodes: the budget.
        seed: of the training episodes.
        arithmetic: where and in which precision.
        turns: in their order.
    """

    def __init__(
        self,
        learner: Learner,
        tasks: TaskSource,
        episodes: int,
        seed: int,
        arithmetic: Arithmetic,
        turns: Sequence[Turn] = (),
    ) -> None:
        self.arithmetic, self.done = arithmetic, 0
        self._budget, self._turns = episodes, list(turns)
        self._turning = bool(turns)
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._begin(learner, tasks)

    def _begin(self, learner: Learner, tasks: TaskSource) -> None:
        self.learner, self._tasks = learner.train(), tasks
        self._optimizer = learner.optimizer()
        self._judged = learner.weighting.optimizer if isinstance(learner.weighting, Judged) else None
        self._rates = Rates(self._optimizer, learner.decay)

    @property
    def shared(self) -> int:
        """The training episodes after which a longer training would be in the same state; 0: it never is.

        A last step that the budget cuts short is no step of a longer training. Where the rate falls with the
        budget, or there are turns, none is.
        """
        whole = self._budget - self._budget % self.learner.meta_batch
        return whole if constant(self.learner.decay) and not self._turning else 0

    def until(self, mark: int) -> Iterator[float]:
        """Take meta-steps until `mark` training episodes are done, or the budget; yield each one's loss.

        A meta-step takes `learner.meta_batch` episodes, or what is left of the budget, and may pass the mark.

        Raises:
            Diverged: a loss is NaN or infinite.
        """
        while self.done < min(mark, self._budget):
            if self._turns and self._turns[0].at <= self.done:
                state = self.state()
                last = self._turn(lambda turn: turn.at <= self.done)
                self._adopt(state, last)
            yield self._step()

    def _turn(self, passed: Callable[[Turn], bool]) -> Turn | None:
        """Begin with the learner of the last turn that is passed; what it knows is for the caller to give."""
        last = None
        while self._turns and passed(self._turns[0]):
            last = self._turns.pop(0)
        if last is not None:
            learner, tasks = last.make()
            self._begin(self.arithmetic.prepare(learner), tasks)
        return last

    def _adopt(self, state: StateDict, turn: Turn | None) -> None:
        """Continue from the state of another learner, with this network or one that inherits from it.

        What this one has besides, or in another shape, begins anew; so does what the optimizer gathers, where
        the network is another one. Settings of optimizers are its own.
        """
        own, saved = self.learner.state_dict(), state["learner"]
        if turn is not None and turn.inherit is not None:
            self.learner.load_state_dict(turn.inherit(self.learner, saved), strict=False)
            self._go_on(state)
            return
        fitting = {name: x for name, x in saved.items() if name in own and own[name].shape == x.shape}
        self.learner.load_state_dict(fitting, strict=False)
        if fitting.keys() >= dict(self.learner.named_parameters()).keys():
            _take_moments(self._optimizer, state["optimizer"])
            if self._judged is not None and "weighting" in state:
                _take_moments(self._judged, state["weighting"])
        self._go_on(state)

    def _step(self) -> float:
        tasks = min(self.learner.meta_batch, self._budget - self.done)
        episode = self.arithmetic.place(self._tasks.sample("train", tasks, self._rng))
        self._rates.set(self.done / self._budget)
        self._optimizer.zero_grad(set_to_none=True)
        with self.arithmetic.autocast():
            loss = self.learner.learn_from(episode, chance(self._seed, self.done), self._optimizer)
        self._optimizer.step()
        self.done += tasks
        if not math.isfinite(loss):
            raise Diverged(
                f"The training loss is {loss} after {self.done} training episodes. {remedy(self.learner)}"
            )
        return loss

    def state(self) -> StateDict:
        """Return all that the next steps depend on; what it holds is not changed by them."""
        return {
            "done": self.done,
            "learner": copied(self.learner.state_dict()),
            "optimizer": copied(self._optimizer.state_dict()),
            **({} if self._judged is None else {"weighting": copied(self._judged.state_dict())}),
            "episodes": self._rng.bit_generator.state,
            **generators.state(self.arithmetic.device),
        }

    def restore(self, state: StateDict) -> None:
        """Continue from a state of a training of the same learners on the same tasks."""
        self._turn(lambda turn: turn.at < state["done"])
        self.learner.load_state_dict(state["learner"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._judged is not None:
            self._judged.load_state_dict(state["weighting"])
        self._go_on(state)

    def _go_on(self, state: StateDict) -> None:
        """Take over chance and count of a state."""
        self._rng.bit_generator.state = state["episodes"]
        generators.restore(state, self.arithmetic.device)
        self.done = state["done"]


def _take_moments(optimizer: torch.optim.Optimizer, state: StateDict) -> None:
    """Take over what an optimizer has gathered, and no setting; nothing, if that is of other groups."""
    settings = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError:
        return
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def start(
    space: BackboneSpace,
    architecture: Architecture,
    tasks: TaskSource,
    learner: Callable[[nn.Module, TaskShape], Learner],
    precision: Precision,
    episodes: int,
    seed: int,
    turns: Sequence[Turn] = (),
) -> Training:
    """Begin a training from scratch; sets torch's global seed.

    Args:
        space: builds the backbone.
        architecture: the backbone's.
        tasks: samples the episodes.
        learner: from a backbone and a shape to a learner.
        precision: of the arithmetic.
        episodes: the budget.
        seed: of the weights and of the training episodes.
        turns: where it goes on under other settings, in their order.

    Raises:
        Infeasible: the architecture has no network for these tasks.
    """
    torch.manual_seed(seed)
    made = learner(space.build(architecture, tasks.shape), tasks.shape)
    arithmetic = _arithmetic(made, tasks, precision)
    return Training(arithmetic.prepare(made), tasks, episodes, seed, arithmetic, turns)


def resume(begin: Callable[[], Training], shorter: Checkpoint | None) -> Training:
    """Begin a training, from the state that a shorter one of the same kind left, if it passes through that.

    Args:
        begin: begins it from scratch.
        shorter: what it left; None: nothing.
    """
    training = begin()
    saved = None if shorter is None else shorter.load()
    if saved is None or saved["done"] > training.shared:
        return training
    try:
        training.restore(saved)
    except (KeyError, TypeError, ValueError, RuntimeError):  # of a plugin that has changed since
        return begin()
    return training


def rehearse(
    space: BackboneSpace,
    tasks: TaskSource,
    learner: Callable[[nn.Module, TaskShape], Learner],
    precision: Precision = "auto",
) -> Arithmetic:
    """Ask the space about the tasks, and take one meta-gradient with a network of a single linear layer.

    What is wrong whatever the architecture shows here, before any is trained: a few architectures are built,
    too, without allocating a weight. Returns where and in which precision a training would run on this
    machine.

    Raises:
        Unsupported: no architecture of the space has a network for these tasks.
        PluginError: what the space builds is no backbone, or it can build none of the architectures tried;
            or tasks have other inputs than their shape says.
        ConfigError: the learner cannot learn these tasks, or not with its settings, or not in this precision.
    """
    try:
        space.check_shape(tasks.shape)
    except Infeasible as error:
        raise Unsupported(str(error)) from None
    _build_some(space, tasks.shape)
    shape, training, validation = tasks.shape, *(next(tasks.episodes(s, 1)) for s in LEARNED_FROM)
    for episode in (training, validation):
        _check_inputs(episode, tasks)
    with forked():
        made = learner(_Linear(shape), shape)
        made.check(validation, training)
        made.weighting.check(training)
        made.train().learn_from(training, chance(0))
    weights = [weight for weight in made.weighting.parameters() if weight.requires_grad]
    if training.shots and weights and all(weight.grad is None for weight in weights):
        raise ConfigError(
            f"learner.weighting: '{made.weighting.name}' learns through the steps of an inner loop, and no "
            f"gradient of '{made.name}' with these settings reaches it. Set a learner that has such a loop, "
            "as 'maml' and 'anil' with learner.order=2, or another weighting."
        )
    if made.sensitive and precision == "bfloat16":
        raise ConfigError(
            f"precision: '{made.name}' learns through gradient steps on each task, which the rounding of "
            "bfloat16 falsifies. Set auto or float32: `resources.precision` of a search, `precision` of an "
            "evaluation."
        )
    return _arithmetic(made, tasks, precision)


def arithmetic_of(
    tasks: TaskSource, learner: Callable[[nn.Module, TaskShape], Learner], precision: Precision
) -> Arithmetic:
    """Return where and in which precision a training would run on this machine.

    No architecture is built, and torch's generator is left as it was.
    """
    with forked():
        made = learner(_Linear(tasks.shape), tasks.shape)
    return _arithmetic(made, tasks, precision)


def _build_some(space: BackboneSpace, shape: TaskShape) -> None:
    """Build a few architectures; a failure of some alone costs their trials, not the search.

    Raises:
        PluginError: what was built is no backbone, or each attempt raised an error.
    """
    rng, built, failures = np.random.default_rng(0), 0, list[Exception]()
    while built < BUILT and len(failures) < TRIED:
        try:
            space.cost(space.sample(rng), shape)
            built += 1
        except PluginError:
            raise
        except Infeasible:
            built += 1
        except Exception as error:  # whatever the code of a plugin raises
            failures.append(error)
    if not built:
        first = failures[0]
        raise PluginError(
            f"Space '{space.name}' can build none of {TRIED} architectures for inputs of shape "
            f"{shape.input}: {type(first).__name__}: {first}"
        ) from first


def _check_inputs(episode: Episode, tasks: TaskSource) -> None:
    """Refuse tasks whose inputs are not what their source's shape says.

    Raises:
        PluginError: they are of another shape or type.
    """
    for part in ("support_x", "query_x"):
        x: Tensor = getattr(episode, part)
        if x.shape[2:] != tasks.shape.input or x.dtype != torch.float32:
            raise PluginError(
                f"The tasks '{tasks.name}' gave {part} of shape {list(x.shape)}, {x.dtype}; expected [tasks, "
                f"examples, {', '.join(map(str, tasks.shape.input))}], torch.float32, as its `shape` says."
            )


def _arithmetic(learner: Learner, tasks: TaskSource, precision: Precision) -> Arithmetic:
    return choose(precision, images=len(tasks.shape.input) == 3, sensitive=learner.sensitive)


class _Linear(nn.Module):
    """Linear features of the flattened example."""

    out_features = 8

    def __init__(self, shape: TaskShape) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(shape.input), self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out


def copied(state: Any) -> Any:
    """Return nested containers with every tensor copied to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state
