"""The process that exports a package: ``python -m tunesmith.generate.engines.openvino_export PACKAGE FOLDER FORM``.

A process of its own, so that the instance that waits for it never holds torch or a second copy of the weights. It
proves the export before it is seen: in float32 it must give the logits of the transformers model, read whole and token
by token. What it could not prove is refused, with the reason.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import InvalidModel, TunesmithError
from tunesmith.generate.engines.exports import INT8, REPORT_FILE
from tunesmith.models.files import written_aside
from tunesmith.models.package import ModelPackage

if TYPE_CHECKING:
    import torch

    from tunesmith.generate.engines.openvino_model import PagedModel
    from tunesmith.generate.engines.openvino_weights import Form
    from tunesmith.models.parity import Parity

PROOF_TOKENS = 384
ROW_TOKENS = 96
DECODED = 8
"""Tokens at the end of a row that are read one by one."""
MEAN_KL = 1e-5
"""In nats: what float32 may differ by. Products in another order give about 1e-9."""


def export(package: ModelPackage, destination: Path, form: Form) -> dict[str, Any]:
    """Export ``package`` into the new folder ``destination``; the report, which is written there too.

    Raises ``InvalidModel`` when the architecture cannot be exported or the export does not say what the model says.
    """
    from tunesmith.generate.engines.openvino_import import ov
    from tunesmith.generate.engines.openvino_model import MODEL_FILE, PagedModel
    from tunesmith.generate.engines.openvino_trace import trace
    from tunesmith.generate.engines.openvino_weights import narrow_weights
    from tunesmith.generate.engines.rotations import rotation_switch
    from tunesmith.models.loading import load_model
    from tunesmith.models.parity import compare_logits, logits_of

    began = time.perf_counter()
    model = load_model(package, dtype="float32")
    rows = _rows(package)
    if not rows:
        raise InvalidModel(
            f"no probe conversation of the chat contract has more than {DECODED} tokens: the export cannot be proved"
        )
    reference = logits_of(model, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer: shapes that are fixed by the architecture
        graph, facts = trace(model, rotation_switch(model.config.get_text_config()))
    del model
    if form != INT8:
        narrow_weights(graph, form)
    with written_aside(destination, "an exported model") as folder:

        def read(precision: str) -> Parity:
            paged = PagedModel(folder, precision=precision, threads=_threads(), blocks=8)
            return compare_logits(reference, [_read(paged, row) for row in rows])

        ov.save_model(graph, str(folder / MODEL_FILE), compress_to_fp16=False)
        facts.write(folder)
        exact = read("32")
        if not exact.mean_kl <= MEAN_KL:
            raise InvalidModel(
                f"the exported model differs from the model by {exact.mean_kl:.3g} nats, allowed {MEAN_KL:g}"
            )
        if form == INT8:
            # What eight bits do to the graph that was just proved is measured, and for the user to judge.
            narrow_weights(graph, form)
            for file in (folder / MODEL_FILE, (folder / MODEL_FILE).with_suffix(".bin")):
                file.unlink()  # never written over: it may still be mapped
            ov.save_model(graph, str(folder / MODEL_FILE), compress_to_fp16=False)
            found = {"8": read("8")}
        else:
            found = {"32": exact, **({"bf16": read("bf16")} if _has_bf16() else {})}
        del graph
        quality = {
            precision: {
                "mean_abs_logit_difference": parity.mean_abs_logit_diff,
                "mean_kl": parity.mean_kl,
                "top1_agreement": parity.top1_agreement,
                "positions": parity.tokens,
            }
            for precision, parity in found.items()
        }
        report = {"form": form, "quality": quality, "seconds": round(time.perf_counter() - began, 2)}
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _has_bf16() -> bool:
    from tunesmith.generate.engines.openvino_engine import has_bf16

    return has_bf16()


def _threads() -> int:
    from tunesmith.generate.engines.openvino_engine import default_threads

    return default_threads()


def _rows(package: ModelPackage) -> list[list[int]]:
    """Ids of the contract's probe conversations; at most ``PROOF_TOKENS``."""
    rows: list[list[int]] = []
    for probe in package.tokenizer().contract.probes:
        row = list(probe.ids or ())[:ROW_TOKENS]
        if len(row) > DECODED and sum(map(len, rows)) + len(row) <= PROOF_TOKENS:
            rows.append(row)
    return rows


def _read(model: PagedModel, row: list[int]) -> torch.Tensor:
    """Logits of a row: most of it read at once, its end token by token."""
    import numpy as np
    import torch

    table = list(range(-(-len(row) // model.block_tokens)))
    first = len(row) - DECODED
    parts = [model.infer(row[:first], range(first), [0], [0, first], [table], range(first), [None] * first)]
    parts += [model.infer([row[at]], [at], [at], [0, 1], [table], [0], [None]) for at in range(first, len(row))]
    return torch.from_numpy(np.concatenate(parts))


def main(arguments: list[str]) -> int:
    """Export, and say how it went in one line of JSON; 0, 2 for what cannot be exported, 1 for a failure."""
    package, folder, form = arguments
    try:
        report = export(ModelPackage.open(package), Path(folder), form)  # type: ignore[arg-type]
    except TunesmithError as error:
        print(json.dumps(error.to_dict()), flush=True)
        return 2 if isinstance(error, InvalidModel) else 1
    print(json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
