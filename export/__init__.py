"""Freeze a style: checkpoint to ONNX artifact to engine, each proven equal to its source."""
