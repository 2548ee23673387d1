"""Images, videos and sounds: from what a caller gives to decoded values."""
