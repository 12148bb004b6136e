import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from openlab.backbones.vit import VisionTransformer
from openlab.cli import main
from openlab.engine.checkpoint import CheckpointParts, save_checkpoint
from openlab.engine.checkpoint_files import CheckpointError, write_weights
from openlab.engine.convert_weights import convert_weights
from openlab.engine.loading import LoadError, load_weights
from openlab.zoo.key_map import KeyMap


class Stem(nn.Module):
    weights = (KeyMap('other', renames=[(r'^conv1\.', 'conv.')],
                      drops=[(r'^fc\.', 'the classifier of the other project')]),)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)


class Net(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.backbone = Stem()
        self.head = nn.Linear(4, num_classes)


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_container_of_weights_is_read(tmp_path):
    net = Net()
    state = net.state_dict()
    save_file(state, tmp_path / 'plain.safetensors')
    torch.save(state, tmp_path / 'plain.pth')
    torch.save({'meta': {'CLASSES': ['a', 'b']}, 'state_dict': state}, tmp_path / 'openmmlab.pth')
    torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}, 'epoch': 3},
               tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
    save_checkpoint(CheckpointParts(state), tmp_path / 'iter_1')
    names = sorted(state)
    save_file({k: state[k] for k in names[:3]}, tmp_path / 'm-1.safetensors')
    save_file({k: state[k] for k in names[3:]}, tmp_path / 'm-2.safetensors')
    places = {k: f'm-{1 if k in names[:3] else 2}.safetensors' for k in names}
    (tmp_path / 'm.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
    for source in ('plain.safetensors', 'plain.pth', 'openmmlab.pth', 'old.pt', 'iter_1',
                   'm.safetensors.index.json'):
        fresh = Net()
        report = load_weights(fresh, tmp_path / source)
        assert same(values(fresh), state), source
        assert report.share == 1 and report.complete
    assert load_weights(Net(), tmp_path / 'openmmlab.pth').metadata == {'CLASSES': ['a', 'b']}


def test_a_pickle_that_could_run_code_is_refused_and_never_run(tmp_path):
    ran = tmp_path / 'ran'

    class Trap:
        def __reduce__(self):
            return ran.write_text, ('code',)

    torch.save({'state_dict': Net().state_dict(), 'optimizer': Trap()}, tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError, match=r'bad\.pth.*run any code.*openlab convert'):
        load_weights(Net(), tmp_path / 'bad.pth')
    assert not ran.exists()


def test_an_old_pickle_is_converted_only_when_its_code_is_trusted(tmp_path):
    from argparse import Namespace

    state = Net().state_dict()
    old, new = tmp_path / 'old.pth', tmp_path / 'new.safetensors'
    torch.save({'state_dict': state, 'meta': {'epoch': 3, 'when': Namespace(a=1)}}, old)
    with pytest.raises(CheckpointError, match='--unsafe-pickle'):
        convert_weights(old, new)
    assert not new.exists()
    assert main(['convert', str(old), str(new), '--unsafe-pickle']) == 0
    net = Net()
    report = load_weights(net, new)
    assert same(values(net), state)
    assert report.metadata['epoch'] == 3 and report.metadata['converted_from'] == 'old.pth'
    with pytest.raises(FileExistsError, match='exists'):
        convert_weights(old, new, unsafe_pickle=True)


def test_the_folder_of_converted_weights_is_made_and_only_once_they_are_read(tmp_path, capsys):
    old, new = tmp_path / 'old.pth', tmp_path / 'a' / 'b' / 'new.safetensors'
    assert main(['convert', str(old), str(new)]) == 2
    assert not (tmp_path / 'a').exists()
    torch.save(Net().state_dict(), old)
    assert main(['convert', str(old), str(new)]) == 0
    assert load_weights(Net(), new).complete
    assert main(['convert', str(old), str(old / 'new.safetensors')]) == 2
    assert 'old.pth is no folder' in capsys.readouterr().err


def test_a_cut_file_is_named(tmp_path):
    torch.save(Net().state_dict(), tmp_path / 'cut.pth')
    content = (tmp_path / 'cut.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(content[:len(content) // 2])
    with pytest.raises(CheckpointError, match=r'cut\.pth cannot be read: it is cut short'):
        load_weights(Net(), tmp_path / 'cut.pth')


@pytest.mark.parametrize(('content', 'message'), [
    (b'hello world, some text', 'it is no file of torch.save'),
    (b'<html>not found</html>', 'it is no file of torch.save'),
    (b'', 'it is empty'),
    (b'PK\x03\x04 and no more', 'it is cut short or damaged'),
    (b'\x80\x02', 'it is cut short or damaged'),
])
def test_a_file_that_is_not_of_torch_is_told_in_one_line(tmp_path, content, message):
    file = tmp_path / 'some.pth'
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_weights(Net(), file)
    assert '\n' not in str(error.value) and '--unsafe-pickle' not in str(error.value)


@pytest.mark.filterwarnings('ignore')  # TorchScript is deprecated, its files are not gone
def test_a_whole_archive_that_torch_does_not_take_comes_with_its_reason(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / 'script.pt')
    with pytest.raises(CheckpointError, match=r'script\.pt cannot be read: .*TorchScript'):
        load_weights(Net(), tmp_path / 'script.pt')


@pytest.mark.parametrize(('content', 'message'), [
    ({}, 'holds a dict without tensors; it is empty'),
    ({'epoch': 3}, 'holds a dict without tensors; its keys are epoch'),
])
def test_a_dict_without_tensors_is_told(tmp_path, content, message):
    torch.save(content, tmp_path / 'some.pth')
    with pytest.raises(CheckpointError, match=message):
        load_weights(Net(), tmp_path / 'some.pth')


def test_one_missing_parameter_is_refused_and_nothing_is_loaded():
    net = Net()
    before = values(net)
    state = Net().state_dict()
    del state['backbone.conv.weight']
    state['backbone.conv.weigth'] = torch.ones(1)
    with pytest.raises(LoadError, match=r'1 missing \(backbone\.conv\.weight; the source has '
                                        r'backbone\.conv\.weigth\)') as error:
        load_weights(net, state)
    assert same(values(net), before)
    assert error.value.report.missing == ['backbone.conv.weight']
    assert error.value.report.unexpected == ['backbone.conv.weigth']


def test_missing_parameters_may_be_excused_by_pattern_or_by_share():
    state = Net().state_dict()
    del state['head.bias']
    assert load_weights(Net(), state, allow_missing=[r'^head\.bias$']).missing == ['head.bias']
    total = sum(p.numel() for p in Net().parameters())
    report = load_weights(Net(), state, min_matched=0.9)
    assert report.num_matched == total - 2
    with pytest.raises(LoadError, match='min_matched asks for 99 %'):
        load_weights(Net(), state, min_matched=0.99)


def test_a_head_of_another_size_is_replaced_only_when_asked():
    state = Net(num_classes=5).state_dict()
    net = Net(num_classes=2)
    before = values(net)
    with pytest.raises(LoadError, match=r'source \[5, 4\], model \[2, 4\].*(\n.*)*replace_head'):
        load_weights(net, state)
    assert same(values(net), before)
    report = load_weights(net, state, replace_head=True)
    assert torch.equal(net.backbone.conv.weight, state['backbone.conv.weight'])
    assert torch.equal(net.head.weight, before['head.weight'])
    assert report.wrong_shape['head.bias'] == ((5,), (2,))


def test_replacing_the_head_does_not_excuse_the_backbone():
    state = Net().state_dict()
    state['backbone.conv.bias'] = torch.ones(9)
    with pytest.raises(LoadError, match=r'backbone\.conv\.bias'):
        load_weights(Net(), state, replace_head=True)


def test_a_part_is_loaded_from_the_whole_and_into_it():
    whole = Net()
    stem = Stem()
    report = load_weights(stem, whole.state_dict())
    assert torch.equal(stem.conv.weight, whole.backbone.conv.weight)
    assert report.key_map == "prefix 'backbone.' removed" and 'head.weight' in report.dropped
    other = Net()
    load_weights(other, stem.state_dict(), allow_missing=[r'^head\.'])
    assert torch.equal(other.backbone.conv.weight, whole.backbone.conv.weight)


def test_a_part_is_loaded_from_a_whole_of_other_names():
    stem = Stem()
    published = {f'backbone.{k.replace("conv.", "conv1.")}': torch.full_like(v, 2)
                 for k, v in stem.state_dict().items()}
    report = load_weights(stem, {**published, 'neck.weight': torch.ones(3)})
    assert stem.conv.weight.eq(2).all() and not report.unexpected
    assert report.key_map == "prefix 'backbone.' removed key map 'other'"
    assert list(report.dropped) == ['neck.weight']


def test_the_key_map_of_a_class_inside_the_model_is_found():
    stem = Stem()
    published = {k.replace('conv.', 'conv1.'): v for k, v in stem.state_dict().items()}
    published['fc.weight'] = torch.ones(7, 4)
    net = Net()
    report = load_weights(net, {f'module.{k}': v for k, v in published.items()}, replace_head=True)
    assert torch.equal(net.backbone.conv.weight, stem.conv.weight)
    assert "key map 'other' for backbone" in report.key_map
    assert report.dropped == {'fc.weight': 'the classifier of the other project'}


def test_a_key_map_may_be_given():
    state = {f'old_{k}': v for k, v in Net().state_dict().items()}
    net = Net()
    load_weights(net, state, key_maps=[KeyMap('mine', renames=[('^old_', '')])])
    assert torch.equal(net.head.weight, state['old_head.weight'])


def test_tied_parameters_need_one_of_their_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 3)
            self.out = nn.Linear(3, 4, bias=False)
            self.out.weight = self.embed.weight

    model = Tied()
    report = load_weights(model, {'embed.weight': torch.ones(4, 3)})
    assert report.share == 1 and report.complete
    assert model.out.weight.eq(1).all() and model.out.weight is model.embed.weight


def test_averaged_weights_are_taken_where_there_are_some_unless_told_otherwise(tmp_path):
    plain, averaged = Net().state_dict(), Net().state_dict()
    folder = save_checkpoint(CheckpointParts(plain, ema=averaged), tmp_path / 'iter_1')
    net = Net()
    assert load_weights(net, folder).averaged and same(values(net), averaged)
    assert not load_weights(net, folder, ema=False).averaged and same(values(net), plain)
    only = save_checkpoint(CheckpointParts(plain), tmp_path / 'iter_2')
    with pytest.raises(FileNotFoundError, match='no averaged weights'):
        load_weights(net, only, ema=True)


def test_the_report_names_everything_and_never_rounds_up_to_all():
    state = Net(num_classes=30_000).state_dict()
    del state['head.bias']
    report = load_weights(Net(30_000), state, allow_missing=['head.bias'])
    assert '80' in report.summary()
    report.num_matched, report.num_parameters = 10**9 - 1, 10**9
    assert report.summary().startswith('99.99 %')
    assert 'missing' in str(report) and 'head.bias' in str(report)


def test_the_printed_table_lists_what_did_not_fit(capsys):
    state = Net().state_dict()
    state['extra'] = torch.ones(1)
    load_weights(Net(), state).print()
    shown = capsys.readouterr().err
    assert '100 %' in shown and 'extra' in shown


def test_metadata_of_a_checkpoint_comes_with_the_report(tmp_path):
    write_weights(tmp_path / 'w.safetensors', Net().state_dict(), {'classes': ['a', 'b']})
    assert load_weights(Net(), tmp_path / 'w.safetensors').metadata['classes'] == ['a', 'b']


def test_positions_of_another_image_size_are_interpolated_as_timm_does_and_told():
    import timm
    from timm.layers import resample_abs_pos_embed

    shape = {'patch_size': 8, 'embed_dim': 32, 'depth': 1, 'num_heads': 2}
    torch.manual_seed(0)
    source = timm.models.VisionTransformer(img_size=32, **shape).state_dict()
    source['pos_embed'].normal_()
    model = VisionTransformer(image_size=48, **shape)
    report = load_weights(model, source)
    expected = resample_abs_pos_embed(source['pos_embed'], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(model.position, expected, rtol=1e-4, atol=1e-4)
    assert report.resized == {'position': ((1, 17, 32), (1, 37, 32))} and report.complete
    assert 'resized      1: position (source [1, 17, 32], model [1, 37, 32])' in str(report)


def test_what_no_module_can_interpolate_stays_an_error():
    source = VisionTransformer(patch_size=8, embed_dim=32, depth=1, num_heads=2).state_dict()
    with pytest.raises(LoadError, match='of another shape'):
        load_weights(VisionTransformer(patch_size=8, embed_dim=48, depth=1, num_heads=2), source)


@pytest.mark.parametrize(('name', 'value'), [
    ('backbone.conv.weight', float('nan')), ('head.bias', float('inf')),
    ('backbone.norm.running_var', float('nan'))])
def test_weights_that_are_not_finite_are_named_and_nothing_is_loaded(name, value):
    net = Net()
    before = values(net)
    state = Net().state_dict()
    state[name].view(-1)[0] = value
    number = state[name].numel()
    with pytest.raises(LoadError, match=rf'NaN or infinite.*1 of 9 tensors \({name}: '
                                        rf'1 of {number} values\)'):
        load_weights(net, state)
    assert same(values(net), before)


def test_a_buffer_may_be_infinite_and_what_is_not_loaded_may_be_anything():
    class Masked(Net):
        def __init__(self, num_classes=2):
            super().__init__(num_classes)
            self.register_buffer('mask', torch.tensor([0.0, -torch.inf]))

    state = Masked(num_classes=3).state_dict()
    state['head.weight'][:] = torch.nan
    net = Masked()
    load_weights(net, state, replace_head=True)
    assert net.mask[1] == -torch.inf and net.head.weight.isfinite().all()


def test_weights_of_another_architecture_are_reported_as_they_are_without_a_guess():
    state = {'features.0.weight': torch.ones(2), 'features.1.weight': torch.ones(2),
             'classifier.scale': torch.ones(2)}
    for replace_head in (False, True):
        with pytest.raises(LoadError, match=r'nothing fits.*(\n.*)*another arch') as error:
            load_weights(Net(), state, replace_head=replace_head)
        report = error.value.report
        assert report.unexpected == list(state)
        assert report.key_map == '' and not report.dropped
        assert '--replace-head' not in str(error.value)
        assert 'min_matched' not in str(error.value)


def test_a_fresh_head_is_not_advised_to_who_asked_for_one():
    state = Net(num_classes=5).state_dict()
    del state['backbone.conv.weight']
    with pytest.raises(LoadError, match=r'backbone\.conv\.weight') as error:
        load_weights(Net(), state, replace_head=True)
    assert '--replace-head' not in str(error.value)
    with pytest.raises(LoadError, match='--replace-head'):
        load_weights(Net(), state)
