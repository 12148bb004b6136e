import copy

import pytest
import torch
from torch import nn

from openlab.engine import distributed
from openlab.engine.strategy import (
    DDP,
    FSDP2,
    SingleDevice,
    build_strategy,
    full_state,
    read_shards,
    spread_optimizer_state,
    write_shards,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


def steps(model, optimizer, count, seed):
    losses = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        loss = model(torch.randn(8, 4, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def made(strategy):
    torch.manual_seed(0)
    model = strategy.wrap(Net(), torch.device('cpu'))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    yield
    distributed.stop_process_group()


@pytest.mark.parametrize(('cfg', 'kind'), [
    ('ddp', DDP), ({'type': 'FSDP2', 'param_dtype': 'bf16'}, FSDP2), ({'type': DDP}, DDP),
    ({'type': 'single'}, SingleDevice)])
def test_a_strategy_is_built_from_its_name_or_class(cfg, kind):
    assert type(build_strategy(cfg)) is kind


@pytest.mark.parametrize(('cfg', 'message'), [
    ({'type': 'fsdp'}, r"strategy\.type='fsdp' is unknown; did you mean 'fsdp2'"),
    ({'type': 'ddp', 'static_grph': True}, r'strategy\.static_grph.*did you mean .static_graph'),
    ({'type': 'fsdp2', 'param_dtype': 'half'}, r"strategy\.param_dtype='half'; accepted: fp32")])
def test_unknown_names_and_values_are_refused_with_near_ones(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_strategy(cfg)


def test_ddp_of_one_process_is_the_model_itself():
    model = Net()
    assert DDP().wrap(model, torch.device('cpu')) is model


def test_torchs_own_sync_bn_on_the_cpu_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(distributed, 'world_size', lambda: 2)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match=r'needs an accelerator.*sync_bn=True'):
        DDP().wrap(model, torch.device('cpu'))


def test_a_sharded_model_trains_like_the_plain_one_and_keeps_its_names(alone):
    plain = made(SingleDevice())
    sharded = made(FSDP2())
    assert type(sharded[0].layers[0]) is not type(plain[0].layers[0])
    assert steps(*sharded, 4, 1) == pytest.approx(steps(*plain, 4, 1), rel=1e-6)
    state = full_state(sharded[0].state_dict())
    expected = plain[0].state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name])


def test_shards_continue_in_a_sharded_and_in_a_plain_model(alone, tmp_path):
    model, optimizer = made(FSDP2())
    steps(model, optimizer, 3, 1)
    write_shards(tmp_path, model, optimizer)
    expected = steps(model, optimizer, 3, 2)
    for strategy in (FSDP2(), SingleDevice()):
        model, optimizer = made(strategy)
        read_shards(tmp_path, model, optimizer)
        assert steps(model, optimizer, 3, 2) == pytest.approx(expected, rel=1e-6)


def test_a_plain_optimizer_state_continues_in_a_sharded_model(alone):
    plain = made(SingleDevice())
    steps(*plain, 3, 1)
    weights = {n: t.clone() for n, t in plain[0].state_dict().items()}
    state = copy.deepcopy(plain[1].state_dict())
    model, optimizer = made(FSDP2())
    from openlab.engine.loading import load_weights

    load_weights(model, weights)
    spread_optimizer_state(model, optimizer, state)
    expected = steps(*plain, 3, 2)
    assert steps(model, optimizer, 3, 2) == pytest.approx(expected, rel=1e-6)
