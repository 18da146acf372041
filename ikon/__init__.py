"""Ikon: an image service for clouds, speaking the OpenStack Image API v2."""

__version__ = "0.1.0"
