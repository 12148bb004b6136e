"""A small LLaMA on the source of Python's own standard library: real text, no download.

Paper: LLaMA, https://arxiv.org/abs/2302.13971. On first use a byte-level BPE tokenizer is
trained and the library is encoded, both into ``data/python-library``.

* Command: ``openlab train configs/quickstart/language_model.py``
* Result: 1.516 bits per byte on the files held out (perplexity 22.5 of a token)
* Time: 1 min 54 s on one core (AMD EPYC, which computes in bfloat16; longer elsewhere)
* Then: ``openlab generate work_dirs/language_model "def main("``
"""

from mmengine.config import read_base
from torch.optim import AdamW

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead
from openlab.backbones.llama import LlamaDecoder
from openlab.data.datasets.packed_text import PackedTextDataset
from openlab.data.samplers import DefaultSampler
from openlab.engine.loops import IterTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.metrics.language import LanguageModelMetric

with read_base():
    from .._base_.runtime import *

vocab_size = 2048
context_length = 128
max_iters = 700

model = dict(
    type=CausalLM,
    backbone=dict(type=LlamaDecoder, vocab_size=vocab_size, embed_dim=192, num_layers=4,
                  num_heads=6, num_kv_heads=2, context_length=context_length),
    head=dict(type=CausalLMHead, vocab_size=vocab_size),
    tie_embeddings=True)

dataset = dict(
    type=PackedTextDataset, source='python-library', context_length=context_length,
    tokenizer='data/python-library/tokenizer', vocab_size=vocab_size,
    cache_dir='data/python-library')
train_dataloader = dict(
    batch_size=16, num_workers=0, drop_last=True, sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(**dataset, split='train'))
val_dataloader = dict(
    batch_size=32, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(**dataset, split='val'))
test_dataloader = val_dataloader

train_cfg = dict(type=IterTrainLoop, max_iters=max_iters, val_interval=max_iters)
val_evaluator = [dict(type=LanguageModelMetric)]
test_evaluator = val_evaluator

optim_wrapper = dict(
    type=OptimWrapper, precision='auto', clip_grad=dict(max_norm=1.0),
    optimizer=dict(type=AdamW, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
    paramwise=dict(norm_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearWarmup', by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1.5e-4)]
default_hooks.checkpoint.save_best = 'text/bits_per_byte'
default_hooks.checkpoint.interval = 350
default_hooks.checkpoint.rule = 'less'
