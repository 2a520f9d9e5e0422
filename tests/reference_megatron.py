"""Megatron-BERT written down once more, plainly and in float64, from the papers and nothing else.

It shares no code with ``helpers``. Weights are kept as separate query, key and value matrices and
laid out in one of the three orders only when they are written to a file.
"""

from __future__ import annotations

import math

import torch


def random_weights(layers, hidden, heads, wide, words, positions=64, seed=0) -> dict:
    """Weights by plain names, float64, of a size at which every part moves the logits."""
    rng = torch.Generator().manual_seed(seed)

    def matrix(*shape, scale=0.15):
        return torch.randn(*shape, generator=rng, dtype=torch.float64) * scale

    w = {
        "heads": heads,
        "words": matrix(words, hidden),
        "positions": matrix(positions, hidden),
        "types": matrix(2, hidden),
        "final": (1 + matrix(hidden), matrix(hidden)),
        "span": (matrix(2, hidden), matrix(2)),
        "layers": [],
    }
    for _ in range(layers):
        layer = {name: (matrix(hidden, hidden), matrix(hidden)) for name in ("q", "k", "v", "out")}
        layer |= {name: (1 + matrix(hidden), matrix(hidden)) for name in ("norm1", "norm2")}
        layer["up"] = (matrix(wide, hidden), matrix(wide))
        layer["down"] = (matrix(hidden, wide), matrix(hidden))
        w["layers"].append(layer)
    return w


def span_logits(w, ids, types, epsilon=1e-5, gelu="tanh") -> torch.Tensor:
    """Start and end logits ``[tokens, 2]`` of one sequence, without any padding."""

    def norm(x, parameters):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + epsilon)
        return scaled * parameters[0] + parameters[1]

    def linear(x, parameters):
        return x @ parameters[0].T + parameters[1]

    def activation(x):
        if gelu == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return 0.5 * x * (1 + torch.tanh(inner))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    x = w["words"][ids] + w["positions"][: len(ids)] + w["types"][types]
    size = x.shape[1] // w["heads"]
    for layer in w["layers"]:
        y = norm(x, layer["norm1"])
        q, k, v = (linear(y, layer[name]) for name in ("q", "k", "v"))
        mixed = []
        for h in range(w["heads"]):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), dim=-1)
            mixed.append(weights @ v[:, part])
        x = x + linear(torch.cat(mixed, 1), layer["out"])
        x = x + linear(activation(linear(norm(x, layer["norm2"]), layer["up"])), layer["down"])
    return linear(norm(x, w["final"]), w["span"])


def fused(w, layer, kind, order) -> torch.Tensor:
    """One query-key-value matrix (``kind`` 0) or bias (1), row by row in the given order."""
    parts = [layer[name][kind] for name in ("q", "k", "v")]
    heads = w["heads"]
    size = len(parts[0]) // heads
    runs = {
        "0": [(p, h, d) for p in range(3) for h in range(heads) for d in range(size)],
        "1.0": [(p, h, d) for h in range(heads) for d in range(size) for p in range(3)],
        "2.0": [(p, h, d) for h in range(heads) for p in range(3) for d in range(size)],
    }[order]
    return torch.stack([parts[p][h * size + d] for p, h, d in runs])


def megatron_state(w, order, *, stack="transformer", attention="attention", prefix="") -> dict:
    """Encoder weights under Megatron-LM's names; spelling and wrapper as asked."""
    state = {
        "embedding.word_embeddings.weight": w["words"],
        "embedding.position_embeddings.weight": w["positions"],
        "embedding.tokentype_embeddings.weight": w["types"],
    }
    for kind, name in enumerate(("weight", "bias")):
        state[f"{stack}.final_layernorm.{name}"] = w["final"][kind]
        for n, layer in enumerate(w["layers"]):
            at = f"{stack}.layers.{n}"
            state[f"{at}.input_layernorm.{name}"] = layer["norm1"][kind]
            state[f"{at}.{attention}.query_key_value.{name}"] = fused(w, layer, kind, order)
            state[f"{at}.{attention}.dense.{name}"] = layer["out"][kind]
            state[f"{at}.post_attention_layernorm.{name}"] = layer["norm2"][kind]
            state[f"{at}.mlp.dense_h_to_4h.{name}"] = layer["up"][kind]
            state[f"{at}.mlp.dense_4h_to_h.{name}"] = layer["down"][kind]
    return {f"{prefix}language_model.{name}": value for name, value in state.items()}


def head_state(w, prefix="") -> dict:
    """The span head under the name of NeMo's MultiLayerPerceptron."""
    return {f"{prefix}mlp.layer0.weight": w["span"][0], f"{prefix}mlp.layer0.bias": w["span"][1]}


def nested(state: dict) -> dict:
    """As Megatron-LM saved it: dictionaries down to ``transformer``, whose names stay flat."""
    out: dict = {}
    for name, value in state.items():
        parts = name.split(".")
        for depth, part in enumerate(parts):
            if part in ("transformer", "encoder"):
                parts = [*parts[: depth + 1], ".".join(parts[depth + 1 :])]
                break
        place = out
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value
    return out


def converted(state: dict, dtype) -> dict:
    """The same with other numbers."""
    return {name: value.to(dtype) for name, value in state.items()}
