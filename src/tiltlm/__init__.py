"""tiltlm: tilt a language model toward what people prefer, and measure whether it helped.

The public names are listed in `__init__.pyi`. Each is imported when it is first used. Packages (`tiltlm.objectives`)
are attributes too; they are not in `__all__`, since `from tiltlm import *` would import all of them.
"""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in __all__ if name not in {module.name for module in pkgutil.iter_modules(__path__)}]
