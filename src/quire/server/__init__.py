"""The HTTP server: OpenAI's API over one engine, safe by default."""
