"""Learn a style: networks, losses, training loops. Importing this package does not import torch."""
