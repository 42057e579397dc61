"""Tasks: what is done with a model beyond drawing samples from it."""
