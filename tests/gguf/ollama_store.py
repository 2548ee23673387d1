"""A store as Ollama keeps it: manifests by name, blobs by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

KIND = "application/vnd.ollama.image."
LIST = "application/vnd.ollama.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

Link = Literal["symbolic", "hard", "copy"]


class OllamaStore:
    """Writes a store in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True, exist_ok=True)

    def blob(self, content: bytes) -> dict[str, Any]:
        """Add a blob; return what a manifest says of it."""
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def layer(self, kind: str, content: bytes | dict[str, Any]) -> dict[str, Any]:
        """Add a layer of a kind such as `model`."""
        data = json.dumps(content).encode() if isinstance(content, dict) else content
        return {"mediaType": KIND + kind, **self.blob(data)}

    def manifest(
        self, *layers: dict[str, Any], config: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """A manifest of some layers."""
        about = self.blob(json.dumps(config or {"model_format": "gguf"}).encode())
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **about},
            "layers": list(layers),
            **more,
        }

    def name(
        self, path: str, manifest: dict[str, Any], tree: str = "manifests", link: Link | None = None
    ) -> Path:
        """Give a manifest a name, HOST/NAMESPACE/NAME/TAG.

        Args:
            link: how the name leads to a blob with the manifest; None for a file of its own.
        """
        place = self.root / tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(manifest).encode()
        if link in (None, "copy"):
            place.write_bytes(content)
        if link is not None:
            digest = self.blob(content)["digest"]
            blob = self.root / "blobs" / digest.replace(":", "-")
            if link == "symbolic":
                place.symlink_to(blob)
            elif link == "hard":
                place.hardlink_to(blob)
        return place
