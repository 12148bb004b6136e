import pytest
import torch

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead, shift_targets
from openlab.algorithms.llm.lora import LoRA, LoRALinear
from openlab.backbones.llama import LlamaDecoder
from openlab.engine.loading import load_weights
from openlab.structures.data_sample import DataSample


def language_model():
    torch.manual_seed(0)
    decoder = LlamaDecoder(40, 32, 2, 4, num_kv_heads=2, context_length=16)
    return CausalLM(decoder, CausalLMHead(32, 40), tie_embeddings=True)


def batch(seed=1):
    tokens = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(seed))
    return tokens, [shift_targets(DataSample(tokens=t)) for t in tokens]


def trained(model, steps=60, lr=1e-2, seed=1):
    tokens, samples = batch(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens, samples, mode='loss')['loss'].backward()
        optimizer.step()
    return model


def test_layer_by_hand():
    plain = torch.nn.Linear(2, 1, bias=False)
    layer = LoRALinear(plain, rank=1, alpha=3.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora_down.copy_(torch.tensor([[1.0, 1.0]]))
        layer.lora_up.copy_(torch.tensor([[0.5]]))
    # 1*4 + 2*5 + 3/1 * 0.5 * (4 + 5)
    assert layer(torch.tensor([4.0, 5.0])).item() == 27.5
    assert layer.merged().weight.tolist() == [[2.5, 3.5]]


def test_training_begins_at_the_network_as_it_was():
    tokens, _ = batch()
    expected = language_model()(tokens)
    assert torch.equal(LoRA(language_model())(tokens), expected)


def test_only_the_additions_are_trained_and_they_suffice():
    plain = trained(language_model(), seed=2)  # knows other sentences by heart
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    tokens, samples = batch()
    start = plain(tokens, samples, mode='loss')['loss'].item()
    model = trained(LoRA(plain, rank=8, alpha=16), steps=100)
    after = model.base.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model(tokens, samples, mode='loss')['loss'].item() < 0.2 * start


def test_merged_network_is_plain_and_computes_the_same():
    model = trained(LoRA(language_model(), rank=4), steps=5).eval()
    tokens, _ = batch()
    expected = model(tokens)
    plain = model.merge()
    assert plain.state_dict().keys() == language_model().state_dict().keys()
    torch.testing.assert_close(plain(tokens), expected, rtol=1e-4, atol=1e-5)


def test_weights_of_the_plain_network_load():
    plain = trained(language_model(), steps=3)
    model = LoRA(language_model())
    load_weights(model, plain.state_dict(), allow_missing=['lora_'])
    tokens, _ = batch()
    assert torch.equal(model(tokens), plain(tokens))


def test_further_parameters_can_be_trained():
    model = LoRA(language_model(), trainable=['norm'])
    free = {n for n, p in model.named_parameters() if p.requires_grad and 'lora_' not in n}
    assert free and all('norm' in name for name in free)


def test_a_target_that_fits_nothing_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'attention\.q'.*'attention\.qkv'"):
        LoRA(language_model(), targets=['attention.q'])
