"""Every shipped config, shrunk: builds, learns, predicts, exports, and comes back from disk.

To plug in another task, give its algorithm a row in ``TASKS`` (a batch, and what a good prediction
is), and each part that is too large a row in ``TINY`` (arguments that make it small).
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from openlab.config import check_config, load_config
from openlab.config.build import build
from openlab.data.transforms.base import Compose
from openlab.engine.loading import load_weights
from openlab.registry import METRICS, TRANSFORMS
from openlab.structures.data_sample import DataSample

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
SIZE, NUM_CLASSES, VOCAB, LENGTH = 32, 5, 64, 16

# Arguments that are small wherever they stand, and those that make one class small.
ANYWHERE = {'num_classes': NUM_CLASSES, 'vocab_size': VOCAB, 'context_length': LENGTH}
TINY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    'ResNet': lambda cfg: {
        'base_channels': 8, 'num_blocks': [1] * len(cfg.get('num_blocks', range(4)))},
    'MobileNetV2': lambda cfg: {'width': 0.25, 'last_channels': 32},
    'VisionTransformer': lambda cfg: {
        'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'image_size': SIZE, 'patch_size': 8},
    'SwinTransformer': lambda cfg: {
        'size': 'tiny', 'embed_dim': 16, 'num_blocks': (1, 2), 'num_heads': (2, 2),
        'window_size': 4, 'drop_path': 0.0, 'out_stages': (3,)},
    'LlamaDecoder': lambda cfg: {
        'embed_dim': 32, 'num_layers': 2, 'num_heads': 2, 'num_kv_heads': 1},
}


@dataclass
class Task:
    """How to test the configs of one algorithm.

    Attributes:
        batch: a collated batch of ``count`` items with truth, as it comes from a loader.
        check: asserts that a prediction is well-formed.
        learned: whether a prediction shows that its (memorised) truth was learned.
    """

    batch: Callable[[int], dict[str, Any]]
    check: Callable[[DataSample, DataSample], None]
    learned: Callable[[DataSample, DataSample], bool]


def image_batch(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return {'inputs': images,
            'samples': [DataSample(meta={'img_id': i}, label=torch.tensor(i % NUM_CLASSES))
                        for i in range(count)]}


def check_classification(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.label_probs.shape == (NUM_CLASSES,)
    assert prediction.label == prediction.label_probs.argmax()
    # They sum to 1 where classes exclude one another; with binary cross entropy they need not.
    assert ((prediction.label_probs > 0) & (prediction.label_probs < 1)).all()


def text_batch(count):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (count, LENGTH + 1), generator=generator)
    return {'inputs': tokens[:, :-1],
            'samples': [DataSample(meta={'index': i}, tokens=t[:-1], target_tokens=t[1:],
                                   document_ids=torch.zeros(LENGTH, dtype=torch.int64))
                        for i, t in enumerate(tokens)]}


def check_text(prediction, truth):
    assert prediction.meta == truth.meta
    assert prediction.tokens.shape == truth.target_tokens.shape
    assert prediction.tokens.min() >= 0 and prediction.tokens.max() < VOCAB
    assert prediction.extra['num_tokens'] == LENGTH


TASKS = {
    'ImageClassifier': Task(
        image_batch, check_classification, lambda p, truth: bool(p.label == truth.label)),
    'CausalLM': Task(
        text_batch, check_text,
        lambda p, truth: (p.tokens == truth.target_tokens).float().mean().item() > 0.9),
}


def shrink(cfg):
    """A copy of a plain config whose parts have the arguments of ``ANYWHERE`` and ``TINY``."""
    if isinstance(cfg, list):
        return [shrink(v) for v in cfg]
    if not isinstance(cfg, dict):
        return cfg
    small = {k: ANYWHERE.get(k, shrink(v)) for k, v in cfg.items()}
    name = str(small.get('type', '')).rpartition('.')[2]
    return small | TINY.get(name, lambda _: {})(small)


@cache
def plain(config):
    return load_config(ROOT / config).to_plain()


def tiny_models():
    """One config for each model that is different when shrunk, whatever its preprocessor."""
    models = {}
    for config in CONFIGS:
        model = shrink(plain(config)['model'])
        key = {k: v for k, v in model.items() if k != 'preprocessor'}
        models.setdefault(json.dumps(key, sort_keys=True), pytest.param(model, id=config))
    return list(models.values())


def task_of(model_cfg):
    name = model_cfg['type'].rpartition('.')[2]
    assert name in TASKS, f'{name} has no row in TASKS: tests/test_configs.py cannot test it'
    return TASKS[name]


def build_tiny(cfg, seed=0):
    torch.manual_seed(seed)
    return build(copy.deepcopy(cfg), path='model')


def prepared(model, batch, training=False):
    return batch if model.preprocessor is None else model.preprocessor(batch, training)


@pytest.mark.parametrize('config', CONFIGS)
def test_config_passes_the_check_and_says_how_to_run_it(config):
    cfg = load_config(ROOT / config)
    check_config(cfg)
    docstring = (ROOT / config).read_text('utf-8').split('"""')[1]
    assert f'openlab train {config}' in docstring


@pytest.mark.parametrize('config', CONFIGS)
def test_model_builds_at_full_size_without_memory(config):
    with torch.device('meta'):
        model = build(plain(config)['model'], path='model')
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize('config', CONFIGS)
def test_pipelines_and_metrics_build_and_images_pass_through(config):
    cfg = plain(config)
    for metric in cfg['val_evaluator']:
        build(metric, METRICS)
    for stage in ('train', 'val', 'test'):
        pipeline = cfg[f'{stage}_dataloader']['dataset'].get('pipeline')
        if pipeline is None:
            continue
        transforms = Compose([build(t, TRANSFORMS) for t in pipeline])
        image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        item = transforms({'img': image, 'label': 3, 'img_id': 7,
                           'ori_shape': (40, 48), 'img_shape': (40, 48)})
        assert item['inputs'].dtype == torch.uint8
        assert item['inputs'].shape[0] == 3
        assert item['sample'].label == 3


@pytest.mark.parametrize('cfg', tiny_models())
def test_loss_is_finite_and_every_parameter_gets_a_gradient(cfg):
    model = build_tiny(cfg).train()
    batch = prepared(model, task_of(cfg).batch(4), training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # a branch that starts at zero lets gradients through from the second on
        optimizer.zero_grad()
        losses = model(batch['inputs'], batch['samples'], mode='loss')
        total = sum(v for k, v in losses.items() if k.startswith('loss'))
        assert total.isfinite()
        total.backward()
        optimizer.step()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing, f'no gradient reaches {missing}'
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('cfg', tiny_models())
def test_predictions_are_well_formed(cfg):
    model, task = build_tiny(cfg).eval(), task_of(cfg)
    batch = prepared(model, task.batch(3))
    before = copy.deepcopy(batch['samples'])
    with torch.no_grad():
        predictions = model(batch['inputs'], batch['samples'], mode='predict')
    assert len(predictions) == 3
    for prediction, truth, untouched in zip(predictions, batch['samples'], before):
        assert type(prediction) is DataSample
        task.check(prediction, truth)
        assert repr(truth) == repr(untouched)


@pytest.mark.parametrize('cfg', tiny_models())
def test_a_tiny_batch_can_be_learned_by_heart(cfg):
    model, task = build_tiny(cfg), task_of(cfg)
    # 8: where a map is one pixel, the variance of fewer items is far from its unbiased estimate
    batch = prepared(model, task.batch(8))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(1, 201):
        losses = model.train()(batch['inputs'], batch['samples'], mode='loss')
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if k.startswith('loss')).backward()
        optimizer.step()
        if step % 20 == 0:
            predictions = predictions_with_fresh_statistics(model, batch)
            if all(task.learned(p, t) for p, t in zip(predictions, batch['samples'])):
                return
    pytest.fail(f'not learned in {step} steps; losses at the end: {losses}')


def predictions_with_fresh_statistics(model, batch):
    """Predict with batch norms that have seen this batch with these weights, and nothing else."""
    for module in model.modules():
        if hasattr(module, 'reset_running_stats'):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(batch['inputs'], batch['samples'])
        return model.eval()(batch['inputs'], batch['samples'], mode='predict')


@pytest.mark.parametrize('cfg', tiny_models())
def test_exported_program_gives_equal_outputs(cfg):
    model = build_tiny(cfg).eval()
    inputs = prepared(model, task_of(cfg).batch(2))['inputs']
    program = torch.export.export(model, (inputs,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(inputs), model(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('cfg', tiny_models())
def test_saved_and_loaded_model_predicts_the_same(cfg, tmp_path):
    model, other = build_tiny(cfg, seed=0).eval(), build_tiny(cfg, seed=1).eval()
    inputs = prepared(model, task_of(cfg).batch(2))['inputs']
    parameters = {id(p): (n, p) for n, p in model.state_dict(keep_vars=True).items()}
    save_file({n: p.detach() for n, p in parameters.values()}, tmp_path / 'model.safetensors')
    with torch.no_grad():
        assert not torch.equal(other(inputs), model(inputs))
        load_weights(other, tmp_path / 'model.safetensors')
        assert torch.equal(other(inputs), model(inputs))
