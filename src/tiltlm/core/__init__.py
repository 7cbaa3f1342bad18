"""Basic types: examples, forests, log-probabilities, index views, errors.

Shape letters, the same in the whole package: `B` comparisons (or unpaired responses), `N` responses, `R` scored tokens,
`T` input tokens of a pack, `V` vocabulary, `K` responses per prompt, `D` hidden width.

Names are imported when they are first used (`__init__.pyi` lists them), so that one module does not load the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
