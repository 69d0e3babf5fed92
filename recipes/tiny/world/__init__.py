"""A small invented world: entities with facts, the passages that state them, the questions.

Nothing in it can be answered from memory: names are made of random syllables and values are
drawn anew for every entity. What a model can learn here is to *read*.
"""

from recipes.tiny.world.entities import Entity, Fact, Statement, Told, World

__all__ = ["Entity", "Fact", "Statement", "Told", "World"]
