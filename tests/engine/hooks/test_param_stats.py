import pytest
import torch

from openlab.engine.hooks.param_stats import ParamStatsHook, norms_by_part
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


def test_norms_are_joined_over_the_tensors_of_a_part():
    tensors = {'a.b.weight': torch.tensor([3.0]), 'a.b.bias': torch.tensor([4.0]),
               'a.c.weight': torch.tensor([12.0])}
    assert norms_by_part(tensors, 2) == {'a.b': 5.0, 'a.c': 12.0}
    assert norms_by_part(tensors, 1) == {'a': 13.0}


def test_scalars_are_logged_at_the_interval_only():
    hook = ParamStatsHook(interval=2, depth=1)
    runner = SmallRunner(SmallModel(), [hook], make_batches(5), lr=0.5)
    runner.train()
    assert sorted(runner.scalars) == [2, 4]
    stats = runner.scalars[2]
    # plain SGD moves by lr times the gradient
    step = stats['params/head/update_ratio'] * stats['params/head/weight_norm']
    assert step == pytest.approx(0.5 * stats['params/head/grad_norm'], rel=1e-5)
