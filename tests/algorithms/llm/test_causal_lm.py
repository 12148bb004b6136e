import pytest
import torch

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead, shift_targets
from openlab.algorithms.llm.sequence_classifier import SequenceClassifier
from openlab.backbones.llama import LlamaDecoder
from openlab.config.build import build
from openlab.structures.data_sample import DataSample


def decoder():
    torch.manual_seed(0)
    return LlamaDecoder(40, 32, 2, 4, num_kv_heads=2, context_length=16)


def batch(documents=None):
    tokens = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    samples = [shift_targets(DataSample(tokens=t, document_ids=documents)) for t in tokens]
    return tokens, samples


def test_targets_stop_at_the_end_of_a_document():
    sample = DataSample(tokens=torch.arange(5), document_ids=torch.tensor([0, 0, 1, 1, 1]))
    assert shift_targets(sample).target_tokens.tolist() == [1, -100, 3, 4, -100]


def test_loss_of_packed_documents_is_that_of_the_documents_alone():
    model = CausalLM(decoder(), CausalLMHead(32, 40))
    tokens, samples = batch(torch.tensor([0] * 5 + [1] * 7))
    packed = model(tokens, samples, mode='loss')
    total = torch.zeros(())
    for part in (slice(0, 5), slice(5, 12)):
        alone = [shift_targets(DataSample(tokens=t[part])) for t in tokens]
        losses = model(tokens[:, part], alone, mode='loss')
        total = total + losses['loss'] * losses['num_items']
    assert packed['num_items'] == 3 * (4 + 6)
    torch.testing.assert_close(packed['loss'] * packed['num_items'], total)


def test_predicted_likelihoods_add_up_to_the_loss():
    model = CausalLM(decoder(), CausalLMHead(32, 40)).eval()
    tokens, samples = batch()
    losses = model(tokens, samples, mode='loss')
    predictions = model(tokens, samples, mode='predict')
    nll = sum(p.extra['nll'].item() for p in predictions)
    assert nll == pytest.approx((losses['loss'] * losses['num_items']).item(), rel=1e-5)


def test_tied_head_shares_the_embedding_and_refuses_another_size():
    model = CausalLM(decoder(), CausalLMHead(32, 40), tie_embeddings=True)
    assert model.head.proj.weight is model.backbone.embedding.weight
    with pytest.raises(ValueError, match='vocab_size'):
        CausalLM(decoder(), CausalLMHead(32, 41), tie_embeddings=True)


@pytest.mark.parametrize('kind', ['causal', 'classifier'])
def test_one_batch_can_be_learned_by_heart(kind):
    tokens, samples = batch()
    if kind == 'causal':
        model = CausalLM(decoder(), CausalLMHead(32, 40))
    else:
        model = SequenceClassifier(decoder(), num_classes=3)
        for label, sample in enumerate(samples):
            sample.label = torch.tensor(label)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(tokens, samples, mode='loss')['loss'].backward()
        optimizer.step()
    assert model(tokens, samples, mode='loss')['loss'] < 0.05


def test_classifier_reads_the_last_token_before_the_padding():
    model = SequenceClassifier(decoder(), num_classes=3, pad_token=0).eval()
    tokens = torch.tensor([[5, 6, 7], [8, 9, 0]])
    both = model(tokens)
    alone = model(torch.tensor([[8, 9]]))
    torch.testing.assert_close(both[1:], alone)


def test_the_head_swaps_under_one_decoder_in_a_config():
    backbone = dict(type='LlamaDecoder', vocab_size=40, embed_dim=32, num_layers=1, num_heads=2)
    language = build(dict(
        type='CausalLM', backbone=backbone, head=dict(type='CausalLMHead', vocab_size=40)))
    classifier = build(dict(type='SequenceClassifier', backbone=backbone, num_classes=2))
    classifier.backbone.load_state_dict(language.backbone.state_dict())
    tokens, _ = batch()
    assert language(tokens).shape == (3, 12, 40)
    assert classifier(tokens).shape == (3, 2)
