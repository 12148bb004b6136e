"""Change how data is prepared in the middle of training: no mosaic in the last epochs, say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import DataLoader

from openlab.engine.hooks.base import Hook
from openlab.registry import HOOKS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


@HOOKS.register_module()
class SwitchPipelineHook(Hook):
    """From an epoch on, feed training by another pipeline and without batch augmentation.

    The switch takes effect at the start of an epoch and is made again after a resume. Workers
    are started anew, because they hold copies of the dataset.

    Args:
        epoch: first epoch (counted from 0) of the new data; negative counts from the end, so
            -15 means the last 15 epochs.
        pipeline: the new list of transforms; ``None`` keeps the old one.
        remove: names of transform classes to take out of the pipeline in use, such as
            ``['Mosaic', 'MixUp']``; one that is not there is an error.
        batch_augments: ``False`` switches the preprocessor's batch augmentation (mixup, cutmix)
            off.
    """

    priority = 'HIGH'

    def __init__(
        self,
        epoch: int,
        pipeline: Sequence[Any] | None = None,
        remove: Sequence[str] = (),
        batch_augments: bool = True,
    ):
        if pipeline is not None and remove:
            raise ValueError('give SwitchPipelineHook either a new pipeline or names to remove')
        if pipeline is None and not remove and batch_augments:
            raise ValueError(
                'SwitchPipelineHook changes nothing: give pipeline, remove or batch_augments=False'
            )
        self.epoch = epoch
        self.pipeline = None if pipeline is None else list(pipeline)
        self.remove = (remove,) if isinstance(remove, str) else tuple(remove)
        self.batch_augments = batch_augments
        self.is_switched = False

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch when it is time."""
        first = self.epoch if self.epoch >= 0 else runner.max_epochs + self.epoch
        if self.is_switched or runner.epoch < first:
            return
        self.is_switched = True
        if self.pipeline is not None or self.remove:
            self._switch_datasets(runner.train_dataloader)
        if not self.batch_augments:
            _stop_batch_augments(runner.unwrapped_model)
        runner.logger.info('epoch %d: training data switched to the new pipeline', runner.epoch)

    def _switch_datasets(self, loader: DataLoader) -> None:
        found = list(_with_pipeline(loader.dataset))
        if not found:
            raise ValueError(
                f'{type(loader.dataset).__name__} has no pipeline that SwitchPipelineHook could '
                'change'
            )
        for dataset in found:
            steps = dataset.pipeline.transforms
            kept = [t for t in steps if type(t).__name__ not in self.remove]
            lost = set(self.remove) - {type(t).__name__ for t in steps}
            if lost:
                names = ', '.join(type(t).__name__ for t in steps)
                raise ValueError(
                    f'SwitchPipelineHook.remove: no {", ".join(sorted(lost))} in the pipeline '
                    f'({names})'
                )
            dataset.pipeline.transforms = kept if self.pipeline is None else self.pipeline
        restart_workers(loader)


def restart_workers(loader: DataLoader) -> None:
    """End persistent workers; the next epoch starts new ones with the dataset as it is now."""
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        shutdown = getattr(iterator, '_shutdown_workers', None)
        if shutdown is not None:
            shutdown()
        loader._iterator = None


def _with_pipeline(dataset: Any) -> Iterator[Any]:
    """The datasets inside wrappers that own a pipeline."""
    if hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
        yield dataset
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    for one in inner:
        yield from _with_pipeline(one)


def _stop_batch_augments(model: nn.Module) -> None:
    preprocessor: Any = getattr(model, 'preprocessor', None)
    if not hasattr(preprocessor, 'batch_augments'):
        raise ValueError(
            f'SwitchPipelineHook.batch_augments=False: {type(preprocessor).__name__} has no '
            'batch_augments to switch off'
        )
    preprocessor.batch_augments = []
