"""The version, where packaging and manifests both find it."""

__version__ = "0.1.0"
