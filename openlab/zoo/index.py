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
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from openlab.shipped import shipped_root
from openlab.zoo.filters import (
    MILLISECONDS,
    PARAMS,
    has_part,
    metric_name,
    metric_test,
    nearest,
    plain,
    plain_metric,
    range_test,
)
from openlab.zoo.latencies import measured
from openlab.zoo.terms import Verdict, judge

OWN = 'openlab'
COMMERCIAL = 'commercial'  # no licence, but whatever permits business
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
        params: bounds such as ``<10M``, ``>=1M`` or ``5M-30M``.
        latency: bounds of the milliseconds of one image on this machine, such as ``<30``.
        license: ``'commercial'``, or part of the name of a licence.
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
                  with_check: bool = False, skip_hosts: Collection[str] = ()) -> list[Path]:
    """The files of an entry's weights, downloaded where they have to be.

    Args:
        name: of the entry.
        progress: show a bar; by default on a terminal.
        with_check: compare files that lie in the cache with their hashes, too.
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
                  progress=progress, with_check=with_check, skip_hosts=skip_hosts)
            for file in files]


def select(wanted: Wanted, among: Iterable[Row] | None = None) -> Found:
    """The rows that pass all filters."""
    is_metric = metric_test(wanted.metric)
    is_size = range_test('params', wanted.params, PARAMS)
    is_fast = range_test('latency', wanted.latency, MILLISECONDS)
    known = measured() if wanted.latency else {}
    found = Found()
    for row in rows() if among is None else among:
        if not (_passes_names(row, wanted) and is_size(row.params)):
            continue
        if wanted.status and status(row) != wanted.status:
            continue
        if (wanted.dataset or wanted.metric) and not any(
                has_part(wanted.dataset, [result.dataset])
                and is_metric(result.metric, result.value)
                for result in row.results):
            continue
        if wanted.license == COMMERCIAL:
            verdict = row.verdict
            if not (verdict.commercial or (verdict.commercial is None and wanted.with_unclear)):
                found.excluded.append((row, verdict))
                continue
        elif wanted.license and not has_part(wanted.license, [row.license or '']):
            continue
        if wanted.latency and row.name not in known:
            if status(row) == 'runs':
                found.unmeasured.append(row)
            continue
        if wanted.latency and not is_fast(known[row.name].milliseconds):
            continue
        found.rows.append(row)
    return found


def check_known(wanted: Wanted) -> None:
    """Refuse filters that no entry of the whole index could pass, whatever the others are.

    Raises:
        ValueError: naming the filter and the nearest names that are known.
    """
    every = rows()
    tasks = [wanted.task] if isinstance(wanted.task, str) else wanted.task or ()
    for task in tasks:
        _check_part('task', task, (name for row in every for name in row.tasks))
    _check_part('family', wanted.family, (row.family for row in every))
    _check_part('dataset', wanted.dataset,
                (result.dataset for row in every for result in row.results))
    if wanted.license != COMMERCIAL:
        _check_part('license', wanted.license,
                    (row.license for row in every if row.license), further=(COMMERCIAL,))
    if wanted.metric is not None:
        name = metric_name(wanted.metric)
        known = _commonest(result.metric for row in every for result in row.results)
        if plain_metric(name) not in map(plain_metric, known):
            raise ValueError(f'no entry has a metric {name!r}{nearest(name, known, False)}')


def _check_part(what: str, part: str | None, names: Iterable[str],
                further: Sequence[str] = ()) -> None:
    if part is None:
        return
    known = _commonest(names)
    if not has_part(part, known):
        raise ValueError(f'no entry has a {what} {part!r}{nearest(part, [*further, *known])}')


def _commonest(names: Iterable[str]) -> list[str]:
    return [name for name, _ in Counter(names).most_common()]


def best_result(row: Row, wanted: Wanted) -> Result | None:
    """The result to show: the first one that fits the filters."""
    is_metric = metric_test(wanted.metric)
    fitting = [r for r in row.results
               if has_part(wanted.dataset, [r.dataset]) and is_metric(r.metric, r.value)]
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


def _row(values: dict[str, Any]) -> Row:
    for key in ('tasks', 'training_data'):
        values[key] = tuple(values[key])
    values['results'] = tuple(Result(*result) for result in values['results'])
    return Row(**values)


def _passes_names(row: Row, wanted: Wanted) -> bool:
    # Only with words: this is most of the time of a search.
    texts = wanted.words and [plain(text) for text in (
        row.name, row.family, *row.tasks, *row.training_data,
        *(result.dataset for result in row.results))]
    return (all(any(plain(word) in text for text in texts) for word in wanted.words)
            and (wanted.task is None or any(
                has_part(task, row.tasks)
                for task in ([wanted.task] if isinstance(wanted.task, str) else wanted.task)))
            and (wanted.source is None or wanted.source == row.source)
            and has_part(wanted.family, [row.family]))


def _near(name: str) -> str:
    known = {row.bare.lower(): row.name for row in rows()}
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    return f'; did you mean {" or ".join(known[n] for n in close)}?' if close else ''
