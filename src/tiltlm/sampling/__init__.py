"""Sampling of responses from a policy: n samples per prompt from one prefill, as token ids.

Names are imported when they are first used (`__init__.pyi` lists them), so that settings load no model library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
