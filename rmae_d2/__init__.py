"""R-MAE pre-training of vision transformers, as a Detectron2 extension.

Importing the package registers its architectures and datasets with Detectron2. Without Detectron2 the
package still imports, for ``rmae_d2.regions`` needs numpy only; everything else then says what is missing.
"""

from importlib.util import find_spec

from . import moved

__version__ = "0.1.0"

moved.install()

if find_spec("detectron2") is not None:
    from . import compat

    compat.check_detectron2()
    compat.quiet_known_warnings()
    from . import data, modeling  # noqa: F401  (registration)
