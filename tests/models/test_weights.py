from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tunesmith.errors import InvalidModel
from tunesmith.models.weights import (
    INDEX_FILE,
    SafetensorsWriter,
    read_header,
    read_tensors,
    stored_dtype,
    weight_files,
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float16)}, path)
    return path


def test_header_gives_names_shapes_and_sizes(weights: Path) -> None:
    tensors = {tensor.name: tensor for tensor in read_header(weights)}
    assert tensors["a"].shape == (2, 3)
    assert (tensors["a"].dtype, tensors["b"].dtype) == ("F32", "F16")
    assert tensors["a"].elements == 6


@pytest.mark.parametrize(
    ("cut", "said"),
    [(3, "not even the 8"), (20, "its header needs"), (-1, "it was cut short")],
    ids=["start", "header", "data"],
)
def test_truncated_file_is_named(weights: Path, cut: int, said: str) -> None:
    content = weights.read_bytes()
    weights.write_bytes(content[:cut])
    with pytest.raises(InvalidModel, match=said) as caught:
        read_header(weights)
    assert caught.value.target == str(weights)
    assert "again" in str(caught.value.way_out)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 this is a zip file and no safetensors",
        struct.pack("<Q", 5) + b"{nono",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 61) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}       ' + b"0000",
    ],
    ids=["zip", "no-json", "no-object", "wrong-size"],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="not a whole safetensors file"):
        read_header(path)


def test_grown_file_is_named(weights: Path) -> None:
    with weights.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InvalidModel, match="something was added"):
        read_header(weights)


def test_pickle_only_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(InvalidModel, match=r"only there as pickled files \(pytorch_model.bin\)") as caught:
        weight_files(tmp_path)
    assert "save_pretrained" in str(caught.value.way_out)


def test_adapter_folder_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidModel, match="LoRA adapter"):
        weight_files(tmp_path)


def test_missing_shard_is_named(tmp_path: Path, weights: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    weights.rename(tmp_path / "model-1.safetensors")
    with pytest.raises(InvalidModel, match=r"1 of 2 weight files.*model-2.safetensors"):
        weight_files(tmp_path)


def test_index_that_names_a_tensor_no_file_has(tmp_path: Path, weights: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": weights.name, "zzz": weights.name}}))
    with pytest.raises(InvalidModel, match=r"1 tensors.*zzz"):
        read_tensors(tmp_path)


def test_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InvalidModel, match="leads out of the folder"):
        weight_files(tmp_path)


def test_stored_dtype_is_that_of_most_numbers(weights: Path) -> None:
    assert stored_dtype(read_tensors(weights.parent)) == "float32"


def test_integer_weights_are_a_quantised_model(tmp_path: Path) -> None:
    save_file({"a": np.zeros(4, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidModel, match="quantised"):
        stored_dtype(read_tensors(tmp_path))


def test_writer_writes_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array([1.5], np.float16)
    with SafetensorsWriter(path, [("a", "F32", (2, 3)), ("b", "F16", (1,))]) as writer:
        writer.write("a", [a[:1].data, a[1:].data])
        writer.write("b", [b.tobytes()])
    read = load_file(path)
    np.testing.assert_array_equal(read["a"], a)
    np.testing.assert_array_equal(read["b"], b)
    from tunesmith.models.files import sha256_of

    assert writer.sha256 == sha256_of(path)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"b": b"0000"}, "expected tensor 'a'"),
        ({"a": b"000"}, "of 4 bytes, got 'a' of 3"),
        ({}, "'a' was announced and not written"),
    ],
)
def test_writer_refuses_another_order_or_size(tmp_path: Path, written: dict[str, bytes], said: str) -> None:
    with pytest.raises(ValueError, match=said), SafetensorsWriter(tmp_path / "w", [("a", "F32", (1,))]) as writer:
        for name, data in written.items():
            writer.write(name, [data])
