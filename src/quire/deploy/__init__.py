"""From quire's arguments to servers elsewhere: `vllm serve` commands and Ray Serve's YAML."""
