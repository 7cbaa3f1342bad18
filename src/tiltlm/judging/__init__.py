"""Judge responses: scores of single ones, comparisons of two.

Names are imported when they are first used (`__init__.pyi` lists them), so that one kind of judge does not load the
libraries of the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
