"""Run a style: source to stylizer to sink, offline and live."""
