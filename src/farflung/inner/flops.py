"""How many operations a token costs, and how many a device can do. No torch.

Model FLOPs of a token, forward and backward (PaLM, arXiv 2204.02311, appendix B):

    mfu          6 N + 12 L d T     N: weights that are multiplied (the head, not the look-up),
    mfu_causal   6 N +  6 L d T     L layers, d width of all heads, T tokens of a row

Recomputed activations never count. MFU is these per second over the device's peak.
"""

from __future__ import annotations

PEAKS: tuple[tuple[str, float], ...] = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("H200", 989.4e12),
    ("GH200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756.5e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX A6000", 154.8e12),
    ("RTX 6000 Ada", 364.2e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("RTX 5090", 209.5e12),
    ("RTX 5080", 112.6e12),
    ("RTX 4090", 165.2e12),
    ("RTX 4080 SUPER", 104.4e12),
    ("RTX 4080", 97.5e12),
    ("RTX 3090 Ti", 80e12),
    ("RTX 3090", 71e12),
    ("MI300X", 1307.4e12),
    ("MI325X", 1307.4e12),
    ("MI250X", 191.5e12),
)
"""bf16 products summed in fp32, dense (without sparsity), FLOP/s: the vendors' data sheets and
architecture papers. The first name that occurs in the device's own wins, as a word of it."""


def peak_flops(device: str) -> float:
    """bf16 FLOP/s of a GPU by its name, as torch says it; 0 for one that is not in the table, and
    for CPUs."""
    words = f" {device.replace('-', ' ')} "
    if " Laptop " in words:  # as many names, lower and various clocks
        return 0.0
    return next((peak for name, peak in PEAKS if f" {name} " in words), 0.0)


def token_flops(
    weights: int, *, layers: int, width: int, seq_len: int, causal: bool = False
) -> float:
    """FLOPs of a token of a transformer; `weights` that are multiplied, `width` of all heads."""
    attention = 12.0 * layers * width * seq_len
    return 6.0 * weights + (attention / 2 if causal else attention)


def utilisation(flops: float, tokens: int, seconds: float, device: str) -> float:
    """MFU in [0, 1]: `flops` of a token. 0 where time or peak is not known."""
    peak = peak_flops(device)
    if seconds <= 0 or peak <= 0:
        return 0.0
    return flops * tokens / seconds / peak
