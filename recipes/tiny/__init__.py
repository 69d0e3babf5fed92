"""How the tests' model `tiny` is made: an invented world, and the stages that learn to read it."""
