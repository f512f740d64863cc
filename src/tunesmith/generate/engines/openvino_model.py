"""An exported model made ready to compute: paged attention, sliding windows, adapters, and compiled for the processor.

Needs openvino and numpy, not torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.errors import InvalidModel
from tunesmith.generate.engines.lora import AdapterStack
from tunesmith.generate.engines.openvino_import import PagedAttention, ov
from tunesmith.generate.sampling import Logits

MODEL_FILE = "model.xml"
FACTS_FILE = "facts.json"
ATTENTION = "ScaledDotProductAttention"
TABLES = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
"""The batch as paged attention sees it."""
COMPUTED = {"32": "f32", "bf16": "bf16", "8": "f32"}
"""What is computed in, for a precision; int8 is how weights are held."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """The attention of one layer."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    """Sliding window, in tokens."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What must be known of an exported model beside its graph."""

    layers: tuple[LayerFacts, ...]
    rotation_switch: int | None
    """The length beyond which all positions are rotated otherwise (longrope)."""

    def write(self, folder: Path) -> None:
        """Into the folder of an export."""
        (folder / FACTS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelFacts:
        """From the folder of an export."""
        body = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        return cls(tuple(LayerFacts(**layer) for layer in body["layers"]), body["rotation_switch"])


class PagedModel:
    """One compiled model with its pools of keys and values, in blocks of ``block_tokens`` tokens."""

    def __init__(
        self, folder: Path, *, precision: str, threads: int, blocks: int = 0, adapters: AdapterStack | None = None
    ) -> None:
        self.facts = ModelFacts.read(folder)
        self.adapters = adapters
        core = ov.Core()
        graph = core.read_model(str(folder / MODEL_FILE))
        if adapters is not None:
            add_adapters(graph, adapters)
        make_paged(graph, self.facts)
        self._compiled: Any = core.compile_model(
            graph,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": str(threads),
                # Several instances share the machine: none may sit on fixed cores.
                "ENABLE_CPU_PINNING": "NO",
                "INFERENCE_PRECISION_HINT": COMPUTED[precision],
                "KV_CACHE_PRECISION": COMPUTED[precision],
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            },
        )
        self._request: Any = self._compiled.create_infer_request()
        self._inputs = {port.get_any_name() for port in self._compiled.inputs}
        shape = self._compiled.input("key_cache.0").get_partial_shape()
        self.block_tokens = int(shape[2].get_length())
        self._pools: list[tuple[str, ov.Type, list[int]]] = []
        for number in range(len(self.facts.layers)):
            for name in (f"key_cache.{number}", f"value_cache.{number}"):
                port = self._compiled.input(name)
                row = [dimension.get_length() for dimension in list(port.get_partial_shape())[1:]]
                self._pools.append((name, port.get_element_type(), row))
        self.block_bytes = sum(int(np.prod(row)) * int(kind.size) for _, kind, row in self._pools)
        self._memory: dict[str, NDArray[np.uint8]] = {}
        self.blocks = 0
        self.grow(blocks or 1)

    def grow(self, blocks: int) -> None:
        """Have room for ``blocks`` blocks; what is in them stays.

        The system gives memory only when a block is first written, so room that is not used costs nothing.
        """
        fresh: dict[str, NDArray[np.uint8]] = {}
        for name, kind, row in self._pools:
            size = int(np.prod(row)) * kind.size
            memory = np.zeros((blocks, size), np.uint8)
            if self.blocks:
                memory[: self.blocks] = self._memory[name]
            fresh[name] = memory
            self._request.set_tensor(name, ov.Tensor(memory, ov.Shape([blocks, *row]), kind))
        self._memory, self.blocks = fresh, blocks

    def close(self) -> None:
        """Free the weights and the pools; nothing can be computed after it. May be called twice."""
        self._request = self._compiled = None
        self._memory, self.blocks = {}, 0

    def copy_block(self, source: int, target: int) -> None:
        """Copy keys and values of a block, in every layer."""
        for memory in self._memory.values():
            memory[target] = memory[source]

    def infer(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        past: Sequence[int],
        begins: Sequence[int],
        tables: Sequence[Sequence[int]],
        wanted: Sequence[int],
        adapters: Sequence[str | None] = (),
    ) -> Logits:
        """One pass over sequences that lie one behind the other.

        ``past`` has the tokens of each that are in the cache, ``begins`` where each begins in ``ids`` (and the end),
        ``tables`` its blocks, ``wanted`` the tokens whose logits are returned (``[wanted, vocabulary]``), ``adapters``
        the adapter of each token.
        """
        totals = [before + end - start for before, start, end in zip(past, begins[:-1], begins[1:], strict=True)]
        used = [table[: -(-total // self.block_tokens)] for table, total in zip(tables, totals, strict=True)]
        given: dict[str, NDArray[Any]] = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": np.array([positions], np.int64),
            "past_lens": np.array(past, np.int32),
            "subsequence_begins": np.array(begins, np.int32),
            "block_indices": np.array([block for table in used for block in table], np.int32),
            "block_indices_begins": np.cumsum([0, *map(len, used)], dtype=np.int32),
            "max_context_len": np.array(max(totals), np.int32),
            "score_aggregation_window": np.zeros(len(past), np.int32),
            "wanted": np.array(wanted or [0], np.int64),
        }
        if self.adapters is not None:
            given["adapter_mask"] = self.adapters.mask(adapters)[None]
        for name in self._inputs & given.keys():
            self._request.set_tensor(name, ov.Tensor(given[name]))
        self._request.infer()
        data = self._request.get_output_tensor(0).data
        # A copy: OpenVINO gives a later pass the wrong shape while anyone looks at its own memory.
        found: Logits = data.reshape(-1, data.shape[-1])[: len(wanted)].copy()
        return found


def make_paged(graph: ov.Model, facts: ModelFacts) -> None:
    """Put paged attention in the place of a graph's plain attention."""
    opset = ov.opset13
    # In the order of a pass, which is that of the layers.
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() == ATTENTION]
    if len(nodes) != len(facts.layers):
        raise InvalidModel(f"the exported model has {len(nodes)} attention layers and should have {len(facts.layers)}")

    def parameter(name: str, shape: list[int], kind: ov.Type) -> ov.Node:
        node = opset.parameter(ov.PartialShape(shape), kind, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    tables = [parameter(name, [-1], ov.Type.i32) for name in TABLES]
    longest = parameter("max_context_len", [], ov.Type.i32)
    # One for each sequence, or a pass of several sequences is broken off without a word.
    scores = parameter("score_aggregation_window", [-1], ov.Type.i32)
    caches = []
    for number, (node, layer) in enumerate(zip(nodes, facts.layers, strict=True)):
        pair = [parameter(f"{side}_cache.{number}", [-1, -1, -1, -1], ov.Type.dynamic) for side in ("key", "value")]
        caches += pair
        repeated = layer.heads != layer.kv_heads
        query = _rows(node.input_value(0), layer.heads * layer.head_dim)
        key = _rows(_undo_repeat(node.input_value(1), repeated), layer.kv_heads * layer.head_dim)
        value = _rows(_undo_repeat(node.input_value(2), repeated), layer.kv_heads * layer.head_dim)
        paged = PagedAttention(
            [
                port.output(0)
                for port in (
                    *(query, key, value),
                    *pair,
                    *tables,
                    opset.constant(np.float32(layer.scale)),
                    opset.constant(np.int32(layer.window or 0)),
                    _none(np.float32),  # ALiBi slopes
                    longest,
                    scores,
                    *(_none(np.int32), _none(np.int32), _none(np.float32)),  # blocks to rotate, by how much, table
                    *(_none(np.float32), opset.constant(np.int32(0)), opset.constant(np.int32(0))),  # sparse attention
                    opset.constant(np.zeros((0, 0, 0, 0), np.float32)),  # sinks
                    opset.constant(np.int32(0)),  # eviction: where it starts, sizes, blocks and their begins
                    *(_none(np.int32), _none(np.int32), _none(np.int32)),
                    *(_none(np.int32), _none(np.uint8), _none(np.int32)),  # token types, tree masks and their begins
                )
            ]
        )
        for side in ("k", "v"):
            paged.get_rt_info()[f"num_{side}_heads"] = layer.kv_heads
            paged.get_rt_info()[f"{side}_head_size"] = layer.head_dim
        apart = opset.reshape(paged.output(0), np.array([1, -1, layer.heads, layer.head_dim], np.int64), False)
        answer = opset.transpose(apart, np.array([0, 2, 1, 3], np.int64))
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(answer.output(0))
    graph.add_parameters([*tables, longest, scores, *caches])
    graph.validate_nodes_and_infer_types()


def _rows(heads: ov.Output, width: int) -> ov.Node:
    """``[1, heads, tokens, size]`` → ``[tokens, heads · size]``."""
    opset = ov.opset13
    return opset.reshape(
        opset.transpose(heads, np.array([0, 2, 1, 3], np.int64)), np.array([-1, width], np.int64), False
    )


def _undo_repeat(heads: ov.Output, repeated: bool) -> ov.Output:
    """Keys or values before each head was repeated for the queries that share it."""
    for kind in ("Reshape", "Broadcast", "Unsqueeze") if repeated else ():
        node = heads.get_node()
        if node.get_type_name() != kind:
            raise InvalidModel(f"the exported attention has {node.get_type_name()} where {kind} was expected")
        heads = node.input_value(0)
    return heads


def _none(kind: Any) -> ov.Node:
    """An input of paged attention that is not used."""
    return ov.opset13.constant(np.zeros(0, kind))


def add_adapters(graph: ov.Model, adapters: AdapterStack) -> None:
    """Add the products of all adapters beside the linear layers they change, in place.

    Their ranks stand side by side in one pair of matrices a layer; the input ``adapter_mask`` (``[1, tokens, ranks]``)
    has one at the ranks of a token's own adapter and zero elsewhere; the matrices are already scaled. So tokens of
    different adapters share a pass.
    """
    opset = ov.opset13
    mask = opset.parameter(ov.PartialShape([1, -1, adapters.rank]), np.float32, name="adapter_mask")
    mask.output(0).get_tensor().set_names({"adapter_mask"})
    found = {
        module: node for node in graph.get_ops() if (module := _linear_of(node)) is not None and module in adapters
    }
    missing = sorted(set(adapters.modules) - set(found))
    if missing:
        raise InvalidModel(
            f"the adapters change {len(missing)} layers that the exported model does not have, such as {missing[0]}",
            target="adapters",
        )
    for module, node in found.items():
        down, up = adapters.matrices(module)
        x = node.input_value(0)
        narrow = opset.matmul(x, opset.constant(down), False, True)
        wide = opset.matmul(opset.multiply(narrow, mask), opset.constant(up), False, True)
        readers = node.output(0).get_target_inputs()
        total = opset.add(node.output(0), wide)
        for reader in readers:
            reader.replace_source_output(total.output(0))
    graph.add_parameters([mask])
    graph.validate_nodes_and_infer_types()


def _linear_of(node: ov.Node) -> str | None:
    """The transformers module whose product a node is: ``model.layers.0.self_attn.q_proj``."""
    name: str = node.get_friendly_name()
    if node.get_type_name() != "MatMul" or not name.startswith("__module.model."):
        return None
    return name.removeprefix("__module.model.").split("/", 1)[0]
