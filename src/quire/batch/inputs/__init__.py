"""The input of a batch: files and data sets, read row by row.

`open_source` gives the rows of a job, and `check_source` tells what is wrong with them before a model
is loaded.
"""

from quire.batch.inputs.check import check_source, holds_requests
from quire.batch.inputs.source import BatchSource, open_file, open_source

__all__ = ["BatchSource", "check_source", "holds_requests", "open_file", "open_source"]
