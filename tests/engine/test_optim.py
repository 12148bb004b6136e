from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from openlab.engine.optim import OptimWrapper

from .helpers import make_runner

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def wrapper(model: nn.Module, **kwargs) -> OptimWrapper:
    return OptimWrapper({'type': 'SGD', 'lr': 0.1}, model=model, **kwargs)


def train_on(model: nn.Module, optim: OptimWrapper, pieces: list[int], tensors: bool = False):
    """One pass over X in pieces of the given sizes; the last one ends the window."""
    start = 0
    for i, size in enumerate(pieces):
        x, y = X[start:start + size], Y[start:start + size]
        start += size
        is_last = i == len(pieces) - 1
        steps_now = optim.will_step(is_last)
        with optim.forward_context(model, steps_now):
            loss = (model(x) - y).square().mean()
            optim.backward(loss, torch.tensor(size) if tensors else size)
        if steps_now:
            optim.finish_gradients()
            optim.step()


@pytest.mark.parametrize('tensors', [False, True])
@pytest.mark.parametrize('pieces', [[6, 6], [3, 3, 3, 3], [1, 2, 4, 5], [11, 1]])
def test_accumulated_micro_batches_equal_one_large_batch(pieces, tensors):
    large, small = net(), net()
    train_on(large, wrapper(large), [12])
    train_on(small, wrapper(small, accumulate=len(pieces)), pieces, tensors)
    for a, b in zip(large.parameters(), small.parameters()):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_micro_batches_without_valid_items_count_nothing():
    large, small = net(), net()
    train_on(large, wrapper(large), [12])
    optim = wrapper(small, accumulate=3)
    for x, y, count in ((X[:1], Y[:1], 0), (X, Y, 12), (X[:1], Y[:1], 0)):
        optim.backward((small(x) - y).square().mean(), count)
    optim.finish_gradients()
    optim.step()
    for a, b in zip(large.parameters(), small.parameters()):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_the_last_window_of_a_pass_may_be_partial():
    large, small = net(), net()
    optim = wrapper(large)
    for part in (slice(0, 8), slice(8, 12)):
        optim.backward((large(X[part]) - Y[part]).square().mean())
        optim.finish_gradients()
        optim.step()
    train_on(small, wrapper(small, accumulate=2), [4, 4, 4])
    for a, b in zip(large.parameters(), small.parameters()):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


def test_clipping_by_norm_reports_the_norm_before():
    model = net()
    optim = wrapper(model, clip_grad={'max_norm': 0.5})
    optim.backward((model(X) - Y).square().mean() * 100)
    norm = optim.finish_gradients()
    after = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm.item() > 0.5
    assert after.item() == pytest.approx(0.5, rel=1e-4)


def test_clipping_by_value_bounds_every_entry():
    model = net()
    optim = wrapper(model, clip_grad={'max_value': 0.01})
    optim.backward((model(X) - Y).square().mean() * 100)
    assert optim.finish_gradients() is None
    assert max(p.grad.abs().max() for p in model.parameters()).item() == pytest.approx(0.01)


def test_clipping_needs_exactly_one_limit():
    with pytest.raises(ValueError, match='either max_norm or max_value'):
        wrapper(net(), clip_grad={'max_norm': 1.0, 'max_value': 1.0})


@pytest.mark.parametrize(('precision', 'dtype'), [('bf16', torch.bfloat16),
                                                  ('fp16', torch.float16)])
def test_mixed_precision_computes_in_half_and_learns(precision, dtype):
    model = net()
    optim = wrapper(model, precision=precision)
    losses = []
    for _ in range(30):
        with optim.forward_context(model):
            out = model(X)
        assert out.dtype is dtype
        loss = (out.float() - Y).square().mean()
        losses.append(loss.item())
        optim.backward(loss)
        optim.finish_gradients()
        optim.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.dtype is torch.float32 for p in model.parameters())


def test_fp16_skips_a_step_with_overflow_and_lowers_its_scale():
    model = net()
    optim = wrapper(model, precision='fp16', loss_scale=2.0**10)
    before = [p.clone() for p in model.parameters()]
    optim.backward(model(X).mean() * float('inf'))
    optim.finish_gradients()
    optim.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert optim.scaler.get_scale() == 2.0**9


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_skipped_step_leaves_parameters_and_allows_the_next(precision):
    model = net()
    optim = wrapper(model, precision=precision)
    before = [p.clone() for p in model.parameters()]
    for skip in (True, False):
        optim.backward((model(X) - Y).square().mean())
        optim.finish_gradients()
        if skip:
            optim.skip()
        optim.step()
        unchanged = all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
        assert unchanged is skip


@pytest.mark.skipif(not Path('/proc/cpuinfo').exists(), reason='only Linux tells')
def test_precision_auto_is_that_of_the_cpus_own_instructions():
    flags = set(Path('/proc/cpuinfo').read_text().split())
    expected = 'bf16' if flags & {'avx512_bf16', 'amx_bf16', 'bf16'} else 'fp32'
    optim = wrapper(net(), precision='auto')
    assert optim.precision == expected
    with optim.forward_context(net()):
        assert torch.is_autocast_enabled('cpu') == (expected == 'bf16')


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"precision='fp8'.*'fp32', 'bf16', 'fp16', 'auto'"):
        wrapper(net(), precision='fp8')


def test_state_of_another_precision_is_refused():
    model = net()
    state = wrapper(model, precision='fp16').state_dict()
    with pytest.raises(ValueError, match='the run was in fp16'):
        wrapper(model).load_state_dict(state)


def test_an_open_window_survives_saving():
    model = net()
    optim = wrapper(model, accumulate=2)
    optim.backward((model(X[:4]) - Y[:4]).square().mean(), 4)
    window = optim.grads_in_window()
    other = net()
    again = wrapper(other, accumulate=2)
    again.load_window(window)
    for m, o in ((model, optim), (other, again)):
        o.backward((m(X[4:]) - Y[4:]).square().mean(), 8)
        o.finish_gradients()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize('name', ['Adam', 'AdamW', 'RMSprop', 'Adagrad', 'NAdam', 'RAdam', 'Adamax',
                                  'Adadelta', 'ASGD', 'Rprop', 'SGD'])
def test_optimizers_of_torch_are_found_by_name(name):
    optim = OptimWrapper({'type': name, 'lr': 0.1}, model=net())
    assert type(optim.optimizer) is getattr(torch.optim, name)


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(KeyError, match=r"no optimizer named 'AdamV'; did you mean Adam"):
        OptimWrapper({'type': 'AdamV', 'lr': 0.1}, model=net())


def test_the_loops_weight_by_the_items_that_the_model_reports(tmp_path):
    """Batches of 4 and 2 accumulated give the gradient of the batch of 6."""
    from .helpers import points_loader

    def weights(batch_size, accumulate):
        runner = make_runner(
            tmp_path, train_dataloader=points_loader(6, batch_size), train_cfg={'max_epochs': 3},
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}, 'accumulate': accumulate})
        runner.train()
        return runner.model.state_dict()

    whole, parts = weights(6, 1), weights(4, 2)
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], atol=1e-6, rtol=1e-6)
