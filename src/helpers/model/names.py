"""One table of weight names: ours, transformers' (BERT and Megatron-BERT), Megatron's, NeMo 1.x's.

Sources: transformers ``modeling_bert`` and ``modeling_megatron_bert``; Megatron-LM
``model/language_model.py`` and ``model/transformer.py`` of 2020–2021; NeMo 1.x wraps the latter as
``bert_model`` and adds a ``classifier``. Query, key and value are one matrix in ours and in
Megatron's (whose row order varies, see ``row_order``), three in transformers'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from helpers.model.encoder import EncoderConfig

# ours: (BERT, Megatron-BERT, Megatron)
_WHOLE = {
    "words": (*["embeddings.word_embeddings"] * 2, "embedding.word_embeddings"),
    "positions": (*["embeddings.position_embeddings"] * 2, "embedding.position_embeddings"),
    "token_types": (*["embeddings.token_type_embeddings"] * 2, "embedding.tokentype_embeddings"),
    "norm": ("embeddings.LayerNorm", "encoder.ln", "transformer.final_layernorm"),
}
_PER_LAYER = {
    "attention.out": (*["attention.output.dense"] * 2, "attention.dense"),
    "attention_norm": ("attention.output.LayerNorm", "attention.ln", "input_layernorm"),
    "up": (*["intermediate.dense"] * 2, "mlp.dense_h_to_4h"),
    "down": (*["output.dense"] * 2, "mlp.dense_4h_to_h"),
    "mlp_norm": ("output.LayerNorm", "ln", "post_attention_layernorm"),
}
_QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
MEGATRON_QKV = "attention.query_key_value"
MEGATRON_HEAD = "mlp.layer0"

# Wrappers around the encoder in the files of the time, outermost first, in any combination.
_WRAPPERS = ("model.", "module.", "bert_model.", "bert.", "encoder_model.", "language_model.")
# In transformers' files: parts of pre-training, of other tasks, and buffers.
_NO_SPAN_HEAD = (
    "pooler.", "cls.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids",
)  # fmt: skip
# Parts of pre-training and of the wrappers that a span head does not use.
_UNUSED = re.compile(
    r"(.*\.)?(pooler|lm_head|binary_head|word_embeddings_for_head|position_ids)(\..*)?"
)


def transformers_names(config: EncoderConfig) -> Iterator[tuple[str, str, int | None]]:
    """(our name, transformers' name, third of the query-key-value matrix or None), all weights."""
    which = int(config.norm_first)
    for ours, theirs in _WHOLE.items():
        for kind in ("weight", "bias") if ours == "norm" else ("weight",):
            yield f"encoder.{ours}.{kind}", f"bert.{theirs[which]}.{kind}", None
    for n in range(config.layers):
        # A kind's three parts follow each other, so that a file in this order can be mapped whole.
        for kind in ("weight", "bias"):
            for rows, theirs in enumerate(_QKV):
                yield (
                    f"encoder.layers.{n}.attention.qkv.{kind}",
                    f"bert.encoder.layer.{n}.{theirs}.{kind}",
                    rows,
                )
        for kind in ("weight", "bias"):
            for ours, theirs in _PER_LAYER.items():
                yield (
                    f"encoder.layers.{n}.{ours}.{kind}",
                    f"bert.encoder.layer.{n}.{theirs[which]}.{kind}",
                    None,
                )
    for kind in ("weight", "bias"):
        yield f"head.{kind}", f"qa_outputs.{kind}", None


def megatron_names(layers: int) -> dict[str, str]:
    """Megatron's name of every weight, in the one spelling of ``canonical``: to our name."""
    names = {}
    for ours, theirs in _WHOLE.items():
        for kind in ("weight", "bias") if ours == "norm" else ("weight",):
            names[f"{theirs[2]}.{kind}"] = f"encoder.{ours}.{kind}"
    for n in range(layers):
        within = {"attention.qkv": MEGATRON_QKV} | {o: t[2] for o, t in _PER_LAYER.items()}
        for ours, theirs in within.items():
            for kind in ("weight", "bias"):
                names[f"transformer.layers.{n}.{theirs}.{kind}"] = (
                    f"encoder.layers.{n}.{ours}.{kind}"
                )
    for kind in ("weight", "bias"):
        names[f"{MEGATRON_HEAD}.{kind}"] = f"head.{kind}"
    return names


def canonical(key: str) -> str:
    """A Megatron key without wrappers and in one spelling; "" for a part that is not used.

    ``module.language_model.encoder.layers.0.self_attention.dense.weight`` becomes
    ``transformer.layers.0.attention.dense.weight``, ``classifier.mlp.layer0.bias`` becomes
    ``mlp.layer0.bias``.
    """
    if _UNUSED.fullmatch(key):
        return ""
    bare = key
    while wrapper := next((w for w in _WRAPPERS if bare.startswith(w)), ""):
        bare = bare.removeprefix(wrapper)
    bare = re.sub(r"^classifier\.", "", bare)
    bare = re.sub(r"^encoder\.", "transformer.", bare)
    return bare.replace(".self_attention.", ".attention.")


def bare(name: str) -> str:
    """A transformers name without wrappers and in today's spelling; "" for a part not used.

    ``module.bert.embeddings.LayerNorm.gamma`` becomes ``embeddings.LayerNorm.weight``.
    """
    while wrapper := next((w for w in (*_WRAPPERS, "_orig_mod.") if name.startswith(w)), ""):
        name = name.removeprefix(wrapper)
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    return "" if name.startswith(_NO_SPAN_HEAD) else name
