"""The metrics against the libraries' own numbers and against values worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sacrebleu import corpus_bleu, corpus_chrf

from tunesmith.evaluate import metrics
from tunesmith.evaluate.rouge import RougeScorer

SAID = ["The cat sat on the mat.", "A dog was running quickly!", "42", "I do not know."]
WANTED = ["The cat is on the mat.", "The dog runs quickly.", "forty-two", "I do not know."]


def test_rouge_is_rouge_score_on_english() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(wanted, said) for said, wanted in zip(SAID, WANTED, strict=True)]
    found = metrics.rouge(SAID, WANTED)
    assert found == {
        name: pytest.approx(sum(score[name].fmeasure for score in scores) / 4)
        for name in ("rouge1", "rouge2", "rougeL")
    }
    assert found["rouge1"] == pytest.approx((10 / 12 + 2 * 3 / 9 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("said", "wanted", "rouge1"),
    [("Größe Übung", "Größe", 2 / 3), ("да нет", "нет", 2 / 3), ("你好吗", "你好", 0.8), ("ひらがな", "ひらがな", 1.0)],
)
def test_rouge_sees_every_script(said: str, wanted: str, rouge1: float) -> None:
    assert metrics.rouge([said], [wanted])["rouge1"] == pytest.approx(rouge1)
    assert RougeScorer(["rouge1"]).score("нет", "нет")["rouge1"].fmeasure == 0  # why the tokenizer is ours


def test_bleu_and_chrf_are_sacrebleus() -> None:
    assert metrics.bleu(SAID, WANTED) == pytest.approx(corpus_bleu(SAID, [WANTED]).score)
    assert metrics.chrf(SAID, WANTED) == pytest.approx(corpus_chrf(SAID, [WANTED]).score)
    assert metrics.bleu(WANTED, WANTED) == pytest.approx(100)
    assert metrics.chrf(WANTED, WANTED) == pytest.approx(100)


def test_exact_and_f1_are_squads() -> None:
    assert metrics.normalise("The  Cat, a dog;\nand AN owl.") == "cat dog and owl"
    assert metrics.exact(["The cat!", "a dog"], ["cat", "dogs"]) == 0.5
    # "cat sat on mat" against "cat is on mat": 3 common words of 4 and 4.
    assert metrics.f1_of(SAID[0], WANTED[0]) == pytest.approx(0.75)
    assert metrics.f1(SAID, WANTED) == pytest.approx((0.75 + 2 * 2 / 7 + 0 + 1) / 4)
    assert metrics.f1_of("", "") == 1
    assert metrics.f1_of("the", "cat") == 0


def test_lengths_must_agree_and_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        metrics.f1(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no answers"):
        metrics.f1([], [])


LIBRARIES = """
import sys
from tunesmith.evaluate import metrics
print(metrics.rouge(["the dogs were running"], ["the dog was running"])["rouge1"])
assert not {"sklearn", "pandas", "scipy"} & sys.modules.keys()
import scipy.stats  # whoever needs it finds it
"""


def test_rouge_comes_without_what_its_libraries_would_bring() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(0.75)
