from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from openlab.engine.model_setup import (
    checkpoint_activations,
    compile_model,
    find_blocks,
    num_compiled_graphs,
    scaled_optimizer,
    select_modules,
)

LOGGER = logging.getLogger('openlab')


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + torch.tanh(self.fc(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_checkpointed_blocks_run_twice_and_give_the_same_gradients():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 4)
    model(x).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    names = list(model.state_dict())
    checkpoint_activations(model, ['Block'])
    model(x).sum().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(expected, model.parameters()))
    assert [b.calls for b in model.blocks] == [3, 3]
    assert list(model.state_dict()) == names


def test_checkpointing_rests_in_evaluation():
    model = checkpoint_activations(Model(), ['blocks']).eval()
    model(torch.randn(2, 4)).sum().backward()
    assert [b.calls for b in model.blocks] == [1, 1]


def test_blocks_are_found_by_the_name_of_their_list():
    assert list(find_blocks(Model())) == ['blocks.0', 'blocks.1']
    with pytest.raises(ValueError, match='Linear has no sequence of modules named blocks'):
        find_blocks(nn.Linear(1, 1))


def test_modules_are_selected_by_class_or_pattern_and_misses_name_near_ones():
    assert list(select_modules(Model(), ['blocks.*.fc', 'Block'], 'x')) == [
        'blocks.0', 'blocks.0.fc', 'blocks.1', 'blocks.1.fc']
    with pytest.raises(ValueError, match="x: 'Blok' fits no module; near: Block"):
        select_modules(Model(), ['Blok'], 'x')


@pytest.mark.parametrize(('cfg', 'expected'), [
    (True, ['stem', 'blocks']), ({'target': 'blocks', 'backend': 'eager'},
                                 ['blocks.0', 'blocks.1']),
    ({'target': 'blocks', 'blocks': ['stem']}, ['stem']), (None, []), (False, [])])
def test_what_is_compiled_follows_the_target(cfg, expected):
    model = Model()
    model.blocks = nn.Sequential(*model.blocks)
    names = list(model.state_dict())
    assert compile_model(model, cfg) == expected
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(('cfg', 'message'), [
    ({'targe': 'model'}, "compile.targe is unknown; did you mean target"),
    ({'target': 'block'}, "compile.target='block'; accepted: 'model', 'blocks'"),
    ({'target': 'blocks', 'blocks': ['Nothing']}, 'compile.blocks')])
def test_unknown_settings_of_compile_are_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        compile_model(Model(), cfg)


def test_compiled_blocks_compute_the_same_and_graphs_are_counted():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 4)
    expected = model(x)
    before = num_compiled_graphs()
    compile_model(model, {'target': 'blocks', 'backend': 'eager'})
    torch.testing.assert_close(model(x), expected)
    assert num_compiled_graphs() > before


def test_lr_scales_with_the_effective_batch_only_when_enabled():
    cfg = {'type': 'SGD', 'lr': 0.1}
    scaled = scaled_optimizer(cfg, {'base_batch_size': 64, 'enable': True}, (16, 4, 2), LOGGER)
    assert scaled == {'type': 'SGD', 'lr': pytest.approx(0.2)}
    assert scaled_optimizer(cfg, {'base_batch_size': 64, 'enable': False}, (16, 4, 2),
                            LOGGER)['lr'] == 0.1
    with pytest.raises(ValueError, match='needs base_batch_size'):
        scaled_optimizer(cfg, {'enable': True}, (16, 1, 1), LOGGER)
    with pytest.raises(ValueError, match=r"auto_scale_lr has \['base'\]"):
        scaled_optimizer(cfg, {'base': 1}, (16, 1, 1), LOGGER)
