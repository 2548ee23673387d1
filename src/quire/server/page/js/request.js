// From a path of messages and the settings to the body of a request.
import { toDataUrl } from "./files.js";
import { answered } from "./tree.js";

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
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[name] !== null) body[name] = settings[name];
  }
  if (settings.thinking !== "default") {
    body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  }
  const tools = readTools(settings.tools);
  if (tools.length) body.tools = tools;
  return body;
}

/** Whether an answer failed before its first word; such answers are left out. */
function isEmpty(node) {
  return node.role === "assistant" && !node.text && !node.calls?.length;
}

async function message(node, blobOf) {
  if (node.role === "tool") return { role: "tool", content: node.text, tool_call_id: node.callId };
  if (node.role === "assistant") return answer(node);
  if (!node.files.length) return { role: "user", content: node.text };
  const parts = await Promise.all(node.files.map((file) => part(file, blobOf)));
  if (node.text) parts.push({ type: "text", text: node.text });
  return { role: "user", content: parts };
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

async function part(file, blobOf) {
  const blob = await blobOf(file.id);
  if (!blob)
    throw new Error(`The file ${file.name} is no longer in this browser: attach it again.`);
  const url = await toDataUrl(blob, file.type);
  if (file.kind === "image") return { type: "image_url", image_url: { url } };
  if (file.kind === "video") return { type: "video_url", video_url: { url } };
  const data = url.slice(url.indexOf(",") + 1);
  return { type: "input_audio", input_audio: { data, format: soundFormat(file) } };
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
