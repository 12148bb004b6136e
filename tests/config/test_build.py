"""Building: children first, one clear error, derived channels."""

from typing import Any

import pytest
import torch
from torch import nn

from openlab.config import ConfigDict, ConfigError, load_config
from openlab.config.build import BuildError, accepted_arguments, build, wants_raw
from openlab.registry import MODELS, UnknownComponentError


class Back(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (4, 8)):
        super().__init__()
        self.widths = widths
        self.out_channels = widths


class Head(nn.Module):
    def __init__(self, classes: int, in_channels: int | None = None, norm: dict | None = None,
                 act: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.classes, self.in_channels, self.norm, self.act = classes, in_channels, norm, act


class Net(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Module, extra: Any = None):
        super().__init__()
        self.backbone, self.head, self.extra = backbone, head, extra


class Child(Head):
    def __init__(self, more: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)


def net(**head):
    return {'type': Net, 'backbone': {'type': Back}, 'head': {'type': Head, 'classes': 2, **head}}


def test_a_head_takes_the_channels_of_what_was_built_before_it():
    assert build(net()).head.in_channels == 8
    assert build(net(in_channels=3)).head.in_channels == 3


def test_a_parameter_annotated_dict_gets_the_dict():
    norm = {'type': nn.BatchNorm2d}
    assert build(net(norm=norm)).head.norm == norm
    assert wants_raw(dict[str, Any] | None)
    assert not wants_raw(nn.Module | None)


def test_a_list_becomes_a_tuple_where_the_annotation_says_so():
    assert build({'type': Back, 'widths': [1, 2]}).widths == (1, 2)


def test_a_lazy_name_that_is_a_value_becomes_the_object(write):
    cfg = load_config(write('a.py', 'from torch import nn\nmodel = dict(act=nn.GELU)\n'))
    assert build({'type': Head, 'classes': 1, 'act': cfg.model.act}).act is nn.GELU


def test_an_unknown_argument_names_path_line_signature_and_near_match(write):
    path = write('a.py', f'''
        from {__name__} import Back, Head, Net
        model = dict(
            type=Net,
            backbone=dict(type=Back),
            head=dict(
                type=Head,
                clases=3))
        ''')
    with pytest.raises(BuildError) as caught:
        build(load_config(path).model, MODELS, 'model')
    text = str(caught.value)
    assert text.startswith('model.head (')
    assert 'a.py:6)' in text
    assert "no argument 'clases'; did you mean classes?" in text
    assert 'Head(classes: int' in text


def test_a_failing_constructor_is_told_once_with_its_cause():
    cfg = {'type': Net, 'backbone': {'type': nn.Linear, 'in_features': -1, 'out_features': 2},
           'head': None}
    with pytest.raises(BuildError, match=r'^model\.backbone: Linear failed with RuntimeError') as e:
        build(cfg, MODELS, 'model')
    assert isinstance(e.value.__cause__, RuntimeError)
    assert isinstance(e.value, ConfigError)


@pytest.mark.parametrize('cfg', ['ResNet', 3, [1], {'depth': 18}])
def test_what_describes_no_object_is_refused(cfg):
    with pytest.raises(BuildError, match=r'model\.backbone: a model is described by a dict'):
        build(cfg, MODELS, 'model.backbone')


def test_built_objects_and_nothing_pass_through():
    module = nn.Identity()
    assert build(module) is module
    assert build(None) is None


def test_an_unknown_type_names_the_path_and_near_names():
    with pytest.raises(UnknownComponentError, match=r'^model: no model named .*ResNet'):
        build({'type': 'ResNett'}, MODELS, 'model')


def test_keyword_arguments_are_followed_to_the_bases():
    assert accepted_arguments(Child) == ('more', 'classes', 'in_channels', 'norm', 'act')
    with pytest.raises(BuildError, match='did you mean classes'):
        build({'type': Child, 'clases': 3})


def test_a_copy_with_derived_values_keeps_the_record():
    cfg = ConfigDict(net())
    build(cfg)
    assert 'in_channels' not in cfg.head


def test_given_arguments_reach_the_constructor():
    weight = nn.Parameter(torch.zeros(1))
    assert build({'type': 'SGD', 'lr': 1.0}, __import__('openlab.registry').registry.OPTIMIZERS,
                 params=[weight]).param_groups[0]['params'][0] is weight
