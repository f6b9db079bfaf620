"""Losses whose right answer is known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frolic.train.objectives.distillation import Distillation
from frolic.train.objectives.flow import Flow, FlowSettings
from frolic.train.objectives.reconstruction import Reconstruction, ReconstructionWeights, psnr


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Perfect(nn.Module):
    """Knows that all data is zero: noised latents over the noise level are the noise, which is the velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def forward(self, x, t, text, mask):
        self.seen.append((t, text, mask))
        return x / (t / 1000)[:, None, None, None]


def flow_batch(size: int = 4096) -> dict[str, torch.Tensor]:
    return {
        "latents": torch.zeros(size, 1, 2, 2),
        "text": torch.ones(size, 3, 2),
        "mask": torch.ones(size, 3, dtype=torch.bool),
    }


def flow(**changes) -> tuple[Flow, Perfect]:
    net = Perfect()
    null_mask = torch.tensor([[True, False, False]])
    return Flow(net, FlowSettings(**changes), torch.zeros(1, 3, 2), null_mask), net


def test_the_true_velocity_has_no_loss():
    objective, _ = flow()
    loss, metrics = objective.loss(flow_batch(), generator())
    assert loss < 1e-8
    assert {"high_noise", "low_noise"} == metrics.keys()


def test_times_are_logit_normal_and_shifted():
    plain = flow(shift=1.0)[0].times(20000, generator())
    assert abs(plain.median() - 0.5) < 0.01
    assert abs((plain.logit().std()) - 1.0) < 0.02
    shifted = flow(shift=3.0)[0].times(20000, generator())
    assert abs(shifted.median() - 0.75) < 0.01, "3 * 0.5 / (1 + 2 * 0.5)"
    assert torch.allclose(shifted, 3 * plain / (1 + 2 * plain))


def test_dropped_captions_become_the_null_prompt_with_its_mask():
    objective, net = flow(dropout=0.25)
    objective.loss(flow_batch(), generator())
    _, text, mask = net.seen[0]
    dropped = (text == 0).all(dim=(1, 2))
    assert abs(dropped.float().mean() - 0.25) < 0.03
    assert bool((mask[dropped] == torch.tensor([True, False, False])).all())
    assert bool(mask[~dropped].all())


def test_text_noise_moves_states_along_what_they_differ_in_and_the_null_prompt_not_at_all():
    """States that differ in their first entry only, by a deviation of 1."""
    text = torch.stack([torch.randn(4096, 3, generator=generator()), torch.full((4096, 3), 5.0)], dim=-1)
    mask = torch.tensor([True, True, False]).expand(4096, 3)
    text[:, 2] = 1000.0  # no token: nothing may be moved by it
    batch = {**flow_batch(), "text": text, "mask": mask}
    objective, net = flow(dropout=0.25, text_noise=2.0)
    loss, _ = objective.loss(batch, generator())
    assert loss < 1e-8, "the picture is the same"
    _, seen, _ = net.seen[0]
    dropped = (seen == 0).all(dim=(1, 2))
    assert abs(dropped.float().mean() - 0.25) < 0.03
    moved = (seen - text)[~dropped][:, :2]
    assert bool((moved[..., 1] == 0).all()), "they do not differ in it"
    variance = moved[..., 0].square().mean(dim=1)
    assert abs(float(variance.mean()) - 2.0**2 / 5) < 0.05, "the mean of (2 u^2)^2 for u in [0, 1]"
    assert abs(float(torch.corrcoef(moved[..., 0].T)[0, 1])) < 0.05, "each token by its own"
    without, quiet = flow(dropout=0.25)
    without.loss(batch, generator())
    assert bool((quiet.seen[0][1] == text).all(dim=(1, 2)).any()), "none by default"


class Scale(nn.Module):
    """An autoencoder that is right, up to a factor in its latents."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def encode(self, x):
        return x * self.factor

    def decode(self, z):
        return z / self.factor


def test_reconstruction_of_a_perfect_autoencoder():
    x = torch.randn(8, 3, 16, 16, generator=generator()).clamp(-1, 1)
    x = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / x.std(dim=(0, 2, 3), keepdim=True) / 4
    quiet = ReconstructionWeights(noise=0.0, moments=1.0)
    good, metrics = Reconstruction(Scale(4.0), quiet).loss({"pixels": x}, generator())
    assert good < 1e-5 and metrics["psnr"] > 90
    loud, _ = Reconstruction(Scale(40.0), quiet).loss({"pixels": x}, generator())
    assert abs(loss_of(loud) - 81.0) < 0.1, "a deviation of 10 is 9 off; squared"


def loss_of(value: torch.Tensor) -> float:
    return float(value.detach())


def test_latent_noise_cannot_be_escaped_by_larger_latents():
    x = torch.randn(8, 3, 16, 16, generator=generator()) / 4
    noisy = ReconstructionWeights(noise=0.5, moments=0.0)
    small, large = (loss_of(Reconstruction(Scale(f), noisy).loss({"pixels": x}, generator())[0]) for f in (1.0, 100.0))
    assert small > 0.02
    assert abs(small - large) < 1e-4


def test_psnr():
    a = torch.zeros(1, 3, 4, 4)
    assert abs(float(psnr(a, a + 0.2)) - 20.0) < 1e-3, "0.2 of a range of 2 is a tenth"


class Table(nn.Module):
    """States that are the token's row of a table."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, ids, mask):
        return self.rows[ids]


def distillation(rows: torch.Tensor) -> Distillation:
    """Whose heads pass states on as they are."""
    objective = Distillation(Table(rows), 6, 6)
    with torch.no_grad():
        for head in (objective.head, objective.word_head):
            head.weight.copy_(torch.eye(6))
            head.bias.zero_()
    return objective


def test_distillation_reads_real_tokens_only():
    teacher = nn.functional.normalize(torch.randn(4, 6, generator=generator()), dim=-1)
    objective = distillation(torch.cat([teacher, torch.full((1, 6), 99.0)]))
    ids = torch.tensor([[i, 4, 4] for i in range(4)])
    mask = torch.tensor([[True, False, False]] * 4)
    batch = {"ids": ids, "mask": mask, "teacher": teacher, "place": torch.tensor([[0, -1, -1]] * 4)}
    batch["word_targets"] = torch.stack([teacher, torch.zeros_like(teacher)], dim=1)
    loss, metrics = objective.loss(batch, generator())
    assert loss < 1e-5, "row 4 stands under the padding"
    assert metrics["cosine_last"] > 0.9999 and metrics["cosine_word"] > 0.9999
    worse, _ = objective.loss({**batch, "mask": torch.ones_like(mask)}, generator())
    assert worse > 0.5


def test_distillation_matches_each_word_s_tokens_with_its_own_target():
    rows = torch.eye(6)
    objective = distillation(rows)
    # Two words: the first of tokens 1 and 2, the second of token 3. Token 0 belongs to none.
    batch = {
        "ids": torch.tensor([[0, 1, 2, 3]]),
        "mask": torch.ones(1, 4, dtype=torch.bool),
        "teacher": rows[:1],
        "place": torch.tensor([[-1, 0, 0, 1]]),
        "word_targets": torch.stack([nn.functional.normalize(rows[1] + rows[2], dim=0), rows[3]])[None],
    }
    assert objective.loss(batch, generator())[1]["cosine_word"] > 0.9999
    swapped = objective.loss({**batch, "word_targets": batch["word_targets"].flip(1)}, generator())[1]
    assert swapped["cosine_word"] < 1e-4
    half = objective.loss({**batch, "word_targets": batch["word_targets"][:, [0, 0]]}, generator())[1]
    assert abs(half["cosine_word"] - 0.5) < 1e-4
    cut = objective.loss({**batch, "place": torch.tensor([[-1, 0, 0, -1]])}, generator())[1]
    assert cut["cosine_word"] > 0.9999, "a word that was cut off is not counted"


def test_an_expert_is_trained_at_its_own_levels_with_the_same_density() -> None:
    def drawn(levels: tuple[float, float]) -> torch.Tensor:
        flow = Flow(torch.nn.Identity(), FlowSettings(shift=5.0, levels=levels), torch.zeros(1), torch.zeros(1))
        return flow.times(40_000, torch.Generator().manual_seed(0))

    whole, high, low = drawn((0.0, 1.0)), drawn((0.875, 1.0)), drawn((0.0, 0.875))
    assert float(high.min()) >= 0.875 > float(low.max())
    share = torch.linspace(0.05, 0.95, 10)
    for part, cut in ((high, whole[whole >= 0.875]), (low, whole[whole < 0.875])):
        assert (torch.quantile(part, share) - torch.quantile(cut, share)).abs().max() < 0.01
    with pytest.raises(ValueError, match="the lower one first"):
        FlowSettings(levels=(0.9, 0.1))
