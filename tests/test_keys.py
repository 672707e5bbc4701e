"""Values of config keys are checked in one way."""

import pytest

from man_mm.keys import count, is_count

from .helpers.detection import build, retinanet


@pytest.mark.parametrize('value', [0, -1, True, 2.0, '2', None])
def test_what_is_no_count_is_refused_with_key_value_and_what_is_legal(value):
    assert not is_count(value)
    with pytest.raises(ValueError, match=rf'auxiliary\.depth={value!r} must be an integer, 1 or more\.'):
        count('auxiliary.depth', value)


def test_a_count_comes_back_and_may_be_zero_where_that_is_legal():
    assert count('auxiliary.depth', 3) == 3
    assert count('auxiliary.num_hidden', 0, least=0) == 0
    with pytest.raises(ValueError, match='num_hidden=False must be an integer, 0 or more'):
        count('auxiliary.num_hidden', False, least=0)


@pytest.mark.parametrize('num_modules', [1, 4])
def test_a_misspelt_key_of_the_auxiliary_is_named_for_back_propagation_too(num_modules):
    with pytest.raises(ValueError, match=r"man_mm\.SLM has no key \{'necc': 'shared'\}\. Its keys: .*'neck'"):
        build(retinanet(num_modules, auxiliary=dict(necc='shared')))
    build(retinanet(num_modules))
