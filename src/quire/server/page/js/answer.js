// An assistant's message, filled by the chunks of a stream.
import { kept } from "./token_runs.js";

/** Why an answer ended, if not by itself. */
export const ENDINGS = Object.freeze({
  length: "Cut off: the limit of tokens was reached.",
  stopped: "Stopped.",
  cut: "Interrupted: the page was left while this was written.",
  abort: "The server ended this answer.",
});

export function newAnswer(model) {
  return {
    role: "assistant",
    reasoning: "",
    calls: [],
    model,
    edited: false,
    rounds: 0,
    earlier: null,
    probabilities: [],
    thought: null,
    ...newRound(),
  };
}

/** What is counted anew each time that an answer goes on. */
function newRound() {
  const times = { start: Date.now(), first: null, latest: null, end: null };
  return { finish: null, error: null, usage: null, times, pieces: 0, held: "" };
}

/** An answer as the user has changed it, which is complete until it goes on. */
export function editedAnswer(node, text) {
  const { role, reasoning, model, thought = null } = node;
  const probabilities = kept(node, text);
  const written = { ...newAnswer(model), role, reasoning, thought, text, probabilities };
  return { ...written, edited: true, finish: "stop", times: null };
}

/** Whether the model can go on with an answer: it was cut, stopped or edited, and ends in words. */
export function canGoOn(node) {
  if (node?.role !== "assistant" || node.calls.length || !(node.text || node.reasoning))
    return false;
  const { finish, edited } = node;
  return finish in ENDINGS || finish === "error" || (finish === "stop" && edited);
}

/** Have an answer go on where it ended: what comes is added to it. */
export function reopen(node) {
  const earlier = pace(node);
  Object.assign(node, newRound(), { earlier, rounds: (node.rounds ?? 0) + 1, edited: false });
  node.revision += 1;
}

/** Add a chunk to an answer. */
export function takeChunk(node, chunk) {
  if (chunk.usage)
    node.usage = {
      prompt: chunk.usage.prompt_tokens,
      completion: chunk.usage.completion_tokens,
      cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
    };
  if (chunk.model) node.model = chunk.model;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  const { held_text: held = "" } = choice;
  if (content || reasoning || calls?.length) node.held = ""; // it has become that
  node.held += held;
  if (content || reasoning || calls?.length || held) {
    node.times.latest = Date.now();
    node.times.first ??= node.times.latest;
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
  node.held = "";
  endThought(node);
  if (error?.name === "AbortError") node.finish = "stopped";
  else if (error) {
    node.finish = "error";
    node.error = { message: error.message, retryAfter: error.retryAfter ?? null };
  } else node.finish ??= "stop";
}

/** {tokens, rate, seconds, wait, exact, decoding, rounds} of an answer; null before its first token.
 *
 * The rate is that of decoding: the time to the first token, `wait` (the latest), is not in it, each
 * time that the answer went on. Without the server's count (a stopped answer, or one in flight) each
 * chunk counts as a token.
 */
export function pace(node, now = Date.now()) {
  const { start, first, latest = null, end } = node.times ?? {};
  const before = node.earlier ?? { tokens: 0, seconds: 0, decoding: 0, rounds: 0, exact: true };
  if (!first) return node.earlier ?? null;
  const exact = Number.isFinite(node.usage?.completion);
  const until = end ?? (node.finish === null ? now : (latest ?? now));
  const tokens = before.tokens + (exact ? node.usage.completion : node.pieces);
  const seconds = before.seconds + (until - start) / 1000;
  const decoding = before.decoding + (until - first) / 1000;
  const rounds = before.rounds + 1;
  const decoded = tokens - rounds;
  const rate =
    decoded > 0 && decoding > 0.02 ? decoded / decoding : tokens / Math.max(seconds, 0.001);
  const wait = (first - start) / 1000;
  return { tokens, rate, seconds, wait, exact: exact && before.exact, decoding, rounds };
}
