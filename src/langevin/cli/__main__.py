"""python -m langevin.cli, as torchrun wants it."""

from langevin.cli import main

main()
