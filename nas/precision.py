"""Where and in which arithmetic a trial runs: device, memory format, precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from nas.tasks.base import Episode

_Module = TypeVar("_Module", bound=nn.Module)

Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],
    Field(description="of products and convolutions; auto: bfloat16 for images where the hardware has it"),
]
Named = Literal["float32", "bfloat16"]
"""What `auto` may turn out to be."""

DTYPES: dict[Named, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Device, precision and memory format of a trial.

    Attributes:
        device: of weights and episodes.
        precision: of matrix products and convolutions.
        channels_last: memory format of image networks.
    """

    device: torch.device
    precision: Named
    channels_last: bool

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return DTYPES[self.precision]

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which forward and backward passes run."""
        enabled = self.precision != "float32"
        return torch.autocast(self.device.type, self.dtype, enabled, cache_enabled=False)

    def prepare(self, module: _Module) -> _Module:
        """Return the module on the device, in the memory format."""
        if self.channels_last:
            return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
        return module.to(self.device)

    def place(self, episode: Episode) -> Episode:
        """Return the episode on the device."""
        return episode if self.device.type == "cpu" else episode.to(self.device)


def choose(precision: Precision, *, images: bool, sensitive: bool) -> Arithmetic:
    """Choose the arithmetic: a GPU where this process has one, else the CPU.

    Where that is float32, cuDNN's convolutions, which torch lets round their factors to the ten bits of TF32,
    compute in float32 from then on, in all of this process.

    Args:
        precision: `auto` takes bfloat16 for images where the hardware has it, and float32 otherwise.
        images: whether inputs are images; a regression on vectors needs the digits.
        sensitive: whether the learner's gradients suffer from rounding (see `Learner.sensitive`).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bfloat16" if images and not sensitive and _has_bfloat16(device) else "float32"
    if precision == "float32":
        torch.backends.cudnn.allow_tf32 = False
    return Arithmetic(device, precision, channels_last=images)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
