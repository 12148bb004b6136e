"""Who may use weights, and for what: the terms of licences and of training data.

The table is data, ``model_zoo/terms.json``. It is a summary in our own words and no legal
advice: whoever decides reads the terms themselves, whose address each row has.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openlab.shipped import shipped_root

NOT_KNOWN = 'not known'


@dataclass(frozen=True)
class Terms:
    """The terms of a licence or of a data set.

    Attributes:
        name: what it is called here.
        commercial: whether it may serve a business; None where it is unclear.
        why: the reason, in a few words.
        url: where the terms stand.
    """

    name: str
    commercial: bool | None
    why: str
    url: str = ''


@dataclass(frozen=True)
class Verdict:
    """Whether weights may serve a business, by their licence and all that they learned from.

    Attributes:
        commercial: False as soon as one part forbids it, None where one is unclear.
        reasons: what forbids it or leaves it open, one line for each part.
    """

    commercial: bool | None
    reasons: tuple[str, ...] = field(default=())


@functools.cache
def table() -> dict[str, list[dict[str, Any]]]:
    """The rows of ``model_zoo/terms.json``: ``licenses`` and ``datasets``."""
    return json.loads((shipped_root() / 'model_zoo' / 'terms.json').read_text('utf-8'))


def all_terms(kind: str) -> list[Terms]:
    """Every row of ``'licenses'`` or ``'datasets'``."""
    return [_terms(row) for row in table()[kind]]


@functools.cache
def terms_of_license(name: str | None) -> Terms:
    """Terms of a licence by its name; unclear where the table lacks it."""
    return _look_up('licenses', name, 'no licence is stated for the weights')


@functools.cache
def terms_of_data(name: str | None) -> Terms:
    """Terms of a data set by the name a source gives it; unclear where the table lacks it."""
    return _look_up('datasets', name, 'what the weights learned from is not recorded')


def data_names(text: str | Sequence[str] | None) -> list[str]:
    """The data sets in what a source writes, by the table's names where it knows them.

    >>> data_names('CrowdHuman + MOT17-half-train')
    ['CrowdHuman', 'MOT17']
    """
    parts = [text] if isinstance(text, str) else list(text or ())
    names: list[str] = []
    for part in parts:
        pieces = [part]
        if _named('datasets', part) is None:
            pieces = re.split(r'\s*(?:,|\+|;|\band\b|&)\s*', part)
        names += [_canonical(piece) for piece in pieces if re.search(r'\w', piece)]
    return list(dict.fromkeys(names))


def judge(license_name: str | None, training_data: Sequence[str]) -> Verdict:
    """Weigh a licence and training data; the strictest part decides."""
    parts = [('licence', terms_of_license(license_name))]
    parts += [('trained on', terms_of_data(name)) for name in training_data or ('',)]
    reasons = tuple(f'{what} {terms.name}: {terms.why}' if terms.name != NOT_KNOWN else terms.why
                    for what, terms in parts if terms.commercial is not True)
    if any(terms.commercial is False for _, terms in parts):
        return Verdict(False, reasons)
    return Verdict(None if reasons else True, reasons)


def _canonical(name: str) -> str:
    row = _find('datasets', name)
    return row['name'] if row else name.strip()


def _look_up(kind: str, name: str | None, absent: str) -> Terms:
    if not name:
        return Terms(NOT_KNOWN, None, absent)
    row = _find(kind, name)
    return _terms(row) if row else Terms(name, None, 'its terms are not in the table')


def _terms(row: Mapping[str, Any]) -> Terms:
    return Terms(row['name'], row['commercial'], row['why'], row.get('url', ''))


def _named(kind: str, name: str) -> dict[str, Any] | None:
    wanted = name.strip().lower()
    return next((row for row in table()[kind]
                 if wanted == row['name'].lower() or wanted in row.get('aliases', ())), None)


@functools.cache
def _find(kind: str, name: str) -> dict[str, Any] | None:
    exact = _named(kind, name)
    if exact:
        return exact
    wanted = name.strip().lower()
    for row in table()[kind]:
        if 'pattern' in row and re.search(row['pattern'], wanted):
            return row
    return None
