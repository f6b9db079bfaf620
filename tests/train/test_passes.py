from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from test_trainer import train
from torch import Tensor, nn
from toy_job import toy_job, toy_recipe

from frolic.train.memory import keep_freed_memory
from frolic.train.passes import Passes
from frolic.train.state import load_checkpoint


def run(workers: int, passes: int = 4) -> tuple[list[Tensor], list[float], set[str]]:
    torch.manual_seed(0)
    net, x = nn.Linear(8, 3), torch.randn(passes, 16, 8)
    unused = nn.Parameter(torch.zeros(2))
    names = set()
    # With several workers every thread waits until another computes too.
    together = threading.Barrier(workers) if workers > 1 else None

    def loss(index: int) -> tuple[Tensor, dict[str, Tensor]]:
        names.add(threading.current_thread().name)
        if together is not None:
            together.wait(timeout=60)
        value = net(x[index]).square().mean()
        return value, {"index": torch.tensor(float(index))}

    params = [*net.parameters(), unused]
    runner = Passes(params, workers)
    done = runner.run(loss, passes)
    runner.close()
    assert unused.grad is None and all(not value.requires_grad for value, _ in done)
    return [p.grad for p in net.parameters() if p.grad is not None], [float(s["index"]) for _, s in done], names


def test_side_by_side_is_one_after_the_other() -> None:
    alone, order, names = run(1)
    both, other, threads = run(2)
    assert order == other == [0, 1, 2, 3]
    assert names == {threading.main_thread().name} and len(threads) == 2
    for a, b in zip(alone, both, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_gradients_lie_as_their_parameters_do() -> None:
    """autograd.grad gives some in another memory order, which fused optimizers would take for the usual one."""
    weight = nn.Parameter(torch.randn(2, 3, 2, 2))

    def loss(index: int) -> tuple[Tensor, dict[str, Tensor]]:
        value = (weight * torch.ones(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)).sum()
        return value + nn.functional.conv2d(picture, weight).square().sum(), {}

    picture = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    given = torch.autograd.grad(loss(0)[0], [weight])[0]
    runner = Passes([weight], 2)
    runner.run(loss, 1)
    runner.close()
    assert weight.grad is not None and weight.grad.stride() == weight.stride()
    assert given.stride() != weight.stride(), "otherwise this shows nothing"
    assert torch.allclose(weight.grad, given)


def test_the_sum_has_the_same_bits_every_time() -> None:
    first, second = run(2)[0], run(2)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_thread_that_waits_keeps_its_cores() -> None:
    """A process that has computed nothing before its workers do would else update weights on one core."""
    import subprocess
    import sys

    code = """
import torch
from frolic.train.passes import Passes
torch.set_num_threads(3)
net = torch.nn.Linear(2, 2)
runner = Passes(list(net.parameters()), 2)
runner.run(lambda k: (net(torch.ones(1, 2)).sum(), {}), 2)
print(torch.get_num_threads())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == "3"


def test_a_failing_pass_is_the_update_s_failure() -> None:
    runner = Passes([nn.Parameter(torch.zeros(1))], 2)

    def loss(index: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise MemoryError(f"pass {index}")

    with pytest.raises(MemoryError, match="pass 0"):
        runner.run(loss, 2)
    runner.close()


def test_a_run_with_workers_resumes_with_the_same_bits(tmp_path: Path) -> None:
    changes = {"accumulation": 2, "workers": 2, "precision": "bf16"}
    # Without noise of the global generator, from which threads draw in any order: no objective of ours does.
    straight = train(tmp_path / "straight", job=toy_job(noise=0.0), **changes)
    train(tmp_path / "halves", until=3, job=toy_job(noise=0.0), **changes)
    halves = train(tmp_path / "halves", job=toy_job(noise=0.0), **changes)
    one, two = load_checkpoint(straight.checkpoint), load_checkpoint(halves.checkpoint)
    assert one.step == two.step == 6
    for group, tensors in one.tensors.items():
        assert all(torch.equal(tensor, two.tensors[group][name]) for name, tensor in tensors.items())


def test_workers_share_the_passes_evenly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not divide by workers 2"):
        toy_recipe(tmp_path, workers=2)


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    import platform
    import subprocess
    import sys

    # In a process of its own: the setting stays.
    code = "from frolic.train.memory import keep_freed_memory as keep; print(keep())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == str(platform.libc_ver()[0] == "glibc")
    assert callable(keep_freed_memory)
