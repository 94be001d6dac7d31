"""Tensors as JSON: type, shape, and their bytes in base64, little-endian whatever the machine."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


class _Packed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dtype: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    data: str


def pack(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as `{"dtype": "float32", "shape": [64, 1, 3, 3], "data": base64}`, rows first.

    Raises:
        KeyError: of a type that has no name here, such as complex.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    integers = tensor.detach().cpu().contiguous().view(_bits(tensor.dtype)).numpy()
    data = integers.astype(integers.dtype.newbyteorder("<")).tobytes()
    return {
        "dtype": names[tensor.dtype],
        "shape": list(tensor.shape),
        "data": base64.b64encode(data).decode("ascii"),
    }


def unpack(packed: Any) -> Tensor:
    """Return the tensor that `pack` made into JSON.

    Raises:
        ValueError, KeyError: it is no such thing, or its bytes do not fill the shape.
    """
    checked = _Packed.model_validate(packed)
    dtype = DTYPES[checked.dtype]
    native = torch.empty(0, dtype=_bits(dtype)).numpy().dtype
    data = base64.b64decode(checked.data, validate=True)
    integers = np.frombuffer(data, native.newbyteorder("<")).astype(native).reshape(checked.shape)
    return torch.from_numpy(integers).view(dtype)


def _bits(dtype: torch.dtype) -> torch.dtype:
    """Return the integers of the same width: numpy has no bfloat16."""
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
