"""A space from a model of one's own: three choices, marked where it is made."""

from torch import nn

import nas


def model(shape):
    """Make a small convolutional network for images."""
    width = nas.width("width", [16, 32])
    operations = {
        "conv": lambda: nn.Conv2d(width, width, 3, padding=1),
        "pool": lambda: nn.MaxPool2d(3, 1, 1),
    }

    def block(i):
        return nn.Sequential(nas.choice(f"op{i}", operations), nn.BatchNorm2d(width), nn.ReLU())

    stem = nn.Conv2d(shape.input[0], width, 3, stride=2, padding=1)
    return nn.Sequential(stem, nas.depth("depth", [1, 2], block), nn.AdaptiveAvgPool2d(1), nn.Flatten())


Model = nas.space_of(model)

if __name__ == "__main__":
    tasks = {"tasks": "glyphs", "learner": "prototypical", "budget": {"train_episodes": 200}}
    found = nas.search(space="marked:Model", controller="evolution", trials=8, name="marked", **tasks)
    print(found.best.architecture)
