"""The model card that is written beside a saved checkpoint: what is known, nothing more."""

from torch import nn

from refrag_rag.checkpoints.shrinking import MADE
from refrag_rag.config import RefragConfig
from refrag_rag.model import RefragModel


def model_card(model: RefragModel) -> str:
    """Markdown with the parts, their sizes and how to load them.

    What only the author knows (data, recipe, figures, limits) is left as open headings.
    """
    config = model.config
    encoder, decoder = model.encoder.model, model.decoder
    widths = f"{config.chunk_width} to {config.decoder_width}"
    isolated = "each on its own" if config.window == config.k else f"in windows of {config.window}"
    return f"""---
library_name: refrag-rag
tags: [refrag, rag, context-compression]
---
# {config.name}

A [refrag-rag](https://arxiv.org/abs/2509.01092) model: the decoder reads one vector for every
{config.k} tokens of retrieved text.

| part | architecture | parameters | width |
|---|---|---|---|
| encoder | {type(encoder).__name__} | {_count(encoder)} | {config.encoder_width} |
| projector | {type(model.projector).__name__} | {_count(model.projector)} | {widths} |
| decoder | {type(decoder).__name__} | {_count(decoder)} | {config.decoder_width} |

Chunks of at most {config.k} tokens ({config.chunking}), encoded {isolated}, pooled by
`{config.pooling}`. Default policy: `{config.policy}`.{_mixtures(config)}{_smaller(model)}

```python
from refrag_rag import Refrag

engine = Refrag.load("this folder or its hub id")
```

## Data

Not stated.

## Recipe

Not stated.

## Figures

Not stated. Measure: `refrag eval FOLDER`.

## What it cannot do

Not stated.
"""


def _mixtures(config: RefragConfig) -> str:
    if config.boundary is None:
        return ""
    ends = " and ".join(f"`{name}`" for name in config.boundary if name)
    return (
        f" At the ends of a run of vectors stand {ends}, expanded chunks outside.\nWhether "
        'the model was trained on such mixtures is not stated; `policy="none"` avoids them.'
    )


def _smaller(model: RefragModel) -> str:
    done = getattr(model.decoder.config, MADE, {})
    named = ", ".join(f"{name} {value}" for name, value in done.items())
    return f"\nThe decoder was made smaller by `refrag compress`: {named}." if done else ""


def _count(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
