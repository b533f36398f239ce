"""Keys and values of the tokens that a model has read, so that the next one costs one token's work.

Shape suffixes: B rows, S tokens so far, T new ones, K key heads, E width of a head.
"""

from __future__ import annotations

from torch import Tensor

from farflung.model.presets import LlamaConfig


class LayerCache:
    """One layer's share; room for `seq_len` tokens is taken on first use."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.length = 0

    def extend(self, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append; views of all keys and values, [B, K, S, E], with the new ones last."""
        if self._keys is None or self._values is None:
            room = (*k_BKTE.shape[:2], self._capacity, k_BKTE.shape[3])
            self._keys, self._values = k_BKTE.new_empty(room), v_BKTE.new_empty(room)
        stop = self.length + k_BKTE.shape[2]
        self._keys[:, :, self.length : stop] = k_BKTE
        self._values[:, :, self.length : stop] = v_BKTE
        self.length = stop
        return self._keys[:, :, :stop], self._values[:, :, :stop]


class KeyValueCache:
    """All layers of one model, for one batch of rows of equal length. Not for training."""

    def __init__(self, config: LlamaConfig) -> None:
        self.layers = [LayerCache(config.seq_len) for _ in range(config.layers)]

    @property
    def length(self) -> int:
        """Tokens that it holds, at most `seq_len`."""
        return self.layers[0].length
