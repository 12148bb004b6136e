"""One run: builds what a config describes, trains, validates, tests.

The Runner is mmengine's by type, so that mmengine's hooks and loops work on it, and lean inside:
it builds, calls loops and hooks, and knows its state. What happens in a step is in ``loops.py``
and ``optim.py``; what happens to the model before training in ``model_setup.py``.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openlab import device as chips
from openlab.config.build import build, watch_derived
from openlab.config.nodes import ConfigDict
from openlab.config.resolve import write_derived
from openlab.engine import checks, distributed, model_setup, run_state
from openlab.engine.environment import setup_environment, setup_logger
from openlab.engine.evaluator import Evaluator
from openlab.engine.hook_list import HookList
from openlab.engine.loggers import LoggerGroup
from openlab.engine.optim import OptimWrapper
from openlab.engine.precision import autocast
from openlab.engine.runner_attributes import RunnerAttributes
from openlab.engine.schedulers import build_schedules
from openlab.engine.signals import StopRequest
from openlab.layers.sync_batch_norm import convert_sync_batch_norm
from openlab.registry import HOOKS, LOOPS, MODELS, OPTIMIZERS

# Registered names, so that none is imported before a run wants it.
DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    'timer': {'type': 'TimerHook'},
    'logger': {'type': 'LoggerHook'},
    'param_scheduler': {'type': 'ParamSchedulerHook'},
    'run_folder': {'type': 'RunFolderHook'},
    'checkpoint': {'type': 'CheckpointHook'},
    'watchdog': {'type': 'WatchdogHook'},  # idle in a single process
}
_CHECK_STOP_EVERY = 10  # iterations, where processes must agree


class Runner(RunnerAttributes):
    """Trains, validates and tests one model; the parameters are the top-level keys of a config.

    Args:
        model: config of the algorithm, or a built module.
        work_dir: folder of the run: logs, checkpoints, curves.
        experiment_name: name of the run; by default the config's and the time.
        train_dataloader: arguments of ``openlab.data.dataloader.build_dataloader``, or built.
        val_dataloader: the same for validation.
        test_dataloader: the same for the test.
        train_cfg: the training loop: ``dict(type=EpochTrainLoop, max_epochs=...)``.
        val_cfg: the validation loop.
        test_cfg: the test loop.
        optim_wrapper: ``dict(type=OptimWrapper, optimizer=dict(...), ...)``.
        param_scheduler: one schedule of lr or momentum, or a list of them.
        val_evaluator: one metric for the validation, or a list of them.
        test_evaluator: the same for the test; those of the validation by default.
        default_hooks: changes to the hooks that every run has, by name (``timer``, ``logger``,
            ``param_scheduler``, ``run_folder``, ``checkpoint``, ``watchdog``); ``None`` removes
            one.
        custom_hooks: further hooks, in order.
        load_from: weights to start from, or ``dict(source=..., replace_head=..., ...)`` with
            arguments of ``openlab.engine.loading.load_weights``.
        resume: continue the newest checkpoint in ``work_dir``, or the one at this path.
        randomness: ``dict(seed=..., deterministic=False, diff_rank_seed=False)``.
        strategy: how several processes share the work: ``dict(type='ddp')``, ``'fsdp2'`` ...
        compile: ``True``, or ``dict(target='model' | 'blocks', ...)`` with arguments of
            ``torch.compile``.
        activation_checkpointing: names of classes, or patterns of module names, that recompute
            activations in the backward pass to save memory.
        sync_bn: let batch norms see the batches of all processes.
        loggers: where scalars go; a JSON-lines file and TensorBoard by default.
        auto_scale_lr: ``dict(base_batch_size=..., enable=True)`` scales lr linearly with the
            batch size over all processes and accumulation steps.
        tta: test-time augmentation: views of each image and how they are merged.
        custom_imports: modules to import first, for components of one's own.
        log_level: level of the logger ``openlab``.
        env: ``dict(num_threads=..., opencv_threads=..., ...)``; see ``setup_environment``.
        cfg: the config all this came from, for checkpoints and logs.
    """

    def __init__(
        self,
        model: dict[str, Any] | nn.Module,
        work_dir: str = 'work_dirs/run',
        experiment_name: str | None = None,
        train_dataloader: dict[str, Any] | None = None,
        val_dataloader: dict[str, Any] | None = None,
        test_dataloader: dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        val_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        optim_wrapper: dict[str, Any] | None = None,
        param_scheduler: dict[str, Any] | list[dict[str, Any]] | None = None,
        val_evaluator: dict[str, Any] | list[dict[str, Any]] | None = None,
        test_evaluator: dict[str, Any] | list[dict[str, Any]] | None = None,
        default_hooks: dict[str, Any] | None = None,
        custom_hooks: list[dict[str, Any]] | None = None,
        load_from: str | dict[str, Any] | None = None,
        resume: bool | str = False,
        randomness: dict[str, Any] | None = None,
        strategy: dict[str, Any] | None = None,
        compile: bool | dict[str, Any] | None = None,
        activation_checkpointing: list[str] | None = None,
        sync_bn: bool = False,
        loggers: list[dict[str, Any]] | None = None,
        auto_scale_lr: dict[str, Any] | None = None,
        tta: dict[str, Any] | None = None,
        custom_imports: dict[str, Any] | list[str] | None = None,
        log_level: str = 'INFO',
        env: dict[str, Any] | None = None,
        cfg: Any = None,
    ):
        self.cfg = {} if cfg is None else cfg
        self._configs: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ('self', 'cfg')}
        setup_environment(custom_imports, **(env or {}))
        self.device = chips.get_device()
        distributed.start_process_group(device=self.device)
        self._rank, self._world_size = distributed.rank(), distributed.world_size()
        self._distributed = self._world_size > 1
        self._launcher = 'pytorch' if self._distributed else 'none'
        self._set_names(work_dir, experiment_name)
        self.logger = setup_logger(log_level, self._rank)
        self._seed = self._randomness(**(randomness or {}))

        self.loggers: LoggerGroup | None = None
        self.metrics_history: list[dict[str, Any]] = []
        self.last_metrics: dict[str, float] = {}
        self.stop_request = StopRequest()
        self.dataset_meta: dict[str, Any] = {}
        self.strategy: Any = None
        self.optim_wrapper: Any = None
        self.param_schedulers: Any = []
        self._train_loop = self._val_loop = self._test_loop = None  # type: ignore[assignment]
        self._has_loaded = False
        self._learned_classes: list[str] = []  # what the loaded weights tell
        self._message_hub: Any = None
        self.model = self.build_model(model)
        self.unwrapped_model: nn.Module = self.model
        self._hook_list = HookList()
        self._hooks = self._hook_list.hooks  # where mmengine's `hooks` looks
        self.register_hooks(default_hooks, custom_hooks)

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> Runner:
        """Make a runner from a config (or a plain dict of the same keys).

        Raises:
            ValueError: if a plain dict has an unknown key; a ``Config`` is checked as a whole.
        """
        accepted = [n for n in inspect.signature(cls).parameters if n != 'cfg']
        is_plain = type(cfg) is dict
        for key in cfg:
            if is_plain and key not in accepted and not key.startswith('_'):
                near = difflib.get_close_matches(key, accepted, n=3)
                hint = f'did you mean {" or ".join(near)}?' if near else f'accepted: {accepted}'
                raise ValueError(f'{key!r} is no top-level key of a config; {hint}')
        return cls(**{k: cfg[k] for k in accepted if k in cfg}, cfg=cfg)

    from_cfg = from_config  # mmengine's word

    # ---- building ---------------------------------------------------------------------------

    def build_model(self, model: Any) -> nn.Module:
        """Build the model and put it on the device; the config learns what was derived."""
        derived: list[tuple[str, Any]] = []
        with watch_derived(lambda path, value: derived.append((path, value))):
            built = build(model, MODELS, 'model')
        if isinstance(self.cfg, ConfigDict):
            write_derived(self.cfg, derived)
        if not isinstance(built, nn.Module):
            raise TypeError(f'model must be a torch module, not {type(built).__name__}')
        return built.to(self.device)

    def build_dataloader(self, cfg: Any, path: str = 'dataloader', **_: Any) -> Any:
        """Build a dataloader; anything but a config passes through."""
        if not isinstance(cfg, Mapping):
            return cfg
        from openlab.data.dataloader import build_dataloader

        return build_dataloader(cfg, seed=self._seed, path=path, rank=self._rank,
                                world_size=self._world_size,
                                config_file=getattr(self.cfg, 'filename', None))

    def build_loop(self, stage: str) -> Any:
        """Build the train, val or test loop with its data; ``None`` where the config has none."""
        loader = self._configs[f'{stage}_dataloader']
        cfg = self._configs[f'{stage}_cfg']
        if loader is None:
            return None
        cfg = dict(cfg or {})
        if 'type' not in cfg:
            by_iter = 'max_iters' in cfg
            cfg['type'] = {'train': 'IterTrainLoop' if by_iter else 'EpochTrainLoop',
                           'val': 'ValLoop', 'test': 'TestLoop'}[stage]
        given: dict[str, Any] = {
            'runner': self, 'dataloader': self.build_dataloader(loader, f'{stage}_dataloader')}
        if stage != 'train':
            metrics = self._configs[f'{stage}_evaluator']
            if metrics is None and stage == 'test':
                metrics = self._configs['val_evaluator']
            given['evaluator'] = Evaluator.from_config(metrics or [], f'{stage}_evaluator')
            given['evaluator'].dataset_meta = checks.metainfo_of(given['dataloader'])
        if stage == 'test' and self._configs['tta'] is not None:
            given.setdefault('tta', self._configs['tta'])
        return build(cfg, LOOPS, f'{stage}_cfg', **given)

    def build_optim_wrapper(self, cfg: Any) -> OptimWrapper:
        """Build the optimizer for the (wrapped) model, its lr scaled where that is enabled."""
        if cfg is None:
            raise ValueError('training needs optim_wrapper=dict(optimizer=dict(type=..., lr=...))')
        if not isinstance(cfg, Mapping):
            return cfg
        cfg = {'type': OptimWrapper, **cfg}
        cfg['optimizer'] = model_setup.scaled_optimizer(
            cfg.get('optimizer'), self._configs['auto_scale_lr'], self._effective_batch(cfg),
            self.logger)
        return build(cfg, OPTIMIZERS, 'optim_wrapper', model=self.unwrapped_model)

    def _effective_batch(self, optim_cfg: Mapping[str, Any]) -> tuple[int, int, int]:
        per_process = getattr(self._train_loop.dataloader, 'batch_size', None) or 1
        return per_process, self._world_size, optim_cfg.get('accumulate', 1)

    def register_hooks(self, default_hooks: Mapping[str, Any] | None = None,
                       custom_hooks: Sequence[Any] | None = None) -> None:
        """Add the hooks that every run has, as the config changes them, and those it adds."""
        wanted: dict[str, Any] = dict(DEFAULT_HOOKS)
        for name, cfg in (default_hooks or {}).items():
            if isinstance(cfg, Mapping) and 'type' not in cfg and name in wanted:
                cfg = {**wanted[name], **cfg}
            wanted[name] = cfg
        for name, cfg in wanted.items():
            if cfg is not None:
                self.register_hook(build(cfg, HOOKS, f'default_hooks.{name}'))
        if self._configs['compile']:
            self.register_hook({'type': 'CompileCountHook'})
        for i, cfg in enumerate(custom_hooks or ()):
            self.register_hook(build(cfg, HOOKS, f'custom_hooks[{i}]'))

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        """Add one hook (or its config), by priority."""
        self._hook_list.add(build(hook, HOOKS, 'hook'), priority)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Run one moment through the hooks that care for it."""
        self._hook_list.call(fn_name, self, **kwargs)

    # ---- running ----------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train to the end, or until asked to stop; returns the model."""
        with self._watched():
            self.prepare_training()
            self.call_hook('before_run')
            self.resume()
            self._start_loggers()
            model = self._train_loop.run()
            self.call_hook('after_run')
        return model

    def prepare_training(self) -> None:
        """Build data and loops, load weights, wrap the model, build what updates it; once."""
        if self._train_loop is not None:
            return
        self._train_loop = self.build_loop('train')
        if self._train_loop is None:
            raise ValueError('training needs train_dataloader and train_cfg')
        self._val_loop = self.build_loop('val')
        self._learn_dataset(self._train_loop.dataloader)
        if self._val_loop is not None:
            self._compare_with_training('val', self._val_loop.dataloader)
        self._load_parts()
        self.load_weights()
        self._prepare_model()
        loop = self._train_loop
        self.optim_wrapper = self.build_optim_wrapper(self._configs['optim_wrapper'])
        self.param_schedulers = build_schedules(
            self._configs['param_scheduler'] or [], self.optim_wrapper.optimizer,
            loop.max_epochs, loop.max_iters, loop.num_batches, loop.counts_epochs)

    def val(self) -> dict[str, float]:
        """Validate the model as it is."""
        return self._evaluate('val')

    def test(self) -> dict[str, float]:
        """Test the model as it is."""
        return self._evaluate('test')

    def _evaluate(self, stage: str) -> dict[str, float]:
        with self._watched():
            loop = self.build_loop(stage)
            if loop is None:
                raise ValueError(f'{stage} needs {stage}_dataloader')
            setattr(self, f'_{stage}_loop', loop)
            self.dataset_meta = checks.metainfo_of(loop.dataloader)
            self.call_hook('before_run')
            self.load_weights()
            if not getattr(self.unwrapped_model, 'gives_features', False):
                self._compare_with_training(stage, loop.dataloader)
                checks.check_classes(self.unwrapped_model, loop.dataloader, trains=False)
            metrics = loop.run()
            self.call_hook('after_run')
        return metrics

    def _prepare_model(self) -> None:
        """Change the model as the config wants; each step needs the one before."""
        configs = self._configs
        model = model_setup.checkpoint_activations(
            self.unwrapped_model, configs['activation_checkpointing'])
        if configs['sync_bn'] and self._distributed:
            model = convert_sync_batch_norm(model, self.device)
        model_setup.compile_model(model, configs['compile'])
        self.unwrapped_model = model
        self.model, self.strategy = model_setup.wrap(
            model, configs['strategy'], self.device, self._distributed)

    def preprocess(self, data_batch: Any, training: bool) -> Mapping[str, Any]:
        """Run the model's preprocessor; without one, move the batch to the device."""
        preprocessor = getattr(self.unwrapped_model, 'preprocessor', None)
        if preprocessor is None:
            return model_setup.to_device(data_batch, self.device)
        return preprocessor(data_batch, training)

    def autocast(self, precision: str | None = None) -> Any:
        """Context of the given precision; that of training by default."""
        if precision is None:
            cfg = self._configs['optim_wrapper']
            given = cfg.get('precision') if isinstance(cfg, Mapping) else cfg
            precision = given if isinstance(given, str) else getattr(given, 'precision', 'fp32')
        return autocast(self.device.type, precision)()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Signals become requests to stop; hooks hear of an exception before it leaves."""
        with self.stop_request.listening():
            try:
                yield
            except BaseException as error:
                self.call_hook('on_exception', error=error)
                raise
            finally:
                if self.loggers is not None:
                    self.loggers.close()
                    self.loggers = None

    def check_stop(self) -> None:
        """Between two iterations: leave the training loop if a signal asked for it."""
        asked = self.stop_request.signal is not None
        if self._distributed:  # all processes must leave after the same iteration
            if self.iter % _CHECK_STOP_EVERY:
                return
            flag = torch.tensor(float(asked), device=self.device)
            asked = bool(distributed.all_reduce(flag, 'max'))
        if asked and not self._train_loop.stop_training:
            self.logger.warning('%s after iteration %d: saving and leaving',
                                self.stop_request.name or 'another process stops', self.iter)
            self._train_loop.stop_training = True

    # ---- results and state ------------------------------------------------------------------

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Hand scalars to all loggers (rank 0 only)."""
        if self._rank == 0:
            if self.loggers is None:
                self._start_loggers()
            assert self.loggers is not None
            self.loggers.log(scalars, step)

    def _start_loggers(self) -> None:
        if self._rank == 0 and self.loggers is None:
            self.loggers = LoggerGroup(self._configs['loggers'])
            plain = self.cfg.to_plain() if hasattr(self.cfg, 'to_plain') else {}
            self.loggers.start(self._work_dir, plain, self.iter)

    def record_metrics(self, metrics: Mapping[str, float], stage: str) -> None:
        """Keep the results of an evaluation for hooks, checkpoints and the final table."""
        self.last_metrics = dict(metrics)
        self.metrics_history.append(
            {'stage': stage, 'epoch': self.epoch, 'iter': self.iter, **metrics})

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact resume needs besides weights; every process must call this."""
        return run_state.collect(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; the model's weights are loaded separately."""
        run_state.restore(self, state)

    def load_weights(self) -> None:
        """Load ``load_from``, once."""
        source = self._configs['load_from']
        if source is None or self._has_loaded:
            return
        from openlab.engine.loading import load_weights

        arguments = dict(source) if isinstance(source, Mapping) else {'source': source}
        report = load_weights(self.unwrapped_model, **arguments)
        self.logger.info('%s', report)
        self._compare_statistics(str(arguments['source']))
        self._has_loaded = True
        if report.complete:  # else the head is new, and so are its classes
            self._learned_classes = report.metadata.get('classes') or []

    def _compare_statistics(self, source: str) -> None:
        """Warn where weights of the zoo were trained on images that were normalised otherwise."""
        from openlab.zoo.index import entry
        from openlab.zoo.recipe import SCHEME

        if not source.startswith(SCHEME):
            return
        told = entry(source.removeprefix(SCHEME)).get('preprocessing') or {}
        for key in {'mean', 'std'} & told.keys():
            has = getattr(getattr(self.unwrapped_model, 'preprocessor', None), key, None)
            wanted = [round(value, 4) for value in told[key]]
            if has is not None and has.numel() == len(wanted) and not torch.allclose(
                    has.flatten().cpu().float(), torch.tensor(wanted), atol=0.5):
                self.logger.warning(
                    '%s was trained with %s %s, but model.preprocessor.%s is %s', source, key,
                    wanted, key, [round(value, 4) for value in has.flatten().tolist()])

    def _load_parts(self) -> None:
        """Load what a model asks for beside its own weights, such as a teacher."""
        from openlab.engine.loading import LoadError, load_weights

        for name, part, source in getattr(self.unwrapped_model, 'weights_of_parts', list)():
            if source is None:
                self.logger.warning('model.%s is not set: what needs them starts from the values '
                                    'that it was built with', name)
                continue
            try:
                self.logger.info('%s: %s', name, load_weights(part, source))
            except LoadError as error:
                raise LoadError(f'model.{name}: {error}', error.report) from error

    def resume(self, filename: str | None = None, **_: Any) -> None:  # type: ignore[override]
        """Continue the checkpoint that ``resume`` names, or the newest sound one of work_dir."""
        wanted = filename or self._configs['resume']
        if not wanted:
            return
        from openlab.engine import checkpoint

        folder: Any = checkpoint.find_resumable(self._work_dir) if wanted is True else wanted
        if folder is None:
            self.logger.warning('nothing to resume in %s: starting from the beginning',
                                self._work_dir)
            return
        folder = checkpoint.resume(self, folder)
        self.logger.info('resumed %s: epoch %d, iteration %d', folder, self.epoch, self.iter)

    def save_checkpoint(self, folder: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Write a checkpoint into a folder, at once."""
        from openlab.engine.checkpoint import save_checkpoint

        save_checkpoint(self, Path(folder))

    # ---- names and numbers ------------------------------------------------------------------

    def _set_names(self, work_dir: str, experiment_name: str | None) -> None:
        stamp = distributed.broadcast_object(time.strftime('%Y%m%d_%H%M%S'))
        self._timestamp = stamp
        stem = Path(getattr(self.cfg, 'filename', None) or 'run').stem
        self._experiment_name = experiment_name or f'{stem}_{stamp}'
        self._work_dir = str(Path(work_dir).resolve())
        self._log_dir = self._work_dir

    def _randomness(self, seed: int | None = None, deterministic: bool = False,
                    diff_rank_seed: bool = False) -> int:
        if seed is None:
            seed = int.from_bytes(torch.empty(4, dtype=torch.uint8).random_().numpy()) >> 1
        seed = distributed.broadcast_object(seed)
        self._deterministic = deterministic
        if deterministic:
            chips.set_deterministic(True)
        chips.seed_everything(seed + (self._rank if diff_rank_seed else 0))
        return seed

    def _learn_dataset(self, dataloader: Any) -> None:
        self.dataset_meta = checks.metainfo_of(dataloader)
        checks.check_classes(self.unwrapped_model, dataloader)

    def _compare_with_training(self, stage: str, dataloader: Any) -> None:
        """Let labels of evaluation mean the classes that the model was trained on."""
        part = f'{stage}_dataloader.dataset'
        if self._train_loop is None:
            checks.check_learned_classes(
                self.unwrapped_model, self._learned_classes, dataloader, part)
            return
        wanted = checks.metainfo_of(self._train_loop.dataloader).get('classes')
        checks.check_same_classes(
            self.unwrapped_model, wanted, dataloader, part, 'train_dataloader.dataset')
