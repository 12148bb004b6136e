"""The optimizer with all that surrounds its step: precision, accumulation, clipping.

Accumulation is exact: k micro-batches give the gradient of one batch k times as large, also when
they hold different numbers of valid items and are spread over processes. With n_i items and mean
loss l_i in micro-batch i, the loss of the large batch is sum(n_i l_i) / sum(n_i). The sum of the
n_i is known only at the end of the window, so each l_i is weighted by n_i / r, where r is the mean
count of the first micro-batches, and the gradients are scaled by r * count / sum(n_i) at the end.
Dividing by r keeps the losses in range for fp16; without accumulation the last factor is 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from openlab.config.build import build, resolve_type
from openlab.engine.mmengine_parts import BaseOptimWrapper
from openlab.engine.param_groups import build_param_groups
from openlab.engine.precision import Precision, autocast, resolve_precision
from openlab.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class OptimWrapper(BaseOptimWrapper):
    """An optimizer, and how gradients get to it.

    Args:
        optimizer: a config such as ``dict(type=torch.optim.AdamW, lr=1e-3)``, or built.
        accumulate: micro-batches for each step of the optimizer.
        clip_grad: ``dict(max_norm=..., norm_type=2)`` or ``dict(max_value=...)``.
        precision: ``'fp32'``, ``'bf16'`` (autocast), ``'fp16'`` (autocast with a loss scaler) or
            ``'auto'``: bf16 on a chip that computes in it, else fp32.
        paramwise: rules by which parameters get another lr or weight decay; see
            ``openlab.engine.param_groups.build_param_groups``.
        loss_scale: first scale of the losses in fp16; it adapts from there.
        model: whose parameters are optimized; given by the runner.
    """

    def __init__(
        self,
        optimizer: dict[str, Any] | Optimizer,
        accumulate: int = 1,
        clip_grad: dict[str, Any] | None = None,
        precision: Precision = 'fp32',
        paramwise: dict[str, Any] | None = None,
        loss_scale: float = 2.0**16,
        model: nn.Module | None = None,
    ):
        if accumulate < 1:
            raise ValueError(f'optim_wrapper.accumulate must be at least 1, got {accumulate}')
        self.optimizer = _built_optimizer(optimizer, paramwise, model)
        self.base_param_settings = None
        self.accumulate = accumulate
        self.clip = Clip(**clip_grad) if clip_grad else None
        self.params = [p for g in self.optimizer.param_groups for p in g['params']]
        self.device = self.params[0].device
        self.precision = resolve_precision(self.device.type, precision)
        self.scaler = (
            torch.amp.GradScaler(self.device.type, init_scale=loss_scale)
            if self.precision == 'fp16' else None)
        self._autocast = autocast(self.device.type, self.precision)
        self._world_size = dist.get_world_size() if _distributed() else 1
        self._micro = 0  # micro-batches in the open window
        self._items: float | Tensor = 0.0  # items of this process in the open window
        self._reference: float | Tensor = 1.0
        self._skip = False

    def will_step(self, is_last: bool = False) -> bool:
        """Whether the next micro-batch fills the window; the last of all always does."""
        return is_last or self._micro + 1 >= self.accumulate

    @contextmanager
    def forward_context(self, model: nn.Module, synchronise: bool = True) -> Iterator[None]:
        """Autocast; and no exchange of gradients between processes unless ``synchronise``."""
        if synchronise or self._world_size == 1:
            with self._autocast():
                yield
            return
        with ExitStack() as stack:
            stack.enter_context(_without_sync(model))
            stack.enter_context(self._autocast())
            yield

    def optim_context(self, model: nn.Module) -> Any:
        """The forward context under the name that mmengine uses."""
        return self.forward_context(model, self.will_step())

    def backward(self, loss: Tensor, num_items: float | Tensor = 1, **kwargs: Any) -> None:
        """Add the gradients of one micro-batch.

        Args:
            loss: mean over the valid items.
            num_items: how many these were.
            **kwargs: for ``Tensor.backward``.
        """
        if self._micro == 0:
            # Not after the step: memory that was just freed would serve the next forward pass and
            # have to be found anew for the gradients, which costs 3 % of a ResNet-18 on a CPU.
            self.optimizer.zero_grad()
        if self.accumulate > 1 or self._world_size > 1:
            loss = loss * self._weight(num_items)
        if self.precision == 'fp32':
            loss.backward(**kwargs)
        else:  # backward uses the formats that forward chose; autocast is for forward only
            with torch.autocast(self.device.type, enabled=False):
                (self.scaler.scale(loss) if self.scaler else loss).backward(**kwargs)
        self._micro += 1

    def _weight(self, num_items: float | Tensor) -> float | Tensor:
        if isinstance(num_items, Tensor):
            num_items = num_items.detach().float()
        if self._micro == 0:
            total = _sum_over_processes(num_items, self.device)
            self._reference = _at_least_one(total / self._world_size)
            self._items = 0.0
        self._items = self._items + num_items
        return num_items / self._reference

    def finish_gradients(self) -> Tensor | None:
        """Normalise, unscale and clip what the window has gathered.

        Returns:
            The norm of the gradients before clipping, where clipping is by norm.
        """
        if self._micro > 1:
            total = _at_least_one(_sum_over_processes(self._items, self.device))
            # DDP and FSDP average over processes where a sum was meant: hence world_size.
            self._scale_gradients(self._reference * self._world_size / total)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        return self.clip(self.params) if self.clip else None

    def _scale_gradients(self, factor: float | Tensor) -> None:
        grads = [p.grad for p in self.params if p.grad is not None]
        if isinstance(factor, Tensor) and any(hasattr(g, 'to_local') for g in grads):
            factor = float(factor)  # a sharded gradient takes no plain tensor as a factor
        torch._foreach_mul_(grads, factor)

    def skip(self) -> None:
        """Leave out the coming step (from ``before_optimizer_step``): gradients are dropped."""
        self._skip = True

    def step(self, **kwargs: Any) -> None:
        """Update the parameters and open the next window; its first backward clears gradients."""
        if self._skip:
            # In fp16 the scaler still must close its step, else it refuses the next `unscale_`.
            if self.scaler is not None:
                self.scaler.update()
        elif self.scaler is not None:
            self.scaler.step(self.optimizer, **kwargs)
            self.scaler.update()
        else:
            self.optimizer.step(**kwargs)
        self._skip = False
        self._micro = 0

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients and close the open window."""
        self.optimizer.zero_grad(**kwargs)
        self._micro = 0

    def update_params(self, loss: Tensor, step_kwargs: dict[str, Any] | None = None,
                      zero_kwargs: dict[str, Any] | None = None) -> None:
        """Backward and, where due, a step: mmengine's interface for loops of one's own."""
        steps_now = self.will_step()
        self.backward(loss)
        if steps_now:
            self.finish_gradients()
            self.step(**(step_kwargs or {}))

    def initialize_count_status(self, model: nn.Module, init_counts: int,
                                max_counts: int) -> None:
        """Nothing to do: windows are counted as they go. Part of mmengine's interface."""

    def grads_in_window(self) -> dict[str, Any] | None:
        """Gradients of an open window of this process, for a resume between two steps."""
        if self._micro == 0:
            return None
        return {
            'micro': self._micro,
            'items': float(self._items),
            'reference': float(self._reference),
            'grads': [None if p.grad is None else _local(p.grad).clone() for p in self.params],
        }

    def load_window(self, state: dict[str, Any] | None) -> None:
        """Take back what ``grads_in_window`` gave."""
        self.zero_grad()
        if state is None:
            return
        self._micro = state['micro']
        self._items, self._reference = state['items'], state['reference']
        for parameter, grad in zip(self.params, state['grads']):
            if grad is not None:
                parameter.grad = torch.empty_like(parameter)
                _local(parameter.grad).copy_(grad)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and scaler."""
        state = {'optimizer': self.optimizer.state_dict()}
        if self.scaler is not None:
            state['scaler'] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave.

        Raises:
            ValueError: if it was written with another precision.
        """
        if ('scaler' in state_dict) != (self.scaler is not None):
            was = 'fp16' if 'scaler' in state_dict else 'fp32 or bf16'
            raise ValueError(f'cannot resume: the run was in {was}, optim_wrapper.precision is '
                             f'now {self.precision!r}; start anew with load_from')
        self.optimizer.load_state_dict(state_dict['optimizer'])
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict['scaler'])

    def __repr__(self) -> str:
        return (f'OptimWrapper({type(self.optimizer).__name__}, precision={self.precision}, '
                f'accumulate={self.accumulate}, groups={len(self.optimizer.param_groups)})')


class Clip:
    """Clip gradients by norm or by value.

    Args:
        max_norm: largest norm of all gradients together.
        norm_type: 2, 1, ``inf`` ...
        max_value: largest absolute value of any entry; instead of ``max_norm``.
        error_if_nonfinite: raise where the norm is infinite or not a number.
    """

    def __init__(self, max_norm: float | None = None, norm_type: float = 2.0,
                 max_value: float | None = None, error_if_nonfinite: bool = False):
        if (max_norm is None) == (max_value is None):
            raise ValueError('optim_wrapper.clip_grad takes either max_norm or max_value, got '
                             f'max_norm={max_norm}, max_value={max_value}')
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.max_value = max_value
        self.error_if_nonfinite = error_if_nonfinite

    def __call__(self, params: list[nn.Parameter]) -> Tensor | None:
        """Clip in place; return the norm before, where clipping is by norm."""
        if self.max_value is not None:
            nn.utils.clip_grad_value_(params, self.max_value)
            return None
        assert self.max_norm is not None
        norm = nn.utils.clip_grad_norm_(
            params, self.max_norm, self.norm_type, self.error_if_nonfinite)
        return norm.full_tensor() if hasattr(norm, 'full_tensor') else norm


def _built_optimizer(
    optimizer: dict[str, Any] | Optimizer, paramwise: dict[str, Any] | None,
    model: nn.Module | None,
) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    if model is None:
        raise ValueError('optim_wrapper.optimizer is a config: the model is needed to build it')
    options: list[str] = []
    if 'type' in optimizer:  # else `build` says that it is missing
        options = list(inspect.signature(resolve_type(optimizer['type'], OPTIMIZERS)).parameters)
    groups = build_param_groups(model, optimizer.get('lr'), optimizer.get('weight_decay'),
                                options=options, **(paramwise or {}))
    return build(optimizer, OPTIMIZERS, 'optim_wrapper.optimizer', params=groups)


def _sum_over_processes(value: float | Tensor, device: torch.device) -> Any:
    if not _distributed() or dist.get_world_size() == 1:
        return value
    total = torch.as_tensor(value, dtype=torch.float32, device=device).clone()
    dist.all_reduce(total)
    return total


def _at_least_one(value: float | Tensor) -> Any:
    return value.clamp(min=1.0) if isinstance(value, Tensor) else max(value, 1.0)


@contextmanager
def _without_sync(model: Any) -> Iterator[None]:
    if hasattr(model, 'no_sync'):
        with model.no_sync():
            yield
    elif hasattr(model, 'set_requires_gradient_sync'):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


