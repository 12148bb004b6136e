import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from openlab.algorithms.classification.zero_shot import ZeroShotClassifier
from openlab.backbones.text_transformer import TextTransformer
from openlab.backbones.vit import VisionTransformer
from openlab.engine.loading import load_weights, match
from openlab.layers.act import QuickGELU
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss
from openlab.structures.data_sample import DataSample

TEXT = {'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2,
        'num_attention_heads': 2, 'vocab_size': 99, 'max_position_embeddings': 8,
        'bos_token_id': 97, 'eos_token_id': 98, 'pad_token_id': 98}
VISION = {'hidden_size': 48, 'intermediate_size': 96, 'num_hidden_layers': 2,
          'num_attention_heads': 3, 'image_size': 32, 'patch_size': 8}


def clip():
    norm, act = {'type': nn.LayerNorm, 'eps': 1e-5}, {'type': QuickGELU}
    return ZeroShotClassifier(
        VisionTransformer(embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, patch_size=8,
                          image_size=32, with_pre_norm=True, norm=norm, act=act),
        TextTransformer(99, 32, 2, 2, 8, out_dim=24, mlp_ratio=2, end_id=98, act=act),
        image_dim=48)


def siglip():
    norm, act = {'type': nn.LayerNorm, 'eps': 1e-6}, {'type': nn.GELU, 'approximate': 'tanh'}
    return ZeroShotClassifier(
        VisionTransformer(embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, patch_size=8,
                          image_size=32, with_class_token=False, output='attention_pool',
                          norm=norm, act=act),
        TextTransformer(99, 32, 2, 2, 8, mlp_ratio=2, is_causal=False, end_id=None,
                        proj_bias=True, norm=norm, act=act),
        with_bias=True, loss=BinaryCrossEntropyLoss())


def peer_of(kind):
    torch.manual_seed(0)
    if kind == 'clip':
        peer = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24))
    else:
        small = {**VISION, 'hidden_size': 32, 'intermediate_size': 64, 'num_attention_heads': 2}
        peer = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=small))
    for name, p in peer.named_parameters():
        if 'logit' not in name:
            nn.init.normal_(p, std=0.3)
    return peer.eval()


def tokens():
    ids = torch.randint(0, 97, (3, 8), generator=torch.Generator().manual_seed(1))
    ids[0, 4:], ids[1, 7:], ids[2, 6:] = 98, 98, 98
    return ids


@pytest.mark.parametrize(('kind', 'build'), [('clip', clip), ('siglip', siglip)])
def test_similarities_and_gradients_equal_transformers_with_the_same_weights(kind, build):
    peer, ours = peer_of(kind), build().eval()
    assert load_weights(ours, peer.state_dict()).complete
    images = torch.randn(2, 3, 32, 32)
    theirs = peer(input_ids=tokens(), pixel_values=images).logits_per_image
    logits = ours.similarity(ours.encode_images(images), ours.encode_texts(tokens()))
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-4)

    peer.double(), ours.double()
    weight = torch.randn(2, 3).double()
    theirs = peer(input_ids=tokens(), pixel_values=images.double()).logits_per_image
    logits = ours.similarity(ours.encode_images(images.double()), ours.encode_texts(tokens()))
    (theirs * weight).sum().backward()
    (logits * weight).sum().backward()
    _, grads = match(ours, {n: p.grad for n, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-8, msg=name)


@pytest.mark.parametrize(('kind', 'build'), [('clip', clip), ('siglip', siglip)])
def test_an_image_tower_alone_loads_from_transformers(kind, build):
    peer, ours = peer_of(kind), build().eval()
    tower = ours.image_encoder
    assert load_weights(tower, peer.vision_model.state_dict()).complete
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        tower(images)[-1], peer.vision_model(images).pooler_output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('build', [clip, siglip])
def test_images_get_the_class_whose_prompts_are_most_similar(build):
    torch.manual_seed(0)
    model, images = build().eval(), torch.randn(2, 3, 32, 32)
    model.set_classes([tokens()[:2], tokens()[2:]])
    samples = [DataSample(meta={'img_id': i}, label=torch.tensor(i)) for i in range(2)]
    predictions = model(images, samples, mode='predict')
    prompts = model.encode_texts(tokens())
    first = nn.functional.normalize(prompts[:2].mean(0), dim=-1)
    expected = (model.encode_images(images) @ torch.stack([first, prompts[2]]).T).argmax(1)
    assert [p.label.item() for p in predictions] == expected.tolist()
    assert [p.meta['img_id'] for p in predictions] == [0, 1]
    assert model(images, samples, mode='loss')['loss_cls'] > 0


def test_a_model_without_classes_says_what_to_do():
    with pytest.raises(ValueError, match='call set_classes'):
        clip()(torch.zeros(1, 3, 32, 32))


def test_a_text_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match='9 tokens exceeds the context of 8'):
        clip().encode_texts(torch.zeros(1, 9, dtype=torch.long))
