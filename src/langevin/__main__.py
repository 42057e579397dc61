"""`python -m langevin` is the command `langevin`: what torchrun is given, and what works where scripts are not on the path."""

from langevin.cli import main

main()
