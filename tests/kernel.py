"""A stand-in for PyTorch's attention kernel for windows of different lengths."""

import torch


def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
    """What PyTorch's kernel computes, for tensors on a CPU; it has the same signature."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and max_q == max_k
    assert max_q == int(cu_seq_q.diff().max()) and query.stride(-1) == 1
    parts = [t.split(cu_seq_q.diff().tolist()) for t in (query, key, value)]
    attend = torch.nn.functional.scaled_dot_product_attention
    done = [
        attend(*(t.transpose(0, 1)[None] for t in one))[0].transpose(0, 1)
        for one in zip(*parts, strict=True)
    ]
    return torch.cat(done)
