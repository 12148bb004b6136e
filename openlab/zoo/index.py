"""The zoo: what is published, where it lies, and what openlab can do with it.

``model_zoo/SOURCE/FAMILY.json`` are read by people and hold everything. ``model_zoo/index.json``
is made from them (``tools/zoo/build_index.py``) with what lists and filters need, so that a
command answers before a torch could be imported. ``model_zoo/checks.json`` records which entries
were proven to fit a config of ours.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from openlab.shipped import shipped_root
from openlab.zoo.latencies import measured
from openlab.zoo.terms import Verdict, judge

OWN = 'openlab'
# Fields of a family's file that hold for each of its models unless the model says otherwise.
SHARED = ('source', 'family', 'project', 'paper', 'license', 'training_data', 'tasks', 'classes',
          'preprocessing')
COLUMNS = ('name', 'source', 'family', 'file', 'tasks', 'params', 'flops', 'results', 'license',
           'training_data', 'files')
Status = Literal['runs', 'listed']


class Result(NamedTuple):
    """One number of a published evaluation."""

    dataset: str
    metric: str
    value: float


@dataclass(frozen=True)
class Row:
    """What lists and filters need of one entry.

    Attributes:
        name: unique, ``SOURCE/NAME``.
        source: project that published it.
        family: algorithm or architecture.
        file: of its family, relative to ``model_zoo/``.
        tasks: what it does, the main task first.
        params: number of parameters; None where no one says.
        flops: multiply-adds of one image, as the source counts them.
        results: published results.
        license: of the weights.
        training_data: names of data sets.
        files: number of files of weights; 0 where none were published.
    """

    name: str
    source: str
    family: str
    file: str
    tasks: tuple[str, ...] = ()
    params: int | None = None
    flops: float | None = None
    results: tuple[Result, ...] = ()
    license: str | None = None
    training_data: tuple[str, ...] = ()
    files: int = 0

    @property
    def bare(self) -> str:
        """The name without its source."""
        return self.name.partition('/')[2]

    @property
    def verdict(self) -> Verdict:
        """Whether the weights may serve a business."""
        return judge(self.license, self.training_data)


@dataclass
class Wanted:
    """Filters of a list; what is left out filters nothing.

    Attributes:
        words: all must be found in name, family, task, data or architecture.
        task: part of the name of a task; of several, one must be found.
        source: exact name of a source.
        family: part of the name of a family.
        dataset: part of the name of a data set with results.
        metric: ``NAME``, or with a bound: ``top1>=80``, ``box AP > 40``.
        params: bounds such as ``<10M`` or ``5M-30M``.
        latency: bounds of the milliseconds of one image on this machine, such as ``<30``.
        license: ``'commercial'``, or the name of a licence.
        with_unclear: with ``license='commercial'``, keep what no one forbids nor permits.
        status: ``'runs'`` or ``'listed'``.
    """

    words: Sequence[str] = ()
    task: str | Sequence[str] | None = None
    source: str | None = None
    family: str | None = None
    dataset: str | None = None
    metric: str | None = None
    params: str | None = None
    latency: str | None = None
    license: str | None = None
    with_unclear: bool = False
    status: Status | None = None


@dataclass
class Found:
    """Rows that passed all filters.

    Attributes:
        rows: these.
        excluded: those that only their terms excluded.
        unmeasured: those that run, whose latency nobody measured here, although it was asked for.
    """

    rows: list[Row] = field(default_factory=list)
    excluded: list[tuple[Row, Verdict]] = field(default_factory=list)
    unmeasured: list[Row] = field(default_factory=list)


def zoo_folder() -> Path:
    """The folder of the index."""
    return shipped_root() / 'model_zoo'


@functools.cache
def rows() -> tuple[Row, ...]:
    """Every entry of the index."""
    data = json.loads((zoo_folder() / 'index.json').read_text('utf-8'))
    return tuple(_row(dict(zip(data['columns'], values))) for values in data['models'])


@functools.cache
def checks() -> dict[str, dict[str, Any]]:
    """Recorded proofs that an entry's names and shapes fit a config: name to record."""
    file = zoo_folder() / 'checks.json'
    return json.loads(file.read_text('utf-8'))['checks'] if file.is_file() else {}


def status(row: Row) -> Status:
    """``'runs'`` where a check is recorded whose config is present, else ``'listed'``."""
    record = checks().get(row.name)
    return 'runs' if record and _has_config(record['config']) else 'listed'


@functools.cache
def _has_config(config: str) -> bool:
    return (shipped_root() / 'configs' / config).is_file()


def find(name: str) -> Row:
    """The entry of a name, which may lack its source where that leaves no doubt.

    Raises:
        ValueError: if there is none, or several; with the names that are meant, perhaps.
    """
    by_name = {row.name: row for row in rows()}
    if name in by_name:
        return by_name[name]
    same = [row for row in rows() if row.bare == name]
    own = [row for row in same if row.source == OWN]
    if len(own or same) == 1:
        return (own or same)[0]
    if same:
        raise ValueError(f'{name} is in several sources; say which: '
                         + ', '.join(row.name for row in same))
    raise ValueError(f'the zoo has no {name!r}{_near(name)}; openlab zoo search WORDS finds names')


def has(name: str) -> bool:
    """Whether ``find`` would find an entry."""
    return any(name in (row.name, row.bare) for row in rows())


def entry(name: str) -> dict[str, Any]:
    """Everything that is known of an entry, with its family's fields and its record of checks."""
    row = find(name)
    family = json.loads((zoo_folder() / row.file).read_text('utf-8'))
    for model in entries(family):
        if model['name'] == row.name:
            record = checks().get(row.name)
            return {**model, **({'check': record} if record else {}), 'status': status(row)}
    raise ValueError(f'{row.file} has no {row.name}, the index does; run tools/zoo/build_index.py')


def entries(family: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The models of a family's file, each with the fields that they share and its full name."""
    shared = {key: family[key] for key in SHARED if key in family}
    for model in family['models']:
        yield {**shared, **model, 'name': f'{family["source"]}/{model["name"]}'}


def files_of(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Files of weights of an entry: ``weights`` (mirrors), ``size`` and ``sha256`` of each."""
    if 'files' in model:
        return list(model['files'])
    if not model.get('weights'):
        return []
    return [{key: model[key] for key in ('weights', 'size', 'sha256') if model.get(key)}]


def fetch_weights(name: str, progress: bool | None = None,
                  skip_hosts: Collection[str] = ()) -> list[Path]:
    """The files of an entry's weights, downloaded where they have to be.

    Args:
        name: of the entry.
        progress: show a bar; by default on a terminal.
        skip_hosts: hosts that are not asked, as they were dead before.

    Raises:
        ValueError: if there is no such entry, or it has no weights.
        DownloadError: if no mirror gave a file.
    """
    from openlab.zoo.sources import fetch

    model = entry(name)
    files = files_of(model)
    if not files:
        raise ValueError(f'{model["name"]}: its source published no weights')
    return [fetch(file['weights'], size=file.get('size'), sha256=file.get('sha256'),
                  progress=progress, skip_hosts=skip_hosts) for file in files]


def select(wanted: Wanted, among: Iterable[Row] | None = None) -> Found:
    """The rows that pass all filters."""
    is_metric = _metric_test(wanted.metric)
    is_size = _range_test('params', wanted.params, ('<10M', '>1M', '5M-30M'))
    is_fast = _range_test('latency', wanted.latency, ('<30', '>5', '5-30'))
    known = measured() if wanted.latency else {}
    found = Found()
    for row in rows() if among is None else among:
        if not (_passes_names(row, wanted) and is_size(row.params)):
            continue
        if wanted.status and status(row) != wanted.status:
            continue
        if (wanted.dataset or wanted.metric) and not any(
                _has(wanted.dataset, [result.dataset]) and is_metric(result)
                for result in row.results):
            continue
        if wanted.license == 'commercial':
            verdict = row.verdict
            if not (verdict.commercial or (verdict.commercial is None and wanted.with_unclear)):
                found.excluded.append((row, verdict))
                continue
        elif wanted.license and wanted.license.lower() != (row.license or '').lower():
            continue
        if wanted.latency and row.name not in known:
            if status(row) == 'runs':
                found.unmeasured.append(row)
            continue
        if wanted.latency and not is_fast(known[row.name].milliseconds):
            continue
        found.rows.append(row)
    return found


def best_result(row: Row, wanted: Wanted) -> Result | None:
    """The result to show: the first one that fits the filters."""
    is_metric = _metric_test(wanted.metric)
    fitting = [r for r in row.results if _has(wanted.dataset, [r.dataset]) and is_metric(r)]
    return next(iter(fitting or row.results), None)


def shares(key: Literal['source', 'task']) -> dict[str, tuple[int, int]]:
    """How many entries run, and how many there are, for each source or task."""
    counts: dict[str, list[int]] = {}
    for row in rows():
        names = [row.source] if key == 'source' else list(row.tasks) or ['(not said)']
        for name in names:
            count = counts.setdefault(name, [0, 0])
            count[0] += status(row) == 'runs'
            count[1] += 1
    return {name: (run, total) for name, (run, total) in sorted(
        counts.items(), key=lambda item: -item[1][1])}


def as_number(text: str) -> float:
    """Read ``3.5M``, ``1G``, ``200k`` or a plain number.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r'\s*([\d_.,]+)\s*([kmgbt]?)\s*', text.lower())
    try:
        number = float(found[1].replace('_', '').replace(',', '')) if found else None
    except ValueError:
        number = None
    if found is None or number is None:
        raise ValueError(f'{text!r} is no number; accepted: 3500000, 3.5M, 200k, 1.2G')
    return number * {'': 1, 'k': 1e3, 'm': 1e6, 'g': 1e9, 'b': 1e9, 't': 1e12}[found[2]]


def _row(values: dict[str, Any]) -> Row:
    for key in ('tasks', 'training_data'):
        values[key] = tuple(values[key])
    values['results'] = tuple(Result(*result) for result in values['results'])
    return Row(**values)


def _passes_names(row: Row, wanted: Wanted) -> bool:
    text = ' '.join((row.name, row.family, *row.tasks, *row.training_data,
                     *(result.dataset for result in row.results))).lower()
    return (all(word.lower() in text for word in wanted.words)
            and (wanted.task is None or any(
                _has(task, row.tasks)
                for task in ([wanted.task] if isinstance(wanted.task, str) else wanted.task)))
            and (wanted.source is None or wanted.source == row.source)
            and _has(wanted.family, [row.family]))


def _has(part: str | None, names: Iterable[str]) -> bool:
    return part is None or any(_plain(part) in _plain(name) for name in names)


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name.lower())


def _metric_test(text: str | None) -> Any:
    if text is None:
        return lambda result: True
    found = re.fullmatch(r'\s*(.+?)\s*(?:(>=|<=|>|<)\s*(-?[\d.]+))?\s*', text)
    if found is None or re.search(r'[<>=]', found[1]):
        raise ValueError(f"metric {text!r}; accepted: NAME, or with a bound 'top1>=80'")
    name, sign, bound = _plain(found[1]), found[2], found[3] and float(found[3])
    tests = {'>=': lambda v: v >= bound, '<=': lambda v: v <= bound,
             '>': lambda v: v > bound, '<': lambda v: v < bound, None: lambda v: True}
    return lambda result: _plain(result.metric) == name and tests[sign](result.value)


def _range_test(what: str, text: str | None, accepted: Sequence[str]) -> Any:
    if text is None:
        return lambda value: True
    if found := re.fullmatch(r'\s*(<=?|>=?)(.+)', text):
        bound = as_number(found[2])
        low, high = (bound, float('inf')) if '>' in found[1] else (0, bound)
    elif '-' in text:
        low, high = (as_number(part) for part in text.split('-', 1))
    else:
        raise ValueError(f'{what} {text!r}; accepted: {accepted[0]!r}, {accepted[1]!r} or '
                         f'{accepted[2]!r}')
    return lambda value: value is not None and low <= value <= high


def _near(name: str) -> str:
    known = {row.bare.lower(): row.name for row in rows()}
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    return f'; did you mean {" or ".join(known[n] for n in close)}?' if close else ''
