import pytest
import torch
import torch.nn.functional as F

from openlab.algorithms.retrieval.image_retriever import ImageRetriever
from openlab.apis.probe import extract_features
from openlab.backbones.resnet import ResNet
from openlab.config import load_config
from openlab.config.build import build
from openlab.engine.runner import Runner
from openlab.heads.linear_head import LinearHead
from openlab.heads.margin_head import MarginHead
from openlab.structures.data_sample import DataSample

BACKBONE = {'type': ResNet, 'block': 'basic', 'num_blocks': (1, 1), 'base_channels': 8,
            'stem': 'conv3', 'out_stages': (3,)}


def retriever(**more):
    torch.manual_seed(0)
    return build({'type': ImageRetriever, 'backbone': BACKBONE, 'topk': 2,
                  'head': {'type': MarginHead, 'num_classes': 3, 'embed_dim': 6}, **more}).eval()


def batch(count):
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return images, [DataSample(meta={'img_id': i}, label=torch.tensor(i % 3))
                    for i in range(count)]


def test_outputs_are_embeddings_of_length_one_and_the_loss_is_the_heads():
    model = retriever()
    images, samples = batch(4)
    embeddings = model(images)
    assert embeddings.shape == (4, 6)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    feats = model.backbone(images)
    expected = model.head.loss(model.head(feats), samples)
    torch.testing.assert_close(model(images, samples, mode='loss')['loss_cls'],
                               expected['loss_cls'])
    predictions = model(images, samples, mode='predict')
    assert torch.equal(torch.stack([p.extra['embedding'] for p in predictions]), embeddings)
    assert predictions[0].label is None and 'matches' not in predictions[0].extra


def test_a_query_is_answered_by_the_nearest_of_the_gallery():
    model = retriever()
    images, samples = batch(5)
    loader = [{'inputs': images, 'samples': samples}]
    gallery, labels = extract_features(model, loader)
    model.set_gallery(gallery * 7, labels)
    for i, prediction in enumerate(model(images, samples, mode='predict')):
        similarity = F.normalize(gallery, dim=1) @ model(images)[i]
        values, order = similarity.sort(descending=True)
        assert prediction.extra['matches'].tolist() == order[:2].tolist()
        torch.testing.assert_close(prediction.extra['match_scores'], values[:2])
        assert prediction.extra['matches'][0] == i and prediction.label == i % 3
    assert not any('gallery' in name for name in model.state_dict())
    model.set_gallery(gallery)
    assert model(images, samples, mode='predict')[0].label is None


def test_without_a_head_pooled_features_are_compared_and_nothing_is_trained():
    model = retriever(head=None)
    images, samples = batch(2)
    expected = F.normalize(model.backbone(images)[-1].mean((2, 3)), dim=1)
    torch.testing.assert_close(model(images), expected)
    with pytest.raises(ValueError, match='give it a MarginHead'):
        model(images, samples, mode='loss')


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r'needs a head with embed\(\).*LinearHead has none'):
        retriever(head={'type': LinearHead, 'num_classes': 3})
    with pytest.raises(ValueError, match='topk must be at least 1'):
        retriever(topk=0)
    with pytest.raises(ValueError, match='as many labels'):
        retriever().set_gallery(torch.zeros(3, 6), torch.zeros(2))


@pytest.mark.slow
def test_digits_find_their_like(tmp_path):
    cfg = load_config('retrieval/arcface/arcface_resnet18_20e_digits', [
        f'work_dir={tmp_path}', 'max_epochs=6', 'warmup_epochs=1'])
    runner = Runner.from_config(cfg)
    runner.train()
    assert runner.last_metrics['retrieval/recall@1'] > 0.95
    assert runner.last_metrics['retrieval/mAP'] > 0.9
