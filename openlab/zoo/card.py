"""An entry of the zoo in words: for the terminal, and as a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlparse

from openlab.zoo.bases import Base
from openlab.zoo.download import MIRROR_VARIABLE, SILENT_HOSTS
from openlab.zoo.index import OWN, files_of
from openlab.zoo.terms import NOT_KNOWN, Terms, judge, terms_of_data, terms_of_license

COMMERCIAL = {True: 'yes', False: 'no', None: 'unclear'}


def details(model: Mapping[str, Any]) -> str:
    """An entry for the terminal."""
    verdict = judge(model.get('license'), model.get('training_data', ()))
    paper = model.get('paper', {})
    lines = [
        ('name', model['name']),
        ('about', model.get('about')),
        ('tasks', ', '.join(model.get('tasks', ()))),
        ('family', model['family']),
        ('source', f'{model["source"]} ({model.get("project", "")})'),
        ('paper', ' '.join(filter(None, (paper.get('title'), paper.get('url'))))),
        ('status', _status_text(model)),
        ('config', config_of(model)),
        ("source's config", model.get('source_config')),
        ('parameters', _number(model.get('params'))),
        ('FLOPs', _number(model.get('flops'))),
        ('results', '\n'.join(f'{r["metric"]} {r["value"]:g} on {r["dataset"] or "?"}'
                              for r in model.get('results', ()))),
        ('preprocessing', json.dumps(model['preprocessing'])
         if model.get('preprocessing') else None),
        ('weights', '\n'.join(_file_text(file) for file in files_of(model)) or 'not published'),
        ('licence', model.get('license') or 'not stated'),
        ('training data', ', '.join(model.get('training_data', ())) or 'not recorded'),
        ('commercial use', '\n'.join([COMMERCIAL[verdict.commercial], *verdict.reasons])),
    ]
    width = max(len(name) for name, _ in lines)
    indent = '\n' + ' ' * (width + 2)
    return '\n'.join(f'{name:{width}}  {indent.join(str(value).splitlines())}'
                     for name, value in lines if value)


def config_of(model: Mapping[str, Any]) -> str | None:
    """The config of ours that an entry runs with."""
    return model.get('config') or model.get('check', {}).get('config')


def card_of_entry(model: Mapping[str, Any]) -> str:
    """The model card of an entry, as Markdown with the head that model hubs read."""
    paper = model.get('paper', {})
    usage = (f'openlab infer {_short(model)} IMAGE' if model['status'] == 'runs'
             else f'openlab zoo download {model["name"]}')
    parts = [
        _head(model),
        f'# {_short(model)}\n',
        model.get('about', ''),
        f'{model["family"]}, from {model.get("project", model["source"])}.',
        f'Paper: {" ".join(filter(None, (paper.get("title"), paper.get("url"))))}' if paper else '',
        f'\n## Use\n\n```\n{usage}\n```\n',
        result_table(model.get('results', ())),
        licence_chain(model.get('license'), model.get('training_data', ())),
        _preprocessing_text(model.get('preprocessing')),
        '\n## Files\n\n' + ('\n'.join(f'* {_file_text(f)}' for f in files_of(model))
                           or 'The source published none.'),
    ]
    return '\n'.join(part for part in parts if part).rstrip() + '\n'


def _head(model: Mapping[str, Any]) -> str:
    tasks = ''.join(f'\n  - {task.replace(" ", "-")}' for task in model.get('tasks', ()))
    data = ''.join(f'\n  - {json.dumps(name)}' for name in model.get('training_data', ()))
    return (f'---\nlibrary_name: openlab\nlicense: {model.get("license") or "unknown"}'
            + (f'\ntags:{tasks}' if tasks else '') + (f'\ndatasets:{data}' if data else '')
            + '\n---\n')


def result_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown section; says so where there are none."""
    if not results:
        return '\n## Results\n\nNone are recorded.\n'
    rows = '\n'.join(f'| {r["dataset"]} | {r["metric"]} | {r["value"]:g} |' for r in results)
    return f'\n## Results\n\n| data | metric | value |\n|---|---|---|\n{rows}\n'


def licence_chain(license_name: str | None, data: Sequence[str],
                  bases: Sequence[Base] = ()) -> str:
    """From the weights' licence to the terms of all that they learned from, as a section."""
    terms = terms_of_license(license_name)
    known = [base.entry for base in bases if base.entry is not None]
    rows = [('weights', terms.name, terms), *map(_row_of_base, bases)]
    data = list(dict.fromkeys([*data, *(d for e in known for d in e.get('training_data', ()))]))
    rows += [('training data', name, terms_of_data(name)) for name in data]
    verdicts = [judge(license_name, data)]
    verdicts += [judge(base.get('license'), base.get('training_data', ())) for base in known]
    words = [v.commercial for v in verdicts] + [None] * (len(bases) - len(known))
    overall = False if False in words else None if None in words else True
    table = '\n'.join(f'| {what} | {name} | {COMMERCIAL[t.commercial]} | {t.why} |'
                      for what, name, t in rows)
    missing = '' if data else '\nWhat the weights learned from is not recorded.\n'
    return ('\n## Licences\n\n| part | terms | commercial use | why |\n|---|---|---|---|\n'
            f'{table}\n{missing}\nCommercial use of the whole: **{COMMERCIAL[overall]}**. This is '
            'a summary and no legal advice.\n')


def _row_of_base(base: Base) -> tuple[str, str, Terms]:
    what = f'{base.role} {base.name}'
    if base.entry is None:
        return what, NOT_KNOWN, Terms(
            NOT_KNOWN, None, 'licence and training data of these weights are not known')
    name = base.entry.get('license')
    return what, name or 'not stated', terms_of_license(name)


def _preprocessing_text(preprocessing: Mapping[str, Any] | None) -> str:
    if not preprocessing:
        return ''
    rows = '\n'.join(f'* {key}: {value}' for key, value in preprocessing.items())
    return f'\n## Preprocessing\n\n{rows}\n'


def _file_text(file: Mapping[str, Any]) -> str:
    notes = [f'{file["size"]:,} bytes'] if file.get('size') else []
    notes += [f'sha256 {file["sha256"]}'] if file.get('sha256') else []
    silent = {SILENT_HOSTS.get(urlparse(a).hostname or '') for a in file['weights']} - {None}
    notes += [f'{reason}; {MIRROR_VARIABLE} names a copy' for reason in sorted(map(str, silent))]
    return ' or '.join(file['weights']) + (f' ({"; ".join(notes)})' if notes else '')


def _status_text(model: Mapping[str, Any]) -> str:
    if model['status'] == 'listed':
        return 'listed: not proven to fit openlab'
    check = model['check']
    return f'runs: {check["tensors"]} tensors fit ({check["proof"]})'


def _short(model: Mapping[str, Any]) -> str:
    is_own = model['source'] == OWN
    return str(model['name']).partition('/')[2] if is_own else str(model['name'])


def _number(value: float | None) -> str | None:
    return None if value is None else f'{value:,}'
