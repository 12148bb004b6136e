import pytest

from openlab.zoo.filters import (
    MILLISECONDS,
    PARAMS,
    as_number,
    metric_test,
    nearest,
    range_test,
)


def test_numbers_may_have_a_letter_or_an_exponent():
    assert [as_number(text) for text in ('3.5M', '200k', '1G', '12', '1e6', '.5k', '3,504,872')] \
        == [3.5e6, 2e5, 1e9, 12, 1e6, 500, 3_504_872]
    for text in ('many', '1.2.3', '', '-5', 'e6'):
        with pytest.raises(ValueError, match='no number; accepted: 3500000'):
            as_number(text)


def test_a_bound_is_strict_without_an_equals_sign():
    value = 3_504_872
    kept = {text: range_test('params', text, PARAMS)(value) for text in (
        '<3.504872M', '<=3.504872M', '>3.504872M', '>=3.504872M', '3.504872M-3.504872M')}
    assert list(kept.values()) == [False, True, False, True, True]


def test_a_range_may_be_written_with_exponents():
    is_within = range_test('params', '1e6-5e+6', PARAMS)
    assert [is_within(value) for value in (9e5, 1e6, 5e6, 5.1e6, None)] == [
        False, True, True, False, False]


@pytest.mark.parametrize('text', ['10M-', '-10M', '10M', '<', '1-2-3', '<many', '=5M'])
def test_what_is_no_range_is_answered_with_the_forms_that_are(text):
    with pytest.raises(ValueError) as caught:
        range_test('params', text, PARAMS)
    assert f'params {text!r}' in str(caught.value) and "'<=10M'" in str(caught.value)
    assert "'5M-30M'" in str(caught.value)


def test_forms_of_a_latency_are_milliseconds():
    with pytest.raises(ValueError, match=r"latency '-5'.*'5-30', in milliseconds") as caught:
        range_test('latency', '-5', MILLISECONDS)
    assert '3.5M' not in str(caught.value)


def test_a_reversed_range_is_refused():
    with pytest.raises(ValueError, match='ends below its start; did you mean 5M-30M'):
        range_test('params', '30M-5M', PARAMS)


@pytest.mark.parametrize('name', ['top1', 'Top-1', 'top 1', 'acc@1', 'top1-acc', 'accuracy top1'])
def test_the_metric_top1_has_many_spellings(name):
    assert metric_test(name)('top1', 80.0)
    assert metric_test(f'{name} >= 80')('top1', 80.0) and not metric_test(f'{name}>80')('top1', 80)
    assert not metric_test(name)('top5', 80.0)


def test_a_metric_may_have_an_equals_sign_in_brackets():
    is_metric = metric_test('Recall@Top1(IoU=0.5) < 50')
    assert is_metric('Recall@Top1(IoU=0.5)', 47.0) and not is_metric('Recall@Top1(IoU=0.5)', 51.0)


@pytest.mark.parametrize('text', ['top1>=1.2.3', 'top1>=', 'top1=>90', '>=3', '', 'top1>=80>=3'])
def test_a_bound_that_is_no_number_is_answered_with_what_is_accepted(text):
    with pytest.raises(ValueError, match="accepted: NAME, or with a bound: 'top1>=80'") as caught:
        metric_test(text)
    assert repr(text) in str(caught.value)


def test_the_names_that_a_message_lists_are_the_first_that_are_known():
    known = ['vision_transformer', *(f'n{i}' for i in range(20)), 'Vision Transformer']
    assert nearest('qqqq', known).startswith('; there are vision_transformer, n0, n1, ')
    assert nearest('qqqq', known).endswith('n10 and 9 more')
    assert nearest('vison', known) == '; did you mean vision?'
    assert nearest('vison', known, with_words=False).startswith('; there are')
