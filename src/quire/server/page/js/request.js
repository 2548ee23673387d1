// From a path of messages and the settings to the body of a request.
import { toDataUrl } from "./files.js";
import { OPTION_NAMES } from "./option_names.js";
import { quoted } from "./texts.js";
import { answered } from "./tree.js";

const ALTERNATIVES = 5;
const ENVELOPE = 4096; // bytes of a request beside its texts and files

/** About how many bytes of a request the messages of a path are; `files` are those of one more. */
export function bytesOf(path, files = []) {
  const sent = [...answered(path).flatMap((node) => node.files), ...files].map(fileBytes);
  const texts = answered(path).map(({ text, reasoning = "" }) => text.length + reasoning.length);
  return [...sent, ...texts].reduce((sum, bytes) => sum + bytes, ENVELOPE);
}

/** Texts are sent as they are, media in base64. */
function fileBytes({ kind, size, pictures = [], picturesSize = 0, textSize = 0 }) {
  if (kind === "text") return size;
  if (kind === "pdf" && !pictures.length) return textSize;
  return Math.ceil((kind === "pdf" ? picturesSize : size) / 3) * 4;
}

/** The body of /v1/chat/completions. `blobOf(id)` resolves to a stored file, or to null; `begun` is
 * an answer after the path that is to go on. */
export async function chatBody(path, system, settings, blobOf, begun = null) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const node of answered(path)) {
    if (!isEmpty(node)) messages.push(await message(node, blobOf));
  }
  if (begun) messages.push(answer(begun));
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  if (begun) body.continue_final_message = true;
  if (settings.model) body.model = settings.model;
  for (const name of OPTION_NAMES) {
    const value = settings.options[name] ?? null;
    if (value !== null) body[name] = value;
  }
  if (settings.probabilities) Object.assign(body, { logprobs: true, top_logprobs: ALTERNATIVES });
  const tools = readTools(settings.tools);
  if (tools.length) {
    body.tools = tools;
    body.stream_options.include_held_text = true; // so that a call is seen while it is written
  }
  return body;
}

/** Whether an answer failed before its first word; such answers are left out. */
function isEmpty(node) {
  return node.role === "assistant" && !node.text && !node.calls?.length;
}

async function message(node, blobOf) {
  if (node.role === "tool") return { role: "tool", content: node.text, tool_call_id: node.callId };
  if (node.role === "assistant") return answer(node);
  const parts = (await Promise.all(node.files.map((file) => partsOf(file, blobOf)))).flat();
  if (node.text) parts.push(textPart(node.text));
  // Without media a text is sent as one, which servers of any kind take.
  const plain = parts.every(({ type }) => type === "text");
  return { role: "user", content: plain ? parts.map(({ text }) => text).join("\n\n") : parts };
}

function textPart(text) {
  return { type: "text", text };
}

function answer(node) {
  const written = { role: "assistant", content: node.text || null };
  if (node.reasoning) written.reasoning_content = node.reasoning;
  if (node.calls?.length) {
    written.tool_calls = node.calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
  }
  return written;
}

async function partsOf(file, blobOf) {
  const stored = async (id) => {
    const blob = await blobOf(id);
    if (blob) return blob;
    throw new Error(`The file ${file.name} is no longer in this browser: attach it again.`);
  };
  const { kind, name } = file;
  if (kind === "pdf" && file.pictures?.length) {
    const shown = file.pictures.length;
    const pages = await Promise.all(file.pictures.map(async (id) => image(await stored(id))));
    return [textPart(`${name}, ${shown} of ${file.pages} pages:`), ...pages];
  }
  if (kind === "text" || kind === "pdf") {
    const text = await (await stored(file.textId ?? file.id)).text();
    return [textPart(quoted(name, text))];
  }
  const blob = await stored(file.id);
  if (kind === "image") return [await image(blob, file.type)];
  const url = await toDataUrl(blob, file.type);
  if (kind === "video") return [{ type: "video_url", video_url: { url } }];
  const data = url.slice(url.indexOf(",") + 1);
  return [{ type: "input_audio", input_audio: { data, format: soundFormat(file) } }];
}

async function image(blob, type = blob.type) {
  return { type: "image_url", image_url: { url: await toDataUrl(blob, type) } };
}

const FORMATS = {
  mpeg: "mp3",
  "x-wav": "wav",
  wave: "wav",
  "vnd.wave": "wav",
  "x-flac": "flac",
  mp4: "m4a",
  "x-m4a": "m4a",
};

function soundFormat(file) {
  const kind = file.type.split("/")[1].split(";")[0].toLowerCase();
  return FORMATS[kind] ?? kind;
}

/** Parse tools from JSON text: OpenAI's form, or bare functions. Throws an Error if it is wrong. */
export function readTools(text) {
  if (!text.trim()) return [];
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools: this is no JSON (${error.message}).`);
  }
  return (Array.isArray(value) ? value : [value]).map(asTool);
}

function asTool(value, index) {
  const tool =
    value?.type === "function" && value.function ? value : { type: "function", function: value };
  if (typeof tool.function?.name !== "string" || !tool.function.name) {
    throw new Error(`Tools: number ${index + 1} has no name.`);
  }
  return tool;
}
