"""Load weights and say exactly what was loaded; a model is never loaded in part by accident."""

from __future__ import annotations

import difflib
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlab.engine import distributed
from openlab.engine.checkpoint_files import (
    EMA,
    WEIGHTS,
    CheckpointError,
    read_metadata,
    read_weights,
    resolve_checkpoint,
    split_shared,
)
from openlab.zoo.key_map import KeyMap
from openlab.zoo.sources import fetch, is_address

logger = logging.getLogger('openlab')

# Where training scripts put the weights in the dict that they save.
_CONTAINERS = ('state_dict', 'model', 'model_state_dict', 'model_state', 'module', 'net', 'params')
_EMA_CONTAINERS = ('ema_state_dict', 'model_ema', 'state_dict_ema', 'params_ema', 'ema')
# Prefixes that wrappers put before every key.
_WRAPPERS = ('module.', '_orig_mod.', 'model.')
_NO_TORCH_FILE = 'it is no file of torch.save; accepted: .pth and .pt files with a state dict'
_HEAD = re.compile(r'(^|\.)\w*(head|classifier)s?\w*\.')


class LoadError(CheckpointError):
    """The weights do not fit the model or are not finite; nothing was loaded.

    Attributes:
        report: what fits and what does not.
    """

    def __init__(self, message: str, report: LoadReport):
        super().__init__(message)
        self.report = report


@dataclass
class LoadReport:
    """What ``load_weights`` found and did.

    Attributes:
        source: where the weights came from.
        model: class name of the model.
        key_map: how keys were changed on the way, in words; empty if they were not.
        averaged: whether these are averaged (EMA) weights.
        matched: names of the model that were loaded.
        missing: names of the model that the source lacks; they keep their initial values.
        unexpected: keys of the source that the model has no place for.
        wrong_shape: name to (shape in the source, shape in the model); not loaded.
        resized: the same for what was interpolated to fit, such as positions of another grid.
        dropped: keys that the key map leaves out, with its reason.
        num_matched: parameters (single numbers) loaded.
        num_parameters: parameters that the model has.
        metadata: what the source says about itself: config, classes, versions ...
    """

    source: str
    model: str
    key_map: str = ''
    averaged: bool = False
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    num_matched: int = 0
    num_parameters: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the model's parameters that were loaded, 0 to 1."""
        return self.num_matched / self.num_parameters if self.num_parameters else 1.0

    @property
    def complete(self) -> bool:
        """Whether everything the model has came from the source."""
        return not self.missing and not self.wrong_shape

    def summary(self) -> str:
        """One line: how much fits."""
        # 99.997 % must not read as 100 %
        percent = 100 * self.share
        shown = '100' if self.num_matched == self.num_parameters else f'{min(percent, 99.99):.2f}'
        return (
            f'{shown} % of {self.num_parameters:,} parameters loaded into {self.model} from '
            f'{self.source}{" (averaged weights)" if self.averaged else ""}'
            f'{f", {self.key_map}" if self.key_map else ""}')

    def print(self, console: Any = None) -> None:
        """Show the report as a table, with examples of what did not fit.

        Args:
            console: a ``rich.console.Console``; by default one on standard error.
        """
        from rich.console import Console
        from rich.table import Table

        table = Table('', 'tensors', 'names', title=self.summary(), title_justify='left')
        table.add_row('matched', str(len(self.matched)), '')
        for label, names in self._rows():
            if names:
                table.add_row(label, str(len(names)), _some(names))
        (console or Console(stderr=True)).print(table)

    def __str__(self) -> str:
        lines = [self.summary(), f'  matched      {len(self.matched)}']
        lines += [
            f'  {label:<12} {len(names)}: {_some(names)}' for label, names in self._rows() if names]
        return '\n'.join(lines)

    def _rows(self) -> list[tuple[str, list[str]]]:
        shapes, resized = (
            [f'{name} (source {list(got)}, model {list(want)})'
             for name, (got, want) in found.items()] for found in (self.wrong_shape, self.resized))
        reasons = [f'{key} ({why})' for key, why in self.dropped.items()]
        return [('resized', resized), ('missing', self.missing), ('wrong shape', shapes),
                ('unexpected', self.unexpected), ('dropped', reasons)]


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f' ... and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    min_matched: float | None = None,
    allow_missing: Sequence[str] = (),
    replace_head: bool = False,
    key_maps: Sequence[KeyMap] = (),
    ema: bool | None = None,
) -> LoadReport:
    """Load weights into a model, or change nothing and say why they do not fit.

    By default everything that the model has must be in the source.

    Args:
        model: the bare model (no DDP around it).
        source: a checkpoint folder, ``best``/``last`` or work_dir of a run, a ``.safetensors``
            file, a sharded index (``*.safetensors.index.json``), a ``.pth``/``.pt`` file, an
            address that ``openlab.zoo.sources.fetch`` takes, or a state dict.
        min_matched: accept if this share (0 to 1) of the parameters fits.
        allow_missing: patterns (regular expressions) of names that may keep initial values.
        replace_head: keep the model's own fresh head where the source's has another shape (other
            number of classes) or is absent.
        key_maps: maps to try besides those that the model's classes list as ``weights``.
        ema: load averaged weights; by default where the checkpoint has them.

    Returns:
        The report; it can be printed.

    Raises:
        LoadError: if the weights do not fit or are not finite; the model is as it was.
        FileNotFoundError: if there is nothing at ``source``.
        CheckpointError: if a file is damaged, or is a pickle that could run code.
    """
    metadata: dict[str, Any] = {}
    if isinstance(source, Mapping):
        state, averaged, name = tensors_of(source), False, 'a state dict'
    else:
        state, averaged, metadata = read_state(source, ema)
        name = str(source)
    report, chosen = match(model, state, key_maps)
    report.source, report.averaged, report.metadata = name, averaged, metadata
    problems = _problems(report, min_matched, allow_missing, replace_head)
    if problems:
        raise LoadError(_refusal(report, problems, replace_head), report)
    spoilt = _not_finite(model, chosen)
    if spoilt:
        raise LoadError(
            f'{name} has NaN or infinite values, nothing was loaded: {len(spoilt)} of '
            f'{len(chosen)} tensors ({_some(spoilt, 3)}); a run that diverged may have written '
            'it: take an earlier checkpoint', report)
    _copy_into(model, chosen)
    return report


def match(
    model: nn.Module, state: Mapping[str, Tensor], key_maps: Sequence[KeyMap] = ()
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the renaming under which most of ``state`` fits ``model``.

    Returns:
        The report and the tensors to load, by the model's names.
    """
    best: tuple[LoadReport, dict[str, Tensor]] | None = None
    for label, candidate, dropped in _candidates(model, state, key_maps):
        report, chosen = _compare(model, candidate)
        report.key_map, report.dropped = label, dropped
        if best is None or _rank(report) > _rank(best[0]):
            best = report, chosen
        if report.complete and not report.unexpected:
            break
    assert best is not None
    return best


def _rank(report: LoadReport) -> tuple[int, int, int]:
    # A head of another shape still shows that a renaming is the right one. Where nothing fits,
    # having left out the most is no merit: the first candidate, the plain keys, stays.
    return (report.num_matched, len(report.matched) + len(report.wrong_shape),
            -len(report.unexpected) if report.matched else 0)


def _candidates(
    model: nn.Module, state: Mapping[str, Tensor], key_maps: Sequence[KeyMap]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, str]]]:
    """Ways to read ``state``: (in words, renamed state, dropped keys with reason)."""
    for unwrapped_label, unwrapped in _unwrapped(state):
        yield unwrapped_label, unwrapped, {}
        for label, renamed, dropped in _mapped(model, unwrapped, key_maps):
            yield _joined(unwrapped_label, label), renamed, dropped
        for part in _parts(model, unwrapped):
            if part in _WRAPPERS and all(key.startswith(part) for key in unwrapped):
                continue  # the next one of these
            inside = {k.removeprefix(part): v for k, v in unwrapped.items() if k.startswith(part)}
            outside = {k: 'another part of the model it comes from'
                       for k in unwrapped if not k.startswith(part)}
            removed = _joined(unwrapped_label, f'prefix {part!r} removed')
            yield removed, inside, outside
            for label, renamed, dropped in _mapped(model, inside, key_maps):
                yield (_joined(removed, label), renamed,
                       {**outside, **{part + key: why for key, why in dropped.items()}})
        for child in dict(model.named_children()):
            yield (_joined(unwrapped_label, f'prefix {child + "."!r} added'),
                   {f'{child}.{k}': v for k, v in unwrapped.items()}, {})


def _mapped(
    model: nn.Module, state: Mapping[str, Tensor], key_maps: Sequence[KeyMap]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, str]]]:
    """What each key map that knows ``state`` makes of it, as in ``_candidates``."""
    for prefix, maps in [('', list(key_maps)), *_maps_of(model)]:
        for key_map in maps:
            if not key_map.matches(state):
                continue
            renamed = key_map.apply_at(prefix, state)
            dropped = key_map.dropped(state)
            _map_parts(model, renamed, dropped, key_map.source, prefix)
            yield (_joined(f'key map {key_map.source!r}',
                           f'for {prefix.rstrip(".")}' if prefix else ''), renamed, dropped)


def _unwrapped(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    current, removed = dict(state), ''
    yield '', current
    while current:
        prefix = next((w for w in _WRAPPERS if all(k.startswith(w) for k in current)), None)
        if prefix is None:
            return
        removed += prefix
        current = {k.removeprefix(prefix): v for k, v in current.items()}
        yield f'prefix {removed!r} removed', current


def _maps_of(model: nn.Module) -> list[tuple[str, list[KeyMap]]]:
    """Key maps that the classes inside a model list, with the place of the module."""
    found = []
    for name, module in model.named_modules():
        maps = getattr(type(module), 'weights', None)
        if isinstance(maps, (list, tuple)):
            own = [m for m in maps if isinstance(m, KeyMap)]
            found.append((f'{name}.' if name else '', own))
    return found


def _map_parts(
    model: nn.Module, state: dict[str, Tensor], dropped: dict[str, str], source: str, prefix: str
) -> None:
    """Let the maps of the modules inside ``prefix`` rename, in place, what is now theirs.

    The map of a detector says where published weights keep the backbone; how a backbone of that
    source is named inside is the backbone's own business.
    """
    for inner, maps in _maps_of(model):
        if not inner.startswith(prefix) or inner == prefix:
            continue
        part = {k.removeprefix(inner): v for k, v in state.items() if k.startswith(inner)}
        for key_map in maps:
            if key_map.source == source and key_map.matches(part):
                for key in part:
                    del state[inner + key]
                state.update(key_map.apply_at(inner, part))
                dropped.update({inner + k: why for k, why in key_map.dropped(part).items()})
                break


def _parts(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """First components of the source's keys that the model does not have: it may be such a part."""
    own = {key.split('.')[0] for key in model.state_dict()}
    theirs = dict.fromkeys(key.split('.')[0] for key in state if '.' in key)
    return [f'{part}.' for part in theirs if part not in own]


def _joined(*words: str) -> str:
    return ' '.join(word for word in words if word)


def _compare(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[LoadReport, dict[str, Tensor]]:
    own = tensors_of(model.state_dict(keep_vars=True))
    parameters = dict(model.named_parameters())
    report = LoadReport('', type(model).__name__)
    report.num_parameters = sum(p.numel() for p in parameters.values())
    chosen: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name not in state:
            report.missing.append(name)
        elif state[name].shape != tensor.shape:
            report.wrong_shape[name] = (tuple(state[name].shape), tuple(tensor.shape))
        else:
            report.matched.append(name)
            chosen[name] = state[name]
    if report.wrong_shape:
        fitted = _fitted(model, state)
        for name in [n for n in report.wrong_shape if fitted[n].shape == own[n].shape]:
            report.resized[name] = report.wrong_shape.pop(name)
            report.matched.append(name)
            chosen[name] = fitted[name]
    # a tensor with two names has been loaded once one of them has
    _, shared = split_shared(own)
    loaded = {shared.get(name, name) for name in chosen}
    report.missing = [
        name for name in report.missing
        if shared.get(name, name) not in loaded and not name.endswith('num_batches_tracked')]
    report.unexpected = [
        key for key in state if key not in own and not key.endswith('num_batches_tracked')]
    report.num_matched = sum(
        p.numel() for name, p in parameters.items() if shared.get(name, name) in loaded)
    return report, chosen


def _fitted(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state after what modules do to it when it is loaded: interpolate positions, say."""
    fitted = dict(state)
    for name, module in model.named_modules():
        for hook in module._load_state_dict_pre_hooks.values():
            hook(fitted, f'{name}.' if name else '', {}, False, [], [], [])
    return fitted


def _problems(
    report: LoadReport, min_matched: float | None, allow_missing: Sequence[str], replace_head: bool
) -> list[str]:
    if min_matched is not None and not 0 <= min_matched <= 1:
        raise ValueError(f'min_matched={min_matched}; accepted: a share from 0 to 1')
    missing = [n for n in report.missing if not any(re.search(p, n) for p in allow_missing)]
    wrong = dict(report.wrong_shape)
    if replace_head:
        missing = [n for n in missing if not _HEAD.search(n)]
        wrong = {n: shapes for n, shapes in wrong.items() if not _HEAD.search(n)}
    problems = []
    if wrong:
        shown = [f'{n}: source {list(got)}, model {list(want)}'
                 for n, (got, want) in wrong.items()]
        problems.append(f'{len(wrong)} of another shape ({_some(shown, 3)})')
    if min_matched is not None:
        if report.share < min_matched:
            problems.append(f'{100 * report.share:.2f} % of the parameters fit, '
                            f'min_matched asks for {100 * min_matched:g} %')
    elif missing:
        problems.append(f'{len(missing)} missing ({_some(missing, 3)}{_near(missing, report)})')
    if not report.matched:
        problems.append('nothing fits')
    return problems


def _near(missing: Sequence[str], report: LoadReport) -> str:
    near = difflib.get_close_matches(missing[0], report.unexpected[:2000], n=1, cutoff=0.6)
    return f'; the source has {near[0]}' if near else ''


def _refusal(report: LoadReport, problems: Sequence[str], replace_head: bool) -> str:
    advice = []
    has_head = any(_HEAD.search(name) for name in (*report.wrong_shape, *report.missing))
    if not report.matched:
        advice.append('these are weights of another architecture or size, or their names need a '
                      'key map (key_maps)')
    elif has_head and not replace_head:
        advice.append('to start with a fresh head give replace_head=True (--replace-head)')
    if report.matched and report.missing:
        advice.append('to leave other parameters at their initial values give '
                      'allow_missing=[patterns] or min_matched=SHARE')
    hint = f'\n{"; ".join(advice)}' if advice else ''
    return (f'the weights do not fit, nothing was loaded: {"; ".join(problems)}\n'
            f'{report}{hint}')


def _not_finite(model: nn.Module, chosen: Mapping[str, Tensor]) -> list[str]:
    """Names of what would spoil the model, each with the number of its bad values."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    spoilt = []
    for name, tensor in chosen.items():
        if not tensor.is_floating_point() or tensor.is_meta or tensor.element_size() == 1:
            continue  # torch cannot ask numbers of 8 bits
        # a buffer may well be infinite: a mask of attention, say
        good = tensor.isfinite() if name in parameters else ~tensor.isnan()
        if not good.all():
            spoilt.append(f'{name}: {int((~good).sum())} of {tensor.numel()} values')
    return spoilt


@torch.no_grad()
def _copy_into(model: nn.Module, chosen: Mapping[str, Tensor]) -> None:
    if any(hasattr(p, 'full_tensor') for p in model.parameters()):  # sharded by FSDP2
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(model, dict(chosen), options=options)
    else:
        model.load_state_dict(chosen, strict=False)


def read_state(
    source: str | Path, ema: bool | None = None
) -> tuple[dict[str, Tensor], bool, dict[str, Any]]:
    """Read weights from disk.

    Returns:
        Tensors by name, whether they are averaged ones, and metadata.
    """
    path = fetch(source) if is_address(source) else Path(source)
    path = path if path.name.endswith('.index.json') else resolve_checkpoint(path)
    if path.is_dir():
        averaged = (path / EMA).is_file() if ema is None else ema
        file = path / (EMA if averaged else WEIGHTS)
        if not file.is_file():
            raise FileNotFoundError(
                f'{file} is missing: ' + (
                    'this checkpoint holds no averaged weights; leave out ema=True'
                    if averaged else 'the checkpoint is incomplete'))
        return read_weights(file), averaged, read_metadata(file)
    if path.name.endswith('.index.json'):
        return _read_sharded(path), False, {}
    if path.suffix == '.gguf':
        from openlab.zoo.gguf_llama import read_gguf_state

        return read_gguf_state(path), False, {}
    if path.suffix == '.safetensors':
        return read_weights(path), False, read_metadata(path)
    state, averaged, meta = pick_weights(read_pickle(path), path, ema)
    return state, averaged, meta


def _read_sharded(index: Path) -> dict[str, Tensor]:
    places: dict[str, str] = json.loads(index.read_text(encoding='utf-8'))['weight_map']
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f'{index.parent / file} is missing; {index.name} refers to it')
        state.update(read_weights(index.parent / file))
    absent = [name for name in places if name not in state]
    if absent:
        raise CheckpointError(f'{index} lists {_some(absent)}, which its files do not hold')
    return state


def read_pickle(path: Path) -> Any:
    """Read a ``.pth`` or ``.pt`` file, old formats included, without running code from it.

    Raises:
        CheckpointError: if it holds anything but tensors and plain types, or is damaged.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r'GLOBAL ([\w.]+)', str(error))
        if named is None and not _seems_of_torch(path):
            raise CheckpointError(f'{path} cannot be read: {_NO_TORCH_FILE}') from error
        what = f' ({named.group(1)})' if named else ''
        raise CheckpointError(
            f'{path} holds pickled objects{what} besides tensors; reading them can run any code, '
            'so it is refused. If you trust the file, convert it once: openlab '
            f'convert {path} {path.with_suffix(".safetensors").name} --unsafe-pickle'
        ) from error
    except Exception as error:  # of many types, with words that are torch's own affair
        raise CheckpointError(f'{path} cannot be read: {_why_unreadable(path, error)}') from error


def _seems_of_torch(path: Path) -> bool:
    """Whether a file begins as torch writes it: as an archive or, long ago, as a pickle."""
    with path.open('rb') as file:
        return file.read(4).startswith((b'PK', b'\x80'))


def _why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file that ``torch.load`` gave up on, in one line."""
    if path.stat().st_size == 0:
        return 'it is empty'
    if not _seems_of_torch(path):
        return _NO_TORCH_FILE
    if zipfile.is_zipfile(path):  # whole, so that torch's reason is the matter
        return str(error).partition('\n')[0]
    return 'it is cut short or damaged; copy or download it again'


def pick_weights(
    content: Any, path: Path, ema: bool | None
) -> tuple[dict[str, Tensor], bool, dict[str, Any]]:
    """Find the weights in what a training script saved; the result is that of ``read_state``."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, no state dict')
    meta = content.get('meta')
    metadata = dict(meta) if isinstance(meta, Mapping) else {}
    wanted = _CONTAINERS if not ema else _EMA_CONTAINERS
    for key in wanted:
        inner = content.get(key)
        if isinstance(inner, Mapping) and tensors_of(inner):
            return tensors_of(inner), bool(ema), metadata
    if ema:
        raise CheckpointError(
            f'{path} holds no averaged weights (looked for {", ".join(wanted)}); leave out ema')
    state = tensors_of(content)
    if not state:
        keys = f'its keys are {_some([str(k) for k in content])}' if content else 'it is empty'
        raise CheckpointError(f'{path} holds a dict without tensors; {keys}')
    return state, False, metadata


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The entries of a state dict that are tensors."""
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def print_report(report: LoadReport) -> None:
    """Show a load report on rank 0."""
    if distributed.is_main_process():
        report.print()
