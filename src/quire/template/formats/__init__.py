"""The named formats, one file a family: declarations only. A new file is found by itself."""
