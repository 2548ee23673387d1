// An assistant's message, filled by the chunks of a stream.

/** Why an answer ended, if not by itself. */
export const ENDINGS = Object.freeze({
  length: "Cut off: the limit of tokens was reached.",
  stopped: "Stopped.",
  cut: "Interrupted: the page was left while this was written.",
  abort: "The server ended this answer.",
});

export function newAnswer(model) {
  const times = { start: Date.now(), first: null, end: null };
  return {
    role: "assistant",
    reasoning: "",
    calls: [],
    model,
    finish: null,
    error: null,
    usage: null,
    times,
    thought: null,
    pieces: 0,
  };
}

/** Add a chunk to an answer. */
export function takeChunk(node, chunk) {
  if (chunk.usage)
    node.usage = { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens };
  if (chunk.model) node.model = chunk.model;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (content || reasoning || calls?.length) {
    node.times.first ??= Date.now();
    node.pieces += 1;
  }
  if (reasoning) node.reasoning += reasoning;
  if (content || calls?.length) endThought(node);
  if (content) node.text += content;
  for (const call of calls ?? []) takeCall(node, call);
  if (choice.finish_reason) node.finish = choice.finish_reason;
}

function takeCall(node, { index = 0, id, function: called = {} }) {
  const call = (node.calls[index] ??= { id: "", name: "", arguments: "" });
  if (id) call.id = id;
  call.name += called.name ?? "";
  call.arguments += called.arguments ?? "";
}

function endThought(node) {
  if (node.reasoning) node.thought ??= Date.now() - node.times.first;
}

/** Mark an answer as ended, by itself, by the user or by an error. */
export function endAnswer(node, error = null) {
  node.times.end = Date.now();
  endThought(node);
  if (error?.name === "AbortError") node.finish = "stopped";
  else if (error) {
    node.finish = "error";
    node.error = { message: error.message, retryAfter: error.retryAfter ?? null };
  } else node.finish ??= "stop";
}

/** {tokens, rate, seconds, exact} of an answer; null before its first token.
 *
 * The rate is that of decoding: the time to the first token is not in it. Without the server's
 * count (a stopped answer, or one in flight) each chunk counts as a token.
 */
export function pace(node, now = Date.now()) {
  const { start, first, end } = node.times ?? {};
  if (!first) return null;
  const exact = Number.isFinite(node.usage?.completion);
  const tokens = exact ? node.usage.completion : node.pieces;
  const seconds = ((end ?? now) - start) / 1000;
  const decoding = ((end ?? now) - first) / 1000;
  const rate =
    tokens > 1 && decoding > 0.02 ? (tokens - 1) / decoding : tokens / Math.max(seconds, 0.001);
  return { tokens, rate, seconds, exact };
}
