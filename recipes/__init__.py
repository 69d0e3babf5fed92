"""Training recipes, outside the package: they need a checkout of the repository."""
