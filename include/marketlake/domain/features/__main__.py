"""``python -m marketlake.domain.features`` compiles the factors' kernels, so that no task has to.

A minute of processor time, once for each state of their sources; a moment when it has been done.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from marketlake.contracts.factors import ALPHA158, INDICATORS
from marketlake.domain.features.compiled import CACHE_FOLDER
from marketlake.domain.features.engine import compile_kernels


def main() -> None:
    """Compile both halves of the catalog side by side, whatever of them is not compiled yet."""
    if CACHE_FOLDER is None:
        print("nothing can be written: each process will compile the factors' kernels for itself")
        return
    print("compiling the factors' kernels, up to a minute ...", flush=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_kernels, (ALPHA158, INDICATORS)))  # raises what a process raised
    print(f"kernels ready, kept in {CACHE_FOLDER}")


if __name__ == "__main__":
    main()
