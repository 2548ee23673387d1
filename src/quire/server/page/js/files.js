// Files that can be attached, and their form in requests.

const BY_NAME = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  bmp: "image/bmp",
  avif: "image/avif",
  wav: "audio/wav",
  mp3: "audio/mpeg",
  flac: "audio/flac",
  ogg: "audio/ogg",
  opus: "audio/ogg",
  m4a: "audio/mp4",
  aac: "audio/aac",
  mp4: "video/mp4",
  webm: "video/webm",
  mov: "video/quicktime",
  mkv: "video/x-matroska",
  avi: "video/x-msvideo",
};
const KINDS = ["image", "audio", "video"];

/** The types that the file button offers. */
export const ACCEPTED = KINDS.map((kind) => `${kind}/*`).join(",");

/** {kind, type, name, size} of a File. Throws an Error where models take none of its kind. */
export function describe(file) {
  const ending = file.name.split(".").pop().toLowerCase();
  const type = KINDS.includes(file.type.split("/")[0]) ? file.type : BY_NAME[ending];
  const name = file.name || "This";
  if (!type) {
    throw new Error(`${name} is no image, sound or video: nothing else can be attached.`);
  }
  if (type.startsWith("image/svg")) {
    throw new Error(`${name} is a drawing in SVG, which models do not see: attach it as PNG.`);
  }
  return {
    kind: type.split("/")[0],
    type,
    name: file.name || `pasted.${type.split("/")[1]}`,
    size: file.size,
  };
}

/** A data URL of a Blob, under the type that the page knows it by. */
export function toDataUrl(blob, type = blob.type) {
  const named = blob.type === type ? blob : new Blob([blob], { type });
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("A file could not be read."));
    reader.readAsDataURL(named);
  });
}

/** The Blob of a base64 data URL, without a request: the page's policy allows none to data:. */
export function fromDataUrl(url) {
  const match = /^data:([\w.+/-]*);base64,(.*)$/s.exec(url);
  if (!match) throw new Error("A file in it is no base64 data URL.");
  const bytes = Uint8Array.from(atob(match[2]), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: match[1] });
}

export function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
