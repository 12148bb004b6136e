"""Tell a zero-shot model which classes there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class DescribeClassesHook(Hook):
    """Describe the classes of the data to the model before it is trained, validated or tested.

    The model has ``describe(names)``, as ``ZeroShotClassifier`` does.
    """

    def before_train(self, runner: Runner) -> None:
        """The classes that are tuned on."""
        self._describe(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Texts may have moved in training."""
        self._describe(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """The classes that are tested."""
        self._describe(runner)

    def _describe(self, runner: Runner) -> None:
        names = runner.dataset_meta.get('classes')
        if not names:
            raise ValueError('DescribeClassesHook: the dataset does not say what its classes are '
                             'called; give it classes=[...]')
        model: Any = runner.unwrapped_model
        model.describe(list(names))
