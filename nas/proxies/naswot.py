"""How well an untrained network tells images apart, by which of its ReLUs are on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas.errors import Infeasible
from nas.proxies.base import Proxy, Subject


@final
class Naswot(Proxy):
    """The log-determinant of the kernel of ReLU codes (Mellor et al. 2021, arXiv 2006.04647v2).

    The code of an image says for each ReLU whether its input is positive. The kernel of two images is the
    number of ReLUs minus the Hamming distance of their codes. The images of all tasks pass through the
    backbone as one batch.
    """

    name = "naswot"

    def measure(self, subject: Subject) -> float:
        """Return log det K.

        Raises:
            Infeasible: the network has no ReLU, or so few that K is singular.
        """
        images = subject.images
        with torch.no_grad(), _Codes(len(images)) as codes:
            subject.backbone(images)
        if not codes.units:
            raise Infeasible("The proxy 'naswot' looks at ReLUs, and this network has none.")
        eigenvalues = torch.linalg.eigvalsh(codes.kernel)
        if eigenvalues[0] <= len(images) * torch.finfo(torch.float64).eps * eigenvalues[-1]:
            raise Infeasible(
                f"The {codes.units} ReLUs of this network do not tell the {len(images)} images apart: the "
                "kernel of the proxy 'naswot' is singular."
            )
        return float(eigenvalues.log().sum())


class _Codes(TorchFunctionMode):
    """Adds up the kernel of all ReLUs that a batch passes through.

    Attributes:
        kernel: `[batch, batch]`, float64: on how many units each two rows agree.
        units: of a row, so far.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.kernel = torch.zeros(batch, batch, dtype=torch.float64)
        self.units = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if function in (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_):
            self._add(args[0])
        return function(*args, **(kwargs or {}))

    def _add(self, x: Tensor) -> None:
        on = (x > 0).flatten(1).float()  # sums of ones are exact in float32 up to 2²⁴ of them
        off = 1 - on
        self.kernel += (on @ on.mT + off @ off.mT).cpu()
        self.units += on.shape[1]
