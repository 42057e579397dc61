"""The core: known processes, learned beliefs, and the one loop that turns the second into samples.

Nothing here imports any other part of the library. Notation, fixed everywhere:
x clean data, z the state at level t, t in [0, 1] with 0 = data and 1 = noise, z = alpha(t) x + sigma(t) e,
lam(t) = log(alpha^2 / sigma^2). Shapes: B samples, then the shape of one sample.
"""
