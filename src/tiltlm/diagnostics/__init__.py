"""Diagnostics of training from log-probabilities and samples. No model runs here.

Names are imported when they are first used (`__init__.pyi` lists them), so that one module does not load the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
