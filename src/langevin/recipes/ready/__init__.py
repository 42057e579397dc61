"""Ready recipes, by kind of data."""
