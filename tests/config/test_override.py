"""Overrides as text: what is written is what is read."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlab.config import ConfigDict, ConfigError
from openlab.config.nodes import is_same
from openlab.config.override import (
    apply_override,
    format_value,
    join_path,
    parse_override,
    parse_path,
    parse_value,
)

KEYS = st.text(st.characters(whitelist_categories=('L', 'N', 'P', 'S', 'Zs')), min_size=1,
               max_size=8).filter(lambda k: "'" not in k and k.strip() == k)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=12)
PATHS = st.lists(st.one_of(KEYS, st.integers(-9, 99)), max_size=4)


@settings(deadline=None)  # the cores are shared
@given(VALUES)
def test_a_formatted_value_parses_to_itself(value):
    assert is_same(parse_value(format_value(value)), value)


@settings(deadline=None)  # the cores are shared
@given(KEYS.filter(lambda k: k[0] not in '+~'), PATHS)
def test_a_joined_path_parses_to_its_steps(first, rest):
    steps = (first, *rest)
    assert parse_path(join_path(steps)) == steps


@settings(deadline=None)  # the cores are shared
@given(VALUES)
def test_setting_a_value_sets_it_and_leaves_the_original_alone(value):
    inner = ConfigDict(b=[ConfigDict(c=0), ConfigDict(c=1)])
    values = ConfigDict(a=inner, shared=inner)
    apply_override(values, parse_override(f'a.b.1.c={format_value(value)}'), lambda *_: False)
    assert is_same(values.a.b[1].c, value)
    assert values.a.b[0].c == 0
    assert values.shared == {'b': [{'c': 0}, {'c': 1}]}


@pytest.mark.parametrize(('text', 'value'), [
    ('1', 1), ('1e-3', 1e-3), ('-2.5', -2.5), ('true', True), ('False', False), ('null', None),
    ('None', None), ('a', 'a'), ('a/b.pth', 'a/b.pth'), ('a-b', 'a-b'), ("'1'", '1'),
    ('1,2', (1, 2)), ('[a, 1]', ['a', 1]), ('(1,)', (1,)), ('{a: 1}', {'a': 1}),
    ('dict(type=torch.optim.SGD, lr=1)', {'type': 'torch.optim.SGD', 'lr': 1}),
    ('', ''), ('007', '007'), ('2026-11-23', '2026-11-23'), ('f(x)', 'f(x)'),
    ('[dict(type=A)]', [{'type': 'A'}]), ('hello world', 'hello world'), ('+1', 1),
])
def test_values_are_read_as_meant(text, value):
    assert is_same(parse_value(text), value)


@pytest.mark.parametrize(('text', 'path', 'action'), [
    ('a.b=1', ('a', 'b'), 'set'), ('a[0].b=1', ('a', 0, 'b'), 'set'),
    ('a.-1=1', ('a', -1), 'set'), ("a['x.y']=1", ('a', 'x.y'), 'set'),
    ('+a.b=1', ('a', 'b'), 'add'), ('~a.b', ('a', 'b'), 'delete'),
    ('a+=[1]', ('a',), 'extend'), ('a.append=1', ('a',), 'append'),
    ('a=b=c', ('a',), 'set'), ('a=x+=1', ('a',), 'set'),
])
def test_the_forms_of_an_override(text, path, action):
    override = parse_override(text)
    assert (override.path, override.action) == (path, action)


@pytest.mark.parametrize('text', ['', '=1', 'a', '~', '+a', '~a=1', 'a..b=1', '.a=1', '[0]=1'])
def test_what_is_no_override_is_refused(text):
    with pytest.raises(ConfigError):
        parse_override(text)
