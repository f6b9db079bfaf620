import pytest

from frolic.data.heldout import KINDS, reserved

BLUE = [9, 24, 30, 32]


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_ten_is_reserved(kind):
    share = sum(reserved(kind, f"1f{n:03x}", str(m)) for n in range(200) for m in range(20)) / 4000
    assert 0.08 < share < 0.12


def test_a_pair_has_no_order_and_the_others_do():
    codes = [f"1f{n:03x}" for n in range(60)]
    both = [(a, b) for a in codes for b in codes if a < b]
    assert all(reserved("pair", a, b) == reserved("pair", b, a) for a, b in both)
    assert any(reserved("colour", a, b) != reserved("colour", b, a) for a, b in both)


def test_it_stays_what_it_was():
    """Models were trained on what this says: another answer would put their training pictures into the evaluation."""
    codes = [f"1f4{n:02x}" for n in range(40)]
    assert [n for n, code in enumerate(codes) if reserved("colour", code, "blue")] == BLUE
    assert not reserved("pair", "1f98a", "1f6b2")


def test_an_unknown_kind_is_a_mistake_of_ours():
    with pytest.raises(AssertionError):
        reserved("colours", "1f98a", "blue")
