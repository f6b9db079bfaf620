"""The parts of an adapter's file: which tensors belong together, and what they say of a layer.

R rank, O outputs, I inputs of a layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from frolic.errors import CheckpointError
from frolic.lora.delta import Delta, empty, hadamard, kronecker

# What ends a tensor's name -> what it is. PEFT puts the adapter's name ("default") before "weight".
_ENDINGS: Mapping[str, str] = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude", "alpha": "alpha",
    "lokr_w1": "w1", "lokr_w1_a": "w1_a", "lokr_w1_b": "w1_b",
    "lokr_w2": "w2", "lokr_w2_a": "w2_a", "lokr_w2_b": "w2_b", "lokr_t2": "tucker",
    "hada_w1_a": "hada1_b", "hada_w1_b": "hada1_a", "hada_w2_a": "hada2_b", "hada_w2_b": "hada2_a",
    "hada_t1": "tucker", "hada_t2": "tucker", "lora_mid": "tucker",
    "diff": "diff", "diff_b": "diff_b", "set_weight": "set",
}  # fmt: skip
_LAST = re.compile(
    r"^(?P<module>.+?)\.(?P<kind>" + "|".join(sorted(map(re.escape, _ENDINGS), key=len, reverse=True)) + r")"
    r"(?:\.[A-Za-z_][\w-]*?)??(?P<tail>\.weight|\.bias)?$"
)
_FOREIGN = {"oft_": "OFT", "boft": "BOFT", "glora": "GLoRA", "a1.weight": "GLoRA", "ia3_": "IA3", "vera_": "VeRA"}

MOST_RANK = 4096


@dataclass
class Pieces:
    """The tensors of one module in a file, by kind."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Pieces], list[str]]:
    """Tensors by module and kind, and the names that are none of an adapter that is known here."""
    modules: dict[str, Pieces] = {}
    foreign = []
    for key, tensor in tensors.items():
        found = _LAST.match(key)
        kind = "" if found is None else _ENDINGS[found["kind"]]
        if found is not None and found["tail"] == ".bias":
            kind = "up_bias" if kind == "up" else ""
        pieces = modules.setdefault(found["module"], Pieces()) if found is not None and kind else None
        if pieces is None or kind in pieces.tensors:
            foreign.append(key)
        else:
            pieces.tensors[kind] = tensor
            pieces.keys.append(key)
    return {module: pieces for module, pieces in modules.items() if pieces.tensors}, foreign


def kind_of_foreign(key: str) -> str:
    """What a name that is not known belongs to, where it can be told."""
    return next((name for mark, name in _FOREIGN.items() if mark in key), "")


@dataclass(frozen=True)
class Scaling:
    """How a file's factors become a change where no ``alpha`` tensor says it: ``alpha`` None is the rank. Beside such a
    tensor the divisor is always the rank: who trains with another one (LyCORIS with ``rs_lora``) writes an alpha that
    makes up for it, so that every loader gets the same."""

    alpha: float | None = None
    rank_stabilised: bool = False

    def factor(self, rank: int, alpha: float | None) -> float:
        if alpha is not None:
            return alpha / rank
        chosen = float(rank) if self.alpha is None else self.alpha
        return chosen / (math.sqrt(rank) if self.rank_stabilised else rank)


def delta(pieces: Pieces, shape: tuple[int, int], scaling: Scaling, weight_of_set: Tensor | None = None) -> Delta:
    """The change of a weight of ``shape`` [O, I].

    Raises:
        CheckpointError: the pieces do not make one, or not one of this shape; the message is a clause about the layer.
    """
    t = {kind: tensor.float() for kind, tensor in pieces.tensors.items()}
    if "tucker" in t or "set" in t:
        raise CheckpointError("is a Tucker factor or a whole weight, which is not supported")
    alpha = _scalar(t.pop("alpha")) if "alpha" in t else None
    bias, magnitude = t.pop("diff_b", None), t.pop("magnitude", None)
    up_bias = t.pop("up_bias", None)
    kinds = set(t)
    if kinds == {"down", "up"}:
        made = _low_rank(_matrix(t["down"]), _matrix(t["up"]), scaling, alpha)
        if up_bias is not None:
            bias = up_bias * scaling.factor(made.rank, alpha) + (0 if bias is None else bias)
    elif kinds == {"hada1_a", "hada1_b", "hada2_a", "hada2_b"}:
        factors = [_matrix(t[kind]) for kind in ("hada1_b", "hada1_a", "hada2_b", "hada2_a")]
        _fits_pairs(factors)
        rank = factors[1].shape[0]
        made = _times(hadamard(*factors), scaling.factor(rank, alpha))
    elif kinds & {"w1", "w1_a"} and kinds <= {"w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"}:
        made = _lokr(t, shape, scaling, alpha)
    elif kinds == {"diff"}:
        dense = t["diff"].reshape(shape) if t["diff"].numel() == shape[0] * shape[1] else t["diff"]
        made = replace(empty(*shape), dense=dense)
    elif not kinds and bias is not None:
        made = empty(*shape)
    else:
        raise CheckpointError(f"has only {', '.join(sorted(kinds)) or 'a scale'}")
    if made.shape != shape or (made.dense is not None and made.dense.shape != shape):
        got = made.shape if made.dense is None else tuple(made.dense.shape)
        raise CheckpointError(f"is for a layer of {got[0]}x{got[1]}, and this one is {shape[0]}x{shape[1]}")
    if bias is not None and bias.numel() != shape[0]:
        raise CheckpointError(f"adds {bias.numel()} biases to {shape[0]} outputs")
    made = replace(made, bias=None if bias is None else bias.flatten())
    return made if magnitude is None else _dora(made, magnitude, shape)


def _scalar(tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise CheckpointError("has an alpha that is no number")
    return float(tensor)


def _matrix(tensor: Tensor) -> Tensor:
    """A factor of a linear or of a convolution, as [rows, everything else]."""
    if tensor.ndim < 2:
        raise CheckpointError(f"has a factor of {tensor.ndim} dimensions")
    return tensor.flatten(1)


def _low_rank(a: Tensor, b: Tensor, scaling: Scaling, alpha: float | None) -> Delta:
    if a.shape[0] != b.shape[1] or not 0 < a.shape[0] <= MOST_RANK:
        raise CheckpointError(f"has factors of ranks {a.shape[0]} and {b.shape[1]}")
    return _times(Delta(a, b), scaling.factor(a.shape[0], alpha))


def _times(made: Delta, factor: float) -> Delta:
    return replace(made, b=made.b * factor, dense=None if made.dense is None else made.dense * factor)


def _fits_pairs(factors: list[Tensor]) -> None:
    b1, a1, b2, a2 = factors
    if b1.shape[1] != a1.shape[0] or b2.shape[1] != a2.shape[0] or b1.shape[0] != b2.shape[0] or a1.shape != a2.shape:
        raise CheckpointError("has LoHa factors that do not fit each other")
    if a1.shape[0] * a2.shape[0] > MOST_RANK:
        raise CheckpointError(f"has LoHa factors of ranks {a1.shape[0]} and {a2.shape[0]}")


def _lokr(t: Mapping[str, Tensor], shape: tuple[int, int], scaling: Scaling, alpha: float | None) -> Delta:
    """LyCORIS scales by ``alpha / rank`` only where a side is stored as factors; a whole one has no rank."""
    try:
        left = _matrix(t["w1"]) if "w1" in t else _matrix(t["w1_a"]) @ _matrix(t["w1_b"])
        right = _matrix(t["w2"]) if "w2" in t else (_matrix(t["w2_a"]), _matrix(t["w2_b"]))
        rows, columns = right.shape if isinstance(right, Tensor) else (right[0].shape[0], right[1].shape[1])
        if isinstance(right, tuple) and right[0].shape[1] != right[1].shape[0]:
            raise KeyError("w2")
    except (KeyError, RuntimeError) as error:
        raise CheckpointError("has LoKr factors that do not fit each other") from error
    if (left.shape[0] * rows, left.shape[1] * columns) != shape:
        raise CheckpointError(
            f"is for a layer of {left.shape[0] * rows}x{left.shape[1] * columns}, and this one is {shape[0]}x{shape[1]}"
        )
    ranks = [t[kind].shape[0] for kind in ("w1_b", "w2_b") if kind in t]
    return _times(kronecker(left, right, shape), scaling.factor(ranks[-1], alpha) if ranks else 1.0)


def _dora(made: Delta, magnitude: Tensor, shape: tuple[int, int]) -> Delta:
    columnwise = magnitude.ndim == 2 and magnitude.shape[0] == 1 and shape[0] != 1
    if columnwise or magnitude.numel() != shape[0]:
        raise CheckpointError("has a magnitude for each input, where one for each output is supported")
    if made.dense is not None:
        raise CheckpointError("has a magnitude for a change that is not of low rank, which is not supported")
    return replace(made, magnitude=magnitude.flatten())
