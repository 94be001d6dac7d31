"""A trained learner on other tasks than its own: a folder of one's own images, other ways and shots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas import plugins
from nas.controller import Score
from nas.errors import ConfigError, DataMissing, Diverged, Infeasible, Unreadable
from nas.export.description import Description
from nas.export.model import Loaded, Model, rebuild
from nas.learners.base import Learner, remedy
from nas.precision import choose
from nas.settings.sections import maker
from nas.tasks.appearance import Appearance, appearance
from nas.tasks.base import TaskSource
from nas.tasks.image_folder import ImageFolder, fitting
from nas.training.scoring import lenient_scores, not_finite, summary


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a learner scored on other tasks.

    Attributes:
        score: mean over the fixed list of test episodes, its interval, and what it was measured on.
        not_finite: episodes with a prediction that is not finite, which counts as wrong.
        images: how the images of these tasks look; None where inputs are no images.
        trained: how those of training look; None where neither the file nor this machine can tell.
    """

    score: Score
    not_finite: int
    images: Appearance | None
    trained: Appearance | None


def sources(description: Description, name: str | None, given: Mapping[str, Any]) -> TaskSource:
    """Return the tasks to score a learner on; images come in the size and the colours that it takes.

    Args:
        description: of the learner.
        name: of the task source; None for that of its training, whose settings it keeps.
        given: settings, which go before all others.

    Raises:
        ConfigError: a setting is wrong, the inputs are of another shape, or its training has seen the test
            classes.
        DataMissing: the data is not on this machine.
    """
    own = description.tasks
    name = own["name"] if name is None else name
    cls = plugins.load("tasks", name, TaskSource)
    known = plugins.settings(cls)
    values = {key: value for key, value in own.items() if key != "name"} if name == own["name"] else {}
    same = name == own["name"] and _same_data(own, given)
    if not same and "size" in known:
        values |= {key: value for key, value in fitting(description.shape).items() if key in known}
    if not same and cls is ImageFolder:
        values["splits"] = "test"  # the learner has seen none of them
    resolved = plugins.resolve(cls, {**values, **given}, "tasks")
    tasks: TaskSource = maker("tasks", {"name": name, **resolved})()
    if tasks.shape.input != description.input:
        raise ConfigError(
            f"tasks: these inputs are of shape {_shape(tasks.shape.input)}, and the network takes "
            f"{_shape(description.input)}. Leave out the settings that shape them, such as tasks.size."
        )
    if same:
        _refuse_seen(tasks, own)
    return tasks


def transfer(
    loaded: Loaded, tasks: TaskSource, episodes: int, scored: Callable[[], None] = lambda: None
) -> Transfer:
    """Score a learner on the fixed list of test episodes of other tasks; `scored` is called after each.

    Raises:
        ConfigError: the learner cannot do such tasks: of other ways, or of another kind.
        Diverged: in regression, an error is not finite.
    """
    learner = _learner(loaded, tasks)
    images = len(tasks.shape.input) == 3
    arithmetic = choose(loaded.description.precision, images=images, sensitive=learner.sensitive)
    learner = arithmetic.prepare(learner)
    scores, lost = lenient_scores(learner, tasks, "test", episodes, arithmetic, scored)
    if not all(map(math.isfinite, scores)):
        raise Diverged(f"{not_finite('test', lost, episodes)} {remedy(learner)}")
    score = summary(learner, tasks, "test", scores)
    return Transfer(score, len(lost), appearance(tasks, "test"), _trained(loaded.description))


def _learner(loaded: Loaded, tasks: TaskSource) -> Learner:
    """Return the learner for tasks of this many ways."""
    description, episode = loaded.description, next(tasks.episodes("test", 1))
    loaded.learner.check(episode)
    outputs = tasks.shape.outputs
    if outputs == description.outputs:
        return loaded.learner
    if not loaded.learner.fixed_ways:
        wider = description.model_copy(update={"outputs": outputs})
        try:
            return rebuild(Model(wider, loaded.learner.state_dict())).learner
        except (Unreadable, Infeasible):
            pass
    raise ConfigError(
        f"tasks.ways: '{loaded.learner.name}' has an output for each of the {description.outputs} classes of "
        f"its training's tasks, and these have {outputs}. Set tasks.ways={description.outputs}, or train a "
        "learner that compares, such as 'prototypical'."
    )


def _trained(description: Description) -> Appearance | None:
    if description.appearance is not None:
        return description.appearance
    try:
        tasks: TaskSource = maker("tasks", description.tasks)()
    except (ConfigError, DataMissing):
        return None
    return appearance(tasks, "train")


def _same_data(own: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether tasks of the same source are drawn from the data of the training."""
    if "path" not in given:
        return True
    try:
        return bool(own.get("path") == plugins.absolute(str(given["path"])))
    except ValueError:  # no file can have this path, which the source will say
        return False


def _refuse_seen(tasks: TaskSource, own: Mapping[str, Any]) -> None:
    learned: TaskSource = maker("tasks", own)()
    seen = tasks.members("test") & (learned.members("train") | learned.members("validation"))
    if seen:
        raise ConfigError(
            f"tasks: {len(seen)} of these test classes, such as '{min(seen)}', were for training or "
            "validation of this learner. Leave the settings that divide the classes as they were."
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
