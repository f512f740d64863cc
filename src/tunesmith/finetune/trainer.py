"""The training loop: micro-batches in, updates out, with evaluation, checkpoints and clean stops.

Works on a model that is loaded and prepared (adapters on it or all weights trainable) and on rows; knows nothing of
packages or of where results go. ``run.py`` is the whole run around it.

One optimiser step: the summed losses of its micro-batches are backpropagated one after the other, the gradients are
summed over processes and divided by the trained tokens of all of them, clipped, and applied once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

import torch

from tunesmith.errors import Failure
from tunesmith.finetune import rate_search
from tunesmith.finetune.batches import Document, Plan, Rows, assemble, pieces, read_document
from tunesmith.finetune.checkpoints import Checkpoints
from tunesmith.finetune.distributed import Group
from tunesmith.finetune.evaluation import EvalResult, better, evaluate
from tunesmith.finetune.failures import is_out_of_memory, non_finite, out_of_memory
from tunesmith.finetune.forward import ChatForward
from tunesmith.finetune.memory import current_bytes
from tunesmith.finetune.optimisers import Optimiser, TrainedWeights
from tunesmith.finetune.parameters import FinetuneParameters
from tunesmith.finetune.progress import Progress
from tunesmith.finetune.result import HistoryPoint, Outcome
from tunesmith.finetune.schedules import Schedule, schedule
from tunesmith.finetune.seeding import random_state, restore_random_state
from tunesmith.reporting import Reporter

SAVE_SECONDS = 600.0
"""A checkpoint is written at least this often, so that a kill costs little."""
_SMOOTH = 0.8


class Trainer:
    """One run. ``identity`` is what a checkpoint must agree with to be resumed (base model, rows, parameters)."""

    def __init__(
        self,
        forward: ChatForward,
        plan: Plan,
        train: Rows,
        validation: Rows | None,
        parameters: FinetuneParameters,
        *,
        checkpoints: Checkpoints,
        reporter: Reporter,
        stop: Callable[[], bool],
        group: Group | None = None,
        piece_tokens: int | None = None,
        identity: dict[str, Any] | None = None,
        after_update: Callable[[], None] | None = None,
    ) -> None:
        self.forward = forward
        self.plan = plan
        self.train_rows = train
        self.validation_rows = validation
        self.parameters = parameters
        self.checkpoints = checkpoints
        self.reporter = reporter
        self.stop = stop
        self.group = group or Group()
        self.identity = identity or {}
        self.progress = Progress(piece_tokens=piece_tokens)
        self.total_steps = plan.total_steps
        self.optimiser = self._trained_weights()
        self.schedule = self._schedule()
        self.evaluate_every = self._evaluate_every()
        self.after_update = after_update or (lambda: None)
        self._rate = 0.0
        self._saved_at = time.monotonic()
        self._pad_id = int(getattr(forward.model.config.get_text_config(), "pad_token_id", None) or 0)

    def _trained_weights(self) -> TrainedWeights:
        """The optimiser over the weights that are trained, made once."""
        named = ((name, weight) for name, weight in self.forward.model.named_parameters() if weight.requires_grad)
        self._own = Optimiser(named, self.parameters)
        return self._own

    def _schedule(self) -> Schedule:
        parameters = self.parameters
        return schedule(
            parameters.lr_scheduler_type,
            warmup_steps=parameters.warmup_steps,
            total_steps=self.total_steps,
            learning_rate=parameters.learning_rate,
        )

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────

    def resume(self) -> int | None:
        """Go on from the newest whole checkpoint; its step, or ``None`` when there is none.

        Raises:
            Failure: the checkpoint belongs to another run.
        """
        found = self.checkpoints.latest()
        if found is None:
            return None
        step, state = found
        differing = sorted(key for key, value in self.identity.items() if state["identity"].get(key) != value)
        if differing:
            raise Failure(
                f"checkpoint-{step:08d} was made with other values of " + ", ".join(differing),
                target=str(self.checkpoints.path(step)),
                way_out="resume with the same model, rows and parameters, or set resume_from_checkpoint to false",
            )
        self.optimiser.restore(state["optimiser"])
        self.progress = Progress.of(state["progress"])
        restore_random_state(state["random"])
        self._take_rate()
        self.after_update()
        return step

    def run(self) -> Outcome:
        """Train to the end, or to the reason for an earlier one."""
        self.forward.model.train()
        started_at = self.progress.seconds
        outcome: Outcome = "completed"
        if not self._search_rate():
            outcome = "stopped"
        feeder = self._feed(self.progress.step)
        try:
            if (
                outcome != "stopped"
                and self._owes_evaluation()
                and self._due_for_evaluation()
                and not self._evaluate_and_save()
            ):
                outcome = "stopped"
            while outcome != "stopped" and self.progress.step < self.total_steps:
                if self.group.any(self.stop()):
                    outcome = "stopped"
                    break
                if self._out_of_time():
                    outcome = "max_minutes"
                    break
                self._step(next(feeder), fresh=self.progress.seconds == started_at)
                if self._due_for_evaluation() and not self._evaluate_and_save():
                    outcome = "stopped"
                    break
                if self._exhausted():
                    outcome = "early_stopping"
                    break
                # All at once, whatever each one's clock says: a checkpoint is gathered from every process.
                if self.group.any(time.monotonic() - self._saved_at > SAVE_SECONDS):
                    self.save()
        finally:
            feeder.close()
        if outcome != "stopped" and self._owes_evaluation() and not self._evaluate_and_save():
            outcome = "stopped"
        if outcome == "stopped":
            self.save()
            self.reporter.notice(
                "Stopped",
                f"stopped at optimiser step {self.progress.step} of {self.total_steps}; "
                "resume_from_checkpoint goes on from there",
                level="info",
            )
            return outcome
        if self.checkpoints.steps()[-1:] != [self.progress.step]:
            self.save()
        if outcome == "max_minutes":
            self.reporter.notice(
                "TimeBudget",
                f"max_minutes {self.parameters.max_minutes:g} is used up at optimiser step "
                f"{self.progress.step} of {self.total_steps}; "
                "the best model so far is the result",
                level="info",
            )
        return outcome

    def take_best(self) -> int:
        """Put the best model's weights back; its step (the last one without evaluations)."""
        best = self.progress.best_step
        if best is None or best == self.progress.step:
            return self.progress.step
        self.optimiser.restore_weights(self.checkpoints.load(best)["optimiser"]["weights"])
        self.after_update()
        return best

    def finish(self) -> None:
        """Make the model of the first process fit to be written; all processes call it, after the last step."""

    @property
    def sharded(self) -> dict[str, Any] | None:
        """How weights and optimiser are sharded, for the run's lock; ``None`` where they are not."""
        return None

    def save(self) -> None:
        """Write a checkpoint of this very moment."""
        self._saved_at = time.monotonic()
        weights = self.optimiser.state()
        if self.group.main:
            state = {
                "identity": self.identity,
                "progress": self.progress.state(),
                "optimiser": weights,
                "random": random_state(),
            }
            self.checkpoints.save(self.progress.step, state, best=self.progress.best_step)
        self.group.barrier()

    # ── one optimiser step ───────────────────────────────────────────────────────────────────────────────────────

    def _feed(self, step: int) -> Generator[list[list[Document]], None, None]:
        """This process's micro-batches of each step from ``step`` on, read ahead by threads where wanted."""
        workers = self.parameters.dataloader_num_workers
        if workers == 0:
            while True:
                yield self._read(step)
                step += 1
        with ThreadPoolExecutor(1, "tunesmith-rows") as pool:
            ahead = [pool.submit(self._read, step + i) for i in range(workers)]
            while True:
                step += 1
                documents = ahead.pop(0).result()
                ahead.append(pool.submit(self._read, step + workers - 1))
                yield documents

    def _read(self, number: int) -> list[list[Document]]:
        """This process's micro-batches of step ``number``."""
        micro = self.plan.step(number)[self.group.rank :: self.group.world]
        limit = self.plan.capacity
        return [[read_document(self.train_rows, row, limit=limit) for row in rows] for rows in micro]

    def _step(self, micro: list[list[Document]], *, fresh: bool) -> None:
        before = time.perf_counter()
        rows = [document.row for documents in micro for document in documents]
        loss, trained, tokens, norm, rate = self._update(micro, rows)
        self.after_update()
        progress = self.progress
        progress.step += 1
        progress.losses.append(loss / trained)
        progress.tokens += int(tokens)
        progress.trained_tokens += int(trained)
        seconds = time.perf_counter() - before
        progress.seconds += seconds
        progress.window_loss += loss
        progress.window_trained += int(trained)
        progress.window_tokens += int(tokens)
        progress.window_seconds += seconds
        speed = tokens / seconds
        self._rate = speed if fresh or self._rate == 0 else _SMOOTH * self._rate + (1 - _SMOOTH) * speed
        self._tell(loss / trained, rate, norm)

    def _update(self, micro: list[list[Document]], rows: list[int]) -> tuple[float, float, float, float, float]:
        """One update: the summed loss, trained tokens and tokens of all processes; the gradient's length; the rate.

        Raises:
            NonFiniteLoss: the loss or the gradient is no number; the update was not made.
        """
        loss, trained, tokens = self._summed(self._gradients(micro))
        if not math.isfinite(loss):
            self._give_up(rows, "loss")
        self._own.scale_gradients(1.0 / trained)
        norm = self._own.clip()
        if not math.isfinite(norm):
            self._give_up(rows, "gradient")
        rate = self._own.step(self.schedule(self.progress.step))
        return loss, trained, tokens, norm, rate

    def _summed(self, own: tuple[float, int, int]) -> tuple[float, float, float]:
        """Loss, trained tokens and tokens over all processes; their gradients are summed as well, where there are
        any."""
        if self.group.world == 1:
            return float(own[0]), float(own[1]), float(own[2])
        totals = torch.tensor(own, dtype=torch.float64)
        if self.forward.device.type == "cuda":
            totals = totals.to(self.forward.device)
        self.group.sum([totals])
        if torch.is_grad_enabled():
            self.group.sum(self._own.gradients())
        loss, trained, tokens = totals.tolist()
        return loss, trained, tokens

    @torch.no_grad()
    def measure(self, number: int) -> float:
        """The loss per trained token of step ``number``'s rows; changes nothing but random numbers."""
        loss, trained = 0.0, 0
        for documents in self._read(number):
            for piece in self._pieces(documents):
                batch = assemble(piece, pad_each_to=self._pad_to(), pad_id=self._pad_id)
                loss += float(self.forward.loss(batch))
                trained += batch.trained
        total, tokens, _ = self._summed((loss, trained, 0))
        return total / tokens

    def update(self, number: int, rate: float) -> float:
        """One update on step ``number``'s rows at ``rate``, outside the run's count; the loss before it.

        A loss or gradient that is no number makes no update.
        """
        loss, trained, _ = self._summed(self._gradients(self._read(number)))
        self._own.scale_gradients(1.0 / trained)
        if math.isfinite(loss) and math.isfinite(self._own.clip()):
            self._own.step(rate / self._own.base_rate)
            self.after_update()
        else:
            self._own.drop_gradients()
            loss = math.nan
        return loss / trained

    def _search_rate(self) -> bool:
        """Find the learning rate where that is wanted and was not done before a resumption; false when a stop came."""
        progress = self.progress
        if not self.parameters.find_learning_rate or progress.step > 0 or progress.rate_search is not None:
            return True
        before = time.perf_counter()
        found = rate_search.search(self, self.stop)
        if found is None:
            return False
        progress.search_seconds = time.perf_counter() - before
        progress.rate_search = found.to_dict()
        found.tell(self.reporter, given=self.parameters.learning_rate)
        self._take_rate()
        return True

    def _take_rate(self) -> None:
        """Use the learning rate that was found, if one was."""
        rate = (self.progress.rate_search or {}).get("suggestion")
        if rate is not None:
            self.parameters = replace(self.parameters, learning_rate=rate)
            self.optimiser.base_rate = rate
            self.schedule = self._schedule()

    def _gradients(self, micro: list[list[Document]]) -> tuple[float, int, int]:
        """Backpropagate one step's share; its summed loss, trained tokens and tokens."""
        while True:
            try:
                loss, trained, tokens = 0.0, 0, 0
                for documents in micro:
                    for piece in self._pieces(documents):
                        batch = assemble(piece, pad_each_to=self._pad_to(), pad_id=self._pad_id)
                        summed = self.forward.loss(batch)
                        summed.backward()  # type: ignore[no-untyped-call]
                        loss += summed.item()
                        trained += batch.trained
                        tokens += batch.tokens
                return loss, trained, tokens
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._own.drop_gradients()
                if not (self.parameters.auto_find_batch_size and self._halve(micro)):
                    raise self._no_memory(error) from error

    def _pieces(self, documents: list[Document]) -> list[list[Document]]:
        limit = self.progress.piece_tokens
        return [documents] if limit is None else pieces(documents, limit)

    def _pad_to(self) -> int | None:
        return self.parameters.max_seq_length if self.parameters.pad_to_max_length else None

    def _halve(self, micro: list[list[Document]]) -> bool:
        """Halve what is computed at a time; false when a single conversation is already alone."""
        now = max(
            sum(len(document.ids) for document in piece) for documents in micro for piece in self._pieces(documents)
        )
        alone = all(len(piece) == 1 for documents in micro for piece in self._pieces(documents))
        if alone:
            return False
        self.progress.piece_tokens = max(1, now // 2)
        if self.forward.device.type == "cuda":
            torch.cuda.empty_cache()
        self.reporter.notice(
            "BatchSizeFound",
            f"memory ran out with {now:,} tokens at a time; micro-batches are now computed in pieces of at most "
            f"{self.progress.piece_tokens:,}, which changes no number",
            count=self.progress.piece_tokens,
        )
        return True

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, loss: float, rate: float, norm: float) -> None:
        progress, parameters = self.progress, self.parameters
        left = self.total_steps - progress.step
        eta = left * progress.seconds / progress.step
        self.reporter.progress(
            "train",
            progress.step,
            self.total_steps,
            unit="steps",
            values={
                "loss": round(loss, 4),
                "tokens_per_second": round(self._rate, 1),
                "eta_s": round(eta, 1),
                "epoch": round(progress.step / self.plan.steps_per_epoch, 2),
            },
        )
        every = parameters.logging_steps if parameters.logging_strategy == "steps" else self.plan.steps_per_epoch
        if progress.step % every and progress.step not in (1, self.total_steps):
            return
        progress.last_loss = progress.window_loss / progress.window_trained
        self._metric(
            {
                "loss": progress.last_loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens_per_second": progress.window_tokens / progress.window_seconds,
                "trained_tokens": float(progress.trained_tokens),
                "memory_bytes": float(current_bytes(self.forward.device)),
                "epoch": progress.step / self.plan.steps_per_epoch,
            }
        )
        progress.window_loss = progress.window_seconds = 0.0
        progress.window_trained = progress.window_tokens = 0

    def _metric(self, values: dict[str, float]) -> None:
        self.progress.history.append(HistoryPoint(self.progress.step, values))
        self.reporter.metric(self.progress.step, values)

    # ── evaluation and the reasons to stop ───────────────────────────────────────────────────────────────────────

    def _evaluate_every(self) -> int:
        parameters = self.parameters
        if parameters.evaluation_strategy != "steps":
            return self.plan.steps_per_epoch
        if parameters.evaluation_steps_interval > 0:
            return max(1, round(parameters.evaluation_steps_interval * self.plan.steps_per_epoch))
        return parameters.eval_steps

    def _evaluates(self) -> bool:
        return self.validation_rows is not None and self.parameters.evaluation_strategy != "disable"

    def _owes_evaluation(self) -> bool:
        """Whether the weights of this step were not evaluated yet: a stop came between, or the end did."""
        return self._evaluates() and self.progress.step > 0 and self.progress.evaluated_at != self.progress.step

    def _due_for_evaluation(self) -> bool:
        return self.progress.step % self.evaluate_every == 0

    def _evaluate_and_save(self) -> bool:
        """Evaluate where that is wanted, then save; false when a stop came in between."""
        if not self._evaluates():
            self.save()
            return True
        result = self.evaluate()
        if result is None:
            return False
        self.save()
        return True

    def evaluate(self) -> EvalResult | None:
        """Evaluate the validation rows and note whether they are the best so far; ``None`` when a stop came."""
        if self.validation_rows is None:
            return None
        progress, parameters = self.progress, self.parameters
        before = time.perf_counter()
        try:
            result = evaluate(
                self.forward,
                self.validation_rows,
                batch_size=parameters.per_device_eval_batch_size,
                piece_tokens=progress.piece_tokens,
                fold_every=parameters.eval_accumulation_steps,
                reporter=self.reporter,
                stop=self.stop if self.group.world == 1 else None,
            )
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._no_memory(error) from error
            raise
        if result is None:
            return None
        progress.evaluation_seconds += time.perf_counter() - before
        progress.evaluated_at = progress.step
        name = parameters.metric_for_best_model
        value = result.metric(name)
        if better(name, value, progress.best_metric, parameters.early_stopping_threshold):
            progress.waited = 0
        else:
            progress.waited += 1
        if math.isfinite(value) and better(name, value, progress.best_metric):
            progress.best_metric, progress.best_step = value, progress.step
        self._metric(
            {
                "eval_loss": result.loss,
                "eval_perplexity": math.exp(min(result.loss, 700.0)),
                "eval_f1": result.f1,
                "eval_exact": result.exact,
            }
        )
        return result

    def _exhausted(self) -> bool:
        parameters = self.parameters
        return parameters.apply_early_stopping and self.progress.waited >= parameters.early_stopping_patience

    def _out_of_time(self) -> bool:
        limit = self.parameters.max_minutes * 60
        spent = self.progress.seconds + self.progress.evaluation_seconds + self.progress.search_seconds
        return limit > 0 and self.group.any(spent >= limit)

    # ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _give_up(self, rows: list[int], what: str) -> NoReturn:
        self.optimiser.drop_gradients()
        self.save()
        raise non_finite(
            step=self.progress.step + 1,
            rows=rows,
            what=what,
            parameters=self.parameters,
            checkpoint=str(self.checkpoints.path(self.progress.step)),
        )

    def _no_memory(self, error: BaseException) -> Failure:
        last = self.checkpoints.steps()[-1:]
        return out_of_memory(
            error,
            config=self.forward.model.config.to_dict(),
            parameters=self.parameters,
            lengths=self.train_rows.lengths,
            checkpoint=str(self.checkpoints.path(last[0])) if last else None,
        )
