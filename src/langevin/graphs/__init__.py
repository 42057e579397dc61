"""Graphs as dense tensors: operators on them, counts, and distances between sets of graphs."""
