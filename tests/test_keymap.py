import torch

from frolic.keymap import POINTWISE, KeyMap, Rule

MAP = KeyMap(
    [
        Rule.of([f"layers.{{i}}.to_{n}.weight" for n in "qkv"], "blocks.{i}.qkv.weight"),
        Rule.of("layers.{i}.conv.weight", "blocks.{i}.mix.weight", POINTWISE),
    ]
)
THEIRS = {
    **{f"layers.0.to_{n}.weight": torch.randn(2, 4) for n in "qkv"},
    "layers.0.conv.weight": torch.randn(3, 4, 1, 1),
    "untouched": torch.randn(2),
}


def test_fuses_reshapes_and_comes_back():
    ours = MAP.load(THEIRS)
    assert {k: tuple(v.shape) for k, v in ours.items()} == {
        "blocks.0.qkv.weight": (6, 4),
        "blocks.0.mix.weight": (3, 4),
        "untouched": (2,),
    }
    back = MAP.save(ours)
    assert back.keys() == THEIRS.keys()
    assert all(torch.equal(back[key], THEIRS[key]) for key in THEIRS)


def test_order_of_the_fused_parts_is_the_rules_not_the_files():
    shuffled = dict(reversed(THEIRS.items()))
    assert torch.equal(MAP.load(shuffled)["blocks.0.qkv.weight"], MAP.load(THEIRS)["blocks.0.qkv.weight"])


def test_a_fused_tensor_with_a_missing_part_is_left_out():
    partial = {key: value for key, value in THEIRS.items() if key != "layers.0.to_k.weight"}
    assert "blocks.0.qkv.weight" not in MAP.load(partial)


def test_names_translate_both_ways():
    assert MAP.ours("layers.7.to_v.weight") == "blocks.7.qkv.weight"
    assert MAP.theirs("blocks.7.qkv.weight") == [f"layers.7.to_{n}.weight" for n in "qkv"]
    assert MAP.theirs("elsewhere") == ["elsewhere"]


def test_what_is_dropped_is_neither_loaded_nor_wanted():
    known = KeyMap(MAP.rules, dropped=("lm_head.weight", "layers.{i}.buffer"))
    extra = {**THEIRS, "lm_head.weight": torch.zeros(1), "layers.3.buffer": torch.zeros(1)}
    assert known.load(extra).keys() == MAP.load(THEIRS).keys()
    assert known.wanted(extra).keys() == THEIRS.keys()
    assert known.drops("layers.3.buffer") and not known.drops("layers.3.buffer.more")


def test_a_map_under_a_prefix():
    under = KeyMap([*MAP.rules, Rule.of("untouched", "untouched")], ("extra",)).under("model.net.")
    theirs = {f"model.net.{key}": value for key, value in THEIRS.items()}
    ours = under.load({**theirs, "model.net.extra": torch.zeros(1)})
    assert ours.keys() == MAP.load(THEIRS).keys()
    assert under.save(ours).keys() == theirs.keys()


def test_what_can_be_rebuilt_is_so_under_a_prefix_too():
    made = KeyMap([], ("positions",), {"positions": lambda: torch.ones(3)}).under("net.")
    assert made.drops("net.positions") and torch.equal(made.rebuilt["net.positions"](), torch.ones(3))
