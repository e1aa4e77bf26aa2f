"""Hand an analytically computed gradient to autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _FusedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = inputs.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        # Multiply before the cast: a pixel's share of a mean underflows in float16, unless the gradient
        # scaler's factor, which arrives in grad_output, has been applied.
        return (gradient * grad_output.to(gradient.dtype)).to(ctx.dtype), None, None


def attach_gradient(inputs: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """Return ``loss`` as a function of ``inputs`` whose derivative is ``gradient``.

    Args:
        inputs: float tensor of any shape, in the graph.
        loss: scalar, outside of the graph.
        gradient: d loss / d inputs, the shape of ``inputs``, in float32 or float64.

    Returns:
        Scalar in float32, or in float64 where ``inputs`` is float64. It can be differentiated once; a second
        differentiation raises PyTorch's error for ``once_differentiable``.
    """
    dtype = accumulation_dtype(inputs)
    return _FusedGradient.apply(inputs, loss.to(dtype), gradient.to(dtype))


def accumulation_dtype(inputs: Tensor) -> torch.dtype:
    """float64 for float64 inputs, float32 for all other floating dtypes."""
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32
