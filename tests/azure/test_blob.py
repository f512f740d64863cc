"""Blob storage over the application, with the requests that azure-storage-blob sends."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest

from tests.azure.wire import Wire, azure_wire, query_of
from tunesmith.azure.blob_checksums import Checksums
from tunesmith.azure.blob_errors import BlobError
from tunesmith.azure.blob_files import BlobFiles, Sidecar
from tunesmith.azure.blob_places import Places


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with azure_wire(tmp_path_factory.mktemp("blob") / "home") as wire:
        yield wire


def root(wire: Wire) -> Path:
    folder = wire.services.store.root
    assert folder is not None
    return folder


def names(xml: str) -> tuple[list[str], list[str], str]:
    """Blobs, folders and the next marker of a list."""
    tree = ElementTree.fromstring(xml)
    blobs = [item.findtext("Name") or "" for item in tree.iter("Blob")]
    folders = [item.findtext("Name") or "" for item in tree.iter("BlobPrefix")]
    return blobs, folders, tree.findtext("NextMarker") or ""


def test_a_blob_is_a_file_of_the_artifact_store(wire: Wire) -> None:
    answer = wire.put("one/a file.jsonl", b'{"a": 1}\n', x_ms_blob_content_type="application/jsonl")
    assert (answer.status_code, answer.headers["etag"][:3]) == (201, '"0x')
    assert (root(wire) / "one" / "a file.jsonl").read_bytes() == b'{"a": 1}\n'
    head = wire.blob("HEAD", "one/a file.jsonl")
    assert head.status_code == 200
    assert head.headers["content-length"] == "9"
    assert head.headers["content-type"] == "application/jsonl"
    assert head.headers["x-ms-blob-type"] == "BlockBlob"
    assert head.headers["content-md5"] == base64.b64encode(hashlib.md5(b'{"a": 1}\n').digest()).decode()
    assert head.headers["etag"] == answer.headers["etag"]
    found = wire.services.store.local_path("azureml://datastores/workspaceblobstore/paths/one/a file.jsonl")
    assert found == root(wire) / "one" / "a file.jsonl"


def test_what_is_not_there_is_named_in_a_header_and_in_xml(wire: Wire) -> None:
    head = wire.blob("HEAD", "none.txt")
    assert (head.status_code, head.headers["x-ms-error-code"], head.content) == (404, "BlobNotFound", b"")
    body = ElementTree.fromstring(wire.blob("GET", "none.txt").text)
    assert (body.tag, body.findtext("Code")) == ("Error", "BlobNotFound")


def test_a_blob_that_is_there_is_not_overwritten_unless_asked(wire: Wire) -> None:
    assert wire.put("two.txt", b"first").status_code == 201
    again = wire.put("two.txt", b"second")
    assert (again.status_code, again.headers["x-ms-error-code"]) == (409, "BlobAlreadyExists")
    assert wire.blob("GET", "two.txt").content == b"first"
    assert wire.blob("PUT", "two.txt", b"third", x_ms_blob_type="BlockBlob").status_code == 201
    assert wire.blob("GET", "two.txt").content == b"third"


def test_the_same_file_uploaded_by_two_scripts_at_once_is_one_blob(wire: Wire) -> None:
    name = f"LocalUpload/{'0af1' * 16}/train.jsonl"
    assert wire.put(name, b"rows").status_code == 201
    again = wire.put(name, b"rows")
    assert again.status_code == 201
    assert again.headers["etag"] == wire.blob("HEAD", name).headers["etag"]
    other = wire.put(name, b"ROWS")
    assert (other.status_code, other.headers["x-ms-error-code"]) == (409, "BlobAlreadyExists")
    assert wire.blob("GET", name).content == b"rows"

    block = base64.b64encode(b"0").decode()
    assert wire.blob("PUT", name, b"rows", query=urlencode({"comp": "block", "blockid": block})).status_code == 201
    body = f"<BlockList><Latest>{block}</Latest></BlockList>".encode()
    assert wire.blob("PUT", name, body, query="comp=blocklist", if_none_match="*").status_code == 201


def test_blocks_become_a_blob_in_the_order_of_their_list(wire: Wire) -> None:
    blocks = {base64.b64encode(f"{number:032}".encode()).decode(): bytes([number]) * 70_000 for number in range(5)}
    for block, content in reversed(blocks.items()):
        answer = wire.blob("PUT", "blocks.bin", content, query=urlencode({"comp": "block", "blockid": block}))
        assert answer.status_code == 201
    assert wire.blob("HEAD", "blocks.bin").status_code == 404
    body = "<BlockList>" + "".join(f"<Latest>{block}</Latest>" for block in blocks) + "</BlockList>"
    answer = wire.blob("PUT", "blocks.bin", body.encode(), query="comp=blocklist", x_ms_meta_who="me")
    assert answer.status_code == 201
    assert (root(wire) / "blocks.bin").read_bytes() == b"".join(blocks.values())
    assert wire.blob("HEAD", "blocks.bin").headers["x-ms-meta-who"] == "me"
    missing = wire.blob("PUT", "blocks.bin", body.encode(), query="comp=blocklist")
    assert (missing.status_code, missing.headers["x-ms-error-code"]) == (400, "InvalidBlockList")
    assert list((wire.services.paths.azure / "blobs" / "blocks").iterdir()) == []


def test_metadata_stays_until_the_file_is_another(wire: Wire) -> None:
    wire.put("meta.txt", b"x")
    before = wire.blob("HEAD", "meta.txt").headers["etag"]
    told = wire.blob("PUT", "meta.txt", query="comp=metadata", x_ms_meta_upload__status="completed", x_ms_meta_name="n")
    assert told.status_code == 200
    head = wire.blob("HEAD", "meta.txt").headers
    assert (head["x-ms-meta-upload_status"], head["x-ms-meta-name"]) == ("completed", "n")
    assert head["etag"] == told.headers["etag"] != before
    (root(wire) / "meta.txt").write_bytes(b"changed outside")
    assert "x-ms-meta-upload_status" not in wire.blob("HEAD", "meta.txt").headers


def test_ranges(wire: Wire) -> None:
    wire.put("range.bin", bytes(range(100)))
    part = wire.blob("GET", "range.bin", x_ms_range="bytes=10-19", x_ms_range_get_content_md5="true")
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/100"
    assert part.headers["content-md5"] == base64.b64encode(hashlib.md5(part.content).digest()).decode()
    rest = wire.blob("GET", "range.bin", range="bytes=95-1000")
    assert (rest.status_code, rest.headers["content-range"]) == (206, "bytes 95-99/100")
    beyond = wire.blob("GET", "range.bin", range="bytes=100-")
    assert (beyond.status_code, beyond.headers["x-ms-error-code"]) == (416, "InvalidRange")
    wire.put("empty.bin", b"")
    assert wire.blob("GET", "empty.bin", range="bytes=0-10").status_code == 416
    assert wire.blob("GET", "empty.bin").content == b""


def test_conditions(wire: Wire) -> None:
    etag = wire.put("cond.txt", b"x").headers["etag"]
    assert wire.blob("GET", "cond.txt", if_match=etag).status_code == 200
    assert wire.blob("GET", "cond.txt", if_none_match=etag).status_code == 304
    other = wire.blob("GET", "cond.txt", if_match='"0xFFFF"')
    assert (other.status_code, other.headers["x-ms-error-code"]) == (412, "ConditionNotMet")
    assert wire.blob("DELETE", "cond.txt", if_match='"0xFFFF"').status_code == 412
    assert wire.blob("DELETE", "cond.txt", if_match=etag).status_code == 202
    assert wire.blob("DELETE", "cond.txt").status_code == 404


def test_a_deletion_takes_the_folders_that_it_empties(wire: Wire) -> None:
    wire.put("deep/er/est/x.txt", b"x")
    wire.put("deep/y.txt", b"y")
    assert wire.blob("DELETE", "deep/er/est/x.txt").status_code == 202
    assert sorted(path.name for path in (root(wire) / "deep").iterdir()) == ["y.txt"]


def test_checksums_are_checked_and_nothing_is_kept_of_what_differs(wire: Wire) -> None:
    wrong = base64.b64encode(b"0" * 16).decode()
    answer = wire.put("sum.txt", b"content", content_md5=wrong)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    answer = wire.put("sum.txt", b"content", x_ms_content_crc64=base64.b64encode(b"0" * 8).decode())
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "Crc64Mismatch")
    assert wire.blob("HEAD", "sum.txt").status_code == 404
    sums = Checksums({"x-ms-content-crc64": ""})
    sums.update(b"123456789")
    assert int.from_bytes(base64.b64decode(sums.crc64), "little") == 0xAE8B14860A799888  # the published check value
    assert wire.put("sum.txt", b"123456789", x_ms_content_crc64=sums.crc64).status_code == 201


def test_lists_by_prefix_by_folder_and_in_parts(wire: Wire) -> None:
    for name in ("list/a/1.txt", "list/a/2.txt", "list/a-b.txt", "list/b.txt", "list/c/d/3.txt"):
        wire.put(name, b"x" * len(name), x_ms_meta_of=name.rsplit("/", 1)[-1])
    every = ["list/a-b.txt", "list/a/1.txt", "list/a/2.txt", "list/b.txt", "list/c/d/3.txt"]
    base = "restype=container&comp=list"
    answer = wire.blob("GET", "", query=f"{base}&prefix=list/&include=metadata")
    assert names(answer.text) == (every, [], "")
    first = next(iter(ElementTree.fromstring(answer.text).iter("Blob")))
    assert first.findtext("Properties/Content-Length") == "12"
    assert first.findtext("Metadata/of") == "a-b.txt"
    answer = wire.blob("GET", "", query=f"{base}&prefix=list/&delimiter=/")
    assert names(answer.text) == (["list/a-b.txt", "list/b.txt"], ["list/a/", "list/c/"], "")
    assert names(wire.blob("GET", "", query=f"{base}&prefix=list/a").text)[0] == every[:3]
    found: list[str] = []
    marker = ""
    for _ in range(3):
        part, _, marker = names(wire.blob("GET", "", query=f"{base}&prefix=list/&maxresults=2&marker={marker}").text)
        found += part
    assert (found, marker) == (every, "")


def test_a_list_shows_files_whose_names_no_blob_may_have(wire: Wire) -> None:
    folder = root(wire) / "strange"
    folder.mkdir()
    long = folder / ("d" * 250)
    for name in ("back\\slash", "no\udcffutf", "bell\x07", "plain"):
        (folder / name).write_bytes(b"x")
    for _ in range(4):
        long = long / ("d" * 250)
    long.mkdir(parents=True)
    (long / "deep").write_bytes(b"x")
    (folder / "loop").symlink_to("loop")
    answer = wire.blob("GET", "", query="restype=container&comp=list&prefix=strange/")
    assert answer.status_code == 200
    tree = ElementTree.fromstring(answer.text)
    shown = {item.text or "": item.get("Encoded") for item in tree.findall("Blobs/Blob/Name")}
    deep = (long / "deep").relative_to(root(wire)).as_posix()
    assert shown == {
        "strange/back\\slash": None,
        "strange/no%FFutf": "true",
        "strange/bell%07": "true",
        "strange/plain": None,
        deep: None,
    }
    assert len(deep) > 1024


def test_a_link_out_of_the_container_is_not_followed(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (root(wire) / "link.txt").symlink_to(tmp_path / "secret.txt")
    wire.put("linked.txt", b"within")
    (root(wire) / "inner.txt").symlink_to(root(wire) / "linked.txt")
    for method in ("GET", "HEAD", "DELETE"):
        answer = wire.blob(method, "link.txt")
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "InvalidUri")
    assert wire.blob("PUT", "link.txt", b"x", x_ms_blob_type="BlockBlob").status_code == 400
    assert wire.blob("GET", "inner.txt").content == b"within"
    listed = wire.blob("GET", "", query="restype=container&comp=list").text
    assert "<Name>inner.txt</Name>" in listed and "link.txt" not in listed
    (root(wire) / "link.txt").unlink()


def test_an_upload_that_is_not_whole_before_the_seal_changes_nothing(tmp_path: Path) -> None:
    sealed = False
    codes = tmp_path / "codes" / ("a" * 32)
    codes.mkdir(parents=True)
    places = Places(tmp_path, tmp_path, tmp_path, "w", run_files=lambda run: {}, sealed=lambda snapshot: sealed)
    files = BlobFiles(tmp_path / "aside")
    place = places.place(f"code-{'a' * 32}", "main.py")
    aside = files.new_aside(place)
    aside.write_bytes(b"late")
    sealed = True
    with pytest.raises(BlobError, match="the code snapshot is registered"):
        files.put(place, aside, Sidecar(), {})
    assert not place.path.exists()


def test_append_blobs_grow_at_the_place_that_is_named(wire: Wire) -> None:
    assert wire.blob("PUT", "log.txt", x_ms_blob_type="AppendBlob").status_code == 201
    first = wire.blob("PUT", "log.txt", b"one\n", query="comp=appendblock")
    assert (first.status_code, first.headers["x-ms-blob-append-offset"]) == (201, "0")
    second = wire.blob("PUT", "log.txt", b"two\n", query="comp=appendblock", x_ms_blob_condition_appendpos="4")
    assert second.headers["x-ms-blob-append-offset"] == "4"
    wrong = wire.blob("PUT", "log.txt", b"x", query="comp=appendblock", x_ms_blob_condition_appendpos="4")
    assert (wrong.status_code, wrong.headers["x-ms-error-code"]) == (412, "AppendPositionConditionNotMet")
    odd = wire.blob("PUT", "log.txt", b"x", query="comp=appendblock", x_ms_blob_condition_maxsize="many")
    assert (odd.status_code, odd.headers["x-ms-error-code"]) == (400, "InvalidHeaderValue")
    assert "x-ms-blob-condition-maxsize" in odd.text
    assert wire.blob("GET", "log.txt").content == b"one\ntwo\n"
    assert wire.blob("HEAD", "log.txt").headers["x-ms-blob-type"] == "AppendBlob"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sig": "AAAA"}, "AuthenticationFailed"),
        ({"sig": "\u00e4\u00f6"}, "AuthenticationFailed"),
        ({"sp": "racwdlx"}, "AuthenticationFailed"),
        ({"se": "2099-01-01T00:00:00Z"}, "AuthenticationFailed"),
    ],
)
def test_a_changed_token_opens_nothing(wire: Wire, change: dict[str, str], code: str) -> None:
    answer = wire.blob("HEAD", "x.txt", sas=urlencode({**query_of(wire.sas), **change}))
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, code)


def test_a_token_of_a_version_that_signs_another_text(wire: Wire) -> None:
    changed = {**query_of(wire.sas), "sv": "2015-04-05"}
    changed["sig"] = wire.account.sas._sign(changed, f"/blob/{wire.account.name}/{wire.container}")
    answer = wire.blob("HEAD", "x.txt", sas=urlencode(changed))
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    assert "the version '2015-04-05'" in wire.blob("GET", "x.txt", sas=urlencode(changed)).text


def test_tokens_end_and_permit_what_they_say(wire: Wire) -> None:
    sas = wire.account.sas
    ended = wire.blob("GET", "x.txt", sas=sas.container_token(wire.container, lifetime=timedelta(seconds=-1)))
    assert (ended.status_code, ended.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    assert "ended at" in ended.text
    read = sas.container_token(wire.container, permissions="r")
    refused = wire.blob("PUT", "x.txt", b"x", sas=read, x_ms_blob_type="BlockBlob")
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    assert wire.blob("GET", "", query="restype=container&comp=list", sas=read).status_code == 403
    wire.put("mine.txt", b"m")
    one = sas.blob_token(wire.container, "mine.txt")
    assert wire.blob("GET", "mine.txt", sas=one).content == b"m"
    assert wire.blob("GET", "two.txt", sas=one).status_code == 403
    assert wire.client.get(f"{wire.blobs}/{wire.container}/mine.txt").status_code == 403
    assert wire.client.get(f"{wire.blobs}/{wire.container}/mine.txt", headers=wire.bearer).content == b"m"


@pytest.mark.parametrize("name", ["models/m/1/x", "data/d/1/x", "jobs/j/o/x", "components/c/1/x", "codes/a/x"])
def test_what_the_workspace_keeps_is_not_written(wire: Wire, name: str) -> None:
    answer = wire.put(name, b"x")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, "AuthorizationPermissionMismatch")
    assert "holds what the workspace keeps" in answer.text


@pytest.mark.parametrize(
    "name", ["a/%2E%2E/%2E%2E/token", "%2E%2E/token", "a//b", "%2E/x", "back%5Cslash", "x/.y.01.aside"]
)
def test_names_that_leave_the_container_or_hide_are_refused(wire: Wire, name: str) -> None:
    url = f"{wire.blobs}/{wire.container}/{name}?{wire.sas}"
    answer = wire.client.put(url, content=b"x", headers={"x-ms-blob-type": "BlockBlob"})
    assert answer.status_code == 400
    assert answer.headers["x-ms-error-code"] in ("InvalidUri", "InvalidResourceName")


def test_a_folder_is_not_a_blob(wire: Wire) -> None:
    wire.put("folder/x.txt", b"x")
    answer = wire.blob("HEAD", "folder/")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (404, "BlobNotFound")


def test_what_is_not_here_is_refused_by_its_name(wire: Wire) -> None:
    for query, headers, what in (
        ("comp=lease", {}, "comp=&apos;lease&apos;"),
        ("comp=snapshot", {}, "snapshot"),
        ("", {"x_ms_copy_source": "https://elsewhere/x", "x_ms_blob_type": "BlockBlob"}, "copying a blob"),
        ("", {"x_ms_blob_type": "PageBlob"}, "PageBlob"),
    ):
        answer = wire.blob("PUT", "x.txt", b"", query=query, **headers)
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "NotImplemented"), what
        assert what.replace("&apos;", "'") in answer.text


def test_a_container_that_is_not_there(wire: Wire) -> None:
    answer = wire.client.get(f"{wire.blobs}/other/x.txt", headers=wire.bearer)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (404, "ContainerNotFound")


def test_a_blob_and_a_folder_cannot_have_one_name(wire: Wire) -> None:
    wire.put("both", b"x")
    answer = wire.put("both/below", b"x")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (409, "PathConflict")
    wire.put("folder/below", b"x")
    answer = wire.put("folder", b"x")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (409, "PathConflict")
