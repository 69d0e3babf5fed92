"""How `smol` learns what its card says: data and settings for the package's own stages."""
