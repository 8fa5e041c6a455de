"""What a user types in a notebook: `%%container`, `%container` and `%sandbox`."""
