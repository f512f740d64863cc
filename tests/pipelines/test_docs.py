"""The examples in the pages about pipelines and jobs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines.conftest import FixedResolver, wait_for
from tunesmith.pipelines.service import JobService
from tunesmith.records.jobs import JobStatus, SubmitJob

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = """
import argparse, collections, pathlib
p = argparse.ArgumentParser()
p.add_argument("text"); p.add_argument("--minimum", type=int); p.add_argument("--stop-words")
a = p.parse_args()
words = collections.Counter(pathlib.Path(a.text).read_text().split())
print("\\n".join(f"{w} {n}" for w, n in words.items() if n >= a.minimum))
"""


def examples(page: str) -> list[dict[str, Any]]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_examples_run(service: JobService, resolver: FixedResolver, tmp_path: Path) -> None:
    count, twice = examples("pipelines.md")
    (job,) = examples("jobs.md")
    code = tmp_path / "src"
    code.mkdir()
    (code / "count.py").write_text(SCRIPT)
    (tmp_path / "text.txt").write_text("a b a c a b")
    (tmp_path / "count_words.yml").write_text(yaml.safe_dump(count))
    resolver.components["azureml:count_words:1"] = (count, code)
    resolver.components["azureml:count_words@latest"] = (count, code)
    resolver.components["azureml:count_twice:1"] = (twice, None)

    done = wait_for(service, service.submit(SubmitJob(**job, base_path=str(tmp_path))).name)
    assert done.status == JobStatus.COMPLETED, done.error
    assert service.output_path(done.name, "counts").read_text() == "a 3\n"

    request = SubmitJob(component="azureml:count_twice:1", inputs={"text": str(tmp_path / "text.txt")})
    done = wait_for(service, service.submit(request).name)
    assert done.status == JobStatus.COMPLETED, done.error
    assert service.output_path(done.name, "counts").read_text() == "a 1\n3 1\n"


def test_an_event_as_the_page_writes_it_is_a_metric(service: JobService) -> None:
    text = (DOCS / "jobs.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    line = f"python - <<'EOF'\n{script}\nEOF"
    job = wait_for(service, service.submit(SubmitJob(type="command", command=line)).name)
    assert [(point.key, point.step, point.value) for point in service.metrics(job.name)] == [("loss", 3, 2.31)]
