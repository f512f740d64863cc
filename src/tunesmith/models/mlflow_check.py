"""``python -m tunesmith.models.mlflow_check [FOLDER [MAX_TOKENS]]``: does MLflow itself read this model folder?

A process of its own, because only a process that never saw the model shows that the folder is complete. Without a
folder it imports what it needs and then reads folder and tokens, a line each, from its input. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

QUESTION = "Hello! Who are you?"


def main(arguments: list[str]) -> int:
    """Load, compare, ask."""
    import warnings

    warnings.filterwarnings("ignore")

    # The last four are what MLflow's scorer and the model's pipeline import when they load.
    import mlflow.pyfunc
    import mlflow.transformers
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TextGenerationPipeline
    from transformers.utils.logging import disable_progress_bar

    from tunesmith.models.package import ModelPackage

    del torch, AutoModelForCausalLM, PreTrainedTokenizerFast, TextGenerationPipeline
    given = arguments or [sys.stdin.readline().strip(), sys.stdin.readline().strip()]
    if not given[0]:
        return 0  # whoever started it ended before there was a folder
    started = time.monotonic()
    folder = Path(given[0])
    max_tokens = int(given[1]) if len(given) > 1 else 8

    disable_progress_bar()
    contract = ModelPackage.open(folder).tokenizer()
    contract.check_probes()
    model = mlflow.pyfunc.load_model(str(folder))
    tokenizer = model.get_raw_model().tokenizer
    probes = 0
    for probe in contract.contract.probes:
        if not probe.ids or probe.conversation.tools:
            continue
        text = contract.render(probe.conversation, add_generation_prompt=probe.add_generation_prompt)
        # The way of MLflow's scorer: text first, then encoded like any text.
        if tokenizer(text)["input_ids"] != contract.encode_text(text):
            raise SystemExit(f"MLflow's tokenizer gives other ids than the chat contract for {text!r}")
        probes += 1
    answers = model.predict({"messages": [{"role": "user", "content": QUESTION}], "max_tokens": max_tokens})
    answer = answers[0] if isinstance(answers, list) else answers
    print(
        json.dumps(
            {
                "question": QUESTION,
                "answer": answer["choices"][0]["message"]["content"],
                "prompt_tokens": answer["usage"]["prompt_tokens"],
                "completion_tokens": answer["usage"]["completion_tokens"],
                "probes": probes,
                "seconds": round(time.monotonic() - started, 3),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
