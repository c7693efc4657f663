"""What models of object detection expect and answer: one module a format, each with `FORMAT`."""
