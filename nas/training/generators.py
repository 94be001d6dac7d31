"""The state of torch's global generators, on the CPU and on the device of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def state(device: torch.device) -> dict[str, Any]:
    """Return the states, for a checkpoint: `torch`, and `cuda` (None on another device)."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(saved: Mapping[str, Any], device: torch.device) -> None:
    """Continue from the states in a checkpoint; one of a GPU has no meaning on another device."""
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], device)
