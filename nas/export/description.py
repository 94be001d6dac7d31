"""What a trained learner is, in plain JSON: how to rebuild it, and what it scored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from nas.learners.base import Normalization
from nas.precision import Precision
from nas.settings.phases import Phase
from nas.settings.sections import StrictModel, section
from nas.space import TaskShape
from nas.tasks.appearance import Appearance

Positive = Annotated[int, Field(ge=1)]


class Scored(StrictModel):
    """What the learner scored on the fixed list of one split's episodes.

    Attributes:
        score: mean over episodes, higher is better: accuracy, or −MSE in regression.
        ci95: half width of its 95 % interval over episodes.
        episodes: how many there were.
    """

    score: float
    ci95: float
    episodes: Positive


class Description(StrictModel):
    """How to rebuild a trained learner around its weights, and what it is worth.

    Making one resolves the sections of the space and of the learner, so their plugins have to be installed.

    Attributes:
        space: the search space's name and settings.
        architecture: its text in that space.
        key: its canonical key.
        input: shape of one example: (channels, height, width), or (features,).
        outputs: classes of one task, or dimensions of the target in regression.
        train_classes: of all training tasks together, where the tasks tell.
        learner: the learner's name and settings.
        normalization: where batch norm takes its statistics when a query is predicted.
        phases: what the training went through, as set or as a search found it; `learner` has the settings of
            the last one. None: they stayed, or the file is older.
        chosen: the settings that a search chose along with the network, by section.
        precision: of the arithmetic in training and scoring; the weights are float32.
        tasks: the task source's name and settings.
        task: the task in a few words.
        seed: of the training.
        train_episodes: training tasks behind these weights.
        parameters, macs: of the backbone; multiply-accumulates for one example.
        validation, test: scores on the two splits.
        split, classes: the test split's full name, and a hash of its classes.
        appearance: how the training images look; None where inputs are no images, and in older files.
        versions: of the packages that trained it.
    """

    space: Annotated[dict[str, Any], section("space")]
    architecture: str
    key: str
    input: Annotated[tuple[Positive, ...], Field(min_length=1)]
    outputs: Positive
    train_classes: Positive | None = None
    learner: Annotated[dict[str, Any], section("learner")]
    phases: list[Phase] | None = None
    chosen: dict[str, dict[str, Any]] = Field(default_factory=dict)
    normalization: Normalization
    precision: Precision
    tasks: dict[str, Any]
    task: str
    seed: int
    train_episodes: int
    parameters: int
    macs: int
    validation: Scored
    test: Scored
    split: str
    classes: str
    appearance: Appearance | None = None
    versions: dict[str, str]

    @property
    def shape(self) -> TaskShape:
        """What the network fits."""
        return TaskShape(self.input, self.outputs, self.train_classes)
