"""Engines: where answers come from. The own sampler, transformers' continuous batching, or a server.

Names are imported when they are first used (`__init__.pyi` lists them), so that settings load no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
