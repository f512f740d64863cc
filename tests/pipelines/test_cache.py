from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.pipelines.cache import Place, StepCache, key_of
from tunesmith.pipelines.graph import GraphStep, LiteralInput, ModelSource, OutputInput, PathInput
from tunesmith.records.jobs import Part


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    return StepCache(tmp_path / "cache" / "steps", tmp_path / "cache" / "hashes")


def step(**inputs: LiteralInput | PathInput | OutputInput) -> GraphStep:
    return GraphStep(
        name="one",
        component="c",
        component_version="1",
        component_id="c",
        component_sha256="abc",
        command="true",
        inputs=inputs,
        outputs={"o": "uri_folder"},
    )


def literal(value: str) -> LiteralInput:
    return LiteralInput(type="string", value=value)


def place(cache: StepCache, root: Path, job: str, text: str = "x") -> Place:
    folder = root / job
    (folder / "outputs" / "o").mkdir(parents=True)
    (folder / "outputs" / "o" / "file").write_text(text)
    return Place(job, "one", folder, {"o": cache.output(folder / "outputs" / "o", "uri_folder")})


def test_parts_are_named(cache: StepCache, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("1")
    bound = PathInput(type="uri_file", path=str(data), reference="azureml:data:1")
    before = {"two": place(cache, tmp_path, "j").outputs["o"]}
    given = step(n=literal("3"), d=bound, b=OutputInput(type="uri_folder", step="two", output="o"))
    parts = {part.name: part for part in cache.parts(given, {("two", "o"): before["two"]})}
    assert list(parts) == ["component", "environment", "input:b", "input:d", "parameter:n"]
    assert parts["parameter:n"].value == "3"
    assert parts["input:d"].value == "azureml:data:1"
    assert parts["input:b"].sha256 == before["two"].sha256


def test_the_key_does_not_depend_on_the_order_of_parts() -> None:
    parts = [Part(name="a", sha256="1"), Part(name="b", sha256="2")]
    assert key_of(parts) == key_of(parts[::-1])
    assert key_of(parts) != key_of([Part(name="a", sha256="2"), Part(name="b", sha256="1")])


def test_weights_that_are_still_to_be_fetched_count_by_their_source(cache: StepCache, tmp_path: Path) -> None:
    def sha256(source: str) -> str:
        model = ModelSource(registry="azureml", name="m", version="1", source=source)
        bound = PathInput(type="custom_model", path=str(tmp_path / "none"), reference="azureml:m:1", model=model)
        return cache.parts(step(m=bound), {})[-1].sha256

    assert sha256("hf://a/b") == sha256("hf://a/b") != sha256("hf://a/c")


def test_a_place_counts_while_its_outputs_are_whole(cache: StepCache, tmp_path: Path) -> None:
    parts = cache.parts(step(n=literal("1")), {})
    key = key_of(parts)
    assert cache.find(key) is None
    first, second = place(cache, tmp_path, "first"), place(cache, tmp_path, "second")
    cache.store(key, "c", parts, first)
    cache.store(key, "c", parts, second)
    assert cache.find(key) == second
    (second.folder / "outputs" / "o" / "file").write_text("longer")
    assert cache.find(key) == first
    (first.folder / "outputs" / "o" / "file").unlink()
    assert cache.find(key) is None


def test_a_miss_is_explained_by_the_closest_run_of_the_same_node(cache: StepCache, tmp_path: Path) -> None:
    def store(job: str, **values: str) -> None:
        parts = cache.parts(step(**{name: literal(value) for name, value in values.items()}), {})
        cache.store(key_of(parts), "c", parts, place(cache, tmp_path, job))

    now = step(a=literal("1"), b=literal("1"), c=literal("1"))
    parts = cache.parts(now, {})
    assert cache.explain_miss("me", now, parts).reason == "the first run of c"
    store("far", a="9", b="9", c="9")
    store("near", a="1", b="9", c="9")
    store("me", a="1", b="1", c="2")
    told = cache.explain_miss("me", now, parts)
    assert told.reason == "2 parts changed since near/one"
    store("nearest", a="1", b="2", c="1")
    told = cache.explain_miss("me", now, parts)
    assert (told.reason, told.changed) == ("1 part changed since nearest/one", ["parameter:b changed (2 -> 1)"])


def test_a_changed_environment_names_the_packages(cache: StepCache, tmp_path: Path) -> None:
    def parts(*lock: str) -> list[Part]:
        folder = tmp_path / "cache"
        return StepCache(folder / "steps", folder / "hashes", lock=lambda: list(lock)).parts(step(), {})

    before = parts("a==1", "b==1")
    cache.store(key_of(before), "c", before, place(cache, tmp_path, "before"))
    told = cache.explain_miss("me", step(), parts("a==1", "b==2", "c==1"))
    assert told.changed == ["environment changed (-b==1, +b==2, +c==1)"]


def test_a_damaged_entry_is_passed_over(cache: StepCache, tmp_path: Path) -> None:
    parts = cache.parts(step(), {})
    cache.store(key_of(parts), "c", parts, place(cache, tmp_path, "first"))
    entry = tmp_path / "cache" / "steps" / f"{key_of(parts)}.json"
    for text in ("{", "[]", '{"places": [{}]}', '{"component": "c"}'):
        entry.write_text(text)
        assert cache.find(key_of(parts)) is None
    cache.explain_miss("me", step(), parts)
