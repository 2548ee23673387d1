"""Batches: a data set in, answers out, with nothing lost on the way.

`run_batch` is for programs, `quire batch` for the command line.
"""

from quire.batch.arguments import BatchArguments, get_batch_args
from quire.batch.job import BatchJob, BatchResult
from quire.batch.opening import open_job, run_batch

__all__ = [
    "BatchArguments",
    "BatchJob",
    "BatchResult",
    "get_batch_args",
    "open_job",
    "run_batch",
]
