"""The APIs: what they read, and what they write."""
