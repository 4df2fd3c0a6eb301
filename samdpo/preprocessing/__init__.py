"""From raw volumes to normalised 256 x 256 slices in a chunked store, and back to native pixels."""
