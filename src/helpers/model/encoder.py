"""BERT and Megatron-BERT on one page, computed without padding.

The two models differ in the position of LayerNorm, which ``norm_first`` selects. BERT (Devlin et
al. 2019) normalizes after each residual sum and once after the embeddings. Megatron-BERT (Shoeybi
et al. 2019, §3 and figure 7) normalizes the input of each block and once at the end, so no
LayerNorm lies on the residual path from the embeddings to the last layer. As a result, training is
stable at 345M parameters and above. Both models can use either of two forms of GELU.

The windows of a batch are concatenated into one long tensor ``[total_tokens, hidden]``, so the
layers process no padding, and only attention needs to know where a window ends. There are four ways
to compute attention, and ``attention_path`` chooses one of them. On a CPU, windows of equal length
are processed together. In bfloat16, ``cpu_attention`` does this with plain matrix products. On a
GPU, many small calls would cost more than padding, so one call processes all windows. In half
precision, this call runs a kernel for windows of different lengths. Otherwise, it processes padded
rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from helpers.model.cpu_attention import attend_by_products
from helpers.model.features import Batch

# The names in transformers' config files for the two forms of GELU (Hendrycks and Gimpel 2016):
# the exact function and its tanh approximation, which differs from it by up to 5e-4.
GELU_NAMES = {
    "gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh",
    "gelu_python_tanh": "tanh", "gelu_fast": "tanh", "gelu_accurate": "tanh",
}  # fmt: skip
_APPROXIMATE = {"erf": "none", "tanh": "tanh"}
GELUS = tuple(_APPROXIMATE)


@dataclass(frozen=True)
class EncoderConfig:
    """Configuration of an encoder; the defaults match BioMegatron 345M.

    ``gelu`` is ``"erf"`` (as in BERT and in files written before this field existed) or ``"tanh"``.
    For Megatron files, see ``registry.MEGATRON_GELU``. The default ``epsilon`` is Megatron's.
    """

    vocab_size: int = 30592
    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    positions: int = 512
    token_types: int = 2
    norm_first: bool = True
    epsilon: float = 1e-5
    dropout: float = 0.0
    gelu: str = "erf"


class Attention(nn.Module):
    """Self-attention within each window; input and output are ``[total_tokens, hidden]``."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)  # rows: queries, keys, values
        self.out = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        query, key, value = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        dropout = self.dropout if self.training else 0.0
        attend = _ATTEND[attention_path(query.device, query.dtype, dropout)]
        return self.out(attend(query, key, value, batch, dropout).reshape(x.shape))


class Layer(nn.Module):
    """One pre- or post-LayerNorm layer; input and output are ``[total_tokens, hidden]``."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.norm_first = config.norm_first
        self.approximate = _APPROXIMATE[config.gelu]
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden, eps=config.epsilon)
        self.up = nn.Linear(config.hidden, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.hidden)
        self.mlp_norm = nn.LayerNorm(config.hidden, eps=config.epsilon)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen = self.attention(self.attention_norm(x) if self.norm_first else x, batch)
        return self.feed_forward(x, seen)

    def feed_forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Compute everything after attention: residual sums, LayerNorms and feed-forward layers."""
        if self.norm_first:
            x = x + self.drop(seen)
            return x + self.drop(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.drop(seen))
        return self.mlp_norm(x + self.drop(self.mlp(x)))

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Encoder(nn.Module):
    """Embeddings followed by layers, which together map a batch to ``[total_tokens, hidden]``."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.hidden)
        self.positions = nn.Embedding(config.positions, config.hidden)
        self.token_types = nn.Embedding(config.token_types, config.hidden)
        # We apply this after the embeddings in BERT and after the last layer in Megatron-BERT.
        self.norm = nn.LayerNorm(config.hidden, eps=config.epsilon)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.recompute = False  # activation checkpointing saves memory but takes a third more work

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.words(batch.ids) + self.positions(batch.positions)
        x = x + self.token_types(batch.token_types)
        x = self.drop(x if self.config.norm_first else self.norm(x))
        for layer in self.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, batch, use_reentrant=False)
            else:
                x = layer(x, batch)
        return self.norm(x) if self.config.norm_first else x


class SpanModel(nn.Module):
    """An encoder with a span head, which computes start and end logits, ``[total_tokens, 2]``."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.hidden, 2)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.head(self.encoder(batch))

    def new_head(self, seed: int) -> None:
        """Initialize the head from ``seed`` as BERT does (normal, standard deviation 0.02)."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.02, generator=generator)
            self.head.bias.zero_()

    def compile_layers(self) -> None:
        """Use torch.compile for everything except attention; it compiles at the first call."""
        for layer in self.encoder.layers:
            if "feed_forward" not in vars(layer):  # not compiled yet
                layer.feed_forward = torch.compile(layer.feed_forward, dynamic=True)

    def set_dropout(self, share: float) -> None:
        """Change the dropout rate of the model."""
        self.config = self.encoder.config = replace(self.config, dropout=share)
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.p = share
            elif isinstance(part, Attention):
                part.dropout = share


def pad(values: torch.Tensor, batch: Batch, fill: float) -> torch.Tensor:
    """Pad ``[total_tokens, ...]`` with ``fill`` to ``[windows, longest, ...]``."""
    padded = values.new_full((batch.mask.numel(), *values.shape[1:]), fill)
    return padded.index_copy(0, batch.slots, values).unflatten(0, batch.mask.shape)


def attention_path(device: torch.device, dtype: torch.dtype, dropout: float) -> str:
    """Return how attention is computed: "by length", "products", "variable length" or "padded".

    The variable-length kernel needs half precision and a GPU with compute capability 8.0 (A100) or
    above, and it does not support dropout. NVIDIA's recipe trains with attention dropout (NeMo 0.11
    left Megatron-LM's default of 0.1 in place), so training with dropout uses padded rows.
    """
    if device.type == "cpu":
        return "products" if dtype == torch.bfloat16 and not dropout else "by length"
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and not dropout:
        return "variable length" if torch.cuda.get_device_capability(device)[0] >= 8 else "padded"
    return "padded"


def _attend_by_length(query, key, value, batch, dropout):
    """Attend once per run of equal-length windows; tensors are ``[total_tokens, heads, size]``."""
    runs = [(len(list(run)), length) for length, run in groupby(batch.lengths)]
    sizes = [count * length for count, length in runs]
    done = []
    for run, *part in zip(runs, *(t.split(sizes) for t in (query, key, value)), strict=True):
        q, k, v = (t.unflatten(0, run).transpose(1, 2) for t in part)  # [windows, heads, length, _]
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        done.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(done)


def _attend_varlen(query, key, value, batch, dropout):
    """Attend in one call of a kernel for windows of different lengths; ``dropout`` must be 0."""
    from torch.nn.attention.varlen import varlen_attn  # takes seconds to import

    longest = max(batch.lengths)
    return varlen_attn(query, key, value, batch.bounds, batch.bounds, longest, longest)


def _attend_padded(query, key, value, batch, dropout):
    """Attend in one call on padded rows."""
    q, k, v = (pad(t, batch, 0.0).transpose(1, 2) for t in (query, key, value))
    seen = batch.mask[:, None, None]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    return y.transpose(1, 2).flatten(0, 1).index_select(0, batch.slots)


_ATTEND = {
    "by length": _attend_by_length, "products": attend_by_products,
    "variable length": _attend_varlen, "padded": _attend_padded,
}  # fmt: skip
