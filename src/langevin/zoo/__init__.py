"""Checkpoints that others published, run by our own networks: one file per family, two-way key maps, nothing executed."""
