import pytest
import torch
from torch import nn

from openlab.engine.hooks.freeze import FreezeHook, stage_patterns
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


def trained(hook, model, epochs=1):
    before = {n: v.clone() for n, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    runner = SmallRunner(model, [hook], make_batches(2), max_epochs=epochs, optimizer=optimizer)
    runner.train()
    return {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}


def test_frozen_weights_and_their_norm_statistics_stay_bit_by_bit():
    changed = trained(FreezeHook(['backbone']), SmallModel())
    assert changed == {'head.weight', 'head.bias'}


def test_norm_statistics_move_on_when_asked_to():
    changed = trained(FreezeHook(['backbone'], norm_eval=False), SmallModel())
    assert 'backbone.1.running_mean' in changed
    assert 'backbone.1.weight' not in changed


def test_wildcards_and_exceptions_choose_parameters():
    changed = trained(FreezeHook(['*.weight'], except_for=['head']), SmallModel())
    assert 'backbone.0.weight' not in changed
    assert {'backbone.0.bias', 'head.weight', 'head.bias'} <= changed


def test_a_norm_half_frozen_keeps_training():
    model = SmallModel()
    hook = FreezeHook(['backbone.1.weight'])
    trained(hook, model)
    hook.before_train_iter(None, 0)
    assert model.backbone[1].training


def test_a_pattern_that_matches_nothing_names_its_neighbours():
    with pytest.raises(ValueError, match=r"'backbon' matches no parameter; did you mean 'backbone"):
        FreezeHook(['backbon']).freeze(SmallModel())


def test_everything_is_free_from_the_unfreeze_epoch_on():
    model, hook = SmallModel(), FreezeHook(['backbone'], unfreeze_epoch=1)
    assert 'backbone.0.weight' in trained(hook, model, epochs=2)
    assert all(p.requires_grad for p in model.parameters())
    assert model.backbone[1].training


def test_a_run_resumed_after_the_unfreeze_epoch_freezes_nothing():
    model, hook = SmallModel(), FreezeHook(['backbone'], unfreeze_epoch=2)
    runner = SmallRunner(model, [hook], [])
    runner.epoch = 3
    hook.before_train(runner)
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_frozen_before_stays_frozen_after_unfreezing():
    model, hook = SmallModel(), FreezeHook(['backbone'])
    model.backbone[0].weight.requires_grad_(False)
    hook.freeze(model)
    hook.unfreeze(model)
    assert not model.backbone[0].weight.requires_grad
    assert model.backbone[0].bias.requires_grad


def test_stages_are_the_children_of_the_backbone():
    assert stage_patterns(SmallModel(), 1) == ['backbone.0']
    assert stage_patterns(SmallModel(), 2) == ['backbone.0', 'backbone.1']
    with pytest.raises(ValueError, match=r'Sequential has only 2: 0, 1'):
        stage_patterns(SmallModel(), 3)


def test_members_of_a_list_are_stages_of_their_own_and_free_parameters_go_with_the_stem():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1))
            self.stem = nn.Linear(4, 3)
            self.act = nn.ReLU()
            self.stages = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    model = SmallModel(backbone=Backbone())
    assert stage_patterns(model, 2) == ['backbone.token', 'backbone.stem', 'backbone.stages.0']
    hook = FreezeHook(num_stages=3, except_for=['*.bias'])
    assert hook.freeze(model) == [
        'backbone.stages.0.weight', 'backbone.stages.1.weight', 'backbone.stem.weight',
        'backbone.token']


def test_a_norm_without_parameters_is_frozen_by_its_place():
    model = SmallModel(backbone=nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)))
    assert trained(FreezeHook(['backbone']), model) == {'head.weight', 'head.bias'}


def test_freezing_nothing_is_refused():
    with pytest.raises(ValueError, match='freezes nothing'):
        FreezeHook()
