import json

import pytest
import torch

pytest.importorskip('tokenizers')
pytest.importorskip('jinja2')

from openlab.data.collate import collate
from openlab.data.datasets.chat import ChatDataset
from openlab.data.preprocessors import TokenPreprocessor
from openlab.data.tokenizer import Tokenizer

TEMPLATE = (
    '{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}'
    '{% if add_generation_prompt %}<assistant>{% endif %}'
)
CHATS = [
    [('user', 'hello'), ('assistant', 'good day'), ('user', 'bye'), ('assistant', 'farewell')],
    [('system', 'be kind'), ('user', 'hi'), ('assistant', 'yes')],
]


@pytest.fixture
def tokenizer():
    tokenizer = Tokenizer.train(['hello good day user assistant'] * 10, 270)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write(folder, lines):
    file = folder / 'chats.jsonl'
    file.write_text('\n'.join(lines), encoding='utf-8')
    return str(file)


@pytest.fixture
def dataset(tmp_path, tokenizer):
    chats = [{'messages': [{'role': r, 'content': c} for r, c in chat]} for chat in CHATS]
    return ChatDataset(write(tmp_path, map(json.dumps, chats)), tokenizer)


def test_what_is_read_is_the_rendered_conversation(dataset, tokenizer):
    text = tokenizer.decode(dataset[0]['inputs'].tolist())
    whole = '<user>hello<end><assistant>good day<end><user>bye<end><assistant>farewell<end>'
    assert whole.startswith(text)
    assert len(whole) - len(text) == 1  # the last token is only a target


def test_only_what_the_assistant_says_is_learned(dataset, tokenizer):
    targets = [t for t in dataset[0]['sample'].target_tokens.tolist() if t != -100]
    assert tokenizer.decode(targets) == 'good day<end>farewell<end>'


def test_targets_are_the_tokens_moved_by_one(dataset):
    sample = dataset[1]['sample']
    is_target = sample.target_tokens[:-1] != -100
    assert torch.equal(sample.target_tokens[:-1][is_target], sample.tokens[1:][is_target])


def test_a_batch_is_filled_up_at_the_right_and_the_filling_is_ignored(dataset):
    batch = TokenPreprocessor(pad_token=7)(collate([dataset[0], dataset[1]]))
    short = len(dataset[1]['inputs'])
    assert batch['inputs'].shape == (2, len(dataset[0]['inputs']))
    assert batch['inputs'][1, :short].tolist() == dataset[1]['inputs'].tolist()
    assert set(batch['inputs'][1, short:].tolist()) == {7}
    assert set(batch['samples'][1].target_tokens[short:].tolist()) == {-100}


def test_long_conversations_are_cut(tmp_path, dataset, tokenizer):
    cut = ChatDataset(str(dataset.file), tokenizer, context_length=10)
    assert cut[0]['inputs'].tolist() == dataset[0]['inputs'][:10].tolist()


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('no json', r'chats\.jsonl:1: expected an object with "messages"'),
        ('{"messages": [{"role": "robot", "content": "x"}]}', r":1: a message needs a role"),
        ('{"messages": [{"role": "user", "content": 3}]}', r':1: a message needs a text'),
        ('{"messages": [{"role": "user", "content": "x"}]}', r'nothing to learn'),
        ('', r'holds no conversation'),
    ],
)
def test_lines_that_are_no_conversation_are_named(tmp_path, tokenizer, line, message):
    with pytest.raises(ValueError, match=message):
        len(ChatDataset(write(tmp_path, [line]), tokenizer))
