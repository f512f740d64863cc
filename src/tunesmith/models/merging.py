"""Merge a LoRA adapter into its base and prove that the merged model says the same.

The sum is taken in float32 and rounded once, to the dtype it is stored in. Then the stored weights are read back and
both models are run in float32 over probe rows: what differs is what the rounding did, and the bound says how much
that may be. A second, much tighter bound holds between the unmerged model and the merged one before rounding, so a
wrong merge cannot hide behind the rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tunesmith.errors import AlreadyExists, Failure, InvalidModel
from tunesmith.models.adapter_files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, TUNED
from tunesmith.models.files import written_aside
from tunesmith.models.importing import make_package
from tunesmith.models.loading import load_folder, load_model
from tunesmith.models.package import ModelPackage, Origin, hash_files, tree_sha256
from tunesmith.models.parity import GreedyProbe, Parity, ParityBound, compare_logits, greedy_of, logits_of
from tunesmith.models.saving import dtype_name, write_like
from tunesmith.models.weights import PICKLED_SUFFIXES, read_header
from tunesmith.reporting import NullReporter, Reporter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tunesmith.chat.messages import Conversation
    from tunesmith.chat.tokens import ChatTokenizer

REPORT_FILE = "merge_report.json"
PROBE_TOKENS = 512
PROBE_ROW_TOKENS = 128
"""Rows are compared until there are so many tokens, so many of each at most: four passes in float32 over them."""
GREEDY_PROMPTS = 2
GREEDY_TOKENS = 12

BOUNDS = {
    "float32": ParityBound(mean_kl=1e-6, max_kl=1e-4),
    "float16": ParityBound(mean_kl=2e-4, max_kl=0.01),
    "bfloat16": ParityBound(mean_kl=0.01, max_kl=0.5),
}
"""By the dtype that is stored. Rounding to bfloat16 keeps 8 bits of a weight; see ``docs/models.md`` for what was
measured."""


class MergeReport(BaseModel):
    """What a merge did, and how near the merged model is to the unmerged one."""

    model_config = ConfigDict(frozen=True)

    base: str
    base_sha256: str
    adapter_sha256: str
    dtype: str
    merged_modules: int
    adapter_effect: Parity
    """The unmerged model against the base without the adapter: what training changed."""
    before_rounding: Parity
    """Merged in float32 against unmerged."""
    bound_before_rounding: ParityBound
    stored: Parity
    """Read back from the stored weights, against unmerged."""
    bound: ParityBound
    greedy: tuple[GreedyProbe, ...]
    """What both say to the probes' prompts. For the reader; the bound does not look at it: one near tie sends two
    equal models
    different ways."""
    seconds: float

    @property
    def greedy_agreement(self) -> float:
        """Share of greedy tokens before the first difference, over all prompts."""
        total = sum(max(len(probe.reference), len(probe.other)) for probe in self.greedy)
        return sum(probe.agree for probe in self.greedy) / total if total else 1.0

    def faults(self) -> list[str]:
        """What is beyond the bounds; empty when the merge is good."""
        before = [f"before rounding: {fault}" for fault in self.bound_before_rounding.faults(self.before_rounding)]
        return before + [f"stored as {self.dtype}: {fault}" for fault in self.bound.faults(self.stored)]

    @classmethod
    def read(cls, package: ModelPackage) -> MergeReport | None:
        """The report in a merged package; ``None`` for a package that was not merged."""
        path = package.path / REPORT_FILE
        return cls.model_validate_json(path.read_bytes()) if path.is_file() else None


def merge_adapter(
    package: ModelPackage,
    adapter: Path,
    destination: Path,
    *,
    dtype: str | torch.dtype | None = None,
    probes: Sequence[Conversation] | None = None,
    reporter: Reporter | None = None,
    name: str | None = None,
    device: torch.device | str = "cpu",
) -> MergeReport:
    """Write the package ``destination``: ``package`` with the LoRA adapter of the folder ``adapter`` (PEFT's format)
    merged in.

    ``dtype`` is what is stored, the base's when left out. ``probes`` are conversations that the merged and the
    unmerged model are compared on; left out, those of the chat contract. The report is also in the package, as
    ``merge_report.json``. Needs memory for the weights in float32. Raises ``InvalidModel`` for an adapter that does
    not fit the package and ``Failure`` with the numbers when the merged model is not within its bound; then nothing
    is left at ``destination``.
    """
    started = time.monotonic()
    reporter = reporter or NullReporter()
    if destination.exists():
        raise AlreadyExists("there is something at this path already", target=str(destination))
    adapter_sha256 = check_adapter(adapter)
    stored_as = dtype_name(dtype, package)
    tokenizer = package.tokenizer()
    rows, prompts = _probe_ids(tokenizer, probes, package.manifest.context_length)
    stops = tokenizer.contract.eos_token_ids

    reporter.progress("merge", 0, 5, unit="steps")
    unmerged = _with_adapter(load_model(package, dtype="float32", device=device), adapter)
    reference = logits_of(unmerged, rows)
    with unmerged.disable_adapter():
        effect = compare_logits(logits_of(unmerged, rows), reference)
    if effect.max_abs_logit_diff == 0:
        reporter.notice("AdapterWithoutEffect", "the adapter changes nothing: the tuned model is its base")
    said = greedy_of(unmerged, prompts, count=GREEDY_TOKENS, stops=stops)
    reporter.progress("merge", 1, 5, unit="steps")
    modules = sum(
        1 for _, module in unmerged.named_modules() if hasattr(module, "merge") and hasattr(module, "base_layer")
    )
    merged: PreTrainedModel = unmerged.merge_and_unload(safe_merge=True)
    before_rounding = compare_logits(reference, logits_of(merged, rows))
    reporter.progress("merge", 2, 5, unit="steps")

    with written_aside(destination, f"the merged {package.manifest.name}") as aside:
        hashes = write_like(merged, aside, like=package, dtype=stored_as, reporter=reporter)
        del unmerged, merged
        reporter.progress("merge", 3, 5, unit="steps")
        reread = load_folder(aside, dtype="float32", device=device, tied=package.manifest.tied_embeddings)
        stored = compare_logits(reference, logits_of(reread, rows))
        again = greedy_of(reread, prompts, count=GREEDY_TOKENS, stops=stops)
        del reread
        report = MergeReport(
            base=package.manifest.name,
            base_sha256=package.sha256,
            adapter_sha256=adapter_sha256,
            dtype=stored_as,
            merged_modules=modules,
            adapter_effect=effect,
            before_rounding=before_rounding,
            bound_before_rounding=BOUNDS["float32"],
            stored=stored,
            bound=BOUNDS[stored_as],
            greedy=tuple(
                GreedyProbe(prompt=tuple(prompt), reference=a, other=b)
                for prompt, a, b in zip(prompts, said, again, strict=True)
            ),
            seconds=round(time.monotonic() - started, 3),
        )
        if faults := report.faults():
            raise Failure(
                f"the merged model does not say what the unmerged one says: {'; '.join(faults)}",
                target=str(adapter),
                way_out="store it as float32, or deploy the adapter unmerged; if this is so before rounding as "
                "well, the adapter "
                "belongs to another base",
                extra=report.model_dump(exclude={"greedy"}),
            )
        reporter.progress("merge", 4, 5, unit="steps")
        (aside / REPORT_FILE).write_text(json.dumps(report.model_dump(), indent=2) + "\n", encoding="utf-8")
        make_package(
            aside,
            name=name or package.manifest.name,
            origin=Origin(
                source=f"{TUNED}{package.sha256}", sha256=adapter_sha256, conversion="LoRA adapter merged in float32"
            ),
            license=package.manifest.license,
            hashes=hashes,
            keep_contract=True,
            reporter=reporter,
        )
    reporter.progress("merge", 5, 5, unit="steps")
    reporter.log(
        f"merged {modules} layers in float32, stored as {stored_as}: mean KL {stored.mean_kl:.2e} nats over "
        f"{stored.tokens} tokens "
        f"(allowed {report.bound.mean_kl:.0e}), largest logit difference {stored.max_abs_logit_diff:.3f}, "
        f"top-1 agreement {stored.top1_agreement:.1%}"
    )
    return report


def check_adapter(folder: Path) -> str:
    """Check the files of an adapter and return one hash over them; ``InvalidModel`` names what is wrong."""
    config = folder / ADAPTER_CONFIG_FILE
    if not config.is_file():
        raise InvalidModel(
            f"this folder is no LoRA adapter: it has no {ADAPTER_CONFIG_FILE}",
            target=str(folder),
            way_out="give the adapter/ folder of a fine-tuning output",
        )
    weights = folder / ADAPTER_WEIGHTS_FILE
    if not weights.is_file():
        pickled = [path.name for path in folder.iterdir() if path.suffix in PICKLED_SUFFIXES]
        raise InvalidModel(
            f"the adapter is only there as a pickled file ({pickled[0]}), which is never loaded here"
            if pickled
            else f"the adapter has no {ADAPTER_WEIGHTS_FILE}",
            target=str(folder),
            way_out="save it again with PeftModel.save_pretrained(FOLDER), which writes safetensors",
        )
    read_header(weights)
    return tree_sha256(
        {
            name: entry
            for name, entry in hash_files(folder).items()
            if name in {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE}
        }
    )


def _with_adapter(model: PreTrainedModel, adapter: Path) -> Any:
    """The model with the adapter on top, unmerged, as PEFT builds it."""
    import warnings

    from peft import PeftModel, get_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("error", UserWarning)  # PEFT only warns when a layer gets no weights
            tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=False, autocast_adapter_dtype=False)
        # The embedding is left out by name: otherwise PEFT would ask the hub whether the vocabulary grew.
        wanted = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    except (ValueError, RuntimeError, KeyError, TypeError, UserWarning) as error:
        cause = str(error).strip().splitlines()[0][:300]
        raise _does_not_fit(adapter, cause) from error
    there = {tensor.name for tensor in read_header(adapter / ADAPTER_WEIGHTS_FILE)}
    # PEFT says nothing when a tensor of the file finds no layer, and merges the rest.
    places = tuned.state_dict()
    unplaced = sorted(name for name in there if name not in wanted and name not in places)
    missing = sorted(name for name in wanted if name not in there)
    if unplaced or missing:
        names = ", ".join((unplaced or missing)[:2])
        what = "of its tensors find no layer" if unplaced else "tensors for layers it names are not in it"
        raise _does_not_fit(adapter, f"{len(unplaced or missing)} {what} ({names})")
    return tuned.float().eval()


def _does_not_fit(adapter: Path, cause: str) -> InvalidModel:
    return InvalidModel(
        f"the adapter does not fit this base model: {cause}",
        target=str(adapter),
        way_out="give the base model that the adapter was trained on",
    )


def _probe_ids(
    tokenizer: ChatTokenizer, probes: Sequence[Conversation] | None, context_length: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Rows to compare logits on, and prompts to answer."""
    contract = [list(probe.ids) for probe in tokenizer.contract.probes if probe.ids]
    prompts = [
        list(probe.ids)
        for probe in tokenizer.contract.probes
        if probe.ids and probe.add_generation_prompt and len(probe.ids) + GREEDY_TOKENS <= context_length
    ]
    given = (tokenizer.encode(conversation).ids for conversation in probes or ())
    rows: list[list[int]] = []
    for ids in chain(given, () if probes else contract):
        left = PROBE_TOKENS - sum(map(len, rows))
        if left <= 0:
            break
        rows.append(ids[: min(left, PROBE_ROW_TOKENS, context_length)])
    return rows, prompts[:GREEDY_PROMPTS]
