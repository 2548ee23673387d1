"""One step of a decoder as one compiled call per thread, over all layers.

A step is a row of phases; a phase is a number of tasks that the threads take one after another.
`layout` names the words of the tables that are read here.
"""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.attention_step import attention_half
from quire.engines.native.cpu.ends import check, compute_logits, embed
from quire.engines.native.cpu.expert_step import add_experts, route
from quire.engines.native.cpu.ffn_step import ffn_half
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.phases import WORD
from quire.engines.native.cpu.simd import get_int64
from quire.engines.native.cpu.sync import current_step, enter, leave, wait_for_step


@kernel
def step(thread: int, table: int) -> None:
    """Run the batch that `table` (the address of `layout`'s words) describes, as one of its threads.

    When thread 0 returns, the results are there. Others need not have come, and may still be on
    their way out. They stay for the next step, if it comes soon.
    """
    sync, done = get_int64(table, layout.SYNC), 0
    if thread == 0:
        if enter(sync):
            _compute(thread, table)
            leave(sync, True)
        return
    while wait_for_step(sync, thread, done):
        if enter(sync):
            done = current_step(sync, done)
            _compute(thread, table)
            leave(sync, False)


@kernel
def _compute(thread: int, table: int) -> None:
    if not check(table):
        return
    embed(table)
    layer, phase = get_int64(table, layout.LAYER_TABLE), layout.FIRST_PHASES
    for _ in range(get_int64(table, layout.LAYERS)):
        attention_half(thread, table, layer, phase)
        if get_int64(layer, layout.EXPERTS):
            route(thread, table, layer, phase)
            add_experts(thread, table, layer, phase)
        else:
            ffn_half(thread, table, layer, phase)
        layer += WORD * layout.LAYER_WORDS
        phase += layout.LAYER_PHASES
    compute_logits(thread, table, phase)
