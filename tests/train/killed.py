"""Starts toy runs and kills them with SIGKILL at awkward moments; run as a script by ``test_kill.py``.

A child is forked for each moment, so that torch is imported once. The child tells by a pipe that the moment has come
and then does not move any more.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from toy_job import toy_job, toy_recipe

from frolic.train import state
from frolic.train.trainer import Trainer

FLUSHES = 7  # of one checkpoint: five files, the marker, the folder; then the parent folder
MOMENTS = ("in-step", "first-file", "before-marker", "after-marker", "after-rename")


def run(folder: Path, moment: str, stand_still: Callable[[], None]) -> None:
    job = toy_job()
    trainer = Trainer(toy_recipe(folder, checkpoint_every=2, steps=40), job)
    if moment == "in-step":
        loss = job.objective.loss

        def blocking_loss(batch, generator):  # type: ignore[no-untyped-def]
            if trainer.step == 5:
                stand_still()
            return loss(batch, generator)

        job.objective.loss = blocking_loss  # type: ignore[method-assign]
    else:
        flush, calls = state._flush, 0
        stop_at = {"first-file": 1, "before-marker": FLUSHES - 1, "after-marker": FLUSHES, "after-rename": FLUSHES + 1}

        def blocking_flush(path: Path) -> None:
            nonlocal calls
            calls += trainer.step == 4
            if calls == stop_at[moment]:
                stand_still()
            flush(path)

        state._flush = blocking_flush
    torch.manual_seed(0)
    trainer.run()


def main(root: Path) -> None:
    for moment in MOMENTS:
        there, here = os.pipe()
        child = os.fork()
        if child == 0:

            def stand_still(pipe: int = here) -> None:
                os.write(pipe, b"!")
                time.sleep(60)

            try:
                run(root / moment, moment, stand_still)
            finally:
                os._exit(1)
        os.close(here)
        reached = os.read(there, 1)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert reached == b"!" and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    Trainer(toy_recipe(Path(sys.argv[1])), toy_job())  # torch's lazy imports, once for all children
    main(Path(sys.argv[1]))
