import pytest
import torch
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from openlab.algorithms.segmentation.segformer import SegFormer, SegFormerHead
from openlab.backbones.mit import MixTransformer
from openlab.engine.loading import load_weights
from tests.algorithms.detection.parity import shake
from tests.algorithms.segmentation.parity import make_batch, relative_error

K, DIMS, HEADS = 5, (16, 32, 40, 64), (1, 2, 5, 8)


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    theirs = SegformerForSemanticSegmentation(SegformerConfig(
        hidden_sizes=DIMS, depths=(1, 2, 1, 1), num_attention_heads=HEADS, decoder_hidden_size=24,
        num_labels=K, drop_path_rate=0.0, classifier_dropout_prob=0.0))  # fmt: skip
    shake(theirs)
    ours = make()
    report = load_weights(ours, theirs.state_dict())
    assert report.complete and not report.unexpected
    return ours, theirs


def make():
    return SegFormer(
        MixTransformer(embed_dims=DIMS, num_blocks=(1, 2, 1, 1), num_heads=HEADS, drop_path=0.0,
                       out_stages=(2, 3, 4, 5)),
        head=SegFormerHead(K, DIMS, channels=24, dropout=0.0))  # fmt: skip


@pytest.mark.parametrize('training', [False, True])
def test_logits_and_loss_equal_transformers(pair, training):
    ours, theirs = pair
    images, samples, maps = make_batch(K, 64, 96)
    ours.train(training), theirs.train(training)
    with torch.no_grad():
        outputs = ours(images)
        losses = ours.loss(outputs, samples)
        expected = theirs(images, labels=maps)
    expected_logits = F.interpolate(expected.logits, (64, 96), mode='bilinear')
    assert relative_error(outputs.logits, expected_logits) <= 1e-4
    torch.testing.assert_close(losses['loss_seg'], expected.loss, rtol=1e-5, atol=0)
    assert losses['num_items'] == (maps != 255).sum()


def test_all_gradients_equal_transformers(pair):
    ours, theirs = pair
    images, samples, maps = make_batch(K, 64, 96)
    ours.eval(), theirs.eval()
    ours.zero_grad(), theirs.zero_grad()
    ours(images, samples, mode='loss')['loss_seg'].backward()
    theirs(images, labels=maps).loss.backward()
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    # the map that leads weights to ours leads gradients as well
    carrier = make()
    load_weights(carrier, theirs.state_dict() | grads)
    largest = max(g.abs().max() for g in grads.values())
    for (name, mine), other in zip(ours.named_parameters(), carrier.parameters()):
        error = (mine.grad - other).abs().max() / other.abs().max().clamp(min=1e-4 * largest)
        assert error <= 1e-3, name


def test_names_of_published_files_are_known_too(pair):
    theirs = pair[1]
    changes = [
        ('attention.q_proj', 'attention.self.query'), ('attention.k_proj', 'attention.self.key'),
        ('attention.v_proj', 'attention.self.value'),
        ('attention.o_proj', 'attention.output.dense'),
        ('attention.sequence_reduction.sequence_reduction', 'attention.self.sr'),
        ('attention.sequence_reduction.layer_norm', 'attention.self.layer_norm'),
        ('layernorm_before', 'layer_norm_1'), ('layernorm_after', 'layer_norm_2'),
        ('mlp.fc', 'mlp.dense'), ('linear_projections', 'linear_c'),
    ]  # fmt: skip
    published = {}
    for key, value in theirs.state_dict().items():
        for new, old in changes:
            key = key.replace(new, old)
        for i in range(4):
            key = key.replace(f'stages.{i}.patch_embeddings', f'encoder.patch_embeddings.{i}')
            key = key.replace(f'stages.{i}.blocks', f'encoder.block.{i}')
            key = key.replace(f'stages.{i}.layer_norm', f'encoder.layer_norm.{i}')
        published[key] = value
    other, same = make(), make()
    assert load_weights(other, published).complete
    load_weights(same, theirs.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
