"""Continuous batching: one thread that runs the model for every request under way.

Each turn of the loop admits requests that fit, makes one pass with one token for every answer and a share of the
prompts that are being read, picks the next tokens and hands the text out. Requests come and go between passes; a
request that its reader gave up frees its place before the next pass.

Knows shelves, samplers and a function that runs the model; nothing of chat templates, packages or HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from tunesmith.errors import Failure, Unavailable
from tunesmith.generate.engines.cache import Pass, Piece, Shape, Shelves, capacity_for
from tunesmith.generate.engines.jobs import Answer, Job, Limits, Reading, as_failure
from tunesmith.generate.sampling import Picked, pick_all
from tunesmith.generate.types import EngineStats, FinishReason, GenerateEvent, TokenLogprob, TopLogprob, Usage

log = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Pass], torch.Tensor]
"""(ids ``[tokens]``, positions ``[tokens]``, rows whose logits are wanted ``[rows]``, the pass) → logits ``[rows,
vocabulary]``.
"""


class Batcher:
    """Starts its thread when made; ``close`` ends it."""

    def __init__(self, forward: Forward, shape: Shape, limits: Limits) -> None:
        self._forward = forward
        self._shelves = Shelves(shape)
        self._limits = limits
        self._device = shape.device
        self._token_bytes = shape.token_bytes
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
        return choices * capacity_for(longest) * self._token_bytes

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
            cache_bytes=self._shelves.bytes,
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
        leader.place.group = self._group(len(ids))
        self._shelves.begin(leader.place, len(ids))
        self._reading.append(Reading(ids, leader, others))

    def _group(self, tokens: int) -> int:
        switch = self._limits.rotation_switch
        return int(switch is not None and tokens > switch)

    def _step(self) -> None:
        began = time.perf_counter()
        for answer in list(self._running):
            if self._group(answer.place.length + 1) != answer.place.group:
                self._running.remove(answer)
                self._read(answer.job.prompt + answer.ids, answer, [])
            else:
                self._shelves.make_room(answer.place)
        shares = self._share_out()
        groups = sorted({*self._shelves.groups(), *(item.leader.place.group for item, _ in shares)})
        self._counts["steps"] += bool(groups)
        for group in groups:
            self._pass(group, [share for share in shares if share[0].leader.place.group == group])
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
            # Rotations depend on the longest position of a pass, so a prompt beyond the switch is read in one.
            count = left if item.leader.place.group else min(left, budget)
            shares.append((item, count))
            budget -= count
        return shares

    def _pass(self, group: int, shares: list[tuple[Reading, int]]) -> None:
        by_place = {answer.place: answer for answer in self._running}
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        decoding: list[Answer] = []
        shelves = []
        for shelf in self._shelves.shelves(group):
            start = len(ids)
            for place in shelf.members:
                answer = by_place[place]
                wanted.append(len(ids))
                ids.append(answer.ids[-1])
                positions.append(place.length)
                decoding.append(answer)
            shelves.append((shelf, start, torch.tensor(positions[start:], device=self._device)))
        pieces = []
        read_whole: list[Reading] = []
        for item, count in shares:
            draft = item.leader.place.draft
            assert draft is not None
            pieces.append(Piece(draft, len(ids), len(ids) + count, item.done))
            ids += item.ids[item.done : item.done + count]
            positions += range(item.done, item.done + count)
            item.done += count
            draft.length = item.done
            if item.done == len(item.ids):
                wanted.append(len(ids) - 1)
                read_whole.append(item)
        logits = self._forward(
            torch.tensor(ids, device=self._device),
            torch.tensor(positions, device=self._device),
            torch.tensor(wanted, device=self._device, dtype=torch.long),
            Pass(shelves, pieces),
        )
        for answer in decoding:
            answer.place.length += 1
        rows = list(range(len(decoding)))
        answers = list(decoding)
        for number, item in enumerate(read_whole, start=len(decoding)):
            everyone = [item.leader, *item.others]
            self._shelves.settle(item.leader.place, [answer.place for answer in item.others])
            self._reading.remove(item)
            self._running += everyone
            answers += everyone
            rows += [number] * len(everyone)
        if answers:
            if rows != list(range(logits.shape[0])):
                logits = logits[torch.tensor(rows, device=logits.device)]
            for answer, picked in zip(answers, pick_all(logits, [a.sampler for a in answers]), strict=True):
                self._take(answer, picked)

    def _take(self, answer: Answer, picked: Picked) -> None:
        job = answer.job
        token = picked.token_id
        answer.ids.append(token)
        self._counts["completion_tokens"] += 1
        reason: FinishReason | None = None
        text = ""
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
                self._logprobs(job, picked),
                reason,
                answer.text.stopped,
            )
        )
        if reason is not None:
            self._end(answer)

    def _logprobs(self, job: Job, picked: Picked) -> tuple[TokenLogprob, ...]:
        if picked.logprob is None:
            return ()
        top = tuple(TopLogprob(job.token_text(token), token, value) for token, value in picked.top)
        return (TokenLogprob(job.token_text(picked.token_id), picked.token_id, picked.logprob, top),)

    def _end(self, answer: Answer) -> None:
        answer.ended = True
        self._running.remove(answer)
        self._shelves.release(answer.place)
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
        self._reading = [item for item in self._reading if item.leader.job is not job]
        self._running = [answer for answer in self._running if answer.job is not job]
        for answer in job.answers:
            self._shelves.release(answer.place)
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


def _put(items: list[tuple[Job, list[GenerateEvent] | BaseException]]) -> None:
    for job, item in items:
        job.outbox.put_nowait(item)
