"""Filters of a list as users write them: names, metrics with bounds, and ranges of numbers."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable

NUMBER = r'(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?[kmgbt]?'
FACTORS = {'k': 1e3, 'm': 1e6, 'g': 1e9, 'b': 1e9, 't': 1e12}
SIGNS: dict[str, Callable[[float, float], bool]] = {
    '>=': operator.ge, '<=': operator.le, '>': operator.gt, '<': operator.lt}
# What is accepted, as messages say it.
PARAMS = "'<10M', '<=10M', '>1M', '>=1M' or '5M-30M'"
MILLISECONDS = "'<30', '<=30', '>5', '>=5' or '5-30', in milliseconds"
FEW = 12  # names that a message lists where none is near
METRIC = "NAME, or with a bound: 'top1>=80'"
_SEPARATORS = str.maketrans('', '', ' \t\n_-')
_TOP_K = re.compile(r'(?:acc(?:uracy)?[@/]?(?:top)?|top@?)(\d)(?:acc(?:uracy)?)?')


def plain(name: str) -> str:
    """A name less what its spellings differ in: ``ResNet-18`` and ``resnet_18`` are one."""
    return name.lower().translate(_SEPARATORS)


def has_part(part: str | None, names: Iterable[str]) -> bool:
    """Whether one of the names has this part; they all do if there is none."""
    return part is None or any(plain(part) in plain(name) for name in names)


def plain_metric(name: str) -> str:
    """The same for a metric; ``acc@1`` and ``top-1 acc`` are ``top1``."""
    text = plain(name)
    found = _TOP_K.fullmatch(text)
    return f'top{found[1]}' if found else text


def nearest(name: str, known: Iterable[str], with_words: bool = True) -> str:
    """What was meant, perhaps, as the end of a message; else the first of what is known.

    Args:
        name: what nothing is called.
        known: names, the commonest first.
        with_words: a word of a name is as good as the name, as for filters that take parts.
    """
    whole: dict[str, str] = {}
    for text in known:
        whole.setdefault(plain(text), text)
    words = {plain(word): word for text in whole.values() for word in re.split(r'[\s_-]+', text)}
    names = {**words, **whole} if with_words else whole
    close = difflib.get_close_matches(plain(name), names, n=3, cutoff=0.6)
    if close:
        return f'; did you mean {" or ".join(names[one] for one in close)}?'
    common = list(whole.values())
    rest = f' and {len(common) - FEW} more' if len(common) > FEW else ''
    return f'; there are {", ".join(common[:FEW])}{rest}'


def metric_name(text: str) -> str:
    """The name in a filter such as ``'top1>=80'``.

    Raises:
        ValueError: if the filter cannot be read.
    """
    return _split_metric(text)[0]


def metric_test(text: str | None) -> Callable[[str, float], bool]:
    """Read a filter such as ``'top1>=80'``; the test takes the name of a metric and its value.

    Raises:
        ValueError: if the filter cannot be read.
    """
    if text is None:
        return lambda metric, value: True
    name, is_within = _split_metric(text)
    wanted = plain_metric(name)
    return lambda metric, value: plain_metric(metric) == wanted and is_within(value)


def _split_metric(text: str) -> tuple[str, Callable[[float], bool]]:
    # A name may have an equals sign in brackets: Recall@Top1(IoU=0.5).
    found = re.fullmatch(r'\s*((?:[^<>=()\s]|\([^()]*\)|\s(?!\s*[<>]|\s*$))+)\s*'
                         r'(?:(>=|<=|>|<)\s*([^<>=]*?)\s*)?', text)
    if found is None:
        raise ValueError(f'metric {text!r} cannot be read; accepted: {METRIC}')
    name, sign, bound = found.groups()
    if sign is None:
        return name, lambda value: True
    if not re.fullmatch(r'-?(\d+\.?\d*|\.\d+)', bound):
        raise ValueError(f'metric {text!r}: {bound!r} is no number; accepted: {METRIC}')
    limit, is_within = float(bound), SIGNS[sign]
    return name, lambda value: is_within(value, limit)


def range_test(what: str, text: str | None, accepted: str) -> Callable[[float | None], bool]:
    """Read a range such as ``'<10M'`` or ``'5M-30M'``; its test refuses what nobody knows.

    Args:
        what: as messages name it, such as ``params``.
        text: the range; None for any value, known or not.
        accepted: forms, for messages.

    Raises:
        ValueError: if the range cannot be read, or ends below its start.
    """
    if text is None:
        return lambda value: True
    if found := re.fullmatch(rf'\s*(<=|>=|<|>)\s*({NUMBER})\s*', text, re.IGNORECASE):
        is_within, bound = SIGNS[found[1]], as_number(found[2])
        return lambda value: value is not None and is_within(value, bound)
    found = re.fullmatch(rf'\s*({NUMBER})\s*-\s*({NUMBER})\s*', text, re.IGNORECASE)
    if found is None:
        raise ValueError(f'{what} {text!r} is no range; accepted: {accepted}')
    low, high = as_number(found[1]), as_number(found[2])
    if low > high:
        raise ValueError(f'{what} {text!r} ends below its start; did you mean '
                         f'{found[2]}-{found[1]}?')
    return lambda value: value is not None and low <= value <= high


def as_number(text: str) -> float:
    """Read ``3.5M``, ``1G``, ``200k``, ``1e6`` or a plain number.

    Raises:
        ValueError: for anything else.
    """
    lower = text.strip().lower()
    if not re.fullmatch(NUMBER, lower):
        raise ValueError(f'{text!r} is no number; accepted: 3500000, 3.5M, 200k, 1.2G, 1e6')
    factor = FACTORS.get(lower[-1], 1)
    digits = lower[:-1] if lower[-1] in FACTORS else lower
    return float(digits.replace('_', '').replace(',', '')) * factor
