"""The same job as others would do it: each program as its library's own documentation writes it.

Each reads JSON sentences `{"id", "text"}` from SOURCE and writes `{"id", "vector"}` to TARGET, with the same model on
the same number of threads. Whoever loves one of these libraries should find nothing to object to; if you do, tell us.
"""
