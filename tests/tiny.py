"""What tests of many files need: comparison up to rounding."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

ULPS = 64
"""Units in the last place of the largest value, by which two ways of one computation may differ: each adds its terms in
an order of its own, and over a few layers of a tiny model the differences add up to some ten units."""


def assert_equal_up_to_rounding(
    actual: Tensor | NDArray[Any], expected: Tensor | NDArray[Any], *, ulps: float = ULPS
) -> None:
    """Compares two ways of one computation in float32.

    Only one and the same computation, on one machine, gives the same bits. Not so even one model in memory and as read
    from its file: on some CPUs a matrix product adds in another order where a matrix begins at another address.
    """
    actual, expected = (torch.as_tensor(values).detach().double() for values in (actual, expected))
    largest = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=ulps * torch.finfo(torch.float32).eps * largest)
