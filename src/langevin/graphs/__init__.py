"""Graphs as dense tensors: operators on them, features, counts and distances between sets of graphs."""
