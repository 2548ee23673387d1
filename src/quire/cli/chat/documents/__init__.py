"""Documents of office programs as text; the page's `js/documents` gives the same text of the same file."""
