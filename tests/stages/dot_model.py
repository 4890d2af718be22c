"""A model that is compared by inner product, made of one that is compared by cosine."""

from __future__ import annotations

from pathlib import Path


def without_normalisation(encoder: str, folder: Path) -> Path:
    """Save the sentence-transformers model ``encoder`` without its last step, and with ``dot`` as its similarity."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device="cpu")
    del model[2]
    model.similarity_fn_name = "dot"
    model.save_pretrained(str(folder), create_model_card=False)
    return folder
