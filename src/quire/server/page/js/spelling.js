// Reads the tokens that were kept of an answer (token_runs.js), and finds what they show of its text.

/** The runs of an answer, in the order of its text; those that cannot be read are left out. */
export async function readRuns({ text, probabilities }, store) {
  const files = probabilities.map(async ({ id, until }) => {
    const blob = await store.file(id);
    const runs = blob ? parsed(await blob.text()) : [];
    return runs.filter(({ to }) => to <= Math.min(until ?? Infinity, text.length));
  });
  let end = 0;
  return (await Promise.all(files)).flat().filter(({ from, to }) => {
    const follows = from >= end;
    if (follows) end = to;
    return follows;
  });
}

/** The file may be one that was imported. */
function parsed(json) {
  try {
    const runs = JSON.parse(json);
    return Array.isArray(runs) ? runs.filter(isRun) : [];
  } catch {
    return [];
  }
}

function isRun(run) {
  const { from, to, tokens } = run ?? {};
  const isRange = Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from <= to;
  return isRange && Array.isArray(tokens) && tokens.every(isToken);
}

function isToken(token) {
  const isRival = (one) => Array.isArray(one) && isSpelling(one[0]) && Number.isFinite(one[1]);
  return isRival(token) && Array.isArray(token[2]) && token[2].every(isRival);
}

function isSpelling(value) {
  const isByte = (one) => Number.isInteger(one) && 0 <= one && one < 256;
  return typeof value === "string" || (Array.isArray(value) && value.every(isByte));
}

/** The tokens of a run with what each shows of the text: a part, or nothing where it only begins a
 * character. A text may lack blanks at a token's start, and end within a token. */
export function spelt({ tokens }, text) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let at = 0;
  return tokens.map((token) => {
    const written = decoder.decode(bytesOf(token[0]), { stream: true });
    const shown = overlap(written, text.slice(at)) ?? overlap(written.trimStart(), text.slice(at));
    at += shown?.length ?? 0;
    return { token, shown: shown ?? "" };
  });
}

function overlap(written, text) {
  if (text.startsWith(written)) return written;
  return text && written.startsWith(text) ? text : null;
}

function bytesOf(written) {
  return typeof written === "string"
    ? new TextEncoder().encode(written)
    : Uint8Array.from(written);
}
