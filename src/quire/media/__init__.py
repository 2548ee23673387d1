"""Images, videos and sounds: fetched, decoded, placed, and written as each model family wants them."""
