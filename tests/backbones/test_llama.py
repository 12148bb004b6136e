import pytest
import torch

from openlab.backbones.llama import LlamaDecoder


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return LlamaDecoder(100, 64, 2, 4, num_kv_heads=2, context_length=32).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(1))


def test_cached_decoding_equals_uncached(decoder, tokens):
    cache = decoder.new_cache(2)
    pieces = [decoder(tokens[:, :5], cache=cache)[0], decoder(tokens[:, 5:9], cache=cache)[0]]
    pieces += [decoder(tokens[:, i : i + 1], cache=cache)[0] for i in range(9, 16)]
    torch.testing.assert_close(torch.cat(pieces, 1), decoder(tokens)[0], rtol=1e-4, atol=1e-5)


def test_packed_documents_do_not_see_each_other(decoder, tokens):
    documents = torch.tensor([[0] * 6 + [1] * 10, [3] * 6 + [4] * 10])
    packed = decoder(tokens, document_ids=documents)[0]
    alone = torch.cat([decoder(tokens[:, :6])[0], decoder(tokens[:, 6:])[0]], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_padding_at_the_left_changes_nothing(decoder, tokens):
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), tokens], dim=1)
    features = decoder(padded, padding=torch.tensor([3, 3]))[0]
    torch.testing.assert_close(features[:, 3:], decoder(tokens)[0], rtol=1e-4, atol=1e-5)


def test_a_token_does_not_see_the_future(decoder, tokens):
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 100
    before, after = decoder(tokens)[0], decoder(changed)[0]
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_sequence_beyond_the_context_is_refused(decoder):
    with pytest.raises(ValueError, match='33 tokens exceeds the context of 32'):
        decoder(torch.zeros(1, 33, dtype=torch.long))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [({'num_heads': 7}, 'embed_dim=64'), ({'num_heads': 4, 'num_kv_heads': 3}, 'num_kv_heads=3')],
)
def test_sizes_that_do_not_divide_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LlamaDecoder(100, 64, 2, **kwargs)
