import pytest
from scipy.stats import binomtest

from openlab.metrics.confidence import wilson_interval


@pytest.mark.parametrize(('successes', 'total'), [(0, 5), (5, 5), (1, 2), (449, 450), (30, 100)])
def test_the_interval_is_that_of_scipy(successes, total):
    expected = binomtest(successes, total).proportion_ci(0.95, method='wilson')
    found = wilson_interval(successes, total)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.parametrize(('successes', 'total'), [(1, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match='successes'):
        wilson_interval(successes, total)
