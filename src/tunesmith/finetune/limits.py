"""Sizes that the trainer and the estimates share."""

PACKED_ROW = 2048
"""Capacity of a packed row in tokens when max_seq_length is not set and the model's context is longer."""
PIECE_TOKENS = 1024
"""Tokens computed at a time on a CPU: enough for the matrix products' full rate, little memory. A longer micro-batch
is cut into pieces, which changes no number."""
KEPT_WEIGHTS = 1024
"""Longest conversation, in tokens, whose attention weights are kept for the backward pass."""
