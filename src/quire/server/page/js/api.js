// The server's API, as this page uses it.
import { sizeText } from "./files.js";
import { UNREACHABLE } from "./later.js";
import { readEvents } from "./sse.js";

const KEY = "quire.key";
const LARGE = 500_000; // bytes of a request that a proxy before the server may refuse

/** A refusal of the server, or a failed connection, whose `status` is 0. */
export class ApiError extends Error {
  constructor(message, { status = 0, type = null, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, type, code, retryAfter });
  }
}

/** Requests to /v1 of the page's own origin. The key lives as long as the tab. */
export class Api {
  /** `askKey(refused)` resolves to a key or null; `refused` is true if a key was refused. */
  constructor(askKey, base = new URL("v1/", document.baseURI)) {
    this.base = base;
    this.askKey = askKey;
    this.mostBytes = Infinity; // of a request, as far as is known
  }

  get key() {
    return sessionStorage.getItem(KEY);
  }

  set key(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  }

  /** The served models and adapters: [{id, parent, ...}]. */
  async models() {
    const answer = await this.#send("models", {});
    const { data, max_body_bytes: most = Infinity } = parsed(await unbroken(answer.text()));
    this.mostBytes = most;
    return data;
  }

  /** How many tokens a text has; `signal` ends the request. */
  async countTokens(text, model, signal) {
    const body = { prompt: text, add_special_tokens: false, ...(model ? { model } : {}) };
    const answer = await this.#send("../tokenize", asJson(body, signal));
    return parsed(await unbroken(answer.text())).count;
  }

  /** The chunks of a streamed chat completion; an AbortSignal ends it. */
  async *chat(body, signal) {
    const request = asJson(body, signal);
    this.#checkSize(request.body);
    const answer = await this.#send("chat/completions", request);
    const events = readEvents(answer.body);
    try {
      for (;;) {
        const { value: data, done } = await unbroken(events.next());
        if (done) throw new ApiError(BROKEN);
        if (data === "[DONE]") return;
        const chunk = parsed(data);
        if (chunk.error) throw asError(chunk, 200);
        yield chunk;
      }
    } finally {
      await events.return();
    }
  }

  #checkSize(body) {
    if (body.length * 3 <= this.mostBytes) return; // no character has more bytes
    const { size } = new Blob([body]);
    if (size > this.mostBytes) throw new ApiError(tooLarge(size, this.mostBytes), { status: 413 });
  }

  async #send(path, options) {
    for (;;) {
      const used = this.key;
      const answer = await this.#fetch(path, options, used);
      if (answer.ok) return answer;
      const error = await refusal(answer, options.body);
      if (answer.status !== 401) throw error;
      if (this.key !== used) continue; // another request has asked for a key meanwhile
      const key = await this.#askOnce(used !== null);
      if (key === null) throw error;
    }
  }

  async #fetch(path, options, key) {
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    try {
      return await fetch(new URL(path, this.base), { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(unreachable(options.body));
    }
  }

  /** Ask for the key once, however many requests wait for it. */
  #askOnce(refused) {
    this.asking ??= this.askKey(refused)
      .then((key) => (key === null ? null : (this.key = key)))
      .finally(() => (this.asking = null));
    return this.asking;
  }
}

function asJson(body, signal) {
  const headers = { "content-type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), signal };
}

const BROKEN = "The connection ended before the answer did.";

/** What is read of an answer; a server that dies meanwhile is named in the page's own words. */
async function unbroken(reading) {
  try {
    return await reading;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(BROKEN);
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError(`The server sent what is no JSON: ${data.slice(0, 100)}`);
  }
}

function tooLarge(size, most) {
  return (
    `This request has ${sizeText(size)}, and the server takes ${sizeText(most)} (max_body_bytes). It holds ` +
    "the whole conversation: edit a question to leave files out, or begin a new conversation."
  );
}

/** A connection is also cut by a proxy that refuses a large request before it has read all of it. */
function unreachable(body = "") {
  if (body.length < LARGE) return UNREACHABLE;
  const size = sizeText(body.length);
  return `The server cannot be reached: it does not run, or a proxy before it takes no ${size} at once.`;
}

async function refusal(answer, body = "") {
  const text = await unbroken(answer.text());
  try {
    return asError(
      JSON.parse(text),
      answer.status,
      Number(answer.headers.get("retry-after")) || null,
    );
  } catch {
    if (answer.status === 413) {
      const size = sizeText(body.length);
      const told = `This request has ${size}: a proxy before the server takes less at once.`;
      return new ApiError(told, { status: 413 });
    }
    const told = text.trim().slice(0, 300) || answer.statusText || "no reason given";
    return new ApiError(`The server answered ${answer.status}: ${told}`, { status: answer.status });
  }
}

function asError(body, status, retryAfter = null) {
  const { message = "The server failed.", type = null, code = null } = body.error;
  return new ApiError(message, { status, type, code, retryAfter });
}
