"""One file for each family of published networks; see `langevin.zoo.family`."""
