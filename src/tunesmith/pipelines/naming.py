"""Names for jobs that nobody named, as Azure ML makes them: ``brave_maple_k3x9q2m7tz``."""

from __future__ import annotations

import secrets

_ADJECTIVES = """
amber bold brave bright calm clever cool coral crisp eager fair fine fleet frank gentle glad golden good green
happy hardy honest jolly keen kind light lively loyal lucky merry mighty mild modest neat nimble noble patient
plain plucky polite proud quick quiet ready rosy serene sharp shiny silent silver sincere smart smooth steady
strong sunny sweet swift tender tidy true upbeat vivid warm wise witty young zesty
"""
_NOUNS = """
acorn anchor apple arch atlas bean beach bell birch boat bridge brook cactus candle canoe carrot cedar cello
cherry cloud clover comet cup daisy deer drum fern fig flute forest garden ginger glacier grape guitar harbor
hill honey island ivy jar kettle kite lake lamp leaf lemon lime lion maple marble meadow melon moon muscle
mango oak oar olive onion orange owl papaya parrot pear pencil piano plum pocket pond pot potato pumpkin quill
rain reed ring river root rose sail salt seal shell soursop spade spoon square star stone street sun swan tent
thread tooth tree turnip vase wagon walnut wave wheel whistle window wolf yacht yam
"""
_LETTERS = "0123456789bcdfghjklmnpqrstvwxyz"
"""No vowels, so that no words come out."""


def job_name() -> str:
    """A new name; two are never the same for all practical purposes."""
    tail = "".join(secrets.choice(_LETTERS) for _ in range(10))
    return f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_NOUNS.split())}_{tail}"
