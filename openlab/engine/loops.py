"""Training, validation and test loops: what happens to a batch, in order, without side paths."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.device import preserve_rng, set_rng_state
from openlab.engine.evaluator import Evaluator
from openlab.engine.mmengine_parts import BaseLoop
from openlab.layers.ramp import Progress, Ramp
from openlab.registry import LOOPS

if TYPE_CHECKING:
    from openlab.engine.runner import Runner


def train_step(runner: Runner, data_batch: Any, is_last: bool) -> dict[str, Tensor]:
    """Forward, backward and, where the accumulation window is full, one optimizer step.

    Args:
        runner: holds the model and the optimizer wrapper.
        data_batch: what the dataloader gave.
        is_last: no batch follows that this window could wait for.

    Returns:
        ``loss`` (the total), its parts, and ``grad_norm`` where gradients are clipped by norm;
        detached and still on the device.
    """
    optim = runner.optim_wrapper
    steps_now = optim.will_step(is_last)
    batch = runner.preprocess(data_batch, training=True)
    with optim.forward_context(runner.model, steps_now):
        losses = runner.model(**batch, mode='loss')
        total, outputs = sum_losses(losses)
        runner.call_hook('before_backward', outputs=outputs)
        # Inside the context: whether gradients are synchronised is decided during backward.
        optim.backward(total, losses.get('num_items', _num_samples(batch)))
    if steps_now:
        norm = optim.finish_gradients()
        if norm is not None:
            outputs['grad_norm'] = norm
        runner.call_hook('before_optimizer_step')
        optim.step()
        model = runner.unwrapped_model
        if isinstance(model, Algorithm):
            model.after_step()
        runner.call_hook('after_optimizer_step')
    return outputs


def sum_losses(losses: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up every entry whose name begins with ``loss``.

    Args:
        losses: scalars, or lists of scalars, by name.

    Returns:
        The total, with its graph; and all entries detached, the total as ``loss``.

    Raises:
        ValueError: if there is nothing to minimise.
    """
    total: Tensor | None = None
    outputs: dict[str, Tensor] = {}
    for name, value in losses.items():
        if name == 'num_items':
            continue
        if isinstance(value, (list, tuple)):
            value = sum(value)
        if not isinstance(value, Tensor):
            raise ValueError(f'the entry {name!r} of the losses must be a tensor, got '
                             f'{type(value).__name__}')
        if value.ndim:
            value = value.mean()
        if name.startswith('loss'):
            total = value if total is None else total + value
        outputs[name] = value.detach()
    if total is None:
        raise ValueError(f'the model returned no loss to minimise: no name among '
                         f'{list(losses)} begins with "loss"')
    outputs['loss'] = total.detach()
    return total, outputs


def _num_samples(batch: Mapping[str, Any]) -> int:
    for key in ('samples', 'inputs'):
        value = batch.get(key)
        if value is not None and hasattr(value, '__len__'):
            return len(value)
    return 1


class TrainLoop(BaseLoop):
    """What epoch and iteration loops share: position, data, step, validation.

    ``epoch`` and ``iter`` count what is complete, except inside ``after_train_iter`` and
    ``after_train_epoch``, where the current one is not yet counted (as in mmengine).

    Args:
        runner: whose model is trained.
        dataloader: where batches come from.
        val_begin: first epoch (or iteration) after which to validate.
        val_interval: validate every so many epochs (or iterations).
        max_batches: cut an epoch short after so many batches.
        overfit_batch: train on the first batch only, over and over.
    """

    def __init__(self, runner: Runner, dataloader: Any, val_begin: int = 1,
                 val_interval: int = 1, max_batches: int | None = None,
                 overfit_batch: bool = False):
        super().__init__(runner, dataloader)
        if val_interval < 1:
            raise ValueError(f'val_interval must be at least 1, got {val_interval}')
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.max_batches = max_batches
        self.overfit_batch = overfit_batch
        self.stop_training = False
        self.num_batches = self._count_batches()
        self._kept_batch: Any = None
        self._epoch = self._iter = 0
        self._batches_done = 0  # of the running epoch
        self._in_iter = False  # the running iteration is complete but not yet counted
        self._validated_at = -1
        # States of the generators to begin with after a resume; set when everything that
        # could draw numbers on the way to the first batch has been built.
        self.rng_state: dict[str, Any] | None = None
        self._ramps: list[Ramp] | None = None

    counts_epochs = True

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Iterations completed."""
        return self._iter

    def _count_batches(self) -> int:
        count = len(self.dataloader)
        if count == 0:
            raise ValueError(
                'the training dataloader yields no batch; is the dataset smaller than '
                'train_dataloader.batch_size with drop_last=True?')
        return count if self.max_batches is None else min(count, self.max_batches)

    def batches(self) -> Iterator[Any]:
        """Batches of the running epoch from the current position on."""
        with preserve_rng():  # a plain loader's iterator draws a seed for its workers
            iterator = self._iterator()
        self._restore_rng()
        if not self.overfit_batch:
            yield from iterator
            return
        if self._kept_batch is None:
            self._kept_batch = next(iterator)
        while True:
            yield self._kept_batch

    def _iterator(self) -> Iterator[Any]:
        loader, start = self.dataloader, 0 if self.overfit_batch else self._batches_done
        epoch_setter: Any = (
            loader if hasattr(loader, 'set_epoch') else getattr(loader, 'sampler', None))
        if hasattr(epoch_setter, 'set_epoch'):
            epoch_setter.set_epoch(self._epoch)
        if hasattr(loader, 'set_start'):
            loader.set_start(start)
            return iter(loader)
        iterator = iter(loader)
        for _ in range(start):  # a plain loader cannot begin elsewhere than at its beginning
            next(iterator)
        return iterator

    def _restore_rng(self) -> None:
        if self.rng_state is not None:
            set_rng_state(self.rng_state)
            self.rng_state = None

    def run_iter(self, data_batch: Any, is_last: bool = False) -> None:
        """One batch with the hooks around it."""
        runner, index = self.runner, self._batches_done
        self._tell_ramps()
        runner.call_hook('before_train_iter', batch_idx=index, data_batch=data_batch)
        outputs = train_step(runner, data_batch, is_last)
        self._batches_done = index + 1
        self._in_iter = True
        runner.call_hook('after_train_iter', batch_idx=index, data_batch=data_batch,
                         outputs=outputs)
        self._in_iter = False
        self._iter += 1
        runner.check_stop()

    def _tell_ramps(self) -> None:
        """Let numbers of the model that change in the course of training know where it stands."""
        if self._ramps is None:
            self._ramps = [m for m in self.runner.unwrapped_model.modules() if isinstance(m, Ramp)]
        if self._ramps:
            progress = Progress(self._iter, self.runner.max_iters, self.num_batches)
            for ramp in self._ramps:
                ramp.progress = progress

    def validate(self) -> None:
        """Run the validation loop; the random numbers of training do not notice."""
        self._validated_at = self._iter
        with preserve_rng():
            self.runner.val_loop.run()
        self.runner.model.train()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: complete epochs, iterations and batches of this epoch."""
        epoch, batches = self._epoch, self._batches_done
        if batches >= self.num_batches and self.counts_epochs:
            epoch, batches = epoch + 1, 0
        return {
            'epoch': epoch,
            'batches': batches,
            'iter': self._iter + self._in_iter,
            'num_batches': self.num_batches,
            'validated_at': self._validated_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back a position.

        Raises:
            ValueError: if it lies inside an epoch of another length.
        """
        if state['batches'] and state['num_batches'] != self.num_batches:
            raise ValueError(
                f'cannot resume inside an epoch: it had {state["num_batches"]} batches when '
                f'saved and has {self.num_batches} now; keep dataset and batch size, or resume '
                'from the end of an epoch')
        self._epoch = state['epoch']
        self._iter = state['iter']
        self._batches_done = state['batches']
        self._validated_at = state['validated_at']


@LOOPS.register_module()
class EpochTrainLoop(TrainLoop):
    """Passes over the data, validation after every ``val_interval`` of them.

    Args:
        runner: whose model is trained.
        dataloader: where batches come from.
        max_epochs: passes over the data.
        val_begin: first epoch after which to validate.
        val_interval: validate after every so many epochs.
        max_batches: cut each epoch short after so many batches.
        overfit_batch: train on the first batch only, over and over.
    """

    def __init__(self, runner: Runner, dataloader: Any, max_epochs: int, val_begin: int = 1,
                 val_interval: int = 1, max_batches: int | None = None,
                 overfit_batch: bool = False):
        super().__init__(runner, dataloader, val_begin, val_interval, max_batches, overfit_batch)
        if max_epochs < 0:
            raise ValueError(f'train_cfg.max_epochs must not be negative, got {max_epochs}')
        self.max_epochs = max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations of the whole training."""
        return self.max_epochs * self.num_batches

    def run(self) -> nn.Module:
        """Train until the last epoch, or until somebody sets ``stop_training``."""
        runner = self.runner
        runner.call_hook('before_train')
        if self._batches_done == 0:
            self._restore_rng()
        while True:
            if self._is_validation_due() and not self.stop_training:
                self.validate()
            if self._epoch >= self.max_epochs or self.stop_training:
                break
            self.run_epoch()
        runner.call_hook('after_train')
        return runner.model

    def run_epoch(self) -> None:
        """The rest of one pass over the data."""
        runner = self.runner
        runner.call_hook('before_train_epoch')
        runner.model.train()
        for data_batch in self.batches():
            self.run_iter(data_batch, is_last=self._batches_done + 1 >= self.num_batches)
            if self._batches_done >= self.num_batches or self.stop_training:
                break
        if self.stop_training and self._batches_done < self.num_batches:
            return  # stopped inside the epoch, which therefore does not count
        self._batches_done = self.num_batches  # also where the loader left out bad items
        runner.call_hook('after_train_epoch')
        self._epoch += 1
        self._batches_done = 0

    def _is_validation_due(self) -> bool:
        done = self._epoch
        return (
            self.runner.val_loop is not None and self._batches_done == 0
            and self._validated_at != self._iter and done >= max(self.val_begin, 1)
            and (done % self.val_interval == 0 or done == self.max_epochs)
        )


@LOOPS.register_module()
class IterTrainLoop(TrainLoop):
    """A number of iterations, over the data as often as it takes.

    Args:
        runner: whose model is trained.
        dataloader: where batches come from.
        max_iters: iterations of the whole training.
        val_begin: first iteration after which to validate.
        val_interval: validate after every so many iterations.
        max_batches: begin a new pass over the data after so many batches.
        overfit_batch: train on the first batch only, over and over.
    """

    max_epochs = 1  # as in mmengine, whose hooks ask
    counts_epochs = False

    def __init__(self, runner: Runner, dataloader: Any, max_iters: int, val_begin: int = 1,
                 val_interval: int = 1000, max_batches: int | None = None,
                 overfit_batch: bool = False):
        super().__init__(runner, dataloader, val_begin, val_interval, max_batches, overfit_batch)
        if max_iters < 0:
            raise ValueError(f'train_cfg.max_iters must not be negative, got {max_iters}')
        self.max_iters = max_iters

    def run(self) -> nn.Module:
        """Train until the last iteration, or until somebody sets ``stop_training``."""
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        runner.model.train()
        stream = self._endless()
        while not self.stop_training:
            if self._is_validation_due():
                self.validate()
            if self._iter >= self.max_iters or self.stop_training:
                break
            self.run_iter(next(stream), is_last=self._iter + 1 >= self.max_iters)
        stream.close()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _endless(self) -> Generator[Any, None, None]:
        while True:
            for data_batch in self.batches():
                yield data_batch
                if self.max_batches is not None and self._batches_done >= self.num_batches:
                    break
            self._epoch += 1
            self._batches_done = 0

    def _is_validation_due(self) -> bool:
        done = self._iter
        return (
            self.runner.val_loop is not None and self._validated_at != done
            and done >= max(self.val_begin, 1)
            and (done % self.val_interval == 0 or done == self.max_iters)
        )


class EvalLoop(BaseLoop):
    """What validation and test share: predict each batch, hand it to the metrics.

    Args:
        runner: whose model is evaluated.
        dataloader: where batches come from.
        evaluator: the metrics.
        max_batches: stop after so many batches.
        precision: compute in see ``OptimWrapper``; that of training by default.
    """

    stage = 'val'

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Evaluator,
                 max_batches: int | None = None, precision: str | None = None):
        super().__init__(runner, dataloader)
        self.evaluator = evaluator
        self.max_batches = max_batches
        self.precision = precision

    def run(self) -> dict[str, float]:
        """Evaluate the model over the dataloader.

        Returns:
            Results as ``metric/name``.
        """
        runner, stage = self.runner, self.stage
        runner.call_hook(f'before_{stage}')
        runner.call_hook(f'before_{stage}_epoch')
        runner.model.eval()
        self.evaluator.reset()
        for index, data_batch in enumerate(self.dataloader):
            if self.max_batches is not None and index >= self.max_batches:
                break
            runner.call_hook(f'before_{stage}_iter', batch_idx=index, data_batch=data_batch)
            predictions = self.run_iter(data_batch)
            runner.call_hook(f'after_{stage}_iter', batch_idx=index, data_batch=data_batch,
                             outputs=predictions)
        metrics = self.evaluator.evaluate()
        runner.record_metrics(metrics, stage)
        runner.call_hook(f'after_{stage}_epoch', metrics=metrics)
        runner.call_hook(f'after_{stage}')
        return metrics

    @torch.no_grad()
    def run_iter(self, data_batch: Any) -> list[Any]:
        """Predictions of one batch, already handed to the metrics."""
        runner = self.runner
        batch = runner.preprocess(data_batch, training=False)
        with runner.autocast(self.precision):
            predictions = self.predict(batch)
        self.evaluator.update(predictions, batch.get('samples') or [])
        return predictions

    def predict(self, batch: Mapping[str, Any]) -> list[Any]:
        """Predictions for a preprocessed batch."""
        return self.runner.unwrapped_model(**batch, mode='predict')


@LOOPS.register_module()
class ValLoop(EvalLoop):
    """Validation during training.

    Args:
        runner: whose model is evaluated.
        dataloader: where batches come from.
        evaluator: the metrics.
        max_batches: stop after so many batches.
        precision: compute in see ``OptimWrapper``; that of training by default.
    """


@LOOPS.register_module()
class TestLoop(EvalLoop):
    """The final evaluation, with test-time augmentation where the config has ``tta``.

    Args:
        runner: whose model is evaluated.
        dataloader: where batches come from.
        evaluator: the metrics.
        max_batches: stop after so many batches.
        precision: compute in see ``OptimWrapper``; that of training by default.
        tta: views of each image and how their predictions are merged.
        dump: file for predictions and truth (``.pt``, ``.pkl`` or ``.json``).
    """

    __test__ = False  # not a test case, whatever its name
    stage = 'test'

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Evaluator,
                 max_batches: int | None = None, precision: str | None = None,
                 tta: dict[str, Any] | None = None, dump: str | None = None):
        super().__init__(runner, dataloader, evaluator, max_batches, precision)
        self.tta = None
        if tta is not None:
            from openlab.engine.tta import TestTimeAugmentation

            self.tta = TestTimeAugmentation(**tta)
        self.dump = dump
        self._dumped: list[tuple[Any, Any]] = []

    def run(self) -> dict[str, float]:
        """Evaluate; write the dump at the end where one was asked for."""
        self._dumped.clear()
        metrics = super().run()
        if self.dump is not None:
            from openlab.engine.predictions import gather_and_write

            gather_and_write(self.dump, self._dumped, self.runner.dataset_meta)
        return metrics

    def run_iter(self, data_batch: Any) -> list[Any]:
        """Predictions of one batch; kept where they are to be dumped."""
        predictions = super().run_iter(data_batch)
        if self.dump is not None:
            samples = data_batch['samples']
            self._dumped += [(p.to('cpu'), s.to('cpu')) for p, s in zip(predictions, samples)]
        return predictions

    def predict(self, batch: Mapping[str, Any]) -> list[Any]:
        """Predictions for a preprocessed batch, merged over views with ``tta``."""
        if self.tta is None:
            return super().predict(batch)
        return self.tta.predict(self.runner.unwrapped_model, batch)
