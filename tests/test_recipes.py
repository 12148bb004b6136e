"""Recipes as published: what papers' tables say stands in the resolved configs."""

from functools import cache

import pytest

from openlab.config import load_config


@cache
def recipe(name):
    return load_config(f'classification/{name}').to_plain()


def step(cfg, name, stage='train'):
    for transform in cfg[f'{stage}_dataloader']['dataset']['pipeline']:
        if transform['type'].endswith(f'.{name}'):
            return transform
    return None


def kind(cfg):
    return cfg['type'].rpartition('.')[2]


def mixing(cfg):
    augments = cfg['model']['preprocessor']['batch_augments'][0]['augments']
    return {kind(a): a['alpha'] for a in augments}


def facts(cfg):
    """The rows of a table of hyperparameters."""
    optimizer = cfg['optim_wrapper']['optimizer']
    augment = step(cfg, 'RandAugment')
    clip = cfg['optim_wrapper'].get('clip_grad')
    hooks = cfg.get('custom_hooks') or []
    return {
        'epochs': cfg['train_cfg']['max_epochs'],
        'batch': cfg['auto_scale_lr']['base_batch_size'],
        'optimizer': kind(optimizer), 'lr': optimizer['lr'], 'decay': optimizer['weight_decay'],
        'warmup': cfg['param_scheduler'][0]['end'],
        'cosine': (cfg['param_scheduler'][1]['begin'], cfg['param_scheduler'][1]['end']),
        'clip': clip and clip['max_norm'],
        'drop_path': cfg['model']['backbone'].get('drop_path', 0.0),
        'repeats': cfg['train_dataloader']['sampler'].get('num_repeats', 1),
        'size': step(cfg, 'RandomResizedCrop')['size'],
        'test_size': step(cfg, 'CenterCrop', 'val')['size'],
        'test_resize': step(cfg, 'Resize', 'val')['shorter'],
        # counted to 10, as "9/0.5" means
        'rand': augment and (augment['magnitude'] * 10 / (augment['num_levels'] - 1),
                             augment['magnitude_std'], augment['prob']),
        'erasing': (step(cfg, 'RandomErasing') or {}).get('prob', 0.0),
        'mixup': mixing(cfg)['MixUp'], 'cutmix': mixing(cfg)['CutMix'],
        'smoothing': cfg['model']['head']['loss'].get('label_smoothing', 0.0),
        'loss': kind(cfg['model']['head']['loss']),
        'ema': next((round(1 - h['momentum'], 6) for h in hooks if kind(h) == 'EMAHook'), None),
    }


RSB = {'batch': 2048, 'optimizer': 'Lamb', 'warmup': 5, 'clip': 1.0, 'test_size': 224,
       'test_resize': 236, 'erasing': 0.0, 'cutmix': 1.0, 'loss': 'BinaryCrossEntropyLoss'}
STRONG = {'epochs': 300, 'optimizer': 'AdamW', 'decay': 0.05, 'size': 224, 'test_size': 224,
          'test_resize': 256, 'rand': (9.0, 0.5, 0.5), 'erasing': 0.25, 'mixup': 0.8,
          'cutmix': 1.0, 'smoothing': 0.1, 'loss': 'CrossEntropyLoss'}
DEIT = {**STRONG, 'batch': 1024, 'lr': 1e-3, 'warmup': 5, 'cosine': (5, 300), 'clip': None,
        'repeats': 3, 'drop_path': 0.1, 'ema': None}
SWIN = {**STRONG, 'batch': 1024, 'lr': 1e-3, 'warmup': 20, 'cosine': (20, 300), 'clip': 1.0,
        'repeats': 1, 'ema': None}
CONVNEXT = {**STRONG, 'batch': 4096, 'lr': 4e-3, 'warmup': 20, 'cosine': (20, 300), 'clip': None,
            'repeats': 1, 'ema': 0.9999}


@pytest.mark.parametrize(('name', 'table'), [
    ('resnet/resnet50_rsb_a1_600e_imagenet', {
        **RSB, 'epochs': 600, 'cosine': (5, 600), 'lr': 5e-3, 'decay': 0.01, 'drop_path': 0.05,
        'repeats': 3, 'size': 224, 'rand': (7.0, 0.5, 0.5), 'mixup': 0.2}),
    ('resnet/resnet50_rsb_a2_300e_imagenet', {
        **RSB, 'epochs': 300, 'cosine': (5, 300), 'lr': 5e-3, 'decay': 0.02, 'drop_path': 0.05,
        'repeats': 3, 'size': 224, 'rand': (7.0, 0.5, 0.5), 'mixup': 0.1}),
    ('resnet/resnet50_rsb_a3_100e_imagenet', {
        **RSB, 'epochs': 100, 'cosine': (5, 100), 'lr': 8e-3, 'decay': 0.02, 'drop_path': 0.0,
        'repeats': 1, 'size': 160, 'rand': (6.0, 0.5, 0.5), 'mixup': 0.1}),
    ('vit/vit_tiny_300e_imagenet', DEIT),
    ('vit/vit_small_300e_imagenet', DEIT),
    ('vit/vit_base_300e_imagenet', DEIT),
    ('deit/deit_tiny_distilled_300e_imagenet', DEIT),
    ('swin/swin_tiny_300e_imagenet', {**SWIN, 'drop_path': 0.2}),
    ('swin/swin_small_300e_imagenet', {**SWIN, 'drop_path': 0.3}),
    ('swin/swin_base_300e_imagenet', {**SWIN, 'drop_path': 0.5}),
    ('convnext/convnext_tiny_300e_imagenet', {**CONVNEXT, 'drop_path': 0.1}),
    ('convnext/convnext_small_300e_imagenet', {**CONVNEXT, 'drop_path': 0.4}),
    ('convnext/convnext_base_300e_imagenet', {**CONVNEXT, 'drop_path': 0.5}),
    ('deit3/deit3_small_300e_imagenet', {
        'batch': 2048, 'optimizer': 'Lamb', 'lr': 3e-3, 'decay': 0.02, 'warmup': 5, 'clip': 1.0,
        'drop_path': 0.05, 'repeats': 3, 'rand': None, 'erasing': 0.0, 'mixup': 0.8,
        'cutmix': 1.0, 'smoothing': 0.0, 'loss': 'BinaryCrossEntropyLoss', 'test_resize': 224}),
])
def test_a_recipe_holds_what_its_table_says(name, table):
    found = facts(recipe(name))
    assert {key: found[key] for key in table} == table


def test_mixed_targets_of_resnet_strikes_back_are_cut_at_a_fifth():
    for name in ('a1_600e', 'a2_300e', 'a3_100e'):
        loss = recipe(f'resnet/resnet50_rsb_{name}_imagenet')['model']['head']['loss']
        assert loss['target_threshold'] == 0.2
