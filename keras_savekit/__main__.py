"""`python -m keras_savekit` is `savekit`."""

from keras_savekit.cli.main import main

if __name__ == "__main__":
    main()
