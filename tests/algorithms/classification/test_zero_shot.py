import cv2
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from openlab.algorithms.classification.zero_shot import ZeroShotClassifier
from openlab.apis.inference import Inferencer
from openlab.backbones.text_transformer import TextTransformer
from openlab.backbones.vit import VisionTransformer
from openlab.config import load_config
from openlab.engine.loading import load_weights, match
from openlab.engine.runner import Runner
from openlab.layers.act import QuickGELU
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss
from openlab.structures.data_sample import DataSample
from openlab.zoo.captions import CaptionTokenizer

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
    with pytest.raises(ValueError, match='--classes NAME'):
        clip()(torch.zeros(1, 3, 32, 32))


def test_a_text_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match='9 tokens exceeds the context of 8'):
        clip().encode_texts(torch.zeros(1, 9, dtype=torch.long))


@pytest.fixture
def tokenizer_file(tmp_path):
    """Words as tokens; a text begins with 97 and ends with 98, as in the models above."""
    words = ['a', 'photo', 'of', 'cat', 'dog', 'red', 'green', '.', '[UNK]']
    vocab = {word: i for i, word in enumerate(words)}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({**vocab, '[S]': 97, '[E]': 98},
                                                            unk_token='[UNK]'))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single='[S] $A [E]', special_tokens=[('[S]', 97), ('[E]', 98)])
    core.save(str(tmp_path / 'tokenizer.json'))
    return str(tmp_path / 'tokenizer.json')


def named(model, tokenizer_file, prompts=('a photo of {}.', 'a {}')):
    model.tokenizer = CaptionTokenizer(tokenizer_file, length=8, pad_id=98)
    model.prompts = prompts
    return model


def test_captions_have_one_length_and_long_ones_are_cut(tokenizer_file):
    read = CaptionTokenizer(tokenizer_file, length=6, pad_id=98)
    assert read(['a cat', 'a photo of a red green dog .']).tolist() == [
        [97, 0, 3, 98, 98, 98], [97, 0, 1, 2, 0, 98]]
    plain = CaptionTokenizer(tokenizer_file, length=6, pad_id=98, lowercase=True)
    assert plain(['A Cat.']).tolist() == [[97, 0, 3, 98, 98, 98]]


def test_names_become_the_mean_direction_of_their_prompts(tokenizer_file):
    torch.manual_seed(0)
    model = named(clip().eval(), tokenizer_file)
    model.describe(['cat', 'red dog'])
    described = model.class_vectors.clone()
    model.set_classes([
        torch.tensor([[97, 0, 1, 2, 3, 7, 98, 98], [97, 0, 3, 98, 98, 98, 98, 98]]),
        torch.tensor([[97, 0, 1, 2, 5, 4, 7, 98], [97, 0, 5, 4, 98, 98, 98, 98]])])
    torch.testing.assert_close(described, model.class_vectors)


def test_a_prompt_without_a_place_for_the_name_is_refused():
    with pytest.raises(ValueError, match='where the name of the class belongs'):
        ZeroShotClassifier(clip().image_encoder, clip().text_encoder, 48, prompts=['a photo'])


def test_names_need_a_tokenizer():
    with pytest.raises(ValueError, match='without tokenizer='):
        clip().describe(['cat'])


def config_of(tokenizer_file, folder):
    """The shipped config at the size of the models above."""
    return load_config('classification/clip/clip_base_p32_zero_shot', [
        f'data_root={folder}', 'test_dataloader.dataset.pipeline.1.shorter=32',
        'test_dataloader.dataset.pipeline.2.size=32',
        'model.image_encoder.embed_dim=48', 'model.image_encoder.depth=2',
        'model.image_encoder.num_heads=3', 'model.image_encoder.mlp_ratio=2',
        'model.image_encoder.patch_size=8', 'model.image_encoder.image_size=32',
        'model.text_encoder.vocab_size=99', 'model.text_encoder.embed_dim=32',
        'model.text_encoder.depth=2', 'model.text_encoder.num_heads=2',
        'model.text_encoder.context_length=8', 'model.text_encoder.out_dim=24',
        'model.text_encoder.mlp_ratio=2', 'model.text_encoder.end_id=98',
        'model.image_dim=48', 'model.tokenizer.length=8', 'model.tokenizer.pad_id=98',
        f'model.tokenizer.source={tokenizer_file}', 'test_dataloader.num_workers=0'])


@pytest.fixture
def folder(tmp_path):
    """Red and green images in folders of these names."""
    rng = np.random.default_rng(0)
    for name, channel in (('green', 1), ('red', 2)):
        (tmp_path / 'images' / name).mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
            image[..., channel] += 180
            cv2.imwrite(str(tmp_path / 'images' / name / f'{i}.png'), image)
    return tmp_path / 'images'


def test_images_are_told_by_the_names_that_a_user_gives(tokenizer_file, folder, tmp_path):
    cfg = config_of(tokenizer_file, folder)
    peer = peer_of('clip')
    save_file(peer.state_dict(), tmp_path / 'model.safetensors')
    judge = Inferencer(cfg, tmp_path / 'model.safetensors', classes=['red dog', 'cat', 'green'])
    (found,) = judge([folder / 'red' / '0.png'])
    image = judge.pipeline({'img_path': str(folder / 'red' / '0.png')})['inputs']
    pixels = (image.float() - judge.model.preprocessor.mean.view(3, 1, 1)
              ) / judge.model.preprocessor.std.view(3, 1, 1)
    with torch.no_grad():
        vectors = peer.get_image_features(pixels[None]).pooler_output
        vectors = nn.functional.normalize(vectors, dim=-1)
        expected = judge.model.logit_scale.exp() * vectors @ judge.model.class_vectors.T
    torch.testing.assert_close(found.label_probs, expected.softmax(-1)[0], rtol=1e-4, atol=1e-5)
    assert found.meta['class_name'] == ('red dog', 'cat', 'green')[int(found.label)]


def test_folders_are_classes_in_a_test_run(tokenizer_file, folder, tmp_path):
    weights = tmp_path / 'model.safetensors'
    save_file(peer_of('clip').state_dict(), weights)
    judge = Inferencer(config_of(tokenizer_file, folder), weights, classes=['green', 'red'])
    files = sorted(folder.rglob('*.png'))
    hits = [p.meta['class_name'] == f.parent.name for f, p in zip(files, judge(files), strict=True)]

    cfg = config_of(tokenizer_file, folder)
    cfg.work_dir, cfg.load_from = str(tmp_path / 'run'), str(weights)
    runner = Runner.from_cfg(cfg)
    assert runner.test()['accuracy/top1'] == pytest.approx(sum(hits) / len(hits))
    assert runner.unwrapped_model.class_vectors.shape == (2, 24)
