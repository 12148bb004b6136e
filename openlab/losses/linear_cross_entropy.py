"""Cross entropy over a large vocabulary that never holds all logits.

Idea: rows are independent, so the product with the vocabulary, the softmax and its gradient can be
computed some rows at a time, while they are still in the processor's cache. What remains of a
block of logits is a sum, and what it adds to the two gradients; the logits themselves, by far the
largest tensors of a small language model, are never there at once.

N rows · D features · V vocabulary
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits that are held at a time: few enough for memory, enough rows for fast products.
BLOCK = 2**23
CACHED = 2**16


def linear_cross_entropy(
    features: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Sum of negative log-likelihoods of ``targets`` under ``softmax(features @ weight.T)``.

    Gradients are computed with the sum, so that it can be differentiated once only.

    Args:
        features: (N, D).
        weight: (V, D).
        targets: class indices, (N,); rows with ``ignore_index`` count for nothing and cost
            nothing.
        ignore_index: see ``targets``.

    Returns:
        The sum in float32 (or float64, for such features), ().
    """
    counts = targets != ignore_index
    if not counts.all():
        features, targets = features[counts], targets[counts]
    total: Tensor = _LinearCrossEntropy.apply(features, weight, targets)  # type: ignore[no-untyped-call]
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = features.device.type
        dtype = features.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        exact = torch.promote_types(features.dtype, torch.float32)
        x, w = features.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            wants_x, wants_w = ctx.needs_input_grad[:2]
            grad_x = torch.empty_like(x) if wants_x else None
            grad_w = torch.zeros_like(weight, dtype=exact) if wants_w else None
            total = x.new_zeros((), dtype=exact)
            rows = max(BLOCK // len(weight), 1)
            for begin in range(0, len(x), rows):
                part = slice(begin, begin + rows)
                nll, grad = _block(x[part] @ w.T, targets[part], exact, wants_x or wants_w)
                total += nll
                if grad_x is not None:
                    torch.mm(grad.to(dtype), w, out=grad_x[part])
                if grad_w is not None:
                    grad_w.addmm_(grad.to(dtype).T, x[part]) if dtype == exact else grad_w.add_(
                        grad.to(dtype).T @ x[part])
        ctx.save_for_backward(grad_x, grad_w)
        ctx.dtypes = features.dtype, weight.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        found = [
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        return found[0], found[1], None


def _block(
    logits: Tensor, targets: Tensor, exact: torch.dtype, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Sum of negative log-likelihoods of some rows and, in place, its gradient by the logits."""
    logits, index = logits.to(exact), targets[:, None]
    true = logits.gather(1, index)
    norms = []
    # All passes over a few rows before the next few, which the second level of a cache holds.
    for probs in logits.split(max(CACHED // logits.shape[1], 1)):
        best = probs.amax(1, keepdim=True)
        norm = probs.sub_(best).exp_().sum(1, keepdim=True)
        probs.div_(norm)
        norms.append(norm.log_().add_(best))
    nll = (torch.cat(norms) - true).sum()
    if with_grad:
        logits.scatter_add_(1, index, logits.new_full((), -1.0).expand_as(index))
    return nll, logits
