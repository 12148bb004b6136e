import pytest

from openlab.data.tokenizer import END_OF_TEXT, Tokenizer

pytest.importorskip('tokenizers')
TEXTS = ['def main():\n    return 42\n', 'for i in range(10):\n    print(i)\n'] * 20


@pytest.fixture(scope='module')
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=280)


@pytest.mark.parametrize('text', ['', 'def main()', 'wörld 漢字 🎉\n\t', '\x00\x7f'])
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_joins_what_is_frequent(tokenizer):
    assert len(tokenizer.encode('    return')) < len('    return') / 1.5
    assert tokenizer.vocab_size == 280


def test_saved_folder_loads_again_and_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip('transformers')
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = 'for x in main: wörld'
    assert again.encode(text) == tokenizer.encode(text) == theirs(text)['input_ids']
    assert again.stop_ids == tokenizer.stop_ids == [theirs.eos_token_id]


def test_end_of_text_is_one_token(tokenizer):
    assert tokenizer.encode(END_OF_TEXT) == tokenizer.stop_ids


def test_chat_template_renders_messages_and_refusals_are_clear(tokenizer):
    template = (
        '{% for m in messages %}{% if m.role == "robot" %}{{ raise_exception("no robots") }}'
        '{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}'
        '{% if add_generation_prompt %}<assistant>{% endif %}'
    )
    chat = Tokenizer(tokenizer.core, chat_template=template)
    assert chat.chat_prompt([{'role': 'user', 'content': 'hi'}]) == '<user>hi<assistant>'
    with pytest.raises(ValueError, match='no robots'):
        chat.chat_prompt([{'role': 'robot', 'content': ''}])
    with pytest.raises(ValueError, match='no chat template'):
        tokenizer.chat_prompt([])


def test_template_cannot_reach_into_python(tokenizer):
    escape = Tokenizer(tokenizer.core, chat_template='{{ messages.__class__.__mro__ }}')
    with pytest.raises(ValueError, match='refuses'):
        escape.chat_prompt([])


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match='at least 257'):
        Tokenizer.train(TEXTS, vocab_size=100)


def test_missing_tokenizer_names_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'tokenizer\.json'):
        Tokenizer.load(tmp_path)
