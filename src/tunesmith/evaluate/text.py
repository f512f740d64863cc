"""Answers to the last turn of test conversations, generated through an engine, and what the metrics say of them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunesmith.chat.messages import Conversation, Message
from tunesmith.errors import InvalidData
from tunesmith.evaluate import metrics
from tunesmith.evaluate.settings import EvaluationSettings
from tunesmith.generate.types import Choice, Engine, GenerateRequest, collect
from tunesmith.reporting import NullReporter, Reporter


class Answer(BaseModel):
    """One generated answer beside the reference."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Where the conversation came from, ``file:line``."""
    messages: tuple[dict[str, Any], ...]
    """What the model was given, in OpenAI's shape."""
    reference: str
    answer: str
    finish_reason: str
    tokens: int
    """Of the answer, with the end-of-turn token where it came."""
    f1: float


class TextResult(BaseModel):
    """Metrics over the generated answers. ROUGE, exact, F1 and rates are between 0 and 1, BLEU and chrF between 0 and
    100.
    """

    model_config = ConfigDict(frozen=True)

    metrics: dict[str, float]
    """rouge1, rouge2, rougeL, bleu, chrf, exact, f1, stop_rate, answer_tokens, as far as they were asked for."""
    samples: int
    skipped: int
    """Conversations without a text answer to compare with, or too long for the context with the answer."""
    answers: tuple[Answer, ...]
    """In the order of the conversations."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation up to its last answer, and that answer."""

    messages: tuple[Message, ...]
    tools: tuple[Any, ...]
    reference: str
    source: str


def question_of(conversation: Conversation) -> Question | None:
    """The last turn of the assistant as a question; ``None`` where it is no text or nothing precedes it."""
    for index in range(len(conversation.messages) - 1, -1, -1):
        message = conversation.messages[index]
        if message.role == "assistant":
            before = conversation.messages[:index]
            if not message.content.strip() or all(item.role == "system" for item in before):
                return None
            return Question(before, tuple(conversation.tools), message.content, conversation.source)
    return None


def draw(conversations: Iterable[Conversation], count: int, seed: int) -> tuple[list[Question], int]:
    """``count`` questions drawn with ``seed``, in the order of the conversations, and how many conversations have
    none.
    """
    questions, without = [], 0
    for conversation in conversations:
        question = question_of(conversation)
        if question is None:
            without += 1
        else:
            questions.append(question)
    if len(questions) > count:
        chosen = sorted(random.Random(seed).sample(range(len(questions)), count))
        questions = [questions[index] for index in chosen]
    return questions, without


async def evaluate_text_async(
    engine: Engine,
    conversations: Iterable[Conversation],
    settings: EvaluationSettings | None = None,
    *,
    reporter: Reporter | None = None,
    phase: str = "answers",
) -> TextResult:
    """See ``evaluate_text``."""
    settings, reporter = settings or EvaluationSettings(), reporter or NullReporter()
    began = time.perf_counter()
    questions, without = draw(conversations, settings.num_samples, settings.seed)
    if without:
        reporter.notice(
            "NoAnswerToCompare",
            f"{without} test conversations have no text answer after a question: no answer is generated for them",
            level="info",
            count=without,
        )
    fitting = [(question, request) for question in questions if (request := _request(engine, question, settings))]
    too_long = len(questions) - len(fitting)
    if too_long:
        reporter.notice(
            "PromptTooLong",
            f"{too_long} of {len(questions)} drawn conversations leave no room for an answer in the model's context",
            count=too_long,
        )
    if not fitting:
        raise InvalidData(
            "no test conversation can be answered and compared",
            way_out="a test conversation needs a user's message and an assistant's answer that fit the context",
        )
    choices = await _answer_all(engine, [request for _, request in fitting], reporter, phase)
    answers = tuple(
        Answer(
            source=question.source,
            messages=tuple(message.to_openai() for message in question.messages),
            reference=question.reference,
            answer=choice.text,
            finish_reason=choice.finish_reason,
            tokens=len(choice.token_ids),
            f1=metrics.f1_of(choice.text, question.reference),
        )
        for (question, _), choice in zip(fitting, choices, strict=True)
    )
    return TextResult(
        metrics=score(answers, settings),
        samples=len(answers),
        skipped=without + too_long,
        answers=answers,
        seconds=time.perf_counter() - began,
    )


def evaluate_text(
    engine: Engine,
    conversations: Iterable[Conversation],
    settings: EvaluationSettings | None = None,
    *,
    reporter: Reporter | None = None,
    phase: str = "answers",
) -> TextResult:
    """Generate answers to the last turns of ``conversations`` (all at once, in the engine's batches) and score them.

    Raises ``InvalidData`` when no conversation can be answered and compared. Not to be called from a running event
    loop; there is ``evaluate_text_async``.
    """
    return asyncio.run(evaluate_text_async(engine, conversations, settings, reporter=reporter, phase=phase))


def score(answers: Sequence[Answer], settings: EvaluationSettings) -> dict[str, float]:
    """The metrics that ``settings`` asks for."""
    said = [item.answer for item in answers]
    wanted = [item.reference for item in answers]
    found: dict[str, float] = {}
    if "rouge" in settings.metrics:
        found |= metrics.rouge(said, wanted)
    for name, function in (
        ("bleu", metrics.bleu),
        ("chrf", metrics.chrf),
        ("exact", metrics.exact),
        ("f1", metrics.f1),
    ):
        if name in settings.metrics:
            found[name] = function(said, wanted)
    if "stop" in settings.metrics:
        found["stop_rate"] = sum(item.finish_reason == "stop" for item in answers) / len(answers)
    found["answer_tokens"] = statistics.fmean(item.tokens for item in answers)
    return found


def _request(engine: Engine, question: Question, settings: EvaluationSettings) -> GenerateRequest | None:
    request = GenerateRequest(
        messages=question.messages,
        tools=question.tools if "tools" in engine.capabilities().fields else (),
        max_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    prompt = len(engine.tokenizer.encode_prompt(request.messages, request.tools))
    return request if prompt + settings.max_new_tokens <= engine.capabilities().context_length else None


async def _answer_all(
    engine: Engine, requests: Sequence[GenerateRequest], reporter: Reporter, phase: str
) -> list[Choice]:
    began, done, tokens = time.perf_counter(), 0, 0

    async def one(request: GenerateRequest) -> Choice:
        nonlocal done, tokens
        result = await collect(engine.generate(request))
        done += 1
        tokens += result.usage.completion_tokens
        values = {"tokens_per_second": tokens / (time.perf_counter() - began)}
        reporter.progress(phase, done, len(requests), unit="answers", values=values)
        return result.choices[0]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(request)) for request in requests]
    return [task.result() for task in tasks]
