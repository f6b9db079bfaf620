"""The training loop: any objective, any source, no model by name.

Step ``k`` is a function of the state before it and of ``(seed, k)``: batches and noise come from generators seeded with
both. So a run that is stopped, by a signal or by ``kill -9``, and resumed from a checkpoint goes on with the same bits
as if it had never stopped (on the CPU; GPU kernels do not promise bits).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor, nn

from frolic.config import Recipe
from frolic.errors import NumericsError, ResourceError, is_out_of_memory
from frolic.plan.find import shipped_or_path
from frolic.train.batches import batches
from frolic.train.device import has_compiler, in_bfloat16, resolve_device
from frolic.train.ema import Ema
from frolic.train.held_out import HeldOut
from frolic.train.jobs import Job
from frolic.train.metrics import Means, Sink, open_sinks
from frolic.train.objectives.base import Batch
from frolic.train.optim import Optimizers, lr_factor
from frolic.train.outputs import RunLock, write_export, write_preview
from frolic.train.passes import Passes
from frolic.train.progress import Progress, Silent
from frolic.train.resume import CHECKPOINTS, check_inputs, check_same, find_snapshot, load_module, warm_start
from frolic.train.seeding import capture_global, restore_global, step_generator
from frolic.train.signals import StopRequest
from frolic.train.state import CheckpointStore, Snapshot


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: updates done, of all sessions together.
        stopped_by: the signal that ended it early, or None.
        ended: why the job's own checks ended it early, or nothing.
        export: the finished model's folder, if one was written.
    """

    step: int
    stopped_by: Signals | None
    checkpoint: Path
    export: Path | None
    ended: str = ""


class Trainer:
    """One run of a recipe's job in its output folder."""

    def __init__(self, recipe: Recipe, job: Job, progress: Progress | None = None) -> None:
        self.recipe, self.job, self.settings = recipe, job, recipe.trainer
        self.progress = progress or Silent()
        self.folder = Path(recipe.output.folder).expanduser()
        self.device = resolve_device(self.settings.device)
        self.modules = dict(job.objective.modules())
        assert all(name.isidentifier() for name in self.modules), "module names have no dots"
        self.step = 0
        self._skipped_in_row = 0
        self._skipped = 0
        self._seconds = 0.0
        self._ended = ""
        for module in self.modules.values():
            module.to(self.device).train()
            if self.settings.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(self.modules, self.settings.ema) if self.settings.ema else None
        params = {
            f"{name}.{key}": param
            for name, module in self.modules.items()
            for key, param in module.named_parameters()
            if param.requires_grad
        }
        self._params = list(params.values())
        self._passes = Passes(self._params, self.settings.workers if self.device.type == "cpu" else 1)
        self.optimizers = Optimizers(params, recipe.optimizer)
        self.store = CheckpointStore(self.folder / CHECKPOINTS, self.settings.keep)

    def run(self, resume: str = "auto", until: int | None = None) -> Outcome:
        """Train to the recipe's number of steps and export the model.

        Args:
            resume: ``auto``, ``never``, or the path of a checkpoint or of a run's folder.
            until: stop (and export) after this step instead; the schedule stays that of the whole run.

        Raises:
            NumericsError: too many updates in a row were not finite.
            ResourceError: memory or the disk ran out.
            ConfigError, CheckpointError, FileError: see ``resume`` and ``state``.
        """
        last = self.settings.steps if until is None else min(until, self.settings.steps)
        with RunLock(self.folder), StopRequest() as stop:
            snapshot = find_snapshot(self.store, resume, self.progress.note)
            if snapshot is not None:
                self.restore(snapshot)
            elif self.settings.init_from is not None:
                warm_start(shipped_or_path(self.settings.init_from), self.job)
                if self.ema is not None:
                    self.ema.restart(self.modules)
                self.step = self.settings.init_step
            if self.settings.compile and has_compiler():
                compile_parts(self.modules)
            elif self.settings.compile:
                self.progress.note("No C++ compiler is installed (g++ or clang++), so the run is not compiled.")
            sinks = open_sinks(self.folder, self.step, self.settings.tensorboard)
            try:
                self.progress.start(self.recipe.name, self.step, last)
                checkpoint = self._loop(last, stop, sinks)
                export = None if stop.received else self._export()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise ResourceError(
                    f"Memory ran out at step {self.step}; raise trainer.accumulation, or lower trainer.batch_size, "
                    f"and resume from {self.store.folder}."
                ) from error
            finally:
                for sink in sinks:
                    sink.close()
                self.progress.stop()
                self._passes.close()
        return Outcome(self.step, stop.received, checkpoint, export, self._ended)

    def snapshot(self) -> Snapshot:
        """All that the rest of the run depends on."""
        random_tensors, random_plain = capture_global()
        tensors: dict[str, Mapping[str, Tensor]] = {name: m.state_dict() for name, m in self.modules.items()}
        if self.ema is not None:
            tensors |= {f"{name}.ema": module.state_dict() for name, module in self.ema.modules.items()}
        tensors |= {"optimizer": self.optimizers.state(), "random": random_tensors}
        state: dict[str, Any] = {
            "seconds": self._seconds,
            "skipped": self._skipped,
            "skipped_in_row": self._skipped_in_row,
            "random": random_plain,
            "recipe": self.recipe.to_dict(),
            "inputs": dict(self.job.inputs),
        }
        return Snapshot(self.step, tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Undo of ``snapshot``.

        Raises:
            ConfigError: it is of another model. CheckpointError: its weights do not fit.
        """
        for difference in check_same(self.recipe.to_dict(), snapshot.state["recipe"]):
            self.progress.note(f"The recipe has changed since the checkpoint: {difference}")
        check_inputs(self.job.inputs, snapshot.state.get("inputs", {}))
        for name, module in self.modules.items():
            load_module(module, snapshot.tensors.get(name, {}), name)
            if self.ema is not None:
                # A run that begins to average when it is resumed starts from the weights.
                averaged = snapshot.tensors.get(f"{name}.ema", snapshot.tensors.get(name, {}))
                load_module(self.ema.modules[name], averaged, f"{name}.ema")
        self.optimizers.load(snapshot.tensors.get("optimizer", {}))
        restore_global(dict(snapshot.tensors["random"]), snapshot.state["random"])
        self.step = snapshot.step
        self._seconds = snapshot.state["seconds"]
        self._skipped = snapshot.state["skipped"]
        self._skipped_in_row = snapshot.state["skipped_in_row"]

    def _loop(self, last: int, stop: StopRequest, sinks: list[Sink]) -> Path:
        settings, means = self.settings, Means()
        begin, first = time.monotonic(), self.step
        logged, saved, previewed = (begin, first), (begin, first), (begin, first)
        feed = batches(
            self.job.source, settings.seed, first, last, settings.batch_size, 0 if first >= last else settings.prefetch
        )
        before = begin
        if self.job.held_out is not None:
            self._ended = self.job.held_out.resume(self.step, self.folder)
        with closing(feed):
            while self.step < last and stop.received is None and not self._ended:
                self._update(next(feed), means)
                now = time.monotonic()
                self._seconds, before = self._seconds + now - before, now
                left = (now - begin) / (self.step - first) * (last - self.step)
                self.progress.step(self.step, left)
                if self.step % settings.log_every == 0 or self.step == last:
                    rate = (self.step - logged[1]) * settings.batch_size / max(now - logged[0], 1e-9)
                    self._record(means, rate, left, sinks)
                    logged = (now, self.step)
                if settings.preview_every.due(self.step - previewed[1], now - previewed[0]):
                    self._preview()
                    previewed = (time.monotonic(), self.step)
                if self.job.held_out is not None and (self.step % self.job.held_out.every == 0 or self.step == last):
                    self._check(self.job.held_out, sinks)
                if settings.checkpoint_every.due(self.step - saved[1], now - saved[0]):
                    self.store.save(self.snapshot())
                    saved = (time.monotonic(), self.step)
        if previewed[1] < self.step and stop.received is None and str(settings.preview_every) != "never":
            self._preview()
        return self.store.save(self.snapshot())

    def _update(self, batch: Batch, means: Means) -> None:
        """One update of the weights; skipped, and counted, when the loss or a gradient is not finite."""
        settings, passes = self.settings, self.settings.accumulation
        factor = lr_factor(self.step, settings.steps, self.recipe.schedule)
        self.optimizers.zero_grad()
        pieces = list(zip(*(tensor.chunk(passes) for tensor in batch.values()), strict=True))

        def loss(index: int) -> tuple[Tensor, dict[str, Tensor]]:
            part = {name: self._place(tensor) for name, tensor in zip(batch, pieces[index], strict=True)}
            generator = step_generator(settings.seed, self.step, f"loss{index}")
            half = in_bfloat16(settings.precision, self.device)
            # Threads would share the casts that autocast keeps, and with them parts of their graphs.
            alone = self._passes.workers <= 1
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=alone):
                return self.job.objective.loss(part, generator)

        total = torch.zeros((), device=self.device)
        for value, scalars in self._passes.run(loss, passes):
            total += value.float() / passes
            means.add(scalars)
        limit = settings.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self._params, limit)
        finite = bool(torch.isfinite(total + norm))
        self.step += 1
        if not finite:
            self._skip()
            return
        self._skipped_in_row = 0
        means.add({"loss": total, "grad_norm": norm})
        self.optimizers.step(factor)
        if self.ema is not None:
            self.ema.update(self.step)

    def _place(self, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, non_blocking=True)
        if self.settings.channels_last and tensor.ndim == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _skip(self) -> None:
        self._skipped += 1
        self._skipped_in_row += 1
        if self._skipped_in_row >= self.settings.patience:
            raise NumericsError(
                f"The loss was not finite for {self._skipped_in_row} updates in a row, up to step {self.step}; "
                f"lower optimizer.lr or set trainer.precision=fp32 and resume from {self.store.folder}."
            )

    def _record(self, means: Means, rate: float, left: float, sinks: list[Sink]) -> None:
        values = means.take()
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        record = {
            **({"loss": finite.pop("loss")} if "loss" in finite else {}),
            **finite,
            "lr": self.recipe.optimizer.lr * lr_factor(self.step - 1, self.settings.steps, self.recipe.schedule),
            "samples_per_second": rate,
            "skipped": float(self._skipped),
            "seconds": self._seconds,
        }
        for sink in sinks:
            sink.write(self.step, record)
        self.progress.metrics(self.step, record, left)

    def _final_modules(self) -> Mapping[str, nn.Module]:
        return self.ema.modules if self.ema is not None else {name: m.eval() for name, m in self.modules.items()}

    def _preview(self) -> None:
        with self._apart():
            pictures = self.job.objective.preview(self._final_modules())
        if pictures is not None:
            write_preview(pictures, self.folder / "previews" / f"step-{self.step:08d}.png")

    def _check(self, held_out: HeldOut, sinks: list[Sink]) -> None:
        with self._apart():
            found = held_out.check(self.step, self._final_modules(), self.folder)
        for sink in sinks:
            sink.write(self.step, found.values)
        self.progress.metrics(self.step, found.values, 0.0)
        if found.pictures is not None:
            write_preview(found.pictures, self.folder / "previews" / f"held-out-{self.step:08d}.png")
        if found.stop:
            self._ended = found.stop
            self.progress.note(found.stop)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """For looking at what was learned: nothing that is done here changes the run."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
        for module in self.modules.values():
            module.train()

    def _export(self) -> Path | None:
        if self.job.export is None:
            return None
        target = Path(self.recipe.output.export or self.folder / "export").expanduser()
        with torch.no_grad():
            write_export(self.job.export, self._final_modules(), target)
        return target


def compile_parts(modules: Mapping[str, nn.Module]) -> None:
    """Compile in place, part by part and block by block in lists of blocks; names and weights stay as they are."""
    for module in modules.values():
        for child in module.children():
            for part in child if isinstance(child, nn.ModuleList) else [child]:
                part.compile(dynamic=False)
