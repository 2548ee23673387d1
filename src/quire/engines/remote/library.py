"""The HTTP library, which only the extra `remote` installs."""

from quire.errors import ConfigError

try:
    import httpx
except ImportError:
    raise ConfigError(
        "infer_backend remote needs the package httpx: pip install 'quire-llm[remote]'"
    ) from None

__all__ = ["httpx"]
