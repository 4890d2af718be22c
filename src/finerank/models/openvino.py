"""OpenVINO on a CPU: a transformer as a graph compiled for the processor, in float32, bfloat16 or int8.

The graph lies in a model folder beside the ordinary weights, under the name by which sentence-transformers finds it,
too. A folder that ``finerank export`` wrote is computed by it wherever OpenVINO is installed; without it, by torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from finerank.core.errors import UserError
from finerank.data.console import warn
from finerank.models import attention, lanes, packed
from finerank.models.families import SCORING_HEADS
from finerank.models.load import INT8
from finerank.models.model_files import EXPORTED, quiet

GRAPH, INT8_GRAPH = "openvino_model.xml", "openvino_model_qint8_quantized.xml"
PIP = "pip install 'finerank[openvino]'"
HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Compiled(nn.Module):
    """Runs a graph in the place of a transformers model; its weights are the graph's, and cannot be trained.

    Args:
        transformer: the model that the graph was made of; its configuration is kept, its weights are let go.
        path: the graph's .xml, beside its .bin.
    """

    def __init__(self, transformer: Any, path: Path, dtype: torch.dtype) -> None:
        super().__init__()
        import openvino

        self.config = transformer.config
        self.base_model_prefix = transformer.base_model_prefix
        self.dtype = dtype
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": lanes.count_on(torch.device("cpu")), "INFERENCE_PRECISION_HINT": HINTS.get(dtype, "f32"),
        }  # fmt: skip
        self._graph = openvino.Core().compile_model(path, "CPU", settings)
        self._names = {name for port in self._graph.inputs for name in port.get_names()}
        self._requests = threading.local()
        self._scores = type(transformer).__name__.endswith(SCORING_HEADS)
        # What tells this model from others: a digest of its weights, and how it computes, stand where they would.
        told = digest_of(path) + settings["INFERENCE_PRECISION_HINT"].encode()
        self.register_buffer("graph", torch.frombuffer(bytearray(told), dtype=torch.uint8))
        if path.name == INT8_GRAPH:
            self.register_buffer(INT8, torch.ones(1, dtype=torch.int8))

    def forward(self, **features: Any) -> Any:
        """Return what the transformers model returns: hidden states [N, L, W], or logits [N, 1]."""
        given = {name: value.numpy() for name, value in features.items() if name in self._names}
        for name in self._names - set(given):
            given[name] = np.zeros_like(given["input_ids"])
        result = torch.from_numpy(np.array(next(iter(self._request().infer(given).values()))))
        return SequenceClassifierOutput(logits=result) if self._scores else BaseModelOutput(last_hidden_state=result)

    def _request(self) -> Any:
        """Return this thread's own request: one takes a batch at a time."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._graph.create_infer_request()
        return self._requests.own


class _OneOutput(nn.Module):
    """A transformers model that takes its inputs in order and returns a tensor, as tracing wants it."""

    def __init__(self, transformer: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.transformer = transformer
        self.names = names

    def forward(self, *inputs: Tensor) -> Any:
        output = self.transformer(**dict(zip(self.names, inputs)))
        return output.logits if hasattr(output, "logits") else output.last_hidden_state


def convert(transformer: Any, folder: Path, calibration: Sequence[Mapping[str, Tensor]], *, int8: bool) -> Path:
    """Write a transformer's graph into ``folder``/openvino and mark the folder; return the graph's path.

    Args:
        calibration: padded batches; the first one shows the inputs, all of them the range of the activations (int8).

    Raises:
        UserError: if OpenVINO or, for int8, NNCF is not installed, or the model cannot be made a graph.
    """
    _need("openvino", *(["nncf"] if int8 else []))
    import openvino

    if transformer.config.output_hidden_states:
        raise UserError("a model that pools the states of all its layers cannot be exported")
    names = [name for name in INPUTS if name in calibration[0]]
    with _plain_attention(transformer), torch.no_grad(), quiet():
        example = tuple(calibration[0][name] for name in names)
        try:
            graph = openvino.convert_model(_OneOutput(transformer, names).eval(), example_input=example)
        except Exception as error:  # of whatever kind: OpenVINO's converter raises many
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"OpenVINO cannot make a graph of {type(transformer).__name__}: {reason}") from error
    for port, name in zip(graph.inputs, names):
        port.get_tensor().set_names({name})
    if int8:
        graph = _quantised(graph, [{name: batch[name].numpy() for name in names} for batch in calibration])
    mark = folder / EXPORTED
    mark.parent.mkdir(parents=True, exist_ok=True)
    path = mark.with_name(INT8_GRAPH if int8 else GRAPH)
    openvino.save_model(graph, path, compress_to_fp16=False)
    mark.write_text(json.dumps({"graph": path.name, "int8": int8}) + "\n", encoding="utf-8")
    return path


def graph_of(name: str) -> Path | None:
    """Return the graph of a folder that ``finerank export`` wrote; None of any other model."""
    mark = Path(name) / EXPORTED
    if not mark.is_file():
        return None
    path = mark.parent / str(json.loads(mark.read_text(encoding="utf-8"))["graph"])
    return path if path.is_file() else None


def run_by_graph(model: Any) -> None:
    """Have a loaded model computed by the graph in its folder, if it has one; by torch where that cannot be.

    Args:
        model: an embedder or a cross-encoder with the attribute ``transformer``.
    """
    path = graph_of(model.name)
    if path is None or model.device.type != "cpu":
        return
    try:
        _need("openvino")
        model.transformer = Compiled(model.transformer, path, model.dtype)
    except (UserError, RuntimeError, OSError) as error:
        reason = error.message if isinstance(error, UserError) else " ".join(str(error).split())[:200]
        hint = f" ({error.hint})" if isinstance(error, UserError) else ""
        warn(f"{model.name} was exported for OpenVINO, but {reason}: computing with torch{hint}")


def digest_of(path: Path) -> bytes:
    """Return a digest of a graph: its structure and its weights."""
    digest = blake2b(digest_size=16)
    for part in (path, path.with_suffix(".bin")):
        digest.update(part.read_bytes())
    return digest.digest()


def _quantised(graph: Any, batches: Sequence[Mapping[str, Any]]) -> Any:
    import nncf

    with quiet(), redirect_stdout(StringIO()):  # its progress would stand among a verb's results
        return nncf.quantize(
            graph, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches)
        )


@contextmanager
def _plain_attention(transformer: Any) -> Iterator[None]:
    """Trace torch's own attention in the place of ours, which depends on the lengths in the batch."""
    own = transformer.config._attn_implementation
    if own in (packed.NAME, attention.NAME):
        transformer.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        transformer.config._attn_implementation = own


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} is not installed", hint=PIP)
