"""What layers get of pictures and videos besides the embeddings: features that are added after them."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.rowwise import add_chosen_rows
from quire.engines.native.cpu.program.arguments import LayerMedia, Step
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    take_task,
    wait_for_phase,
)


@kernel
def add_media(thread: int, step: Step, own: LayerMedia, phase: int) -> None:
    """Add a layer's features to the rows of media. A step of text passes by."""
    if not step.deep_embeds:
        return
    rows, hidden = step.rows, step.hidden
    values = step.deep_embeds + 4 * own.layer * step.embed_count * hidden
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        add_chosen_rows(task, tasks, values, hidden, step.embed_index, rows, step.residual)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
