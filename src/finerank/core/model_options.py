"""The options of every verb that loads a model: where it runs, in which number format, where it is looked for.

A verb's dataclass inherits them: ``class MineOptions(ModelOptions)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from finerank.core.aliases import DTYPE_FLAGS
from finerank.core.errors import UsageError
from finerank.core.options import VerbOptions, option

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")


@dataclass(kw_only=True)
class ModelOptions(VerbOptions):
    """Device, dtype and loading of a model, the same words for every verb.

    Attributes:
        several_devices: whether the verb works on several devices at once; then ``devices`` names every one of them,
            else it is empty and ``device`` is the one.
    """

    several_devices: ClassVar[bool] = False

    device: str = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; auto takes the first accelerator there is", semantic=False
    )
    devices: list[str] = option(
        [],
        "devices: score and embed work on all of them at once, one process each, also cpu cpu; other verbs take one, "
        "the same as --device",
        metavar="cuda:N",
        semantic=False,
    )
    dtype: str = option(
        "auto",
        "number format of inference: auto, float32, bfloat16, float16 or int8; auto is bfloat16 where the hardware "
        "multiplies it fast, else float32; int8 is for encoders on a CPU with AMX",
        metavar="auto|float32|bfloat16|float16|int8",
    )
    use_fp16: bool = option(False, "the same as --dtype float16", semantic=False)
    use_bf16: bool = option(False, "the same as --dtype bfloat16", semantic=False)
    fp16: bool = option(False, "the same as --dtype float16", semantic=False)
    bf16: bool = option(False, "the same as --dtype bfloat16", semantic=False)
    cache_dir: str | None = option(None, "folder of models downloaded from the hub", semantic=False)
    trust_remote_code: bool = option(False, "run Python code that comes with the model's files", semantic=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dtype = self._chosen_dtype()
        self.devices = self._chosen_devices()
        self.device = self.devices[0]
        if not self.several_devices:
            self.devices = []

    def _chosen_devices(self) -> list[str]:
        """Join ``--devices``, also ``0`` for ``cuda:0`` and names joined by commas, with ``--device``; at least one."""
        words = [name.strip() for word in self.devices for name in word.split(",") if name.strip()]
        names = [f"cuda:{word}" if word.isdecimal() else word for word in words] or [self.device]
        if len(set(names)) > 1 and not self.several_devices:
            raise UsageError(
                f"several devices come later, got --devices {' '.join(dict.fromkeys(names))}: give one",
                hint=f"--device {names[0]}",
            )
        if self.device not in ("auto", names[0]):
            raise UsageError(f"--device means {self.device} but --devices means {names[0]}", hint="give one of them")
        kinds = {name.partition(":")[0] for name in names}
        if len(kinds) > 1:
            raise UsageError(
                f"--devices {' '.join(names)}: all must be of one kind, since each kind rounds in its own way",
                hint=f"--devices {' '.join(name for name in names if name.startswith(names[0].partition(':')[0]))}",
            )
        return names

    def _chosen_dtype(self) -> str:
        """Fold the precision switches into ``--dtype``; two that disagree are an error."""
        if self.dtype not in DTYPES:
            raise UsageError(f'unknown --dtype "{self.dtype}"', hint=f"one of: {', '.join(DTYPES)}")
        asked = {dtype: flag for flag, dtype in DTYPE_FLAGS.items() if getattr(self, flag)}
        if self.dtype != "auto":
            asked[self.dtype] = "dtype"
        if len(asked) > 1:
            (first, one), (second, other), *_ = asked.items()
            raise UsageError(f"--{one} means {first} but --{other} means {second}", hint="give one of them")
        return next(iter(asked), "auto")


@dataclass(kw_only=True)
class EncoderOptions(ModelOptions):
    """What an embedder reads and gives, for the verbs that turn texts into vectors; None leaves it to the model."""

    query_instruction_for_retrieval: str | None = option(
        None, "instruction put before each query; without it, the model's own prompt"
    )
    query_instruction_format_for_retrieval: str = option(
        "{}{}", "how the instruction (first {}) and the query (second {}) are joined"
    )
    normalize_embeddings: bool | None = option(
        None,
        "give vectors unit length, and so compare them by cosine, else by inner product; without it, the model's own "
        "configuration decides (mine's rules on similarity always compare cosines)",
    )
    pooling_method: str | None = option(
        None, "cls, mean or last_token; without it, the model's own configuration decides", metavar="NAME"
    )
    embedder_query_max_length: int | None = option(
        None, "tokens of a query, special tokens included; without it, the model's own limit", ge=3
    )
    embedder_passage_max_length: int | None = option(
        None, "tokens of a passage, special tokens included; without it, the model's own limit", ge=3
    )
