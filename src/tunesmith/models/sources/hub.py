"""The Hugging Face hub, or a mirror of it named by ``HF_ENDPOINT``.

The revision is resolved to a commit first, and every file is fetched at that commit. Only configuration, tokenizer and
safetensors files are asked for: no pickles, no code. What was fetched stays under ``downloads`` until the import is
whole, so an interrupted import goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import InvalidModel, NotAllowed, NotAuthenticated, NotFound, TunesmithError, Unreachable
from tunesmith.models.files import link_or_copy, require_room, safe_relative, sha256_of
from tunesmith.models.package import Manifest, Origin
from tunesmith.models.sources.base import FetchContext, Fetched
from tunesmith.models.sources.folder import license_of, wanted
from tunesmith.models.sources.gguf import convert_gguf
from tunesmith.models.weights import INDEX_FILE, PICKLED_SUFFIXES, WEIGHTS_FILE

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

METADATA_TIMEOUT = 10.0
"""Seconds until the hub must have answered the first question."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model repository, or one GGUF file in it."""

    text: str
    repo: str
    revision: str | None
    member: str | None = None

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """By name: what is imported stays imported, also when the branch has moved on at the hub."""
        return manifest.origin.source == self.text

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Ask for the commit and its files, fetch them, and give them their names in ``into``."""
        info = self._info(context)
        commit = str(info.sha)
        siblings = self._choose(info)
        for sibling in siblings:
            safe_relative(sibling.rfilename, where=Path(self.text))
        sizes = {sibling.rfilename: int(sibling.size or 0) for sibling in siblings}
        kept = context.downloads / "hub" / f"{self.repo.replace('/', '--')}@{commit}"
        require_room(context.downloads, sum(sizes.values()), f"the model {context.name!r}")
        progress = _Progress(context, sum(sizes.values()))
        hashes: dict[str, str] = {}
        for sibling in siblings:
            path = self._download(sibling.rfilename, commit, kept, progress, context)
            progress.at_least_file(sizes[sibling.rfilename])
            hashes[sibling.rfilename] = self._check(path, sibling)
        if self.member:
            converted = convert_gguf(kept / self.member, into, context, shown=Path(f"{self.repo}/{self.member}"))
            origin = Origin(source=self.text, revision=commit, sha256=converted.sha256, conversion=converted.conversion)
            return Fetched(origin, converted.license or _card_license(info), converted.hashes)
        names = {name: name for name in sizes}
        weights = [name for name in names if name.endswith(".safetensors")]
        if len(weights) == 1 and INDEX_FILE not in names:
            names[weights[0]] = WEIGHTS_FILE
        for name, new_name in names.items():
            (into / new_name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(kept / name, into / new_name)
        return Fetched(
            origin=Origin(source=self.text, revision=commit),
            license=_card_license(info) or license_of(into / "README.md"),
            hashes={names[name]: sha256 for name, sha256 in hashes.items()},
        )

    def forget(self, context: FetchContext) -> None:
        """Remove what is kept under ``downloads`` for this repository: the package has it now."""
        import shutil

        for path in (context.downloads / "hub").glob(f"{self.repo.replace('/', '--')}@*"):
            shutil.rmtree(path, ignore_errors=True)

    def _info(self, context: FetchContext) -> ModelInfo:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import is_offline_mode

        if is_offline_mode():
            raise Unreachable(
                f"the hub is not asked for {self.repo}: HF_HUB_OFFLINE is set",
                target=self.text,
                way_out=f"unset HF_HUB_OFFLINE, or {context.way_out}",
            )
        api = HfApi(endpoint=_endpoint())
        info: ModelInfo = self._asking(
            lambda: api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=METADATA_TIMEOUT),
            context,
        )
        if not info.sha:
            raise Unreachable(
                f"{_endpoint_name()} answered without a commit for {self.repo}",
                target=self.text,
                way_out=context.way_out,
            )
        return info

    def _choose(self, info: ModelInfo) -> list[RepoSibling]:
        files = [sibling for sibling in info.siblings or [] if "/" not in sibling.rfilename]
        if self.member:
            chosen = [sibling for sibling in info.siblings or [] if sibling.rfilename == self.member]
            if not chosen:
                others = [s.rfilename for s in info.siblings or [] if s.rfilename.endswith(".gguf")]
                raise NotFound(
                    f"{self.repo} has no file {self.member}" + (f"; it has {', '.join(others[:8])}" if others else ""),
                    target=self.text,
                )
            return chosen
        names = {sibling.rfilename for sibling in files}
        weights = [
            s for s in files if s.rfilename.endswith(".safetensors") and not s.rfilename.startswith("consolidated")
        ]
        if not weights:
            pickled = sorted(name for name in names if name.endswith(PICKLED_SUFFIXES))
            what = (
                f"only pickled weights ({', '.join(pickled[:3])}), which are never loaded here"
                if pickled
                else "no weights"
            )
            raise InvalidModel(
                f"{self.repo} has {what}",
                target=self.text,
                way_out="choose a revision or repository with safetensors files"
                if pickled
                else "choose a repository with a whole model: config.json, safetensors and a tokenizer",
            )
        if WEIGHTS_FILE in names and INDEX_FILE not in names:
            weights = [s for s in weights if s.rfilename == WEIGHTS_FILE]
        rest = [s for s in info.siblings or [] if wanted(s.rfilename) or s.rfilename == INDEX_FILE]
        return sorted([*rest, *weights], key=lambda sibling: sibling.size or 0)

    def _download(self, name: str, commit: str, kept: Path, progress: _Progress, context: FetchContext) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(
            self._asking(
                lambda: hf_hub_download(
                    self.repo,
                    name,
                    revision=commit,
                    local_dir=kept,
                    endpoint=_endpoint(),
                    tqdm_class=progress.bar(name),
                ),
                context,
            )
        )

    def _check(self, path: Path, sibling: RepoSibling) -> str:
        """The file's sha256, compared with the one the hub has for large files."""
        found = sha256_of(path)
        promised = getattr(sibling.lfs, "sha256", None) if sibling.lfs else None
        size = path.stat().st_size
        if (promised and promised != found) or (sibling.size and sibling.size != size):
            path.unlink()
            raise InvalidModel(
                f"{sibling.rfilename} of {self.repo} did not arrive whole: {size:,} bytes with sha256 "
                f"{found[:12]}…, and the hub "
                f"has {sibling.size or size:,} bytes with {str(promised)[:12]}…",
                target=self.text,
                way_out="import again; only this file is fetched anew",
            )
        return found

    def _asking(self, ask: Callable[[], Any], context: FetchContext) -> Any:
        """Run a request and turn its failures into what happened and what to do."""
        import httpx2
        from huggingface_hub import errors

        try:
            return ask()
        except errors.GatedRepoError as error:
            raise NotAllowed(
                f"{self.repo} is gated: its owner asks you to accept its terms first",
                target=self.text,
                way_out=f"accept the terms on the model's page and set HF_TOKEN, or {context.way_out}",
            ) from error
        except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
            raise NotFound(
                f"{self.repo} has no revision {self.revision or 'main'!r} with the files asked for",
                target=self.text,
                way_out="check the part after the @",
            ) from error
        except errors.HfHubHTTPError as error:
            raise self._refused(error, context) from error
        except (
            errors.LocalEntryNotFoundError,
            errors.OfflineModeIsEnabled,
            httpx2.TransportError,
            ConnectionError,
        ) as error:
            raise Unreachable(
                f"{_endpoint_name()} cannot be reached for {self.repo}: {_first_line(error)}",
                target=self.text,
                way_out=context.way_out,
            ) from error
        except errors.HFValidationError as error:
            raise NotFound(
                f"{self.repo!r} is no name of a repository: {_first_line(error)}", target=self.text
            ) from error

    def _refused(self, error: Any, context: FetchContext) -> TunesmithError:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            # The hub answers 401 for repositories that do not exist, so that private ones cannot be guessed.
            kind: type[TunesmithError] = {401: NotAuthenticated, 403: NotAllowed}.get(status, NotFound)
            return kind(
                f"{_endpoint_name()} has no {self.repo} that may be read with "
                f"{'the token that is set' if os.environ.get('HF_TOKEN') else 'no token set'} (HTTP {status})",
                target=self.text,
                way_out=f"check the name; for a private model set HF_TOKEN; or {context.way_out}",
            )
        return Unreachable(
            f"{_endpoint_name()} answered HTTP {status} for {self.repo}: {_first_line(error)}",
            target=self.text,
            way_out=f"try again later, or {context.way_out}",
        )


class _Progress:
    """One bar over all files, fed by the download library's own bars."""

    def __init__(self, context: FetchContext, total: int) -> None:
        self._context = context
        self._total = total
        self._finished = 0
        self._current = 0

    def bar(self, name: str) -> Any:
        """A class that the library makes its bars from; only its counting is of use."""
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        progress = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **keywords: Any) -> None:
                keywords["disable"] = True
                super().__init__(*args, **keywords)
                progress.advance(name, int(keywords.get("initial") or 0))

            def update(self, n: float | None = 1) -> bool | None:
                progress.advance(name, int(n or 0))
                return None

        return Bar

    def advance(self, name: str, more: int) -> None:
        self._current += more
        self._tell(self._finished + self._current, name)

    def at_least_file(self, size: int) -> None:
        """A file is there, however it came: fetched, or kept from an earlier try."""
        self._finished += size
        self._current = 0
        self._tell(self._finished, "")

    def _tell(self, done: int, name: str) -> None:
        self._context.reporter.progress(
            "download", min(done, self._total), self._total, unit="bytes", values={"file": name} if name else None
        )


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _endpoint_name() -> str:
    return f"the hub at {_endpoint()} (HF_ENDPOINT)" if _endpoint() else "the Hugging Face hub"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _card_license(info: ModelInfo) -> str:
    card = info.card_data
    value = getattr(card, "license", None) if card else None
    return str(value) if isinstance(value, str) else ""
