import numpy as np
import pytest
import torch

pytest.importorskip('tokenizers')

from openlab.data.datasets.packed_text import PYTHON_LIBRARY, PackedTextDataset


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for number in range(40):
        text = f'# file {number}\n' + 'def run(x):\n    return x + wörld\n' * (number % 5 + 1)
        (source / f'part{number}.py').write_text(text, encoding='utf-8')
    (source / 'notes.txt').write_text('not a document', encoding='utf-8')
    return source


def make(folder, **kwargs):
    options = dict(
        source=str(folder), context_length=16, val_share=0.3, vocab_size=300,
        tokenizer=str(folder.parent / 'tokenizer'), cache_dir=str(folder.parent / 'cache'),
    )  # fmt: skip
    return PackedTextDataset(**{**options, **kwargs})


def test_windows_give_back_the_text_of_all_documents_in_order(folder):
    dataset = make(folder)
    texts = [file.read_text(encoding='utf-8') for file in dataset.files('train')]
    whole = dataset.tokenizer.decode(dataset.tokens.tolist(), skip_special_tokens=True)
    assert whole == ''.join(texts)
    first, second = dataset[0]['inputs'], dataset[1]['inputs']
    assert torch.cat([first, second]).tolist() == dataset.tokens[:32].tolist()


def test_each_token_is_the_target_of_the_one_before(folder):
    dataset = make(folder)
    sample = dataset[1]['sample']
    assert sample.tokens.tolist() == dataset.tokens[16:32].tolist()
    assert sample.target_tokens.tolist() == dataset.tokens[17:33].tolist()


def test_document_ids_change_exactly_at_the_separator(folder):
    dataset = make(folder)
    separator = dataset.tokenizer.stop_ids[0]
    changes = 0
    for index in range(len(dataset)):
        sample = dataset[index]['sample']
        steps = sample.document_ids[1:] - sample.document_ids[:-1]
        assert (steps == (sample.tokens[1:] == separator).long()).all()
        changes += int(steps.sum())
    assert changes > 5


def test_bytes_of_the_targets_add_up_to_the_text(folder):
    dataset = make(folder)
    covered = dataset.tokens[1 : len(dataset) * 16 + 1].tolist()
    text = dataset.tokenizer.decode(covered, skip_special_tokens=True)
    total = sum(dataset[i]['sample'].meta['num_bytes'] for i in range(len(dataset)))
    # The last window may cut a character of two bytes.
    assert 0 <= len(text.encode()) - total <= 2


def test_parts_share_no_file_and_cover_all(folder):
    dataset = make(folder)
    train, val = set(dataset.files('train')), set(dataset.files('val'))
    assert not train & val
    assert train | val == set(folder.glob('*.py'))


def test_second_use_reads_the_cache_and_a_changed_file_makes_a_new_one(folder):
    make(folder).tokens.sum()
    cache = folder.parent / 'cache'
    (file,) = cache.glob('train_*.npy')
    stamp = file.stat().st_mtime_ns
    assert np.array_equal(make(folder).tokens, np.load(file))
    assert file.stat().st_mtime_ns == stamp
    make(folder).files('train')[0].write_text('changed = True\n', encoding='utf-8')
    make(folder).tokens.sum()
    assert len(list(cache.glob('train_*.npy'))) == 2
    assert not list(cache.glob('*.partial'))


def test_a_file_that_is_not_utf8_is_named_with_the_place(folder):
    file = make(folder).files('train')[0]
    file.write_bytes(b'abc\xff')
    with pytest.raises(ValueError, match=rf'{file.name} is not UTF-8: byte 0xff at offset 3'):
        make(folder).tokens.sum()


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        ({'split': 'test'}, ValueError, "'train' or 'val'"),
        ({'val_share': 1.0}, ValueError, 'val_share'),
        ({'context_length': 10**6}, ValueError, 'too few for one window'),
        ({'pattern': '*.rs'}, FileNotFoundError, r'\*\.rs'),
        ({'source': 'nowhere'}, FileNotFoundError, 'no folder nowhere'),
        ({'vocab_size': None}, FileNotFoundError, 'give vocab_size'),
    ],
)
def test_impossible_settings_are_refused(folder, kwargs, error, message):
    with pytest.raises(error, match=message):
        len(make(folder, **kwargs))


def test_the_python_library_is_on_every_machine():
    dataset = PackedTextDataset(PYTHON_LIBRARY, context_length=128, vocab_size=512)
    names = {file.name for split in ('train', 'val') for file in dataset.files(split)}
    assert {'argparse.py', 'dataclasses.py', 'pathlib.py'} <= names
    assert 'test_argparse.py' not in names
