"""The moments at which code that is not part of an algorithm may run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from openlab.engine.mmengine_parts import MMEngineHook

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


class Hook(MMEngineHook):
    """mmengine's 22 moments and four more. Hooks observe, save and schedule.

    A hook with state to carry over a resume gives it in ``state_dict`` as tensors and plain
    types.
    """

    def before_backward(self, runner: Runner, outputs: Mapping[str, Tensor]) -> None:
        """The losses of a batch are known (``outputs``, detached), its gradients not yet."""

    def before_optimizer_step(self, runner: Runner) -> None:
        """Gradients are complete, unscaled and clipped; the optimizer has not stepped yet."""

    def after_optimizer_step(self, runner: Runner) -> None:
        """The parameters of this (accumulated) step are final."""

    def on_exception(self, runner: Runner, error: BaseException) -> None:
        """Training is about to end with ``error`` (also KeyboardInterrupt)."""

    def state_dict(self) -> dict[str, Any]:
        """State to save; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
