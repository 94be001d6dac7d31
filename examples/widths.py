"""A search space of one's own: three convolutions, and how wide each is."""

from torch import nn

from nas.backbone import BackboneSpace
from nas.errors import Infeasible
from nas.space import Architecture, Decision, TaskShape


class Widths(BackboneSpace):
    """Three 3×3 convolutions of chosen widths."""

    name = "widths"

    def __init__(self) -> None:
        self.decisions = tuple(Decision(f"layer{i}", (8, 16, 32, 64)) for i in range(3))

    def check_shape(self, shape: TaskShape) -> None:
        """Refuse what is no image."""
        if len(shape.input) != 3:
            raise Infeasible("Convolutions need images: choose other tasks, or the space 'mlp'.")

    def build(self, architecture: Architecture, shape: TaskShape) -> nn.Module:
        """Stack the convolutions, each halving the map."""
        self.check_shape(shape)
        channels, layers = shape.input[0], []
        for width in self.values(self.check(architecture)).values():
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        backbone.out_features = channels
        return backbone

    def canonical(self, architecture: Architecture) -> str:
        """No two choices make the same network."""
        return self.encode(architecture)
