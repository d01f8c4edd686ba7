"""`python -m keras_savekit` is `savekit`.

`python -m` puts the working directory first on the import path before any code of this
package runs. `savekit` and `python -P -m keras_savekit` (3.11 and later) do not.
"""

import sys

if __name__ == "__main__":
    import os

    if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]  # before anything that is not loaded yet is looked for there
    from keras_savekit.cli.main import main

    main()
