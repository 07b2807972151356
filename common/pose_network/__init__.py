"""A pose network: its checkpoint and its prediction."""
