import torch

from openlab.necks.fpn import FPN


def test_coarse_levels_are_computed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    neck = FPN((8, 16), 8, extra='p6p7', extra_from='p5')
    maps = [torch.randn(2, 8, 4, 4), torch.randn(2, 16, 2, 2)]
    for _ in range(8):  # gradients were NaN now and then where a map is a single place
        neck.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            outs = neck(maps)
        assert [x.dtype for x in outs] == [torch.bfloat16] * 2 + [torch.float32] * 2
        sum(x.float().square().sum() for x in outs).backward()
        assert all(p.grad.isfinite().all() for p in neck.parameters())


def test_maps_without_memory_pass():
    with torch.device('meta'):
        neck = FPN((8, 16), 8, extra='p6p7')
        outs = neck([torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 2, 2)])
    assert [tuple(x.shape[2:]) for x in outs] == [(4, 4), (2, 2), (1, 1), (1, 1)]
