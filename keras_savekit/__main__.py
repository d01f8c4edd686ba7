"""Run `savekit` as `python -m keras_savekit`.

`python -m` puts the working directory first on the import path before this package runs.
`savekit` and `python -P -m keras_savekit` (Python 3.11 and later) do not.
"""

import sys

if __name__ == "__main__":
    import os

    if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
        del sys.path[0]  # before any other module could be imported from there
    from keras_savekit.cli.main import main

    main()
