"""Which name the next checkpoint of a plan gets."""

import pytest

from keras_savekit.save.saved_names import SavedNames

FIRST, SECOND = "000000005-p", "000000005-p~2"


@pytest.mark.parametrize(
    ("names", "verified", "may_differ", "chosen", "needless"),
    [
        ([], [], False, (FIRST, None), False),
        ([FIRST], [FIRST], False, (FIRST, None), True),
        ([FIRST], [FIRST], True, (SECOND, FIRST), False),
        ([FIRST], [], False, (SECOND, None), False),  # it may be damaged
        ([FIRST], [], True, (SECOND, None), False),
        ([FIRST, SECOND], [FIRST, SECOND], True, (SECOND, FIRST), True),
    ],
)
def test_a_step_is_saved_again_only_if_it_may_differ_or_may_be_bad(
    names, verified, may_differ, chosen, needless
):
    saved = SavedNames(names, verified)
    assert saved.choose(5, "p", may_differ=may_differ) == chosen
    assert (chosen[0] in saved) is needless


def test_a_checkpoint_of_an_earlier_session_counts_once_it_is_known_to_be_good():
    saved = SavedNames([FIRST], [])
    saved.confirm(FIRST)
    assert saved.choose(5, "p", may_differ=False) == (FIRST, None)


def test_a_name_is_free_again_when_its_checkpoint_is_gone():
    saved = SavedNames([FIRST], [FIRST])
    saved.discard(FIRST)
    assert FIRST not in saved
    saved.add(FIRST)
    assert FIRST in saved
