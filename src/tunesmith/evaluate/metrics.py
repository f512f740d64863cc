"""Text metrics: how close answers are to references.

ROUGE by rouge-score, BLEU and chrF by sacrebleu, exact match and F1 as SQuAD's evaluation script defines them
(Rajpurkar et al. 2016). One thing differs from rouge-score's default: its tokenizer throws away every letter outside
a-z; ours keeps them, and is the same on plain English.

The libraries are imported when first used.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

ROUGE = ("rouge1", "rouge2", "rougeL")

_WORD = re.compile(r"[぀-ヿ㐀-鿿豈-﫿]|[^\W_぀-ヿ㐀-鿿豈-﫿]+")
"""A run of letters and digits of any script; Chinese and Japanese characters, which no space parts, one by one."""
_PLAIN = re.compile(r"[a-z0-9]+")


class _Words:
    """rouge-score's tokenizer, of all scripts: lower case, words of more than 3 plain letters stemmed (Porter)."""

    def __init__(self) -> None:
        from tunesmith.evaluate.rouge import PorterStemmer

        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        return [
            self._stemmer.stem(word) if len(word) > 3 and _PLAIN.fullmatch(word) else word
            for word in _WORD.findall(text.lower())
        ]


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of rouge1, rouge2 and rougeL, each between 0 and 1."""
    from tunesmith.evaluate.rouge import RougeScorer

    scorer = RougeScorer(list(ROUGE), tokenizer=_Words())
    totals: Counter[str] = Counter()
    for prediction, reference in _pairs(predictions, references):
        for name, score in scorer.score(reference, prediction).items():
            totals[name] += score.fmeasure
    return {name: totals[name] / len(predictions) for name in ROUGE}


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4 with the 13a tokenizer and exponential smoothing, between 0 and 100."""
    from sacrebleu.metrics import BLEU

    score: Any = BLEU().corpus_score(list(predictions), [list(references)])
    return float(score.score)


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2, between 0 and 100."""
    from sacrebleu.metrics import CHRF

    score: Any = CHRF().corpus_score(list(predictions), [list(references)])
    return float(score.score)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that equal their reference in normal form."""
    hits = sum(
        normalise(prediction) == normalise(reference) for prediction, reference in _pairs(predictions, references)
    )
    return hits / len(predictions)


def f1_of(prediction: str, reference: str) -> float:
    """F1 between the words of an answer and of its reference, in normal form."""
    said, wanted = normalise(prediction).split(), normalise(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean of ``f1_of``."""
    return sum(f1_of(prediction, reference) for prediction, reference in _pairs(predictions, references)) / len(
        predictions
    )


def _pairs(predictions: Sequence[str], references: Sequence[str]) -> zip[tuple[str, str]]:
    if not predictions:
        raise ValueError("there are no answers to score")
    return zip(predictions, references, strict=True)
