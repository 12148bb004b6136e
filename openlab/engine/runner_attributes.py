"""The names under which mmengine's hooks and loops find things on a runner."""

from __future__ import annotations

from typing import Any

from openlab.engine.mmengine_parts import MMEngineRunner


class RunnerAttributes(MMEngineRunner):
    """Read-only attributes of mmengine's Runner, on the private state of ours.

    mmengine's own constructor is never called: it would build by its own rules. What is not
    overridden here (``rank``, ``work_dir``, ``seed`` ...) reads the same private names as there.
    """

    _train_loop: Any
    _val_loop: Any
    _test_loop: Any
    _message_hub: Any

    @property
    def message_hub(self) -> Any:
        """Mmengine's hub, for hooks of mmengine that want it."""
        if self._message_hub is None:
            from mmengine.logging import MessageHub

            self._message_hub = MessageHub.get_instance(self._experiment_name)
        return self._message_hub

    @property
    def experiment_name(self) -> str:
        """Name of the run."""
        return self._experiment_name

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return 0 if self._train_loop is None else self._train_loop.epoch

    @property
    def iter(self) -> int:
        """Iterations completed."""
        return 0 if self._train_loop is None else self._train_loop.iter

    @property
    def max_epochs(self) -> int:
        """Epochs of the whole training."""
        return 1 if self._train_loop is None else self._train_loop.max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations of the whole training."""
        return 1 if self._train_loop is None else self._train_loop.max_iters

    @property
    def train_loop(self) -> Any:
        """The training loop; ``None`` before ``train``."""
        return self._train_loop

    @property
    def val_loop(self) -> Any:
        """The validation loop; ``None`` without validation."""
        return self._val_loop

    @property
    def test_loop(self) -> Any:
        """The test loop; ``None`` before ``test``."""
        return self._test_loop

    @property
    def train_dataloader(self) -> Any:
        """Where training takes its batches from."""
        return getattr(self._train_loop, 'dataloader', None)

    @property
    def val_dataloader(self) -> Any:
        """Where validation takes its batches from."""
        return getattr(self._val_loop, 'dataloader', None)

    @property
    def test_dataloader(self) -> Any:
        """Where the test takes its batches from."""
        return getattr(self._test_loop, 'dataloader', None)

    @property
    def val_evaluator(self) -> Any:
        """Metrics of the validation."""
        return getattr(self._val_loop, 'evaluator', None)

    @property
    def test_evaluator(self) -> Any:
        """Metrics of the test."""
        return getattr(self._test_loop, 'evaluator', None)
