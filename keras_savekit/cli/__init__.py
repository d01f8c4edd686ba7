"""The command line `savekit`: one file a command.

A command is one module of this package. It is named after its command, with `_` for `-`,
and it defines a click command as `command`. `main` finds it: nothing else is edited to add
one, but its section in `docs/commands.md`. `main` itself and modules with a leading
underscore are no commands.

A command imports what it needs in its functions, so that `--help` answers at once. Only
`convert` starts TensorFlow or Keras in this process.
"""
