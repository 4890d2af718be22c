"""Tensors of torch as kernels want them: arrays of numpy on the same memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finerank.models.norm_kernels import Norm


def bits(tensor: Tensor) -> NDArray[np.uint16]:
    """Return bfloat16 as numpy, which has none, can hold it; the same memory."""
    array: NDArray[np.uint16] = tensor.detach().view(torch.uint16).numpy()
    return array


def reals(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor in float32, the same memory where it is that already."""
    numbers: NDArray[np.float32] = tensor.detach().float().numpy()
    return numbers


def norm_of(weight: Tensor, bias: Tensor, epsilon: float) -> Norm:
    """Return a layer norm."""
    return Norm(reals(weight), reals(bias), np.float32(epsilon))
