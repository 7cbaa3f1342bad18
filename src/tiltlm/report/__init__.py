"""Reports: a run, or several runs side by side, as one HTML page, and the same numbers as JSON.

Names are imported when they are first used (`__init__.pyi` lists them), so that one module does not load the others.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
