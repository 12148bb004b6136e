import json

import pytest
import torch

from openlab.algorithms.llm.generate import Sampling, generate
from openlab.zoo.hf_llama import (
    build_from_hf,
    from_hf_state,
    hf_config,
    load_hf_llama,
    save_hf_llama,
    to_hf_state,
)

transformers = pytest.importorskip('transformers')

LLAMA3_ROPE = {
    'rope_type': 'llama3', 'rope_theta': 5e5, 'factor': 8.0, 'low_freq_factor': 1.0,
    'high_freq_factor': 4.0, 'original_max_position_embeddings': 32,
}  # fmt: skip


def reference(tie=False, rope=None, **kwargs):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64,
        rms_norm_eps=1e-5, tie_word_embeddings=tie, attention_bias=False,
        **({'rope_parameters': rope} if rope else {}), **kwargs,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():  # the default init leaves norms at 1: shake them too
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)
    return model


def ours_of(model):
    return build_from_hf(model.config.to_dict(), model.state_dict())


@pytest.mark.parametrize('tie', [False, True])
@pytest.mark.parametrize('rope', [None, {'rope_type': 'default', 'rope_theta': 1e5}, LLAMA3_ROPE])
def test_logits_equal_transformers(tie, rope):
    theirs = reference(tie, rope)
    tokens = torch.randint(0, 97, (2, 50))
    with torch.no_grad():
        expected, actual = theirs(tokens).logits, ours_of(theirs)(tokens)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_loss_and_gradients_equal_transformers():
    theirs = reference()
    model = ours_of(theirs).train()
    tokens = torch.randint(0, 97, (2, 20))
    from openlab.algorithms.llm.causal_lm import shift_targets
    from openlab.structures.data_sample import DataSample

    samples = [shift_targets(DataSample(tokens=t)) for t in tokens]
    losses = model(tokens, samples, mode='loss')
    expected = theirs(tokens, labels=tokens).loss
    assert losses['loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    losses['loss'].backward()
    expected.backward()
    gradients = from_hf_state({n: p.grad for n, p in theirs.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


def test_greedy_generation_equals_transformers_with_prompts_of_different_lengths():
    theirs = reference(rope={'rope_type': 'default', 'rope_theta': 1e5})
    model = ours_of(theirs)
    prompts = [[5, 9, 33, 2], [71, 8], [4, 4, 4, 4, 4, 10, 11]]
    ours = generate(model, prompts, Sampling(max_new_tokens=20))
    for prompt, new in zip(prompts, ours, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert prompt + new == expected[0].tolist()


@pytest.mark.parametrize('tie', [False, True])
def test_saved_folder_loads_in_transformers_and_back(tmp_path, tie):
    model = ours_of(reference(tie, LLAMA3_ROPE))
    save_hf_llama(model, tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    again = load_hf_llama(tmp_path)
    tokens = torch.randint(0, 97, (1, 40))
    with torch.no_grad():
        expected = model(tokens)
        assert torch.equal(again(tokens), expected)
        error = (theirs(tokens).logits - expected).abs().max()
    assert error <= 1e-4 * expected.abs().max()
    assert json.loads((tmp_path / 'config.json').read_text()) == hf_config(again)


def test_states_convert_there_and_back_exactly():
    theirs = reference()
    state = to_hf_state(ours_of(theirs))
    expected = theirs.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_wrong_weights_name_what_is_missing_and_unknown():
    state = reference().state_dict()
    state['surplus'] = state.pop('model.layers.1.mlp.up_proj.weight')
    with pytest.raises(ValueError, match=r'missing.*layers\.1\.mlp\.up_proj.*surplus'):
        from_hf_state(state)
