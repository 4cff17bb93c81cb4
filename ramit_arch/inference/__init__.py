"""Restoring pictures: checkpoints and the networks in them, tiles, and files of pictures."""
