"""The ladder of faults: each rung tries to break a promise of durability, many times.

    cd tests && python -m torture                       every rung, whole; docs/scoreboard.md
    cd tests && python -m torture corruption --count 50 --seed 3

A rung is a module here with `FULL`, how many tries the whole has, and
`run(seed, count, scratch)`, which returns a `Score` for each promise it tried.
`make test` draws a small dose of each.
"""
