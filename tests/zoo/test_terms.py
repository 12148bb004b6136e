import pytest

from openlab.zoo.index import rows
from openlab.zoo.terms import all_terms, data_names, judge, terms_of_data, terms_of_license


@pytest.mark.parametrize(('text', 'expected'), [
    ('ImageNet-1k', ['ImageNet-1k']),
    ('IMAGENET', ['ImageNet-1k']),
    (['ImageNet-21k', 'ImageNet-1k'], ['ImageNet-21k', 'ImageNet-1k']),
    ('COCO 10shot', ['COCO']),
    ('COCO-WholeBody-Hand', ['COCO-WholeBody']),
    ('COCO-Stuff 164k', ['COCO-Stuff']),
    ('CrowdHuman + MOT17-half-train', ['CrowdHuman', 'MOT']),
    ('Objects365, GoldG, CC3M, SBU and COCO',
     ['Objects365', 'GoldG', 'CC3M/CC12M', 'SBU Captions', 'COCO']),
    ('Mini-ImageNet', ['Mini-ImageNet']),
    (None, []),
])
def test_names_of_data_are_recognised(text, expected):
    assert data_names(text) == expected


def test_the_strictest_part_decides():
    assert judge('mit', ['Fashion-MNIST']).commercial is True
    assert judge('mit', ['Fashion-MNIST']).reasons == ()
    assert judge('mit', ['Fashion-MNIST', 'COCO']).commercial is None
    strict = judge('cc-by-nc-4.0', ['COCO', 'Cityscapes'])
    assert strict.commercial is False and len(strict.reasons) == 3


def test_what_is_not_known_is_unclear_and_not_free():
    assert judge(None, ['Fashion-MNIST']).commercial is None
    assert judge('mit', []).commercial is None
    assert 'not recorded' in judge('mit', []).reasons[0]
    assert 'not in the table' in judge('mit', ['data of no one']).reasons[0]


def test_imagenet_is_for_research():
    terms = terms_of_data('imagenet-1k')
    assert terms.commercial is False and terms.url.startswith('https://')


def test_every_row_has_a_reason_and_a_name_of_its_own():
    for kind in ('licenses', 'datasets'):
        listed = [terms.name.lower() for terms in all_terms(kind)]
        assert len(listed) == len(set(listed))
        assert all(terms.why for terms in all_terms(kind))


def test_a_name_of_the_table_finds_its_own_row():
    for terms in all_terms('datasets'):
        assert terms_of_data(terms.name) == terms
    for terms in all_terms('licenses'):
        assert terms_of_license(terms.name) == terms


def test_the_table_knows_the_licence_of_every_entry():
    unknown = {row.license for row in rows() if row.license
               and 'not in the table' in terms_of_license(row.license).why}
    assert unknown == set()
