"""Continuous batching: one thread that runs the model for every request under way.

Each turn of the loop admits requests that fit, makes one pass with one token for every answer and a share of the
prompts that are being read, picks the next tokens and hands the text out. Requests come and go between passes; a
request that its reader gave up frees its place before the next pass.

Knows samplers and a runner, which keeps the sequences and runs the model; nothing of chat templates, packages or HTTP,
and of no library that computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import replace

import numpy as np

from tunesmith.errors import Failure, Unavailable
from tunesmith.generate.engines.jobs import Answer, Job, Limits, Reading, as_failure
from tunesmith.generate.engines.runner import Group, Place, Row, Runner, Span
from tunesmith.generate.sampling import Picked, pick_all
from tunesmith.generate.types import EngineStats, FinishReason, GenerateEvent, TokenLogprob, TopLogprob, Usage

log = logging.getLogger(__name__)


class Batcher:
    """Starts its thread when made; ``close`` ends it."""

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self._arrived = threading.Condition()
        self._inbox: deque[Job] = deque()
        self._given_up: list[Job] = []
        self._closed = False
        self._waiting: deque[Job] = deque()
        self._reading: list[Reading] = []
        self._running: list[Answer] = []
        self._reserved = 0
        self._counts = dict.fromkeys(
            ("requests", "finished", "cancelled", "failed", "prompt_tokens", "completion_tokens", "steps"), 0
        )
        self._busy = 0.0
        self._outgoing: list[tuple[Job, list[GenerateEvent] | BaseException]] = []
        self._told = EngineStats(cache_limit_bytes=limits.cache_bytes)
        self._thread = threading.Thread(target=self._run, name="tunesmith-batcher", daemon=True)
        self._thread.start()

    # ── called from any thread

    def submit(self, job: Job) -> None:
        """Queue a request. Raises ``Unavailable`` when closed."""
        with self._arrived:
            if self._closed:
                raise Unavailable("the engine is closed")
            self._inbox.append(job)
            self._arrived.notify()

    def give_up(self, job: Job) -> None:
        """Nobody reads this request any more: free its places."""
        with self._arrived:
            self._given_up.append(job)
            self._arrived.notify()

    def close(self) -> None:
        """End every request as cancelled and stop the thread."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def needed_bytes(self, prompt_tokens: int, max_tokens: int, choices: int) -> int:
        """Cache that a request reserves."""
        longest = min(prompt_tokens + max_tokens, self._limits.context_length)
        return self._runner.needed_bytes(longest, choices)

    def stats(self) -> EngineStats:
        """Counters, as they were when events were last handed out."""
        with self._arrived:
            queued = sum(len(job.answers) for job in self._inbox)
            return replace(self._told, waiting=self._told.waiting + queued)

    # ── the thread

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # a fault of ours: nobody may wait for ever
            with self._arrived:
                self._closed = True
                self._waiting.extend(self._inbox)
                self._inbox.clear()
            log.critical("the batching loop ended", exc_info=error)
            self._outgoing += [(job, Failure(f"the engine broke: {error}")) for job in self._all_jobs()]
            self._hand_out()
            raise

    def _loop(self) -> None:
        while True:
            with self._arrived:
                while not (self._closed or self._inbox or self._given_up or self._busy_now()):
                    self._arrived.wait()
                closed = self._closed
                arrived, self._inbox = self._inbox, deque()
                given_up, self._given_up = self._given_up, []
            self._counts["requests"] += len(arrived)
            self._waiting.extend(arrived)
            for job in given_up:
                self._drop(job)
            if closed:
                for job in self._all_jobs():
                    self._cancel(job)
                self._hand_out()
                return
            try:
                self._admit()
                self._step()
            except Exception as error:
                self._fail_all(error)
            self._hand_out()

    def _hand_out(self) -> None:
        """Tell the counters, then give events to their readers, who so find counters that know of their events."""
        told = EngineStats(
            running=len(self._running) + sum(1 + len(item.others) for item in self._reading),
            waiting=sum(len(job.answers) for job in self._waiting),
            busy_seconds=self._busy,
            cache_bytes=self._runner.cache_bytes,
            cache_limit_bytes=self._limits.cache_bytes,
            **self._counts,
        )
        with self._arrived:
            self._told = told
        for job in self._all_jobs():
            if job.events:
                self._post(job)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, list[GenerateEvent] | BaseException]]] = {}
        for job, item in self._outgoing:
            by_loop.setdefault(job.loop, []).append((job, item))
        self._outgoing = []
        for loop, items in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody reads
                loop.call_soon_threadsafe(_put, items)

    def _busy_now(self) -> bool:
        return bool(self._waiting or self._reading or self._running)

    def _all_jobs(self) -> list[Job]:
        jobs = [*self._waiting, *(item.leader.job for item in self._reading), *(answer.job for answer in self._running)]
        return list(dict.fromkeys(jobs))

    def _admit(self) -> None:
        while self._waiting:
            job = self._waiting[0]
            taken = len(self._running) + sum(1 + len(item.others) for item in self._reading)
            need = self.needed_bytes(len(job.prompt), job.max_tokens, len(job.answers))
            idle = taken == 0
            if not idle and taken + len(job.answers) > self._limits.max_answers:
                return
            if not idle and self._reserved + need > self._limits.cache_bytes:
                return
            self._waiting.popleft()
            job.reserved = need
            self._reserved += need
            self._counts["prompt_tokens"] += len(job.prompt)
            try:
                self._read(job.prompt, job.answers[0], job.answers[1:])
            except (MemoryError, RuntimeError) as error:  # no room for this prompt: the others go on
                self._fail(job, error)

    def _read(self, ids: list[int], leader: Answer, others: list[Answer]) -> None:
        adapter = leader.job.adapter
        place = self._runner.begin(len(ids), self._runner.group(len(ids), adapter), adapter)
        self._reading.append(Reading(ids, leader, others, place))

    def _step(self) -> None:
        began = time.perf_counter()
        for answer in list(self._running):
            place = _place(answer)
            if self._runner.group(place.length + 1, place.adapter) != place.group:
                self._running.remove(answer)
                self._runner.release(place)
                answer.place = None
                self._read(answer.job.prompt + answer.ids, answer, [])
            else:
                self._runner.make_room(place)
        shares = self._share_out()
        groups = list(
            dict.fromkeys(
                [*(_place(answer).group for answer in self._running), *(item.place.group for item, _ in shares)]
            )
        )
        self._counts["steps"] += bool(groups)
        for group in groups:
            self._pass(group, [share for share in shares if share[0].place.group == group])
        if groups:
            self._busy += time.perf_counter() - began

    def _share_out(self) -> list[tuple[Reading, int]]:
        """How many tokens of each prompt this step reads, first come first served."""
        budget = self._limits.prompt_tokens_beside if self._running else self._limits.prompt_tokens_alone
        shares = []
        for item in self._reading:
            if budget <= 0:
                break
            left = len(item.ids) - item.done
            count = left if self._runner.reads_whole(item.place.group) else min(left, budget)
            shares.append((item, count))
            budget -= count
        return shares

    def _pass(self, group: Group, shares: list[tuple[Reading, int]]) -> None:
        answers = [answer for answer in self._running if _place(answer).group == group]
        rows = [Row(_place(answer), answer.ids[-1]) for answer in answers]
        spans = []
        for item, count in shares:
            end = item.done + count
            spans.append(Span(item.place, item.ids[item.done : end], item.done, end == len(item.ids)))
        logits = self._runner.run(rows, spans)
        for row in rows:
            row.place.length += 1
        source = list(range(len(rows)))
        for (item, count), span in zip(shares, spans, strict=True):
            item.done += count
            item.place.length = item.done
            if not span.last:
                continue
            others = self._runner.settle(item.place, len(item.others))
            self._reading.remove(item)
            source += [source[-1] + 1 if source else 0] * (1 + len(others))
            for answer, place in zip((item.leader, *item.others), (item.place, *others), strict=True):
                answer.place = place
                self._running.append(answer)
                answers.append(answer)
        if answers:
            if len(source) != logits.shape[0]:
                logits = logits[np.array(source)]
            for answer, picked in zip(answers, pick_all(logits, [a.sampler for a in answers]), strict=True):
                if picked.error is not None:
                    self._fail(answer.job, picked.error)
                elif answer in self._running:  # not if another choice of its request has failed just now
                    self._take(answer, picked)

    def _take(self, answer: Answer, picked: Picked) -> None:
        job = answer.job
        token = picked.token_id
        answer.ids.append(token)
        self._counts["completion_tokens"] += 1
        reason: FinishReason | None = None
        text = ""
        begins = answer.text.decoded
        if token in job.stop_ids:
            reason = "stop"
        else:
            text = answer.text.push(token)
            if answer.text.stopped is not None:
                reason = "stop"
            elif len(answer.ids) >= job.max_tokens or len(job.prompt) + len(answer.ids) >= self._limits.context_length:
                reason = "length"
        if reason is not None:
            text += answer.text.finish()
            if reason == "length" and answer.text.stopped is not None:
                reason = "stop"  # the stop string was complete only with what the decoder held back
        job.events.append(
            GenerateEvent(
                answer.index,
                text,
                (token,),
                self._logprobs(job, picked, begins),
                reason,
                answer.text.stopped,
            )
        )
        if reason is not None:
            self._end(answer)

    def _logprobs(self, job: Job, picked: Picked, begins: int) -> tuple[TokenLogprob, ...]:
        if picked.logprob is None:
            return ()
        top = tuple(TopLogprob(job.token_text(token), token, value) for token, value in picked.top)
        return (TokenLogprob(job.token_text(picked.token_id), picked.token_id, picked.logprob, top, begins),)

    def _end(self, answer: Answer) -> None:
        answer.ended = True
        self._running.remove(answer)
        self._runner.release(_place(answer))
        if answer.job.ended:
            self._counts["finished"] += 1
            self._settle_account(answer.job)

    def _settle_account(self, job: Job) -> None:
        """The last event of a request carries its usage."""
        self._reserved -= job.reserved
        job.reserved = 0
        used = Usage(len(job.prompt), sum(len(answer.ids) for answer in job.answers))
        job.events[-1] = replace(job.events[-1], usage=used)
        self._post(job)

    def _post(self, job: Job) -> None:
        events, job.events = job.events, []
        self._outgoing.append((job, events))

    # ── requests that end early

    def _free(self, job: Job) -> None:
        """Take a request out of everything."""
        if job in self._waiting:
            self._waiting.remove(job)
        for item in self._reading:
            if item.leader.job is job:
                self._runner.release(item.place)
        self._reading = [item for item in self._reading if item.leader.job is not job]
        self._running = [answer for answer in self._running if answer.job is not job]
        for answer in job.answers:
            if answer.place is not None:
                self._runner.release(answer.place)
        self._reserved -= job.reserved
        job.reserved = 0

    def _drop(self, job: Job) -> None:
        if job.ended:
            return
        self._free(job)
        self._counts["cancelled"] += 1

    def _cancel(self, job: Job) -> None:
        self._free(job)
        self._counts["cancelled"] += 1
        used = Usage(len(job.prompt), sum(len(answer.ids) for answer in job.answers))
        left = [answer for answer in job.answers if not answer.ended]
        events = [GenerateEvent(answer.index, answer.text.finish(), finish_reason="cancelled") for answer in left]
        events[-1] = GenerateEvent(left[-1].index, events[-1].text, finish_reason="cancelled", usage=used)
        self._outgoing.append((job, [*job.events, *events]))
        job.events = []

    def _fail_all(self, error: Exception) -> None:
        """A pass failed: what it held is unsure, so every request under way fails; those that wait go on."""
        log.exception("a pass through the model failed", exc_info=error)
        for job in self._all_jobs():
            if job in self._waiting:
                continue
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._free(job)
        self._counts["failed"] += 1
        job.events = []
        self._outgoing.append((job, as_failure(error)))


def _place(answer: Answer) -> Place:
    """Where an answer under way is."""
    assert answer.place is not None
    return answer.place


def _put(items: list[tuple[Job, list[GenerateEvent] | BaseException]]) -> None:
    for job, item in items:
        job.outbox.put_nowait(item)
