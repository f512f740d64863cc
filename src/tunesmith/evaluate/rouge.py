"""The libraries behind ROUGE, without what they would bring: rouge-score, and NLTK for its Porter stemmer.

NLTK imports scikit-learn, pandas and SciPy where they are installed, for parts that nobody uses here: two
seconds at the start of every step that evaluates. It does well without them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = ("sklearn", "pandas", "scipy", "scipy.stats")


@contextmanager
def _as_if_missing(*modules: str) -> Iterator[None]:
    """Within it, an import of ``modules`` fails as where they are not installed; those that are there stay."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: see importlib
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _as_if_missing(*_UNUSED):
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]
    from rouge_score.rouge_scorer import RougeScorer

__all__ = ["PorterStemmer", "RougeScorer"]
