"""Batch norm over processes against torch's over one batch of all their items."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from openlab.engine.launch import launch
from openlab.layers.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm

ROOT = Path(__file__).resolve().parents[2]
# Rank 0 has three items, rank 1 five; the loss weights items differently, and each rank has its
# own share of it. The second of two steps sees statistics that the first has moved.
SCRIPT = '''
import sys
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
from torch import nn

from openlab.engine import distributed
from openlab.layers.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm

distributed.start_process_group()
torch.manual_seed(0)
norm = nn.BatchNorm2d(4, momentum={momentum!r})
nn.init.normal_(norm.weight)
nn.init.normal_(norm.bias)
norm = convert_sync_batch_norm(norm.double(), torch.device('cpu'))
assert type(norm) is SyncBatchNorm
xs = torch.randn(2, 8, 4, 3, 5, generator=torch.Generator().manual_seed(1)).double() * 3 + 100
part = slice(0, 3) if distributed.rank() == 0 else slice(3, 8)
found = []
for x in xs:
    x = x[part].requires_grad_()
    y = norm(x)
    factor = torch.arange(1.0, 9)[part].view(-1, 1, 1, 1)
    (factor * y.sin()).sum().backward()
    found.append((y.detach(), x.grad))
torch.save((found, norm.weight.grad, norm.bias.grad, norm.state_dict()),
           Path({folder!r}, f'{{distributed.rank()}}.pt'))
distributed.end_rank(0)
'''


@pytest.mark.slow
@pytest.mark.parametrize('momentum', [0.1, None])
def test_two_processes_equal_one_with_all_their_items(tmp_path, monkeypatch, momentum):
    monkeypatch.setenv('OPENLAB_DEVICE', 'cpu')
    script = tmp_path / 'run.py'
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(tmp_path), momentum=momentum))
    assert launch([], 2, script=str(script)) == 0
    parts = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm, exact = norm.double(), {'rtol': 1e-6, 'atol': 1e-6}
    xs = torch.randn(2, 8, 4, 3, 5, generator=torch.Generator().manual_seed(1)).double() * 3 + 100
    for step, x in enumerate(xs):
        x.requires_grad_()
        y = norm(x)
        (torch.arange(1.0, 9).view(-1, 1, 1, 1) * y.sin()).sum().backward()
        outputs, grads = (torch.cat([p[0][step][i] for p in parts]) for i in range(2))
        torch.testing.assert_close(outputs, y, **exact)
        torch.testing.assert_close(grads, x.grad, **exact)
    torch.testing.assert_close(parts[0][1] + parts[1][1], norm.weight.grad, **exact)
    torch.testing.assert_close(parts[0][2] + parts[1][2], norm.bias.grad, **exact)
    for _, _, _, state in parts:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(state[name], value, **exact)


def test_alone_it_is_the_ordinary_layer():
    ours, torchs = SyncBatchNorm(4), nn.BatchNorm2d(4)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.eval()(x), torchs.eval()(x))
    assert all(torch.equal(a, b) for a, b in zip(
        ours.state_dict().values(), torchs.state_dict().values()))


def test_conversion_keeps_names_parameters_and_modes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)), nn.BatchNorm1d(
        4, affine=False, track_running_stats=False))
    model[1][0].eval()
    state, weight = model.state_dict(), model[1][0].weight
    changed = convert_sync_batch_norm(model, torch.device('cpu'))
    assert changed is model
    assert type(model[1][0]) is SyncBatchNorm and not model[1][0].training
    assert type(model[2]) is SyncBatchNorm and model[2].running_mean is None
    assert model[1][0].weight is weight
    assert json.dumps(list(model.state_dict())) == json.dumps(list(state))


def test_accelerators_keep_torchs_layer():
    changed = convert_sync_batch_norm(nn.Sequential(nn.BatchNorm2d(4)), torch.device('cuda'))
    assert type(changed[0]) is nn.SyncBatchNorm
