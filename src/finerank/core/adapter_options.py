"""The options of a training that say which weights learn: adapters beside frozen weights, or parts left as they are."""

from __future__ import annotations

from dataclasses import dataclass

from finerank.core.errors import UsageError
from finerank.core.options import VerbOptions, option


@dataclass(kw_only=True)
class AdapterOptions(VerbOptions):
    """LoRA and freezing, the same words for both families."""

    use_lora: bool = option(
        False,
        "tune low-rank adapters beside frozen weights (LoRA): little memory for the optimizer, and a small folder that "
        "holds the adapter and names its base; 1e-4 is a usual --learning_rate then",
    )
    lora_rank: int = option(64, "rank of an adapter's two matrices; its size grows in step with it", ge=1)
    lora_alpha: int = option(16, "an adapter's product is multiplied by lora_alpha / lora_rank", ge=1)
    lora_dropout: float = option(0.1, "dropout of an adapter's input, in training", ge=0, le=0.9)
    target_modules: list[str] = option(
        [],
        "linear layers that get an adapter, by the end of their names, or one regular expression over whole names; "
        "without it every linear layer of the transformer's blocks",
        metavar="NAME",
    )
    modules_to_save: list[str] = option(
        [],
        "further modules that are tuned whole and saved with the adapter; a reranker's head always is",
        metavar="NAME",
    )
    from_peft: str | None = option(
        None, "adapter folder to go on tuning, on --model_name_or_path; its rank and layers hold", metavar="DIR",
        semantic=False,
    )  # fmt: skip
    raw_peft: list[str] = option(
        [], "adapter folders that are merged into --model_name_or_path before training, one after the other",
        metavar="DIR", semantic=False,
    )  # fmt: skip
    save_merged_lora_model: bool = option(
        False, "write the adapter merged into its base: an ordinary model folder that needs neither peft nor the base"
    )
    freeze: list[str] = option(
        [],
        "weights that stay as they are: embeddings, layers:0-3 (the first three; the end is not counted in), "
        "all_but_head, a module's name, or a pattern over names such as *.LayerNorm.*",
        metavar="WHAT",
    )
    fix_position_embedding: bool = option(False, "freeze the position embeddings")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tunes_adapter and self.freeze:
            raise UsageError(
                "--freeze does not go with adapters: they leave every weight of the model as it is",
                hint="--target_modules says where adapters stand",
            )
        if self.save_merged_lora_model and not (self.tunes_adapter or self.raw_peft):
            raise UsageError("--save_merged_lora_model needs an adapter", hint="--use_lora")

    @property
    def tunes_adapter(self) -> bool:
        """Say whether an adapter is tuned, rather than the model's own weights."""
        return self.use_lora or self.from_peft is not None
